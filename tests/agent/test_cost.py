"""The measurement of what a cycle costs."""

from __future__ import annotations

from bench.agent import make_response, measure, render
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import KIND, CollectConverter
from telemeter.samples.family import count_metrics, decode_families
from tests.fakes import NOW_MS


def test_the_response_is_of_the_usual_kind_and_size() -> None:
    body = make_response(226, NOW_MS)
    assert count_metrics(decode_families(body)) == 226
    assert 300 < len(body) / 226 < 400
    quick = CollectConverter(Transforms()).compiled(body, decode_families, NOW_MS)
    assert (quick is not None) is (KIND == "compiled")


def test_both_ways_are_measured_and_shown() -> None:
    found = measure(series=40, rounds=1, anonymizing=True)
    assert (found.series, found.anonymizing) == (40, True)
    for cost in (found.reference, found.compiled):
        assert 0 < cost.transform_ms < 10_000
        assert 0 < cost.cycle_ms < 10_000
        assert cost.peak_bytes >= 0
    lines = render([found]).splitlines()
    assert len(lines) == 8
    assert lines[-1].startswith("| 40 | yes | 0.0 | ")
