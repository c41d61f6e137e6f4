from __future__ import annotations

from telemeter.convert.dropped import Examples
from telemeter.convert.engine import KIND, UploadConverter
from telemeter.convert.upload import UploadRules
from telemeter.samples.family import decode_families, encode_families
from telemeter.samples.limits import MAX_EXAMPLE
from telemeter.samples.proto.remote_pb2 import TimeSeries
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.samples.build import NOW, family, sample


def labels_of(example: bytes) -> list[tuple[str, str]]:
    return [(label.name, label.value) for label in TimeSeries.FromString(example).labels]


def test_one_each_of_the_first_three_names() -> None:
    examples = Examples()
    for name, job in [("b", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5"), ("d", "6")]:
        examples.add({"job": job, "__name__": name})
    assert [labels_of(example) for example in examples.found] == [
        [("__name__", name), ("job", job)] for name, job in (("b", "1"), ("a", "3"), ("c", "5"))
    ]


def test_what_is_too_long_is_left_out() -> None:
    examples = Examples()
    short = {"__name__": "a", "b": "x" * (MAX_EXAMPLE - 15 - 9)}
    examples.add(short)
    examples.add({**short, "__name__": "ab"})
    (only,) = examples.found
    assert len(only) == MAX_EXAMPLE
    assert labels_of(only) == list(short.items())


def test_of_an_upload() -> None:
    """As the whitelist saw them: before labels are added and elided."""
    rules = UploadRules(
        Whitelist([parse_selector("up")]), {"region": "eu"}, frozenset(["job", "instance"])
    )
    body = encode_families(
        [family(name, sample(job="b", instance="a")) for name in ("down", "up", "gone")]
    )
    transcoder = UploadConverter(rules)
    reference = transcoder.reference(body, decode_families, {}, NOW)
    assert [labels_of(example) for example in reference.dropped_examples] == [
        [("__name__", name), ("instance", "a"), ("job", "b")] for name in ("down", "gone")
    ]
    compiled = transcoder.compiled(body, decode_families, {}, NOW)
    assert compiled == (reference if KIND == "compiled" else None)
