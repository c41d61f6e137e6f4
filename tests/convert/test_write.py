from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemeter.convert.engine import WriteConverter
from telemeter.convert.results import Written
from telemeter.convert.sieve import ForeignIdError, MissingLabelError, WriteRules, shown
from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.limits import MAX_OUTPUT
from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.samples import histogram_model
from tests.samples.build import NORMAL_NAN, STALE_NAN, bits
from tests.samples.strategies import mutations

from .sifting import both_outcomes, sift_write, sift_write_v2
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
    fields,
    packed,
    raw,
    read_v2,
    requests_v1,
    requests_v2,
    rules,
    text,
    varint,
    whole,
    zigzag,
)

ONE: Final = Sample(bits(1.0), 1000)
PLAIN: Final = PlainRules()
STALE, NAN, MINUS_ZERO, INFINITE = map(bits, (STALE_NAN, NORMAL_NAN, -0.0, float("inf")))
SIFTERS: Final[list[Any]] = [
    pytest.param(sift_write, encode_v1, id="1.0"),
    pytest.param(sift_write_v2, encode_v2, id="2.0"),
]
both = pytest.mark.parametrize(("sift", "encode"), SIFTERS)
Sift = Callable[[bytes, WriteRules], Written]
Encode = Callable[[Request], bytes]


def labels(name: str = "up", *more: tuple[str, str], cluster: str = CLUSTER) -> Pairs:
    return ((NAME, name), ("_id", cluster), *more)


def request(*series: Series) -> Request:
    return Request(series)


def up(*samples: Sample, more: Pairs = ()) -> Series:
    return Series(labels("up", *more), samples or (ONE,))


# --- The model ------------------------------------------------------------------------------------


@dataclass
class Expected:
    """The outcome of a request by docs/protocol.md, "Receive".

    Attributes:
        kept: the series that are left, as they came but for their labels.
        written: the same in the form that they are written in.
        claims: the labels of what is written, with what tells it from others, and its timestamps.
    """

    kept: list[Series] = field(default_factory=list)
    written: list[Series] = field(default_factory=list)
    claims: list[tuple[Pairs, Pairs, list[int]]] = field(default_factory=list)
    buckets: dict[Pairs, Histogram] = field(default_factory=dict)
    received: int = 0
    left: int = 0
    dropped: int = 0
    duplicates: int = 0
    histograms: int = 0
    refused: type[BadInputError] | None = None

    def counts(self) -> tuple[int, ...]:
        return (
            self.received,
            self.left,
            self.dropped,
            self.duplicates,
            sum(len(series.samples) for series in self.kept),
            self.histograms,
            sum(len(series.exemplars) for series in self.written),
        )

    def claim(self, labels: Pairs, original: Pairs, stamps: list[int]) -> bool:
        """Whether nothing before was the same, or had become it."""
        same = [claim for claim in self.claims if claim[0] == labels]
        known = [stamp for _, _, earlier in same for stamp in earlier]
        nothing_new = stamps != [] and all(stamp in known for stamp in stamps)
        if same and (nothing_new or any(before != original for _, before, _ in same)):
            self.duplicates += 1
            return False
        self.claims.append((labels, original, stamps))
        return True

    def write(self, series: Series, original: Pairs, plain: PlainRules) -> None:
        """Write a series as 1.0 has it."""
        custom = [each for each in series.histograms if histogram_model.is_custom(each)]
        others = tuple(each for each in series.histograms if not histogram_model.is_custom(each))
        if custom:
            self.buckets[original] = custom[-1]
        only = not series.samples and not others
        if not custom and not (only and original in self.buckets):
            self.written.append(series)
            self.left += 1
            self.histograms += len(others)
            return
        if not only:
            self.written.append(replace(series, histograms=others))
            self.histograms += len(others)
        exemplars = series.exemplars if only else ()
        parts = histogram_model.parts(custom, exemplars, self.buckets[original])
        some, every = not only, True
        for (suffix, le), (samples, own) in parts.items():
            given = dict(original)
            given[NAME] += suffix
            if le is not None:
                given["le"] = le
            left = plain.outgoing(given)
            stamps = [sample.at for sample in samples]
            if self.claim(left, (*original, ("of", "")), stamps):
                some = True
                self.written.append(Series(left, tuple(samples), tuple(own)))
            else:
                every = False
        self.left += some
        self.histograms += len(custom) * every


def in_order(pairs: Iterable[tuple[str, str]]) -> Pairs:
    return tuple(sorted(pairs, key=lambda pair: pair[0].encode()))


def counts_of(written: Written) -> tuple[int, ...]:
    return (
        written.received,
        written.series,
        written.dropped,
        written.duplicates,
        written.samples,
        written.histograms,
        written.exemplars,
    )


def model(found: Iterable[Series], plain: PlainRules, *, keep: bool = False) -> Expected:
    """Steps 4 and 5, series by series; keep: what is left is written as 2.0."""
    expected = Expected()
    for series in found:
        expected.received += 1
        given: dict[str, str] = {}
        for name, value in series.labels:
            if name != "" and value != "" and name not in given:
                given[name] = value
        if NAME not in given:
            expected.refused = BadInputError
        elif plain.partition not in given:
            expected.refused = MissingLabelError
        elif plain.cluster not in (None, given[plain.partition]):
            expected.refused = ForeignIdError
        if expected.refused:
            break
        if not plain.allow(given):
            expected.dropped += 1
            continue
        original = in_order(given.items())
        left = plain.outgoing(given)
        if not expected.claim(left, original, series.stamps):
            continue
        series = replace(series, labels=left)
        expected.kept.append(series)
        if keep:
            expected.written.append(series)
            expected.left += 1
            expected.histograms += len(series.histograms)
        else:
            expected.write(series, original, plain)
    return expected


def is_malformed(series: Series) -> bool:
    """Whether 2.0 forbids the series, whatever the rules."""
    names = [name for name, _ in series.labels]
    is_described = series.metadata not in (None, Metadata())
    is_empty = not (series.samples or series.histograms or series.exemplars or is_described)
    return "" in names or len(set(names)) < len(names) or is_empty


def model_v2(asked: Request, plain: PlainRules, *, keep: bool = False) -> Expected:
    """The same for 2.0, which refuses what 1.0 puts right."""
    sound: list[Series] = []
    for series in asked.series:
        if is_malformed(series):
            expected = model(sound, plain, keep=keep)
            expected.refused = expected.refused or BadInputError
            return expected
        if series.samples or series.histograms or series.exemplars:
            sound.append(series)
    return model(sound, plain, keep=keep)


def family_of(series: Series) -> str:
    """What 1.0 describes: the family of a series."""
    name = dict(series.labels).get(NAME, "")
    endings = {3: "_bucket _count _sum", 4: "_bucket _gcount _gsum _count _sum", 5: "_count _sum"}
    assert series.metadata is not None
    for ending in endings.get(series.metadata.kind, "").split():
        if not series.histograms and name.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def as_v1(expected: Expected) -> Request:
    """A 1.0 request that holds what a 2.0 request held, as far as 1.0 can."""
    metadata: dict[str, Metadata] = {}
    for series in expected.kept:
        if series.metadata is not None and series.metadata != Metadata():
            metadata.setdefault(family_of(series), series.metadata)
    return Request(
        tuple(
            replace(
                series,
                extra=b"",
                samples=tuple(replace(sample, extra=b"") for sample in series.samples),
                exemplars=tuple(replace(each, extra=b"") for each in series.exemplars),
                histograms=tuple(replace(each, extra=b"") for each in series.histograms),
            )
            for series in expected.written
        ),
        tuple(metadata.items()),
    )


class TestAgainstTheModel:
    @settings(max_examples=250)
    @given(requests_v1(), rules)
    def test_of_1(self, asked: Request, plain: PlainRules) -> None:
        expected = model(asked.series, plain)
        if expected.refused:
            with pytest.raises(BadInputError) as caught:
                sift_write(encode_v1(asked), plain.real)
            assert type(caught.value) is expected.refused
            return
        written = sift_write(encode_v1(asked), plain.real)
        assert counts_of(written) == expected.counts()
        assert written.only_metadata is (bool(asked.metadata) and not asked.series)
        left = replace(asked, series=tuple(expected.written))
        assert written.payload == (encode_v1(left) if expected.written else b"")

    @settings(max_examples=250)
    @given(requests_v2(), rules)
    def test_of_2(self, asked: Request, plain: PlainRules) -> None:
        expected = model_v2(asked, plain)
        body = encode_v2(asked)
        if expected.refused:
            for keep in (False, True):
                with pytest.raises(BadInputError) as caught:
                    sift_write_v2(body, plain.real, keep_version=keep)
                assert type(caught.value) is expected.refused
            return
        converted = sift_write_v2(body, plain.real)
        kept = sift_write_v2(body, plain.real, keep_version=True)
        assert counts_of(converted) == expected.counts()
        assert counts_of(kept) == model_v2(asked, plain, keep=True).counts()
        assert converted.only_metadata is kept.only_metadata
        assert kept.only_metadata is (bool(asked.series) and not expected.received)
        assert converted.payload == (encode_v1(as_v1(expected)) if expected.written else b"")
        symbols, series = read_v2(kept.payload)
        assert series == [raw(each) for each in expected.kept]
        assert sorted(symbols) == (sorted({"", *symbols_of(series)}) if series else [])
        assert symbols[:1] == ([""] if series else [])


def symbols_of(found: Iterable[Series]) -> set[str]:
    """The symbols that some series need."""
    needed = set()
    for series in found:
        for pairs in (series.labels, *(each.labels for each in series.exemplars)):
            needed |= {symbol for pair in pairs for symbol in pair}
        if series.metadata is not None:
            needed |= {series.metadata.help, series.metadata.unit}
    return needed


# --- Whatever else may arrive ---------------------------------------------------------------------

_full = Request(
    (
        Series(
            labels("up", ("a", "x")),
            (ONE, Sample(STALE, 2000, 500)),
            (Exemplar((("trace_id", "abc"),), bits(0.5), 1000),),
            (Histogram(varint(1, 0), 3000),),
            Metadata(1, "is it up?", "yes"),
        ),
        Series(labels("down"), (ONE,)),
    )
)


def works_or_is_refused(body: bytes) -> None:
    for sift in (sift_write, sift_write_v2, keep_v2):
        try:
            written = sift(body, WriteRules())
        except BadInputError as error:
            assert str(error)
        else:
            assert bool(written.payload) is (written.series > 0)


def keep_v2(body: bytes, rules: WriteRules) -> Written:
    return sift_write_v2(body, rules, keep_version=True)


@given(st.binary(max_size=200))
def test_any_bytes_work_or_are_refused(body: bytes) -> None:
    works_or_is_refused(body)


@given(mutations(encode_v1(_full)))
def test_broken_requests_of_1_work_or_are_refused(body: bytes) -> None:
    works_or_is_refused(body)


@given(mutations(encode_v2(_full)))
def test_broken_requests_of_2_work_or_are_refused(body: bytes) -> None:
    works_or_is_refused(body)


@both
class TestHostileBytes:
    def test_cut_off_anywhere(self, sift: Sift, encode: Encode) -> None:
        body = encode(_full)
        assert sift(body, WriteRules()).series == 2
        ends = {end for end in range(len(body)) if body[:end] in prefixes(body)}
        for end in set(range(len(body))) - ends:
            with pytest.raises(BadInputError, match=r"the body is not a"):
                sift(body[:end], WriteRules())

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"\x0b" * 500, id="groups that never end"),
            pytest.param(b"\x07", id="wire type 7"),
            pytest.param(b"\x00\x00", id="field 0"),
            pytest.param(b"\xff" * 11, id="an endless varint"),
            pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="a length of 4 GiB"),
            pytest.param(b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="a length of 8 EiB"),
        ],
    )
    def test_no_message(self, sift: Sift, encode: Encode, body: bytes) -> None:
        with pytest.raises(BadInputError, match=r"the body is not a"):
            sift(body, WriteRules())

    @pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\x80", b"a\xc3"])
    def test_text_that_is_not_utf_8(self, sift: Sift, encode: Encode, wrong: bytes) -> None:
        right = b"!" * len(wrong)
        body = encode(request(up(more=(("place", right.decode()),))))
        assert body.count(right) == 1
        with pytest.raises(BadInputError, match=r"the body is not a"):
            sift(body.replace(right, wrong), WriteRules())


def prefixes(body: bytes) -> set[bytes]:
    """The beginnings of a message that are messages themselves."""
    found, whole_fields = {b""}, b""
    for number, _, data in fields(body):
        whole_fields += chunk(number, data)
        found.add(whole_fields)
    return found


class TestUnpackedAndReordered:
    """Encodings that Prometheus does not use and protobuf allows."""

    def test_references_one_by_one(self) -> None:
        symbols = b"".join(chunk(4, each.encode()) for each in ("", NAME, "up", "_id", CLUSTER))
        unpacked = b"".join(varint(1, reference) for reference in (1, 2, 3, 4))
        series = chunk(5, chunk(2, ONE.encode(2)) + unpacked)
        written = sift_write_v2(series + symbols, WriteRules())
        assert written.payload == encode_v1(request(Series(labels(), (ONE,))))

    def test_unknown_fields_before_known_ones(self) -> None:
        body = varint(100, 7) + encode_v1(request(up()))
        assert sift_write(body, WriteRules()).payload == encode_v1(request(up())) + varint(100, 7)

    def test_two_requests_in_a_row_are_one(self) -> None:
        one, two = request(up()), request(up(Sample(0, 2000)))
        assert sift_write(encode_v1(one) + encode_v1(two), WriteRules()).series == 2


# --- Labels ---------------------------------------------------------------------------------------


def sifted_v1(series: Series, plain: PlainRules = PLAIN) -> bytes:
    return sift_write(encode_v1(request(series)), plain.real).payload


class TestLabelsOf1:
    @pytest.mark.parametrize(
        ("given", "left"),
        [
            pytest.param((("b", "1"), ("a", "2")), (("a", "2"), ("b", "1")), id="sorted"),
            pytest.param((("a", ""), ("b", "1")), (("b", "1"),), id="empty value"),
            pytest.param((("", "1"), ("b", "1")), (("b", "1"),), id="empty name"),
            pytest.param((("a", "1"), ("a", "2")), (("a", "1"),), id="the first is kept"),
            pytest.param((("a", ""), ("a", "2")), (("a", "2"),), id="the first that is not empty"),
            pytest.param((("ä", "1"), ("z", "2")), (("z", "2"), ("ä", "1")), id="by bytes"),
            pytest.param(
                (("\uffff", "1"), ("\U00010000", "2")),
                (("\uffff", "1"), ("\U00010000", "2")),
                id="by bytes, not by UTF-16",
            ),
        ],
    )
    def test_put_right(self, given: Pairs, left: Pairs) -> None:
        series = up(Sample(NAN, 7), more=given)
        assert sifted_v1(series) == encode_v1(request(up(Sample(NAN, 7), more=left)))

    @pytest.mark.parametrize("more", [(("_id", "other"),), (("_id", CLUSTER),)])
    def test_the_first_identifier_counts(self, more: Pairs) -> None:
        assert sifted_v1(up(more=more)) == encode_v1(request(up()))
        foreign = Series((("_id", "other"), *labels()), (ONE,))
        with pytest.raises(ForeignIdError):
            sifted_v1(foreign)

    def test_what_is_right_is_not_touched(self) -> None:
        body = encode_v1(_full)
        assert sift_write(body, WriteRules()).payload == body


@both
class TestDemands:
    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            ((), BadInputError, r"no metric name \(label __name__\): \{\}"),
            ((("_id", CLUSTER),), BadInputError, r"no metric name .*\{_id='cluster-1'\}"),
            (((NAME, ""), ("_id", CLUSTER)), BadInputError, "no metric name"),
            (((NAME, "up"),), MissingLabelError, r"lacks the label _id: \{__name__='up'\}"),
            (((NAME, "up"), ("_id", "")), MissingLabelError, "lacks the label _id"),
            (labels(cluster="other"), ForeignIdError, r"of the token, 'cluster-1': .*'other'"),
            (labels(cluster="cluster-1 "), ForeignIdError, "must be the cluster_id of the token"),
        ],
    )
    def test_one_series_spoils_the_request(
        self, sift: Sift, encode: Encode, given: Pairs, error: type[Exception], message: str
    ) -> None:
        bad = Series(given, (ONE,))
        for series in ([bad], [bad, up()], [up(), bad]):
            with pytest.raises(BadInputError, match=message) as caught:
                sift(encode(request(*series)), PLAIN.real)
            assert type(caught.value) is error

    def test_also_if_no_rule_lets_it_pass(self, sift: Sift, encode: Encode) -> None:
        plain = PlainRules(whitelist=(((NAME, "=", "down"),),))
        for bad in (Series(((NAME, "up"),), (ONE,)), Series(labels(cluster="other"), (ONE,))):
            with pytest.raises(BadInputError):
                sift(encode(request(bad)), plain.real)

    def test_any_cluster(self, sift: Sift, encode: Encode) -> None:
        series = [Series(labels(cluster=cluster), (ONE,)) for cluster in ("a", "b")]
        plain = PlainRules(cluster=None)
        assert sift(encode(request(*series)), plain.real).series == 2
        with pytest.raises(MissingLabelError):
            sift(encode(request(*series, Series(((NAME, "up"),), (ONE,)))), plain.real)

    def test_another_label(self, sift: Sift, encode: Encode) -> None:
        plain = PlainRules(partition="zone", cluster="x")
        series = Series(((NAME, "up"), ("zone", "x")), (ONE,))
        assert sift(encode(request(series)), plain.real).series == 1
        with pytest.raises(MissingLabelError, match="lacks the label zone"):
            sift(encode(request(up())), plain.real)

    def test_the_whitelist_sees_labels_that_are_elided(self, sift: Sift, encode: Encode) -> None:
        wanted, other = up(more=(("a", "x"),)), up(more=(("a", "y"),))
        plain = PlainRules((((NAME, "=", "up"), ("a", "=", "x")),), frozenset(["a", "_id"]))
        written = sift(encode(request(wanted, other)), plain.real)
        assert (written.received, written.series, written.dropped) == (2, 1, 1)
        assert written.payload == encode_v1(request(Series(((NAME, "up"),), (ONE,))))

    def test_a_rule_for_names_in_utf_8(self, sift: Sift, encode: Encode) -> None:
        selector = parse_selector('{"cpu.usage ö","my.name"="x"}')
        series = [Series(labels("cpu.usage ö", ("my.name", value)), (ONE,)) for value in "xy"]
        real = WriteRules(Whitelist([selector]))
        written = sift(encode(request(*series)), real)
        assert (written.series, written.dropped) == (1, 1)

    def test_no_rules_let_everything_pass(self, sift: Sift, encode: Encode) -> None:
        assert sift(encode(_full), WriteRules()).dropped == 0

    def test_nothing_left(self, sift: Sift, encode: Encode) -> None:
        plain = PlainRules(whitelist=(((NAME, "=", "other"),),))
        written = sift(encode(_full), plain.real)
        assert written == Written(received=2, dropped=2, dropped_examples=written.dropped_examples)
        assert len(written.dropped_examples) == 2

    def test_nothing_there(self, sift: Sift, encode: Encode) -> None:
        assert sift(b"", WriteRules()) == Written(is_empty=True)


@both
class TestRepeatedSeries:
    def test_of_a_prometheus_that_has_fallen_behind(self, sift: Sift, encode: Encode) -> None:
        """It sends every sample in a series of its own, and those of one series in order."""
        sent = request(
            *(
                up(Sample(bits(value), stamp), more=(("a", who),))
                for value, stamp in ((1.0, 1000), (2.0, 2000), (3.0, 3000))
                for who in "xy"
            )
        )
        written = sift(encode(sent), WriteRules())
        assert counts_of(written) == (6, 6, 0, 0, 6, 0, 0)
        assert written.payload == encode_v1(sent)

    def test_exemplars_and_histograms_in_series_of_their_own(
        self, sift: Sift, encode: Encode
    ) -> None:
        exemplar = Exemplar((("trace_id", "abc"),), bits(0.5), 1000)
        sent = request(
            Series(labels(), (), (exemplar,)),
            Series(labels(), (), (exemplar,)),
            Series(labels(), (ONE,)),
            Series(labels(), (), (exemplar,)),
            Series(labels(), (), (), (Histogram(varint(1, 0), 2000),)),
        )
        written = sift(encode(sent), WriteRules())
        assert counts_of(written) == (5, 5, 0, 0, 1, 1, 3)
        assert written.payload == encode_v1(sent)

    @pytest.mark.parametrize(
        ("stamps", "passing"),
        [
            ([[1], [1]], [0]),
            ([[1], [2], [1], [2]], [0, 1]),
            ([[1, 2], [1], [2], [1, 2]], [0]),
            ([[1], [1, 2]], [0, 1]),
            ([[1], [2], [1, 2]], [0, 1]),
            ([[1, 1]], [0]),
        ],
    )
    def test_the_same_again(
        self, sift: Sift, encode: Encode, stamps: list[list[int]], passing: list[int]
    ) -> None:
        found = [up(*(Sample(0, stamp) for stamp in each)) for each in stamps]
        written = sift(encode(request(*found)), WriteRules())
        assert written.payload == encode_v1(request(*(found[each] for each in passing)))
        assert written.duplicates == len(stamps) - len(passing)

    def test_only_of_the_first_that_became_identical(self, sift: Sift, encode: Encode) -> None:
        """Two series must not be mixed to one, also when their timestamps would allow it."""
        first = [up(Sample(0, stamp), more=(("a", "x"),)) for stamp in (1, 3)]
        other = [up(Sample(0, stamp), more=(("a", "y"),)) for stamp in (2, 4)]
        plain = PlainRules(elided=frozenset("a"))
        sent = request(first[0], other[0], first[1], other[1], up(Sample(0, 5)))
        written = sift(encode(sent), plain.real)
        assert counts_of(written) == (5, 2, 0, 3, 2, 0, 0)
        assert written.payload == encode_v1(request(up(Sample(0, 1)), up(Sample(0, 3))))

    def test_what_no_rule_allows_makes_nobody_a_duplicate(self, sift: Sift, encode: Encode) -> None:
        plain = PlainRules((((NAME, "=", "up"), ("a", "=", "x")),), frozenset("a"))
        series = [up(more=(("a", value),)) for value in "yx"]
        assert counts_of(sift(encode(request(*series)), plain.real))[:4] == (2, 1, 1, 0)

    def test_empty_labels_do_not_tell_series_apart(self, sift: Sift, encode: Encode) -> None:
        sent = request(up(), up(more=(("a", ""),)))
        assert sift(encode(sent), WriteRules()).duplicates == 1


# --- What passes bit for bit ----------------------------------------------------------------------


@both
@pytest.mark.parametrize("value", [STALE, NAN, MINUS_ZERO, INFINITE, 0, 1, 0xFFF8DEADBEEF0001])
def test_values_pass_bit_for_bit(sift: Sift, encode: Encode, value: int) -> None:
    series = Series(
        labels(),
        (Sample(value, 1),),
        (Exemplar((("trace_id", "abc"),), value, -1),),
        (Histogram(varint(1, 0) + (double(3, STALE)), 2),),
    )
    for sent in (series, replace(series, labels=series.labels[::-1])):
        written = sift(encode(request(sent)), WriteRules())
        assert written.payload == encode_v1(request(series))
        assert double(1, value)[1:] in written.payload or not value


class TestMetadata:
    DESCRIBED: Final = (("up", Metadata(2, "is it up?", "yes")), ("", Metadata(9)))

    def test_of_1_alone_is_not_forwarded(self) -> None:
        written = sift_write(encode_v1(Request(metadata=self.DESCRIBED)), WriteRules())
        assert written == Written(only_metadata=True)

    def test_of_1_passes_with_series(self) -> None:
        body = encode_v1(Request((up(),), self.DESCRIBED))
        assert sift_write(body, WriteRules()).payload == body

    def test_of_1_does_not_save_a_request_without_anything_left(self) -> None:
        plain = PlainRules(whitelist=(((NAME, "=", "other"),),))
        body = encode_v1(Request((up(),), self.DESCRIBED))
        written = sift_write(body, plain.real)
        assert (written.payload, written.dropped, written.only_metadata) == (b"", 1, False)

    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("given", [(), ((NAME, "up"),), labels(), labels(cluster="other")])
    def test_of_2_alone_is_not_forwarded(self, given: Pairs, keep: bool) -> None:
        body = encode_v2(request(Series(given, metadata=Metadata(1, "help"))))
        assert sift_write_v2(body, WriteRules(), keep_version=keep) == Written(only_metadata=True)

    @pytest.mark.parametrize("keep", [False, True])
    def test_of_2_in_a_series_of_its_own_does_no_harm(self, keep: bool) -> None:
        alone = Series(labels("down"), metadata=Metadata(1, "help"))
        for found in ([alone, up()], [up(), alone]):
            written = sift_write_v2(encode_v2(request(*found)), WriteRules(), keep_version=keep)
            only = sift_write_v2(encode_v2(request(up())), WriteRules(), keep_version=keep)
            assert written == only
            assert not written.only_metadata

    def test_of_2_becomes_one_entry_a_name(self) -> None:
        described = replace(up(), metadata=Metadata(1, "first", "s"))
        again = replace(up(Sample(0, 2)), metadata=Metadata(1, "second", "s"))
        other = Series(labels("down"), (ONE,), metadata=Metadata(4))
        written = sift_write_v2(encode_v2(request(up(), described, again, other)), WriteRules())
        expected = Request(
            (up(), up(Sample(0, 2)), Series(labels("down"), (ONE,))),
            (("up", Metadata(1, "second", "s")), ("down", Metadata(4))),
        )
        assert written.payload == encode_v1(expected)

    def test_of_2_whose_series_is_dropped_is_dropped_too(self) -> None:
        plain = PlainRules(whitelist=(((NAME, "=", "up"),),))
        dropped = Series(labels("secret"), (ONE,), metadata=Metadata(1, "what a secret"))
        for keep in (False, True):
            body = encode_v2(request(up(), dropped))
            assert b"secret" in body
            assert b"secret" not in sift_write_v2(body, plain.real, keep_version=keep).payload


def test_the_start_of_a_counter_passes_in_2_and_is_left_out_of_1() -> None:
    sample = Sample(bits(1.0), 1000, start=500)
    histogram = Histogram(varint(1, 0), 1000, start=500)
    counted = Series(labels(), (sample,), (), ())
    observed = Series(labels("seconds"), (), (), (histogram,))
    body = encode_v2(request(counted, observed))
    as_1 = request(counted, observed)
    assert sift_write_v2(body, WriteRules()).payload == encode_v1(as_1)
    assert b"\x18\xf4\x03" not in encode_v1(as_1)
    _, series = read_v2(sift_write_v2(body, WriteRules(), keep_version=True).payload)
    assert series == [raw(counted), raw(observed)]
    assert b"\x18\xf4\x03" in series[0].samples[0].extra


# --- What 1.0 cannot hold -------------------------------------------------------------------------


def custom(*counts: int, bounds: tuple[float, ...] = (0.1, 2.5), at: int = 1000) -> Histogram:
    """A histogram with custom buckets."""
    head = (
        varint(1, sum(counts))
        + double(3, bits(5.0))
        + whole(4, zigzag(-53))
        + chunk(11, whole(2, len(counts)))
        + packed(12, (zigzag(b - a) for a, b in pairwise([0, *counts])))
    )
    return Histogram(head, at, bounds)


def lat(*histograms: Histogram, more: Pairs = (), **parts: Any) -> Series:
    return Series(labels("lat", *more), histograms=histograms, **parts)


def texts_of(written: Written) -> list[str]:
    """The series of a payload, as text."""
    found = []
    for series in remote_pb2.WriteRequest.FromString(written.payload).timeseries:
        given = {label.name: label.value for label in series.labels}
        assert list(given) == sorted(given)
        name = given.pop(NAME)
        assert given.pop("_id") == CLUSTER
        shown_ = ",".join(f"{label}={value}" for label, value in given.items())
        parts = [f"{sample.value:g}@{sample.timestamp}" for sample in series.samples]
        parts += [f"exemplar {each.value:g}" for each in series.exemplars]
        parts += [f"histogram {each.schema}" for each in series.histograms]
        found.append(f"{name}{{{shown_}}} {' '.join(parts)}")
    return found


@both
class TestCustomBuckets:
    def test_become_a_classic_histogram(self, sift: Sift, encode: Encode) -> None:
        sent = request(lat(custom(1, 2, 3), more=(("zone", "a"),)), up())
        written = sift(encode(sent), WriteRules())
        assert texts_of(written) == [
            "lat_bucket{le=0.1,zone=a} 1@1000",
            "lat_bucket{le=2.5,zone=a} 3@1000",
            "lat_bucket{le=+Inf,zone=a} 6@1000",
            "lat_sum{zone=a} 5@1000",
            "lat_count{zone=a} 6@1000",
            "up{} 1@1000",
        ]
        assert counts_of(written) == (2, 2, 0, 0, 1, 1, 0)

    def test_the_whitelist_sees_the_name_of_the_histogram(self, sift: Sift, encode: Encode) -> None:
        body = encode(request(lat(custom(1))))
        for rule, left in (("lat", 1), ("lat_bucket", 0), ("lat_count", 0)):
            real = PlainRules(whitelist=(((NAME, "=", rule),),)).real
            assert sift(body, real).series == left

    def test_labels_are_elided_le_among_them(self, sift: Sift, encode: Encode) -> None:
        body = encode(request(lat(custom(1, 2, 3), more=(("zone", "a"),))))
        written = sift(body, WriteRules(elided=frozenset(["zone", "le"])))
        assert texts_of(written) == [
            "lat_bucket{} 1@1000",
            "lat_sum{} 5@1000",
            "lat_count{} 6@1000",
        ]
        # It is not whole, so it does not count as written.
        assert counts_of(written) == (1, 1, 0, 2, 0, 0, 0)

    def test_a_label_le_of_its_own_gives_way(self, sift: Sift, encode: Encode) -> None:
        found = [lat(custom(1), more=(("le", text_),)) for text_ in ("x", "y")]
        written = sift(encode(request(*found)), WriteRules())
        assert [each for each in texts_of(written) if "_bucket" in each] == [
            "lat_bucket{le=0.1} 1@1000",
            "lat_bucket{le=2.5} 1@1000",
            "lat_bucket{le=+Inf} 1@1000",
        ]
        # Sums and counts keep it.
        assert (written.series, written.duplicates, written.histograms) == (2, 3, 1)

    def test_a_classic_histogram_beside_it(self, sift: Sift, encode: Encode) -> None:
        """Some senders have both. What came first stays, and the rest is counted."""
        parts = [
            Series(labels("lat_bucket", ("le", le)), (ONE,)) for le in ("0.1", "2.5", "+Inf")
        ] + [Series(labels(name), (ONE,)) for name in ("lat_sum", "lat_count")]
        written = sift(encode(request(lat(custom(1, 1, 1)), *parts)), WriteRules())
        assert texts_of(written)[0] == "lat_bucket{le=0.1} 1@1000"
        assert counts_of(written) == (6, 1, 0, 5, 0, 1, 0)
        written = sift(encode(request(*parts, lat(custom(2, 2, 2)))), WriteRules())
        assert texts_of(written)[0] == "lat_bucket{le=0.1} 1@1000"
        assert counts_of(written) == (6, 5, 0, 5, 5, 0, 0)
        written = sift(encode(request(parts[0], lat(custom(2, 2, 2)))), WriteRules())
        assert len(texts_of(written)) == 5
        assert counts_of(written) == (2, 2, 0, 1, 1, 0, 0)

    def test_of_a_prometheus_that_has_fallen_behind(self, sift: Sift, encode: Encode) -> None:
        found = [lat(custom(1, 1), custom(2, 1, at=2000)), lat(custom(4, 1, at=3000))]
        written = sift(encode(request(*found, found[1])), WriteRules())
        assert texts_of(written)[0] == "lat_bucket{le=0.1} 1@1000 2@2000"
        assert texts_of(written)[5] == "lat_bucket{le=0.1} 4@3000"
        assert counts_of(written) == (3, 2, 0, 1, 0, 3, 0)

    def test_bounds_that_change(self, sift: Sift, encode: Encode) -> None:
        found = lat(custom(1, 1), custom(2, 1, at=2000, bounds=(0.1, 5.0)))
        assert texts_of(sift(encode(request(found)), WriteRules()))[:4] == [
            "lat_bucket{le=0.1} 1@1000 2@2000",
            "lat_bucket{le=2.5} 2@1000",
            "lat_bucket{le=+Inf} 2@1000 3@2000",
            "lat_sum{} 5@1000 5@2000",
        ]

    def test_beside_numbers_and_other_histograms(self, sift: Sift, encode: Encode) -> None:
        other = Histogram(varint(1, 0) + whole(4, zigzag(3)), 3000)
        exemplar = Exemplar((), bits(1.0), 1000)
        found = lat(custom(1), other, samples=(Sample(bits(7.0), 500),), exemplars=(exemplar,))
        written = sift(encode(request(found)), WriteRules())
        assert texts_of(written)[:2] == [
            "lat{} 7@500 exemplar 1 histogram 3",
            "lat_bucket{le=0.1} 1@1000",
        ]
        assert counts_of(written) == (1, 1, 0, 0, 1, 2, 1)

    @pytest.mark.parametrize("apart", [False, True])
    def test_exemplars_go_into_the_buckets(self, apart: bool, sift: Sift, encode: Encode) -> None:
        """Also if they come in a series of their own, as from a Prometheus."""
        values = [0.05, 0.1, 0.2, 9.0, float("nan"), float("-inf")]
        exemplars = tuple(Exemplar((("trace_id", "x"),), bits(value), 1000) for value in values)
        found = [lat(custom(1), exemplars=exemplars)]
        if apart:
            found = [lat(custom(1)), lat(exemplars=exemplars)]
        written = sift(encode(request(*found)), WriteRules())
        placed = [each.split(" ", 1) for each in texts_of(written) if "exemplar" in each]
        if apart:
            assert [where for where, _ in placed] == [
                "lat_bucket{le=0.1}",
                "lat_bucket{le=2.5}",
                "lat_bucket{le=+Inf}",
            ]
        assert [each.partition("exemplar")[2].split(" exemplar ") for _, each in placed] == [
            [" 0.05", "0.1", "-inf"],
            [" 0.2"],
            [" 9", "nan"],
        ]
        assert (written.series, written.histograms, written.exemplars) == (len(found), 1, 6)

    def test_exemplars_of_others_stay(self, sift: Sift, encode: Encode) -> None:
        exemplar = Exemplar((), bits(1.0), 1000)
        other = Series(labels("other"), exemplars=(exemplar,))
        written = sift(encode(request(lat(custom(1)), other)), WriteRules())
        assert texts_of(written)[-1] == "other{} exemplar 1"

    def test_the_end_of_a_series(self, sift: Sift, encode: Encode) -> None:
        stale = Histogram(varint(1, 0) + double(3, STALE) + whole(4, zigzag(-53)), 1000, (0.1,))
        written = sift(encode(request(lat(stale))), WriteRules())
        found = remote_pb2.WriteRequest.FromString(written.payload).timeseries
        assert [bits(series.samples[0].value) for series in found] == [STALE] * 4

    def test_the_origin_stays_with_it_if_asked(self, sift: Sift, encode: Encode) -> None:
        stale = Histogram(varint(1, 0) + double(3, STALE) + whole(4, zigzag(-53)), 3000, (0.5,))
        found = lat(custom(1, 1), custom(2, at=2000, bounds=(0.2,)), stale, more=(("zone", "a"),))
        others = [lat(custom(4)), lat(custom(5)), up()]
        body = encode(request(found, *others))
        elided = frozenset(["zone"])
        kept = sift(body, WriteRules(elided=elided, keep_origins=True))
        assert texts_of(kept)[:4] == ["lat{} histogram -53"] * 3 + ["lat_bucket{le=0.1} 1@1000"]
        parts = remote_pb2.WriteRequest.FromString(kept.payload).timeseries
        origins = [part for part in parts if part.histograms]
        fields_of = [
            [(each.timestamp, list(each.custom_values), bits(each.sum)) for each in part.histograms]
            for part in origins
        ]
        assert fields_of == [
            [(1000, [0.1, 2.5], bits(0.0))],
            [(2000, [0.2], bits(0.0))],
            [(3000, [0.5], STALE)],
        ]
        assert all(not each.positive_deltas for part in origins for each in part.histograms)
        # It is not counted, and none is left of what was left out.
        plain = sift(body, WriteRules(elided=elided))
        assert counts_of(kept) == counts_of(plain)
        assert [text_ for text_ in texts_of(kept) if "histogram" not in text_] == texts_of(plain)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (custom(1, 2, 3, bounds=(2.5, 0.1)), "custom values must increase"),
            (custom(1, bounds=(float("nan"),)), "custom values must increase"),
            (custom(1, bounds=(0.1, float("inf"))), "must not end with"),
            (custom(1, 1, 1, 1), "its spans reach bucket 4, it has 2 custom values"),
            (replace(custom(), head=custom().head[2:] + varint(1, 1)), "its count is 1"),
            (Histogram(varint(1, 0) + whole(4, zigzag(-54))), "schema -54 is not known"),
            (Histogram(varint(1, 0) + whole(4, zigzag(-5))), "schema -5 is coarser than"),
            (Histogram(varint(1, 0), 0, (1.0,)), "an exponential schema has no custom values"),
        ],
    )
    def test_nonsense(self, wrong: Histogram, message: str, sift: Sift, encode: Encode) -> None:
        body = encode(request(up(), lat(wrong)))
        for plain in (PlainRules(), PlainRules(whitelist=(((NAME, "=", "other"),),))):
            with pytest.raises(BadInputError, match=f"a histogram is not valid: .*{message}"):
                sift(body, plain.real)

    def test_too_fine_buckets_become_coarser(self, sift: Sift, encode: Encode) -> None:
        head = varint(1, 3) + whole(4, zigzag(10)) + chunk(11, whole(2, 2)) + packed(12, [2, 2])
        written = sift(encode(request(lat(Histogram(head, 5)))), WriteRules())
        (series,) = remote_pb2.WriteRequest.FromString(written.payload).timeseries
        (found,) = series.histograms
        assert (found.schema, found.timestamp, list(found.positive_deltas)) == (8, 5, [1, 1])
        assert written.histograms == 1

    def test_many_buckets_cannot_become_too_much(self, sift: Sift, encode: Encode) -> None:
        """A bound is 8 bytes, a series has all the labels."""
        more = (("a", "x" * 1000),)
        bounds = tuple(map(float, range(15_500)))
        few = sift(encode(request(lat(custom(1, bounds=bounds), more=more))), WriteRules())
        assert 15 * MIB < len(few.payload) < MAX_OUTPUT + MIB
        found = [
            lat(custom(1, bounds=bounds), more=(*more, ("b", str(number)))) for number in range(40)
        ]
        body = encode(request(*found))

        def refused() -> None:
            with pytest.raises(TooLargeError, match=f"more than {MAX_OUTPUT} bytes of labels"):
                sift(body, WriteRules())

        assert len(body) < 6 * MIB
        assert peak_of(refused) < 60 * MIB


def test_custom_buckets_stay_in_2() -> None:
    series = lat(custom(1, 2, 3), exemplars=(Exemplar((), bits(1.0), 1000),))
    coarse = Series(labels("coarse"), histograms=(Histogram(varint(1, 0) + whole(4, zigzag(-9))),))
    fine = Series(labels("fine"), histograms=(Histogram(varint(1, 0) + whole(4, zigzag(52))),))
    written = keep_v2(encode_v2(request(series, coarse, fine)), WriteRules())
    _, found = read_v2(written.payload)
    assert found == [raw(series), raw(coarse), raw(fine)]
    assert counts_of(written) == (3, 3, 0, 0, 0, 3, 1)


def test_metadata_is_that_of_the_histogram() -> None:
    described = replace(lat(custom(1)), metadata=Metadata(3, "how long", "s"))
    bucket = Series(labels("other_bucket", ("le", "1.0")), (ONE,), metadata=Metadata(3, "x"))
    count = Series(labels("other_count"), (ONE,), metadata=Metadata(3, "x"))
    written = sift_write_v2(encode_v2(request(described, bucket, count)), WriteRules())
    found = remote_pb2.WriteRequest.FromString(written.payload).metadata
    assert [(each.metric_family_name, each.help) for each in found] == [
        ("lat", "how long"),
        ("other", "x"),
    ]


class TestEmpty:
    def test_of_1(self) -> None:
        assert sift_write(b"", WriteRules()).is_empty
        for body in (encode_v1(request(up())), encode_v2(_full), varint(100, 7), chunk(3, b"")):
            assert not sift_write(body, WriteRules()).is_empty

    @pytest.mark.parametrize("keep", [False, True])
    def test_of_2(self, keep: bool) -> None:
        for body in (b"", encode_v2(Request()), chunk(4, b"") + chunk(4, b"x")):
            assert sift_write_v2(body, WriteRules(), keep_version=keep).is_empty
        described = encode_v2(request(Series((), metadata=Metadata(1))))
        for body in (encode_v2(request(up())), encode_v1(_full), varint(100, 7), described):
            assert not sift_write_v2(body, WriteRules(), keep_version=keep).is_empty


# --- What 2.0 refuses -----------------------------------------------------------------------------


def body_v2(
    references: Iterable[int] = (1, 2, 3, 4),
    *,
    symbols: Iterable[str] = ("", NAME, "up", "_id", CLUSTER),
    exemplar: Iterable[int] = (),
    metadata: bytes = b"",
    samples: bytes = chunk(2, ONE.encode(2)),
    histograms: bytes = b"",
) -> bytes:
    """A request with one series, in which everything can be wrong."""
    series = (
        packed(1, references)
        + samples
        + histograms
        + chunk(4, packed(1, exemplar))
        + chunk(5, metadata)
    )
    return b"".join(chunk(4, symbol.encode()) for symbol in symbols) + chunk(5, series)


class TestRefusalsOf2:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"references": (1, 2, 3)}, "pairs of name and value, one is left over"),
            ({"references": (1,)}, "one is left over"),
            ({"references": (1, 2, 3, 5)}, "points at symbol 5, the table has 5"),
            ({"references": (5, 2, 3, 4)}, "points at symbol 5, the table has 5"),
            ({"references": (1, 2, 3, 2**32 - 1)}, "points at symbol 4294967295"),
            ({"symbols": ()}, "points at symbol 4, the table has 0"),
            ({"references": (1, 2, 1, 2, 3, 4)}, r"has the label '__name__' twice: \{__name__="),
            ({"references": (1, 2, 3, 4, 3, 0)}, "has the label '_id' twice"),
            ({"references": (1, 2, 0, 2, 3, 4)}, r"a label without a name: \{__name__='up'\}"),
            ({"references": (1, 2, 0, 0, 3, 4)}, "a label without a name"),
            ({"references": (1, 0, 3, 4)}, "no metric name"),
            ({"references": (3, 4)}, "no metric name"),
            ({"references": ()}, "no metric name"),
            ({"references": (1, 2)}, "lacks the label _id"),
            ({"exemplar": (1,)}, "one is left over"),
            ({"exemplar": (1, 5)}, "points at symbol 5, the table has 5"),
            ({"metadata": whole(3, 5)}, "metadata points outside the table of symbols"),
            ({"metadata": whole(4, 5)}, "metadata points outside the table of symbols"),
            ({"metadata": whole(3, 2**32 - 1)}, "metadata points outside the table of symbols"),
            ({"samples": b"", "histograms": chunk(3, varint(1, 1))}, "a histogram is not valid"),
            ({"histograms": chunk(3, varint(1, 1))}, r"its count is 1: \{__name__='up', _id="),
        ],
    )
    @pytest.mark.parametrize("keep", [False, True])
    def test_table(self, wrong: dict[str, Any], message: str, keep: bool) -> None:
        assert sift_write_v2(body_v2(), WriteRules(), keep_version=keep).series == 1
        # What no rule lets pass is looked at all the same.
        for plain in (PlainRules(), PlainRules(whitelist=(((NAME, "=", "other"),),))):
            with pytest.raises(BadInputError, match=message):
                sift_write_v2(body_v2(**wrong), plain.real, keep_version=keep)

    def test_symbols_that_are_texts_twice_are_one_label(self) -> None:
        symbols = ("", NAME, "up", "_id", CLUSTER, "_id")
        with pytest.raises(BadInputError, match="has the label '_id' twice"):
            sift_write_v2(body_v2((1, 2, 3, 4, 5, 4), symbols=symbols), WriteRules())

    @pytest.mark.parametrize("metadata", [None, Metadata()])
    def test_a_series_of_nothing_but_labels(self, metadata: Metadata | None) -> None:
        empty = Series(labels(), metadata=metadata)
        for found in ([empty], [up(), empty]):
            with pytest.raises(BadInputError, match=r"has nothing but labels: \{__name__='up'"):
                sift_write_v2(encode_v2(request(*found)), WriteRules())

    @pytest.mark.parametrize("bad", [(("", "x"),), (("a", "1"), ("a", "2"))])
    def test_metadata_alone_is_looked_at_too(self, bad: Pairs) -> None:
        series = Series(bad, metadata=Metadata(1))
        with pytest.raises(BadInputError, match=r"without a name|twice"):
            sift_write_v2(encode_v2(request(series)), WriteRules())

    def test_no_reference_needs_no_symbols(self) -> None:
        body = chunk(5, chunk(5, whole(1, 1)))
        assert sift_write_v2(body, WriteRules()).only_metadata

    def test_a_table_that_does_not_begin_with_the_empty_text(self) -> None:
        """The specification demands that it does; the references are clear all the same."""
        body = body_v2((0, 1, 2, 3), symbols=(NAME, "up", "_id", CLUSTER))
        written = sift_write_v2(body, WriteRules(), keep_version=True)
        symbols, (series,) = read_v2(written.payload)
        assert symbols[0] == ""
        assert series.labels == labels()

    def test_an_empty_value_is_an_absent_label(self) -> None:
        sent = up(more=(("a", ""), ("b", "x")))
        written = sift_write_v2(encode_v2(request(sent)), WriteRules())
        assert written.payload == encode_v1(request(up(more=(("b", "x"),))))

    def test_a_request_of_the_other_version(self) -> None:
        """Their fields have different numbers, so neither reads anything from the other's."""
        assert sift_write_v2(encode_v1(_full), WriteRules()) == Written()
        assert sift_write(encode_v2(_full), WriteRules()) == Written()


# --- The limits of labels -------------------------------------------------------------------------


def encode(version: int, *series: Series) -> bytes:
    return (encode_v1 if version == 1 else encode_v2)(request(*series))


def with_label(name: str, value: str) -> Series:
    return up(more=((name, value),))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("n" * 1024, "v" * 16384, ""),
        ("\u00fc" * 512, "\u20ac" * 5461, ""),
        ("n" * 1025, "v", "the name of a label has 1025 bytes, 1024 are the most"),
        ("\u00fc" * 513, "v", "the name of a label has 1026 bytes, 1024 are the most"),
        ("n", "v" * 16385, "the value of the label n has 16385 bytes, 16384 are the most"),
        ("n", "\u20ac" * 5462, "the value of the label n has 16386 bytes, 16384 are the most"),
    ],
)
def test_labels_have_limits(version: int, name: str, value: str, reason: str) -> None:
    body = encode(version, with_label(name, value))
    compiled, reference = both_outcomes(body, WriteRules(), version)
    assert compiled == reference
    if reason:
        assert isinstance(reference, tuple)
        assert reference[1].startswith(reason)
        assert "--limit-label-" in reference[1]
        assert len(reference[1]) < 1000
    else:
        assert isinstance(reference, Written)


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("before", [0, 3, 200])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (((NAME, "up"),), MissingLabelError),
        (labels(cluster="other"), ForeignIdError),
        ((("_id", CLUSTER),), BadInputError),
        (labels("up", ("x", "v" * 20_000)), BadInputError),
    ],
)
def test_the_compiled_code_refuses_a_series_in_the_words_of_the_reference(
    version: int, before: int, bad: Pairs, error: type[BadInputError]
) -> None:
    good = [with_label("n", str(n)) for n in range(before)]
    body = encode(version, *good, Series(bad, (ONE,)), *good)
    compiled, reference = both_outcomes(body, WriteRules(cluster=CLUSTER), version)
    assert compiled == reference
    assert isinstance(compiled, tuple)
    assert compiled[0] is error


@pytest.mark.parametrize("version", [1, 2])
def test_what_cannot_be_decoded_is_that_in_the_first_place(version: int) -> None:
    body = encode(version, Series(((NAME, "up"),), (ONE,))) + b"\x0a\x7f"
    compiled, reference = both_outcomes(body, WriteRules(), version)
    assert compiled in (reference, None)
    assert isinstance(reference, tuple)
    assert reference[1].startswith("the body is not")


def test_the_reference_is_not_asked_for_what_the_compiled_code_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemeter.convert.engine.sift_write", pytest.fail)
    monkeypatch.setattr("telemeter.convert.engine.sift_write_v2", pytest.fail)
    converter = WriteConverter(WriteRules())
    for version in (1, 2):
        body = encode(version, Series(((NAME, "up"),), (ONE,)))
        with pytest.raises(MissingLabelError):
            converter.convert(body, version, None)


def many_and_one_unusual(count: int, version: int) -> bytes:
    wide = up(more=tuple((f"l{n:03}", "x") for n in range(130)))
    return encode(version, wide, *(with_label("n", str(n)) for n in range(count)))


@pytest.mark.parametrize("version", [1, 2])
def test_the_reference_looks_at_so_many_series_where_one_is_unusual(version: int) -> None:
    converter = WriteConverter(WriteRules())
    assert converter.convert(many_and_one_unusual(500, version), version, None).series == 501
    body = many_and_one_unusual(20_000, version)
    began = time.process_time()
    with pytest.raises(TooLargeError, match="the request has 20001 series, 20000 are the most"):
        converter.convert(body, version, None)
    assert time.process_time() - began < 1


# --- Amplification --------------------------------------------------------------------------------

MIB: Final = 1 << 20
LONG: Final = "x" * MIB
#: The limits of labels are another matter.
ANY_LENGTH: Final = WriteRules(most_name=2 * MIB, most_value=2 * MIB)


def any_length(rules: PlainRules) -> WriteRules:
    return replace(rules.real, most_name=2 * MIB, most_value=2 * MIB)


def many_references(count: int, where: str) -> bytes:
    """A small request that points many times at a long symbol."""
    symbols = ["", NAME, "up", "_id", CLUSTER, LONG]
    head = (1, 2, 3, 4)
    names = [str(number) for number in range(count)]
    pairs = [reference for number in range(count) for reference in (6 + number, 5)]
    if where == "labels":
        return body_v2((*head, *pairs), symbols=[*symbols, *names])
    if where == "exemplars":
        return body_v2(head, symbols=[*symbols, *names], exemplar=pairs)
    table = b"".join(chunk(4, symbol.encode()) for symbol in [*symbols, *names])
    sample = chunk(2, ONE.encode(2))
    if where == "metadata":
        described = chunk(5, whole(3, 5))
        each = [packed(1, (1, 6 + n, 3, 4)) + sample + described for n in range(count)]
    else:
        each = [packed(1, (1, 6 + n, 3, 4, 2, 5)) + sample for n in range(count)]
    return table + b"".join(chunk(5, series) for series in each)


def peak_of(function: Callable[[], object]) -> int:
    """How many bytes Python allocates at most while a function runs."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestAmplification:
    @pytest.mark.parametrize("where", ["labels", "series", "exemplars", "metadata"])
    def test_a_long_symbol_cannot_become_many(self, where: str) -> None:
        few = sift_write_v2(many_references(15, where), ANY_LENGTH)
        assert 15 * MIB < len(few.payload) < MAX_OUTPUT
        with pytest.raises(TooLargeError, match=f"more than {MAX_OUTPUT} bytes") as caught:
            sift_write_v2(many_references(16, where), ANY_LENGTH)
        assert (caught.value.limit, caught.value.seen >= MAX_OUTPUT) == (MAX_OUTPUT, True)

    @pytest.mark.parametrize("where", ["labels", "series", "exemplars", "metadata"])
    def test_20000_of_them_are_refused_at_once(self, where: str) -> None:
        body = many_references(20_000, where)

        def refused() -> None:
            with pytest.raises(TooLargeError):
                sift_write_v2(body, ANY_LENGTH)

        assert len(body) < 2 * MIB
        assert peak_of(refused) < 30 * MIB

    @pytest.mark.parametrize("where", ["labels", "series", "exemplars", "metadata"])
    def test_kept_as_2_they_stay_references(self, where: str) -> None:
        body = many_references(20_000, where)
        written = sift_write_v2(body, ANY_LENGTH, keep_version=True)
        assert written.payload.count(LONG.encode()) == 1
        assert len(written.payload) <= len(body)

    def test_what_is_dropped_costs_nothing(self) -> None:
        plain = PlainRules(whitelist=(((NAME, "=", "other"),),))
        written = sift_write_v2(many_references(20_000, "series"), any_length(plain))
        assert (written.dropped, written.payload) == (20_000, b"")

    @pytest.mark.parametrize(
        "without", [((3, 4), "no metric name"), ((1, 2), "lacks the label"), ((1, 2, 3, 2), "must")]
    )
    def test_neither_can_a_message(self, without: tuple[tuple[int, ...], str]) -> None:
        head, message = without
        count = 20_000
        pairs = [reference for number in range(count) for reference in (6 + number, 5)]
        names = [str(number) for number in range(count)]
        symbols = ["", NAME, "up", "_id", CLUSTER, LONG, *names]
        body = body_v2((*head, *pairs), symbols=symbols)
        seen: list[str] = []

        def refused() -> None:
            with pytest.raises(BadInputError, match=message) as caught:
                sift_write_v2(body, any_length(PLAIN))
            seen.append(str(caught.value))

        assert peak_of(refused) < 30 * MIB
        assert len(seen[0]) < 1000

    def test_nor_a_long_name(self) -> None:
        symbols = ("", NAME, "up", LONG, CLUSTER)
        for references in ((1, 2, 3, 4, 3, 4), (1, 2, 3, 4)):
            with pytest.raises(BadInputError) as caught:
                sift_write_v2(body_v2(references, symbols=symbols), any_length(PLAIN))
            assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("given", "text_"),
    [
        ({}, "{}"),
        ({"a": "x"}, "{a='x'}"),
        ({"a": "x", "b": "it's\n"}, "{a='x', b=\"it's\\n\"}"),
        ({"a": "x" * 194}, "{a='" + "x" * 194 + "'}"),
        ({"a": "x" * 196}, "{a='" + "x" * 196 + "..."),
        ({"a": "x" * 10_000}, "{a='" + "x" * 196 + "..."),
        ({"x" * 10_000: "y"}, "{" + "x" * 199 + "..."),
    ],
)
def test_a_series_is_shown_short(given: dict[str, str], text_: str) -> None:
    assert shown(given) == text_


def test_texts_are_written_as_protobuf_does() -> None:
    """The encoder of these tests against bytes from the page on protobuf's encoding."""
    assert varint(1, 150) == bytes.fromhex("089601")
    assert text(2, "testing") == bytes.fromhex("120774657374696e67")
    assert packed(6, (3, 270, 86942)) == bytes.fromhex("3206038e029ea705")
    assert varint(1, -2) == bytes.fromhex("08feffffffffffffffff01")
