"""The conversion of uploads against a model of it: docs/protocol.md, "Upload"."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings

from telemeter.convert.results import Converted
from telemeter.convert.upload import convert_upload
from telemeter.samples.errors import BadInputError
from telemeter.samples.family import decode_families
from telemeter.samples.proto.remote_pb2 import WriteRequest
from tests.samples.build import NOW, bits

from .upload_model import (
    UNTYPED,
    Outcome,
    PlainFamily,
    PlainMetric,
    PlainRules,
    RefusedError,
    convert,
    whole_number,
)
from .upload_strategies import Upload, broken_uploads, encode, upload_rules, uploads


def converted(upload: Upload) -> Converted:
    families, plain = upload
    rules = upload_rules(plain)
    return convert_upload(encode(families), decode_families, plain.required, rules, NOW)


def as_outcome(result: Converted) -> Outcome:
    outcome = Outcome(
        [],
        result.received,
        result.dropped,
        result.duplicates,
        result.past,
        result.present,
        result.future,
        result.overwritten_future,
        result.newest_ms,
    )
    for series in WriteRequest.FromString(result.payload).timeseries:
        (only,) = series.samples
        assert only.timestamp == NOW
        assert not series.histograms
        pairs = tuple((label.name, label.value) for label in series.labels)
        outcome.series.append((pairs, bits(only.value)))
    assert result.series == len(outcome.series)
    return outcome


@settings(max_examples=200)
@given(uploads())
def test_what_becomes_of_a_good_upload(upload: Upload) -> None:
    families, plain = upload
    expected = convert(families, plain, NOW)
    event("something dropped" if expected.dropped else "nothing dropped")
    event("duplicates" if expected.duplicates else "no duplicates")
    assert as_outcome(converted(upload)) == expected


@settings(max_examples=200)
@given(broken_uploads())
def test_what_becomes_of_a_broken_upload(upload: Upload) -> None:
    families, plain = upload
    try:
        expected = convert(families, plain, NOW)
    except RefusedError as error:
        event(f"refused: {error}")
        with pytest.raises(BadInputError):
            converted(upload)
    else:
        event("not refused")
        assert as_outcome(converted(upload)) == expected


def test_the_model_itself() -> None:
    """By hand, once, what the model says of all the steps."""
    metrics = [
        PlainMetric([("_id", "x"), ("a", ""), ("a", "1"), ("a", "2"), ("e", "1")], NOW - 1),
        PlainMetric([("_id", "x"), ("a", "1"), ("e", "2"), (None, "y"), ("z", None)], NOW),
        PlainMetric([("_id", "x"), ("a", "3")], NOW + 300_001),
        PlainMetric([("_id", "x"), ("b", "1"), ("r", "us")], NOW + 300_001),
    ]
    for number, metric in enumerate(metrics):
        metric.numbers["untyped"] = number
    families = [PlainFamily("up", UNTYPED, metrics), PlainFamily("", UNTYPED, metrics)]
    rules = PlainRules(
        {"_id": "x"}, [[("a", "=~", "1|2")], [("b", "!=", "")]], {"r": "eu"}, {"e", "_id"}
    )
    assert convert(families, rules, NOW) == Outcome(
        series=[
            ((("__name__", "up"), ("a", "1"), ("r", "eu")), 0),
            ((("__name__", "up"), ("b", "1"), ("r", "eu")), 3),
        ],
        received=4,
        dropped=1,
        duplicates=1,
        present=2,
        future=2,
        overwritten_future=2,
        newest_ms=NOW + 300_001,
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3, 1023, 2**40, 2**40 - 1])
def test_the_whole_numbers_of_the_model(number: int) -> None:
    assert whole_number(number) == bits(float(number))
