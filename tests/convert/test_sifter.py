"""The compiled sifting against the straightforward one, which is its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from telemeter.convert import engine
from telemeter.convert.engine import KIND, WriteConverter
from telemeter.convert.results import Written
from telemeter.convert.sieve import ForeignIdError, WriteRules
from telemeter.samples.selector import parse_rules
from telemeter.samples.whitelist import Whitelist
from tests.samples.build import bits
from tests.samples.strategies import alike_labels, mutations

from .sifting import compiled_and_reference
from .write_strategies import (
    CLUSTER,
    NAME,
    Exemplar,
    Histogram,
    Metadata,
    Pairs,
    PlainRules,
    Request,
    Sample,
    Series,
    chunk,
    double,
    encode_v1,
    encode_v2,
    nonsense_histograms,
    packed,
    packed_doubles,
    requests_v1,
    requests_v2,
    rules,
    text,
    varint,
    whole,
    zigzag,
)

ONE: Final = Sample(bits(1.0), 1000)
versions: Final = st.sampled_from([1, 2])
both: Final = pytest.mark.parametrize("version", [1, 2])
requests: Final = {1: requests_v1(), 2: requests_v2()}
ENCODE: Final[dict[int, Callable[[Request], bytes]]] = {1: encode_v1, 2: encode_v2}

#: The limits of labels are another matter.
ANY_LENGTH: Final = WriteRules(most_name=1 << 24, most_value=1 << 24)


def labels(name: str = "up", *more: tuple[str, str], cluster: str = CLUSTER) -> Pairs:
    return ((NAME, name), ("_id", cluster), *more)


def encoded(version: int, *series: Series) -> bytes:
    return ENCODE[version](Request(series))


def sifted(body: bytes, version: int, using: WriteRules | None = None) -> Written:
    """What both make of a body that the compiled code has to know."""
    compiled, reference = compiled_and_reference(body, using or ANY_LENGTH, version)
    assert reference is not None
    assert compiled == (reference if KIND == "compiled" else None)
    return reference


def left_to_the_reference(body: bytes, version: int, using: WriteRules | None = None) -> Written:
    compiled, reference = compiled_and_reference(body, using or ANY_LENGTH, version)
    assert compiled is None
    assert reference is not None
    return reference


# --- Generated ------------------------------------------------------------------------------------


def is_usual(asked: Request) -> bool:
    """Whether the compiled code has to know such a request."""
    return not any(
        histogram.custom or whole(4, zigzag(-53)) in histogram.head
        for series in asked.series
        for histogram in series.histograms
    )


@settings(max_examples=400)
@given(versions, st.data(), rules)
def test_a_request(version: int, data: st.DataObject, plain: PlainRules) -> None:
    asked = data.draw(requests[version])
    compiled, reference = compiled_and_reference(ENCODE[version](asked), plain.real, version)
    if reference is None:
        event("refused")
        assert compiled is None
    elif is_usual(asked):
        event(f"{min(reference.series, 3)} series, {min(reference.duplicates, 1)} duplicates")
        assert compiled == (reference if KIND == "compiled" else None)
    else:
        assert compiled is None or compiled == reference


@settings(max_examples=400)
@given(versions, st.data(), rules)
def test_a_mutated_request(version: int, data: st.DataObject, plain: PlainRules) -> None:
    body = data.draw(mutations(ENCODE[version](data.draw(requests[version]))))
    compiled, reference = compiled_and_reference(body, plain.real, version)
    event("gave up" if compiled is None else "sifted")
    assert compiled is None or compiled == reference


@settings(max_examples=300)
@given(
    versions,
    alike_labels(),
    st.sampled_from(["", 'up{a!="x"}', '{job=~"x|v+"}\n{b=""}']),
    st.sets(st.sampled_from(["a", "job", "b", "instance"]), max_size=2),
    st.dictionaries(st.sampled_from(["a", "b", "aa", "region", "zz"]), st.sampled_from(["", "z"])),
)
def test_series_like_the_one_before(
    version: int,
    found: list[list[tuple[str, str]]],
    rules_text: str,
    elided: set[str],
    added: dict[str, str],
) -> None:
    series = [
        Series(
            (
                (NAME, "up"),
                *((name, value) for name, value in pairs if name != "_id"),
                ("_id", CLUSTER),
            ),
            (Sample(1, number // 2),),
        )
        for number, pairs in enumerate(found)
    ]
    using = WriteRules(Whitelist(parse_rules(rules_text)), elided=frozenset(elided), added=added)
    compiled, reference = compiled_and_reference(encoded(version, *series), using, version)
    if reference is None:
        event("refused")
        assert compiled is None
    else:
        event(f"{min(reference.series, 3)} series, {min(reference.duplicates, 1)} duplicates")
        assert compiled == (reference if KIND == "compiled" else None)


@given(versions, st.data())
def test_a_request_that_is_cut_off(version: int, data: st.DataObject) -> None:
    body = ENCODE[version](data.draw(requests[version]))
    for end in range(len(body)):
        compiled, reference = compiled_and_reference(body[:end], ANY_LENGTH, version)
        assert compiled is None or compiled == reference


@given(version=versions, body=st.binary(max_size=60))
def test_bytes(version: int, body: bytes) -> None:
    compiled, reference = compiled_and_reference(body, ANY_LENGTH, version)
    assert compiled is None or compiled == reference


@given(version=versions, names=st.lists(st.text("ab\0é", max_size=9), max_size=130))
def test_labels_in_any_order(version: int, names: list[str]) -> None:
    """More of them than are sorted by insertion; 2.0 refuses a name that comes twice."""
    found = tuple((name, "x") for name in names)
    using = WriteRules(elided=frozenset(["a", "b\0"]))
    body = encoded(version, Series(labels("up", *found), (ONE,)))
    compiled, reference = compiled_and_reference(body, using, version)
    event("gave up" if compiled is None else "sifted")
    assert compiled is None or compiled == reference
    if KIND == "compiled":
        assert (compiled is None) == (reference is None or len(names) > 126)


# --- What has to be known -------------------------------------------------------------------------

INTEGERS: Final = Histogram(
    varint(1, 6)
    + double(3, bits(9.5))
    + whole(4, zigzag(3))
    + double(5, bits(0.001))
    + varint(6, 1)
    + chunk(8, whole(1, zigzag(-2)) + whole(2, 2))
    + packed(9, [zigzag(1), zigzag(0)])
    + chunk(11, whole(2, 1))
    + chunk(11, whole(1, zigzag(4)) + whole(2, 1))
    + packed(12, [zigzag(2), zigzag(-1)]),
    1000,
)
FLOATS: Final = Histogram(
    double(2, bits(3.0))
    + double(3, bits(1.5))
    + double(7, 0)
    + chunk(11, whole(2, 2))
    + packed_doubles(13, [1.0, 2.0])
    + whole(14, 3),
    1000,
)
FULL: Final = Series(
    labels("up", ("é", "ü")),
    (ONE, Sample(0, 2000), Sample(bits(-0.0), -1, 500)),
    (Exemplar((("trace_id", "abc"), ("", "")), bits(0.5), 1000),),
    (INTEGERS, replace(FLOATS, start=7)),
    Metadata(1, "is it up?", "yes"),
)


@both
def test_everything_at_once(version: int) -> None:
    written = sifted(encoded(version, FULL, Series(labels("down"), (ONE,))), version)
    assert (written.series, written.samples, written.histograms, written.exemplars) == (2, 4, 2, 1)


@both
@pytest.mark.parametrize("value", ["x" * 127, "x" * 128, "é" * 70, "x" * 20_000, "x" * 3_000_000])
def test_long_texts(version: int, value: str) -> None:
    assert sifted(encoded(version, Series(labels("up", ("a", value)), (ONE,))), version).series == 1


@pytest.mark.parametrize("sample", [double(1, 0) + varint(2, 5), double(1, 1) + varint(2, 0), b""])
def test_senders_that_write_zeros(sample: bytes) -> None:
    """Some write fields that protobuf leaves out; the reference leaves them out."""
    head = b"".join(chunk(1, text(1, name) + text(2, value)) for name, value in labels())
    series = chunk(1, head + chunk(2, sample) + chunk(3, double(2, 0)) + varint(100, 7))
    metadata = chunk(3, varint(1, 0) + text(2, "up") + chunk(4, b"") + chunk(5, b""))
    written = sifted(series + metadata, 1)
    assert written.payload.endswith(chunk(3, text(2, "up")))


@both
def test_many_series_many_times(version: int) -> None:
    """So many that every table and every buffer has to grow."""
    series = [
        Series(labels("up", ("n", str(number % 700)), ("o", str(number % 3))), (Sample(1, number),))
        for number in range(3000)
    ]
    using = WriteRules(elided=frozenset("o"))
    written = sifted(encoded(version, *series, *series), version, using)
    assert (written.received, written.series + written.duplicates) == (6000, 6000)
    assert written.series == 1400


@both
def test_an_order_of_labels_is_not_that_of_fewer_labels(version: int) -> None:
    """What is known of the series before must not be taken for the order of this one."""
    values = ["", "x"]
    series = [
        Series(labels("up", *((name, values[number >> at & 1]) for at, name in enumerate("dcba"))))
        for number in (15, 7, 0, 3, 8, 12, 5, 15)
    ]
    series = [replace(one, samples=(ONE,)) for one in series]
    assert sifted(encoded(version, *series), version).series == 7
    using = WriteRules(elided=frozenset("bd"))
    assert sifted(encoded(version, *series), version, using).series == 4
    if version == 1:
        twice = Series(labels("up", ("z", "1"), ("a", "1"), ("z", "2")), (ONE,))
        fewer = Series(labels("up", ("c", "1"), ("b", "1")), (ONE,))
        assert sifted(encoded(1, twice, fewer, twice, fewer), 1).series == 2


@both
def test_rules_of_every_kind(version: int) -> None:
    text_of_rules = '{__name__="up"}\nup{a="x"}\n{__name__="down",a=~"x.*"}\n{a!~"x|y",a!=""}'
    using = WriteRules(Whitelist(parse_rules(text_of_rules)))
    series = [
        Series(labels(name, ("a", value)), (ONE,))
        for name in ("up", "down", "other")
        for value in ("", "x", "y", "xz", "é" * 200)
    ]
    written = sifted(encoded(version, *series), version, using)
    assert (written.series, written.dropped) == (5 + 2 + 3, 5)


def test_a_regex_is_remembered_within_bounds() -> None:
    using = WriteRules(Whitelist(parse_rules('{a=~".*7"}')))
    series = [Series(labels("up", ("a", str(number))), (ONE,)) for number in range(4500)]
    sifter = WriteConverter(using)
    body = encode_v1(Request(tuple(series)))
    first, again = (sifter.compiled(body, 1, CLUSTER) for _ in range(2))
    assert first == again == (sifter.reference(body, 1, CLUSTER) if KIND == "compiled" else None)


def test_a_cluster_that_no_label_can_name() -> None:
    body = encoded(1, Series(labels(), (ONE,)))
    sifter = WriteConverter(ANY_LENGTH)
    for sift in (sifter.compiled, sifter.reference):
        with pytest.raises(ForeignIdError):
            sift(body, 1, "\ud800")


# --- Examples of what was dropped -----------------------------------------------------------------


@both
def test_examples_of_what_was_dropped(version: int) -> None:
    using = WriteRules(Whitelist(parse_rules("up")), frozenset("a"))
    series = [
        Series(labels(name, ("a", value)), (ONE,))
        for name, value in [
            *(("b", "1"), ("b", "2"), ("up", "1"), ("c", "x" * 2000), ("c", "1")),
            *(("d", "3"), ("e", "4")),
        ]
    ]
    written = sifted(encoded(version, *series), version, using)
    assert written.dropped == 6
    assert [example.count(b"\n") // 2 for example in written.dropped_examples] == [3, 3]
    first, second = written.dropped_examples
    assert (
        first == b"\n\r\n\x08__name__\x12\x01b\n\x10\n\x03_id\x12\tcluster-1\n\x06\n\x01a\x12\x011"
    )
    assert b"\x12\x01d" in second


# --- What is left to the reference ----------------------------------------------------------------


@both
def test_many_labels(version: int) -> None:
    many = tuple((f"label_{number}", "x") for number in range(200))
    body = encoded(version, Series(labels("up", *many), (ONE,)))
    assert left_to_the_reference(body, version).series == 1


def test_series_behind_metadata() -> None:
    body = encode_v1(Request((), (("up", Metadata(1)),))) + encoded(1, Series(labels(), (ONE,)))
    assert left_to_the_reference(body, 1).series == 1


def test_references_one_by_one() -> None:
    symbols = b"".join(chunk(4, each.encode()) for each in ("", NAME, "up", "_id", CLUSTER))
    unpacked = b"".join(varint(1, reference) for reference in (1, 2, 3, 4))
    body = symbols + chunk(5, unpacked + chunk(2, ONE.encode(2)))
    assert left_to_the_reference(body, 2).series == 1


def test_what_becomes_very_long() -> None:
    found = [Series(labels("up", (str(n), "x" * 1_000_000)), (ONE,)) for n in range(17)]
    assert sifted(encoded(2, *found[:16]), 2).series == 16
    assert compiled_and_reference(encoded(2, *found), ANY_LENGTH, 2) == (None, None)


def test_references_to_a_long_text_again_and_again() -> None:
    """What is found to be a duplicate takes as much work as what is kept."""
    found = [Series(labels("up", ("a", "x" * 100_000)), (ONE,))] * 170
    assert sifted(encoded(2, *found[:160]), 2).duplicates == 159
    assert left_to_the_reference(encoded(2, *found), 2).duplicates == 169


def test_long_names_are_not_put_in_order_again_and_again() -> None:
    using = replace(ANY_LENGTH, whitelist=Whitelist(parse_rules("down")))
    names = tuple(("n" * 10_000 + str(number), "x") for number in range(20))
    found = [Series(labels("up", *names), (ONE,))] * 50
    assert sifted(encoded(2, *found[:40]), 2, using).dropped == 40
    assert left_to_the_reference(encoded(2, *found), 2, using).dropped == 50


@both
def test_regexes_are_not_shown_too_much(version: int) -> None:
    using = replace(ANY_LENGTH, whitelist=Whitelist(parse_rules('{a=~"x*"}')))
    long = [Series(labels("up", ("a", "x" * 100_000)), (Sample(1, n),)) for n in range(20)]
    assert sifted(encoded(version, *long[:10]), version, using).series == 10
    assert left_to_the_reference(encoded(version, *long), version, using).series == 20
    many = [Series(labels("up", ("a", str(number))), (ONE,)) for number in range(9000)]
    assert left_to_the_reference(encoded(version, *many), version, using).dropped == 9000


@pytest.mark.parametrize("rule", ["up", "other"])
def test_metadata_that_is_no_message_spoils_the_request(rule: str) -> None:
    """Also behind the fields that are needed, and if no rule lets its series pass."""
    metadata = whole(1, 1) + varint(3, 0) + varint(4, 0)
    using = WriteRules(Whitelist(parse_rules(rule)))
    for behind in (b"\x3c", b"\x3a\x05", varint(4, 0)[:1]):
        spoilt = Series(labels(), (ONE,), extra=chunk(5, metadata + behind))
        assert compiled_and_reference(encoded(2, spoilt), using, 2) == (None, None)
    sound = encoded(2, Series(labels(), (ONE,), extra=chunk(5, metadata)))
    assert sifted(sound, 2, using).received == 1


def test_a_request_that_stays_one_of_2() -> None:
    sifter = WriteConverter(ANY_LENGTH, keep_version=True)
    body = encoded(2, Series(labels(), (ONE,)))
    assert sifter.compiled(body, 2, None) is None
    assert sifter.reference(body, 2, None).payload.startswith(b"\x22\x00")
    assert (sifter.compiled(encoded(1, FULL), 1, None) is not None) is (KIND == "compiled")


# --- Histograms that make no sense ---------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(varint(1, 1), id="a count without buckets"),
        pytest.param(varint(1, 1) + double(2, bits(1.0)), id="two counts"),
        pytest.param(varint(6, 1), id="more observations than counted"),
        pytest.param(varint(6, 2**63), id="very many"),
        pytest.param(whole(4, zigzag(-10)), id="schema"),
        pytest.param(whole(4, zigzag(53)), id="another schema"),
        pytest.param(whole(4, zigzag(-5)), id="a schema for 2.0 only"),
        pytest.param(whole(4, zigzag(9)), id="a schema that is too fine"),
        pytest.param(whole(4, zigzag(-53)), id="custom buckets"),
        pytest.param(packed(12, [0]), id="a bucket without a span"),
        pytest.param(chunk(11, whole(2, 1)), id="a span without a bucket"),
        pytest.param(varint(1, 0) + chunk(11, whole(2, 2)) + packed(12, [1, 2]), id="below zero"),
        pytest.param(
            varint(1, 2)
            + double(3, bits(float("nan")))
            + chunk(11, whole(2, 1))
            + chunk(11, whole(1, zigzag(-1)) + whole(2, 1))
            + packed(12, [2, 0]),
            id="a span that goes back",
        ),
        pytest.param(double(2, bits(-1.0)), id="a negative count"),
        pytest.param(double(2, 0) + double(7, bits(-1.0)), id="a negative zero bucket"),
        pytest.param(
            double(2, 0) + chunk(11, whole(2, 1)) + packed_doubles(13, [-1.0]),
            id="a negative bucket",
        ),
    ],
)
@both
def test_no_histogram(version: int, head: bytes) -> None:
    body = encoded(version, Series(labels(), (), (), (Histogram(head, 1000),)))
    compiled, _ = compiled_and_reference(body, ANY_LENGTH, version)
    assert compiled is None


@given(versions, nonsense_histograms)
def test_nonsense(version: int, histogram: Histogram) -> None:
    body = encoded(version, Series(labels(), (), (), (histogram,)))
    compiled, reference = compiled_and_reference(body, ANY_LENGTH, version)
    assert compiled is None or compiled == reference


@pytest.mark.parametrize("kind", range(9))
@pytest.mark.parametrize(
    "name",
    [
        *("up", "up_bucket", "up_count", "up_sum", "up_gcount", "up_gsum", "_count", "_sum"),
        *("up_bucket_count", "up_sum_sum", "_bucket", "up_total", "sum", "é_sum"),
    ],
)
def test_metadata_is_that_of_a_family(name: str, kind: int) -> None:
    described = Metadata(kind, "help")
    series = [
        Series(labels(name), (ONE,), metadata=described),
        Series(labels(name, ("a", "x")), (), (), (INTEGERS,), described),
    ]
    for found in (series, series[:1], series[1:]):
        assert sifted(encoded(2, *found), 2).series == len(found)


def test_observations_of_nan_are_in_no_bucket() -> None:
    histogram = Histogram(varint(1, 5) + double(3, bits(float("nan"))), 1000)
    assert sifted(encoded(2, Series(labels(), (), (), (histogram,))), 2).histograms == 1


def test_without_the_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setattr(engine, "_write", missing)
    sifter = WriteConverter(ANY_LENGTH)
    body = encoded(1, FULL)
    assert sifter.compiled(body, 1, None) is None
    assert sifter.reference(body, 1, None).series == 1
