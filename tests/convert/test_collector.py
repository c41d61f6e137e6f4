"""The compiled transforms against the straightforward ones, which are their reference."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from telemeter.convert import engine
from telemeter.convert.collect import Transforms, anonymous
from telemeter.convert.engine import KIND, CollectConverter, Transformed, UploadConverter
from telemeter.convert.upload import UploadRules
from telemeter.samples.errors import BadInputError
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import Family, Metric, decode_families, encode_families
from telemeter.samples.proto.metrics_pb2 import GAUGE_HISTOGRAM, HISTOGRAM, SUMMARY
from telemeter.samples.wire import join_delimited
from tests.samples.build import (
    DAY,
    FIELDS,
    HOUR,
    NOW,
    family,
    histogram,
    labelled,
    labels_of,
    sample,
)
from tests.samples.recordings import federated
from tests.samples.strategies import doubles, mutations, scalar_kinds, text_families

from .upload_strategies import (
    LABELS,
    NAMES,
    TOO_LONG,
    VALUES,
    Upload,
    broken_uploads,
    encode,
    uploads,
)

#: What was left, as bytes, and the numbers of families, samples, and samples before.
Outcome = tuple[bytes, int, int, int]

ANONYMIZING: Final = Transforms(
    {"region": "eu"}, {"ALERTS": "alerts"}, frozenset(("instance", "quantile")), b"salt"
)

_some_labels = st.dictionaries(st.sampled_from(LABELS), st.sampled_from(["", *VALUES]), max_size=3)


@st.composite
def transforms(draw: st.DrawFn, names: tuple[str, ...] = ()) -> Transforms:
    """Transforms; families may be given some further names."""
    return Transforms(
        draw(_some_labels),
        draw(
            st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*NAMES, *names]), max_size=2)
        ),
        draw(st.frozensets(st.sampled_from(LABELS), max_size=3)),
        draw(st.binary(max_size=8)),
    )


_label_pairs = st.tuples(
    st.sampled_from(["", "__name__", TOO_LONG, *LABELS * 3]),
    st.sampled_from(["", TOO_LONG, *VALUES * 3]),
)
_stamps = st.sampled_from([None, 0, -1, NOW - DAY - 1, NOW - DAY, *range(NOW - 5, NOW + 5)])


@st.composite
def usual_collections(draw: st.DrawFn) -> bytes:
    """What the compiled code has to know, with samples of all ages in any order."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(scalar_kinds)
        made = family(draw(st.sampled_from(NAMES)), kind=kind)
        for _ in range(draw(st.integers(0, 5))):
            metric = labelled(*draw(st.lists(_label_pairs, max_size=4)))
            metric.ClearField("untyped")
            if draw(_often):
                getattr(metric, FIELDS[kind]).value = draw(doubles)
            stamp = draw(_stamps)
            metric.ClearField("timestamp_ms")
            if stamp is not None:
                metric.timestamp_ms = stamp
            made.metric.append(metric)
        found.append(made)
    return encode_families(found)


_often = st.sampled_from([True] * 5 + [False])


def outcome(transformed: Transformed, labels: dict[str, str]) -> Outcome:
    return (
        transformed.labelled(labels),
        transformed.families,
        transformed.samples,
        transformed.received,
    )


def compiled_and_reference(
    body: bytes, wanted: Transforms, labels: dict[str, str]
) -> tuple[Outcome | None, Outcome | None]:
    """What both make of a body; None: the compiled one gave up, the reference one refused."""
    transformer = CollectConverter(wanted)
    found = transformer.compiled(body, decode_families, NOW)
    compiled = None if found is None else outcome(found, labels)
    try:
        reference = outcome(transformer.reference(body, decode_families, NOW), labels)
    except BadInputError:
        reference = None
    return compiled, reference


def both(body: bytes, wanted: Transforms = ANONYMIZING) -> Outcome:
    """What both make of a usual body."""
    compiled, reference = compiled_and_reference(body, wanted, {"_id": "test"})
    assert compiled == (reference if KIND == "compiled" else None)
    assert reference is not None
    return reference


def gives_up(body: bytes, wanted: Transforms = ANONYMIZING) -> bool:
    return CollectConverter(wanted).compiled(body, decode_families, NOW) is None


def test_it_was_built() -> None:
    """Where there is a compiler, the installation has used it."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    assert KIND == "compiled" or shutil.which("cc") is None or not headers.exists()


# --- Against the reference ------------------------------------------------------------------------


@settings(max_examples=200)
@given(usual_collections(), transforms(), _some_labels)
def test_a_usual_collection(body: bytes, wanted: Transforms, labels: dict[str, str]) -> None:
    compiled, reference = compiled_and_reference(body, wanted, labels)
    assert reference is not None
    event(f"{min(reference[2], 3)} samples left of {min(reference[3], 3)}")
    if KIND == "compiled":
        assert compiled == reference


@settings(max_examples=200)
@given(
    st.one_of(uploads(), broken_uploads()),
    transforms(("", TOO_LONG, "é" * 128)),
    st.dictionaries(st.sampled_from(["", *LABELS]), st.sampled_from([TOO_LONG, *VALUES])),
)
def test_any_collection(upload: Upload, wanted: Transforms, labels: dict[str, str]) -> None:
    compiled, reference = compiled_and_reference(encode(upload[0]), wanted, labels)
    event("gave up" if compiled is None else "transformed")
    assert compiled is None or compiled == reference


@settings(max_examples=200)
@given(usual_collections(), transforms(), _some_labels, st.data())
def test_a_mutated_collection(
    body: bytes, wanted: Transforms, labels: dict[str, str], data: st.DataObject
) -> None:
    compiled, reference = compiled_and_reference(data.draw(mutations(body)), wanted, labels)
    event("gave up" if compiled is None else "transformed")
    assert compiled is None or compiled == reference


@given(usual_collections(), transforms())
def test_a_collection_that_is_cut_off(body: bytes, wanted: Transforms) -> None:
    for end in range(max(0, len(body) - 60), len(body)):
        compiled, reference = compiled_and_reference(body[:end], wanted, {"_id": "test"})
        assert compiled is None or compiled == reference


@given(text_families(), transforms())
def test_families_with_helps(families: list[Family], wanted: Transforms) -> None:
    both(encode_families(families), wanted)


@st.composite
def native_collections(draw: st.DrawFn) -> bytes:
    """Native histograms, of which many make no sense."""
    made = family("h", kind=draw(st.sampled_from([HISTOGRAM, GAUGE_HISTOGRAM])))
    few = st.integers(-1, 3)
    for _ in range(draw(st.integers(1, 4))):
        metric = histogram({1.0: 1} if draw(st.booleans()) else {}, count=draw(st.integers(0, 3)))
        native = metric.histogram
        native.schema = draw(st.sampled_from([0, 0, 0, 3, 8, 9, 52, 53, -4, -5, -9, -10, -53]))
        native.zero_count = draw(st.integers(0, 1))
        for offset, length in draw(st.lists(st.tuples(few, st.integers(0, 2)), max_size=2)):
            native.positive_span.add(offset=offset, length=length)
        native.positive_delta.extend(draw(st.lists(few, max_size=3)))
        native.positive_count.extend(draw(st.sampled_from([[], [], [1.0], [-1.0]])))
        made.metric.append(metric)
    return encode_families([made])


@settings(max_examples=200)
@given(
    st.one_of(
        usual_collections(),
        broken_uploads().map(lambda upload: encode(upload[0])),
        native_collections(),
    ),
    transforms(("", TOO_LONG, "é" * 128)),
    _some_labels,
    st.booleans(),
)
def test_a_server_takes_whatever_is_left(
    body: bytes, wanted: Transforms, labels: dict[str, str], compiled: bool
) -> None:
    """One bad sample would have it refuse all, each time."""
    left = CollectConverter(wanted, use_compiled=compiled).convert(body, decode_families, NOW)
    sent = left.labelled(labels)
    server = UploadConverter(UploadRules())
    for convert in (server.convert, server.reference):
        assert convert(sent, decode_families, labels, NOW).received == left.samples
    event(f"{min(left.samples, 3)} samples left")


@given(st.binary(max_size=60))
def test_any_bytes(body: bytes) -> None:
    compiled, reference = compiled_and_reference(body, ANONYMIZING, {"_id": "test"})
    event("gave up" if compiled is None else "transformed")
    assert compiled is None or compiled == reference


@pytest.mark.parametrize("wanted", [Transforms(), ANONYMIZING], ids=["plain", "anonymizing"])
def test_what_a_real_prometheus_federated(wanted: Transforms) -> None:
    left, families, samples, received = both(federated(), wanted)
    assert (families, samples, received) == (464, 881, 881)
    assert (b"\n\x06alerts" in left) is (wanted is ANONYMIZING)


# --- What the compiled code has to know -----------------------------------------------------------


@pytest.mark.parametrize(
    "metrics",
    [
        pytest.param([sample(at=NOW), sample(2.0, at=NOW - HOUR)], id="unsorted"),
        pytest.param([sample(at=None), sample(at=0), sample(at=-1), sample()], id="bad times"),
        pytest.param([sample(at=0)], id="nothing left"),
        pytest.param([], id="no metrics"),
        pytest.param([Metric(timestamp_ms=NOW), sample()], id="no value"),
        pytest.param([sample(a=TOO_LONG), labelled((TOO_LONG, "a")), sample()], id="too long"),
        pytest.param([sample(region=TOO_LONG)], id="too long, and overwritten"),
        pytest.param([sample(__name__="a"), labelled(("__name__", "")), sample()], id="named"),
        pytest.param([labelled(("__name_", "a"), ("_Name__x", "a"))], id="nearly named"),
        pytest.param([labelled(("", TOO_LONG), ("a", ""))], id="empty"),
        pytest.param([labelled(("region", "a"), ("b", "c"), ("region", ""))], id="repeated"),
        pytest.param([labelled(("_id", "a"), ("_id", "b"))], id="the server's"),
        pytest.param([labelled(("instance", "a"), ("instance", ""), ("é", "é"))], id="hashed"),
        pytest.param([sample(a="x" * 127), sample(a="x" * 128), sample(a="x" * 255)], id="long"),
    ],
)
def test_usual_metrics(metrics: list[Metric]) -> None:
    both(encode_families([family("ALERTS", *metrics), family("up", sample())]))


def test_fields_in_another_order() -> None:
    """They are written in the order of their numbers, as every library does."""
    named, typed = bytes.fromhex("0a 02 75 70"), bytes.fromhex("18 03")
    label = bytes.fromhex("0a 06 0a 01 61 12 01 62")
    value = bytes.fromhex("2a 09 09 00 00 00 00 00 00 f0 3f")
    stamp = Metric(timestamp_ms=NOW).SerializeToString()
    metric = stamp + value + label
    inside = bytes([0x22, len(metric)]) + metric
    unit, text = bytes.fromhex("2a 01 73"), bytes.fromhex("12 00")
    body = join_delimited([unit + inside + typed + inside + text + named])
    left, _, samples, _ = both(body, Transforms())
    assert samples == 2
    (found,) = decode_families(left)
    assert (found.name, found.help, found.unit) == ("up", "", "s")


def test_numbers_that_are_longer_than_need_be() -> None:
    message = family("up", sample()).SerializeToString()
    padded = bytes([len(message) | 0x80, 0]) + message
    compiled, reference = compiled_and_reference(padded, Transforms(), {"_id": "test"})
    assert compiled is None  # nobody writes them so
    assert reference is not None
    (found,) = decode_families(reference[0])
    assert labels_of(found.metric[0]) == [("_id", "test")]


def test_a_large_family() -> None:
    """Over 2 MB, with timestamps that go up and down."""
    metrics = [sample(at=NOW - at % 7, a=f"{at:0250}") for at in range(9000)]
    _, _, samples, _ = both(encode_families([family("up", *metrics)]))
    assert samples == 9000


def test_many_hashes_are_forgotten_again() -> None:
    metrics = [sample(instance=str(at % 9000)) for at in range(20000)]
    body = encode_families([family("up", *metrics)])
    transformer = CollectConverter(ANONYMIZING)
    first = transformer.convert(body, decode_families, NOW).labelled({})
    assert transformer.convert(body, decode_families, NOW).labelled({}) == first
    assert transformer.reference(body, decode_families, NOW).labelled({}) == first


def test_hashes_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(value: str, salt: bytes) -> str:
        asked.append(value)
        return anonymous(value, salt)

    monkeypatch.setattr(engine, "anonymous", counted)
    transformer = CollectConverter(ANONYMIZING)
    body = encode_families([family("up", *(sample(instance=str(at % 5)) for at in range(50)))])
    for _ in range(3):
        transformer.compiled(body, decode_families, NOW)
    assert asked == (["0", "1", "2", "3", "4"] if KIND == "compiled" else [])


# --- What is left to the reference ----------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(family("h", histogram({1.0: 1}), kind=HISTOGRAM), id="histogram"),
        pytest.param(family("s", sample(None, field="summary"), kind=SUMMARY), id="summary"),
        pytest.param(family("", sample()), id="no name"),
        pytest.param(Family(name="up", metric=[sample()]), id="no type"),
        pytest.param(family("up", sample(None)), id="no number"),
        pytest.param(family("up", sample(field="gauge")), id="another type's value"),
        pytest.param(family(TOO_LONG, sample()), id="long name"),
        pytest.param(family("up", labelled(*[("a", "b")] * 300)), id="nothing"),
        pytest.param(
            family("up", labelled(*[("instance", "b"), ("a", "b")] * 100)), id="many labels"
        ),
    ],
)
def test_unusual_families(made: Family, request: pytest.FixtureRequest) -> None:
    body = encode_families([family("down", sample()), made])
    assert gives_up(body) is (KIND != "compiled" or "nothing" not in request.node.name)
    transformer = CollectConverter(ANONYMIZING)
    found = transformer.convert(body, decode_families, NOW)
    reference = transformer.reference(body, decode_families, NOW)
    assert outcome(found, {"a": "b"}) == outcome(reference, {"a": "b"})


@pytest.mark.parametrize("extra", ["a0 06 05", "30 05", "0a 01 61", "18 03", "2a 01 61 2a 01 61"])
def test_unknown_and_repeated_fields(extra: str) -> None:
    message = family("up", sample()).SerializeToString() + bytes.fromhex(extra)
    assert gives_up(join_delimited([message]))


@pytest.mark.parametrize(
    "wanted",
    [
        Transforms({f"label_{number}": "x" for number in range(33)}),
        Transforms(anonymized=frozenset(f"label_{number}" for number in range(33))),
        Transforms({"": "x"}),
        Transforms({"__name__": "x"}),
        Transforms({"a": TOO_LONG}),
        Transforms({TOO_LONG: "a"}),
    ],
)
def test_transforms_that_are_left_to_the_reference(wanted: Transforms) -> None:
    assert gives_up(encode_families([family("up", sample())]), wanted)


@given(text_families(), transforms())
def test_text_is_parsed_by_the_reference(families: list[Family], wanted: Transforms) -> None:
    transformer = CollectConverter(wanted)
    text = render_text(families).encode()
    assert transformer.compiled(text, parse_text, NOW) is None
    found = outcome(transformer.convert(text, parse_text, NOW), {})
    assert found == outcome(transformer.reference(text, parse_text, NOW), {})


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(BadInputError, match="metric family 1 is not a valid message"):
        CollectConverter(ANONYMIZING).convert(b"\x02\x0a\x05", decode_families, NOW)


def test_the_families_of_either() -> None:
    made = [family("up", sample(a="b"))]
    body = encode_families(made)
    for compiled in (True, False):
        transformer = CollectConverter(Transforms(), use_compiled=compiled)
        assert transformer.convert(body, decode_families, NOW).decoded() == made
        assert (transformer.compiled(body, decode_families, NOW) is None) is (
            not compiled or KIND != "compiled"
        )


def test_without_the_compiled_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_collect", None)
    transformer = CollectConverter(ANONYMIZING)
    body = encode_families([family("up", sample())])
    assert transformer.compiled(body, decode_families, NOW) is None
    assert transformer.convert(body, decode_families, NOW).samples == 1
