"""Remote-write requests as plain data, put into bytes by hand, and strategies that make them up.

Nothing here uses the generated protobuf classes, so that the tests see what is on the wire: fields
stand in the order of their numbers, defaults are left out, unknown fields come last, which is the
one way in which protobuf writes a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from hypothesis import strategies as st

from telemeter.convert.sieve import WriteRules
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.samples.wire import read_varint, write_varint
from tests.samples.build import STALE_NAN, bits
from tests.samples.strategies import doubles, stamps, texts

Pair: TypeAlias = tuple[str, str]
Pairs: TypeAlias = tuple[Pair, ...]

NAME: Final = "__name__"
CLUSTER: Final = "cluster-1"
_CUSTOM: Final = -53
_MASK: Final = 2**64 - 1


# --- The encoding of protobuf ---------------------------------------------------------------------


def varint(number: int, value: int) -> bytes:
    """A field with a whole number, also where that is the default."""
    return write_varint(number << 3) + write_varint(value & _MASK)


def whole(number: int, value: int) -> bytes:
    """A field with a whole number, unless it is the default."""
    return varint(number, value) if value else b""


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def double(number: int, value: int) -> bytes:
    """A field with a double, given as bits, also where that is the default."""
    return write_varint(number << 3 | 1) + value.to_bytes(8, "little")


def chunk(number: int, data: bytes) -> bytes:
    """A field with bytes, a text or a message, also an empty one."""
    return write_varint(number << 3 | 2) + write_varint(len(data)) + data


def text(number: int, value: str) -> bytes:
    return chunk(number, value.encode()) if value else b""


def packed(number: int, values: Iterable[int]) -> bytes:
    """A field with several whole numbers."""
    data = b"".join(map(write_varint, values))
    return chunk(number, data) if data else b""


def packed_doubles(number: int, values: Iterable[float]) -> bytes:
    data = b"".join(bits(value).to_bytes(8, "little") for value in values)
    return chunk(number, data) if data else b""


class Field(NamedTuple):
    """A field of an encoded message.

    Attributes:
        number: which one.
        value: its varint, or its bytes as a number.
        data: its bytes, without tag and length.
    """

    number: int
    value: int
    data: bytes


def fields(message: bytes) -> Iterator[Field]:
    """The fields of an encoded message, in the order in which they stand there."""
    at, end = 0, len(message)
    while at < end:
        tag, start = read_varint(message, at, end)
        kind = tag & 7
        if kind == 0:
            value, at = read_varint(message, start, end)
            yield Field(tag >> 3, value, message[start:at])
            continue
        if kind == 2:
            size, start = read_varint(message, start, end)
        else:
            size = {1: 8, 5: 4}[kind]
        at = start + size
        data = message[start:at]
        yield Field(tag >> 3, int.from_bytes(data, "little"), data)


# --- Requests -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A number: its bits, when it was, since when it counts, and unknown fields."""

    value: int
    at: int
    start: int = 0
    extra: bytes = b""

    def encode(self, version: int) -> bytes:
        known = (double(1, self.value) if self.value else b"") + whole(2, self.at)
        return known + (whole(3, self.start) if version == 2 else b"") + self.extra


@dataclass(frozen=True)
class Exemplar:
    labels: Pairs
    value: int
    at: int
    extra: bytes = b""

    def encode(self, labels: bytes) -> bytes:
        known = (double(2, self.value) if self.value else b"") + whole(3, self.at)
        return labels + known + self.extra


@dataclass(frozen=True)
class Histogram:
    """A native histogram: its encoded fields before its timestamp, and those behind that."""

    head: bytes
    at: int = 0
    custom: tuple[float, ...] = ()
    start: int = 0
    extra: bytes = b""

    def encode(self, version: int) -> bytes:
        known = self.head + whole(15, self.at) + packed_doubles(16, self.custom)
        return known + (whole(17, self.start) if version == 2 else b"") + self.extra


@dataclass(frozen=True)
class Metadata:
    kind: int = 0
    help: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Series:
    """A series; its own metadata is for 2.0 only."""

    labels: Pairs
    samples: tuple[Sample, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    metadata: Metadata | None = None
    extra: bytes = b""

    @property
    def stamps(self) -> list[int]:
        return [each.at for each in self.samples] + [each.at for each in self.histograms]


@dataclass(frozen=True)
class Request:
    """A request; metadata with names is for 1.0 only, and what is said of symbols for 2.0."""

    series: tuple[Series, ...] = ()
    metadata: tuple[tuple[str, Metadata], ...] = ()
    extra: bytes = b""
    spare_symbols: tuple[str, ...] = ()
    repeat_symbols: bool = False


def encode_v1(request: Request) -> bytes:
    """A `prometheus.WriteRequest`."""
    return (
        b"".join(chunk(1, _series_v1(series)) for series in request.series)
        + b"".join(chunk(3, _metadata_v1(*described)) for described in request.metadata)
        + request.extra
    )


def _labels_v1(pairs: Pairs) -> bytes:
    return b"".join(chunk(1, text(1, name) + text(2, value)) for name, value in pairs)


def _series_v1(series: Series) -> bytes:
    return (
        _labels_v1(series.labels)
        + b"".join(chunk(2, sample.encode(1)) for sample in series.samples)
        + b"".join(chunk(3, each.encode(_labels_v1(each.labels))) for each in series.exemplars)
        + b"".join(chunk(4, histogram.encode(1)) for histogram in series.histograms)
        + series.extra
    )


def _metadata_v1(name: str, metadata: Metadata) -> bytes:
    return whole(1, metadata.kind) + text(2, name) + text(4, metadata.help) + text(5, metadata.unit)


class Symbols:
    """A table of symbols that is being filled."""

    def __init__(self, spare: Iterable[str], repeat: bool) -> None:
        self.table = ["", *spare]
        self._repeat = repeat

    def reference(self, symbol: str) -> int:
        if symbol not in self.table or (self._repeat and symbol):
            self.table.append(symbol)
            return len(self.table) - 1
        return self.table.index(symbol)

    def references(self, pairs: Pairs) -> list[int]:
        return [self.reference(symbol) for pair in pairs for symbol in pair]


def encode_v2(request: Request) -> bytes:
    """An `io.prometheus.write.v2.Request`."""
    symbols = Symbols(request.spare_symbols, request.repeat_symbols)
    series = b"".join(chunk(5, _series_v2(each, symbols)) for each in request.series)
    return b"".join(chunk(4, symbol.encode()) for symbol in symbols.table) + series + request.extra


def _series_v2(series: Series, symbols: Symbols) -> bytes:
    return (
        packed(1, symbols.references(series.labels))
        + b"".join(chunk(2, sample.encode(2)) for sample in series.samples)
        + b"".join(chunk(3, histogram.encode(2)) for histogram in series.histograms)
        + b"".join(
            chunk(4, each.encode(packed(1, symbols.references(each.labels))))
            for each in series.exemplars
        )
        + (b"" if series.metadata is None else chunk(5, _metadata_v2(series.metadata, symbols)))
        + series.extra
    )


def _metadata_v2(metadata: Metadata, symbols: Symbols) -> bytes:
    return (
        whole(1, metadata.kind)
        + whole(3, symbols.reference(metadata.help))
        + whole(4, symbols.reference(metadata.unit))
    )


def read_v2(payload: bytes) -> tuple[list[str], list[Series]]:
    """The symbols and the series of an encoded 2.0 request.

    Samples and histograms come back as raw bytes: all of a sample in `extra`, of a histogram in
    `head`, and of an exemplar all but its labels in `extra`. See `raw`.
    """
    symbols = [field.data.decode() for field in fields(payload) if field.number == 4]
    series = [_read_series(field.data, symbols) for field in fields(payload) if field.number == 5]
    return symbols, series


def _read_series(message: bytes, symbols: list[str]) -> Series:
    labels: Pairs = ()
    samples, exemplars, histograms, extra = [], [], [], b""
    metadata = None
    for number, value, data in fields(message):
        if number == 1:
            labels = _read_pairs(data, symbols)
        elif number == 2:
            samples.append(Sample(0, 0, extra=data))
        elif number == 3:
            histograms.append(Histogram(data))
        elif number == 4:
            own = next((each.data for each in fields(data) if each.number == 1), b"")
            rest = data[len(chunk(1, own)) :] if own else data
            exemplars.append(Exemplar(_read_pairs(own, symbols), 0, 0, rest))
        elif number == 5:
            said = {each.number: each.value for each in fields(data)}
            metadata = Metadata(said.get(1, 0), symbols[said.get(3, 0)], symbols[said.get(4, 0)])
        else:
            extra += unknown_field(number, value, data)
    return Series(labels, tuple(samples), tuple(exemplars), tuple(histograms), metadata, extra)


def _read_pairs(data: bytes, symbols: list[str]) -> Pairs:
    found, at = [], 0
    while at < len(data):
        reference, at = read_varint(data, at, len(data))
        found.append(symbols[reference])
    return tuple(zip(found[::2], found[1::2], strict=True))


def raw(series: Series) -> Series:
    """A series as `read_v2` gives it back."""
    return replace(
        series,
        samples=tuple(Sample(0, 0, extra=sample.encode(2)) for sample in series.samples),
        histograms=tuple(Histogram(histogram.encode(2)) for histogram in series.histograms),
        exemplars=tuple(Exemplar(each.labels, 0, 0, each.encode(b"")) for each in series.exemplars),
    )


# --- Unknown fields -------------------------------------------------------------------------------

#: An unknown field of each kind that is in use; the number tells the kind.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 100, 101, 102, 103


def unknown_field(number: int, value: int, data: bytes) -> bytes:
    """One of the unknown fields, from what `fields` says of it."""
    if number == _VARINT:
        return varint(number, value)
    if number == _FIXED64:
        return double(number, value)
    if number == _FIXED32:
        return write_varint(number << 3 | 5) + data
    assert number == _BYTES
    return chunk(number, data)


extras: Final = st.one_of(
    st.just(b""),
    st.just(b""),
    st.integers(0, _MASK).map(lambda value: varint(_VARINT, value)),
    st.integers(0, _MASK).map(lambda value: double(_FIXED64, value)),
    st.binary(max_size=5).map(lambda data: chunk(_BYTES, data)),
    st.binary(min_size=4, max_size=4).map(lambda data: unknown_field(_FIXED32, 0, data)),
    st.binary(max_size=3).map(lambda data: varint(_VARINT, 7) + chunk(_BYTES, data)),
)


# --- Strategies -----------------------------------------------------------------------------------

_names: Final = st.sampled_from(["a", "b", "c", "zone", "my.name", "Größe", "\n", "__name", "Z"])
_values: Final = st.sampled_from(["", "x", "y", "x", "y", "é"]) | texts
_metrics: Final = st.sampled_from(["up", "up", "down", "cpu.usage ö"])
_stamps: Final = st.integers(1, 3) | st.integers(1, 3) | stamps
_numbers: Final = doubles.map(bits)
_one_in_four: Final = st.integers(0, 3).map(lambda number: number == 0)
_schemas: Final = st.integers(-4, 8)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    start = draw(st.just(0) | stamps)
    return Sample(draw(_numbers), draw(_stamps), start, draw(extras))


@st.composite
def exemplars(draw: st.DrawFn) -> Exemplar:
    labels = draw(st.lists(st.tuples(texts, texts), max_size=2))
    return Exemplar(tuple(labels), draw(_numbers), draw(stamps), draw(extras))


@st.composite
def histograms(
    draw: st.DrawFn,
    schemas: st.SearchStrategy[int] = _schemas,
    custom_ones: st.SearchStrategy[bool] = _one_in_four,
) -> Histogram:
    """A valid native histogram: of integers or of floats, exponential or with custom buckets.

    Its schema, if it is exponential, is one that 1.0 can hold, unless others are asked for.
    """
    is_float = draw(st.booleans())
    custom: tuple[float, ...] = ()
    sides: list[bytes] = []
    observations = 0
    if draw(custom_ones):
        schema, threshold, zeros = _CUSTOM, 0, 0
        bounds = st.floats(allow_nan=False, allow_infinity=False)
        custom = tuple(sorted(draw(st.lists(bounds, max_size=4, unique=True))))
        custom = custom if all(a < b for a, b in pairwise(custom)) else ()
        sizes = [(8, 0), (11, len(custom) + 1)]
    else:
        schema = draw(schemas)
        threshold, zeros = draw(_numbers), draw(st.integers(0, 3))
        sizes = [(8, 4), (11, 4)]
    observations += zeros
    for number, most in sizes:
        counts = draw(st.lists(st.integers(0, 9), max_size=most))
        observations += sum(counts)
        sides.append(
            _spans(number, counts, draw(st.booleans()), most if schema == _CUSTOM else None)
            + (_float_buckets if is_float else _int_buckets)(number, counts)
        )
    total = draw(_numbers | st.just(bits(STALE_NAN)))
    if is_float:
        count, zero = double(2, bits(observations)), double(7, bits(float(zeros)))
    else:
        count, zero = varint(1, observations), varint(6, zeros)
    head = (
        count
        + (double(3, total) if total else b"")
        + whole(4, zigzag(schema))
        + (double(5, threshold) if threshold else b"")
        + (zero if zeros or draw(st.booleans()) else b"")
        + b"".join(sides)
        + whole(14, draw(st.integers(0, 4)))
    )
    start = draw(st.just(0) | stamps)
    return Histogram(head, draw(_stamps), custom, start, draw(extras))


def _spans(number: int, counts: list[int], split: bool, most: int | None) -> bytes:
    """One span, or several, perhaps with nothing between them.

    Args:
        number: the field.
        counts: what is in the buckets.
        split: whether there are several spans.
        most: how many custom buckets there are; None: they are exponential, and begin below.
    """
    if not counts:
        return b""
    lengths = [1] * len(counts) if split else [len(counts)]
    offsets = [zigzag(-3), *(zigzag(1) for _ in lengths[1:])]
    if most is not None:
        gaps = most - len(counts)
        offsets = [zigzag(1) if at < gaps else 0 for at, _ in enumerate(lengths)]
    return b"".join(
        chunk(number, whole(1, offset) + whole(2, length))
        for offset, length in zip(offsets, lengths, strict=True)
    )


def _int_buckets(number: int, counts: list[int]) -> bytes:
    return packed(number + 1, (zigzag(b - a) for a, b in pairwise([0, *counts])))


def _float_buckets(number: int, counts: list[int]) -> bytes:
    return packed_doubles(number + 2, (count + 0.5 for count in counts))


#: Histograms of which most make no sense.
nonsense_histograms: Final = st.builds(
    Histogram,
    st.builds(
        lambda count, schema, deltas: varint(1, count) + whole(4, zigzag(schema)) + deltas,
        st.integers(0, 9),
        st.integers(-100, 100) | st.sampled_from([-53, 0]),
        st.lists(st.integers(0, 9), max_size=3).map(lambda values: packed(12, values)),
    ),
    _stamps,
    st.lists(doubles, max_size=3).map(tuple),
)

metadatas: Final = st.builds(Metadata, st.integers(0, 8), texts, texts)


@st.composite
def _labels_of_v1(draw: st.DrawFn, sane: bool) -> Pairs:
    """Labels as a careless sender has them: out of order, repeated, without name or value."""
    if not sane:
        anything = _names | st.sampled_from([NAME, "_id", ""])
        pairs = draw(st.lists(st.tuples(anything, _values | st.just(CLUSTER)), max_size=5))
        return tuple(pairs)
    pairs = draw(st.lists(st.tuples(_names | st.just(""), _values), max_size=4))
    for pair in ((NAME, draw(_metrics)), ("_id", CLUSTER)):
        pairs.insert(draw(st.integers(0, len(pairs))), pair)
    if draw(st.booleans()):
        pairs.sort(key=lambda pair: pair[0].encode())
    return tuple(pairs)


@st.composite
def _labels_of_v2(draw: st.DrawFn, sane: bool) -> Pairs:
    if not sane:
        return draw(_labels_of_v1(False))
    found = dict(draw(st.lists(st.tuples(_names, _values), max_size=4)))
    found |= {NAME: draw(_metrics), "_id": CLUSTER}
    return tuple(draw(st.permutations(sorted(found.items()))))


def _with_repeats(draw: st.DrawFn, strategy: st.SearchStrategy[Series]) -> tuple[Series, ...]:
    """Some series, of which a few come again, with other samples and perhaps one more label."""
    found = draw(st.lists(strategy, max_size=4))
    for _ in range(draw(st.integers(0, 2)) if found else 0):
        labels = draw(st.sampled_from(found)).labels
        if draw(st.booleans()) and not any(name == "c" for name, _ in labels):
            labels = (*labels, ("c", "x"))
        found.append(replace(draw(strategy), labels=labels))
    return tuple(found)


@st.composite
def requests_v1(draw: st.DrawFn) -> Request:
    sane = draw(st.integers(0, 5)) > 0
    series = st.builds(
        Series,
        _labels_of_v1(sane),
        st.lists(samples(), max_size=2).map(tuple),
        st.lists(exemplars(), max_size=1).map(tuple),
        st.lists(histograms(), max_size=2).map(tuple),
        st.none(),
        extras,
    )
    return Request(
        _with_repeats(draw, series),
        tuple(draw(st.lists(st.tuples(texts, metadatas), max_size=2))),
        draw(extras),
    )


@st.composite
def requests_v2(draw: st.DrawFn) -> Request:
    sane = draw(st.integers(0, 5)) > 0
    some = draw(st.sampled_from([1, 1, 1, 0])) if sane else 0
    series = st.builds(
        Series,
        _labels_of_v2(sane),
        st.lists(samples(), min_size=some, max_size=2).map(tuple),
        st.lists(exemplars(), max_size=2).map(tuple),
        st.lists(histograms(), max_size=2).map(tuple),
        st.none() | metadatas | st.just(Metadata()),
        extras,
    )
    return Request(
        _with_repeats(draw, series),
        (),
        draw(extras),
        tuple(draw(st.lists(texts, max_size=2))),
        draw(st.booleans()),
    )


# --- Rules ----------------------------------------------------------------------------------------

Condition: TypeAlias = tuple[str, str, str]
Rule: TypeAlias = tuple[Condition, ...]


@dataclass(frozen=True)
class PlainRules:
    """What is demanded of every series, and done with it."""

    whitelist: tuple[Rule, ...] = ()
    elided: frozenset[str] = frozenset()
    partition: str = "_id"
    cluster: str | None = CLUSTER
    added: tuple[tuple[str, str], ...] = ()

    @property
    def real(self) -> WriteRules:
        """The rules as the code takes them."""
        selectors = [
            parse_selector("{" + ",".join(f'{n}{op}"{value}"' for n, op, value in rule) + "}")
            for rule in self.whitelist
        ]
        return WriteRules(
            Whitelist(selectors),
            self.elided,
            self.partition,
            self.cluster,
            added=dict(self.added),
        )

    def outgoing(self, labels: Mapping[str, str]) -> Pairs:
        """The labels that a series goes on with."""
        final: dict[str, str] = {**labels, **dict(self.added)}
        pairs = [(n, v) for n, v in final.items() if v != "" and n not in self.elided]
        return tuple(sorted(pairs, key=lambda pair: pair[0].encode()))

    def allow(self, labels: dict[str, str]) -> bool:
        """Whether one of the rules selects a series."""
        return not self.whitelist or any(
            all(_holds(labels.get(name, ""), op, value) for name, op, value in rule)
            for rule in self.whitelist
        )


def _holds(value: str, operator: str, wanted: str) -> bool:
    # Of regexes, only alternatives of plain words are used here.
    found = value == wanted if operator in ("=", "!=") else value in wanted.split("|")
    return found != operator.startswith("!")


_conditions: Final = st.one_of(
    st.tuples(st.just(NAME), st.sampled_from(["=", "="]), st.sampled_from(["up", "down"])),
    st.tuples(st.just(NAME), st.sampled_from(["=~", "!~"]), st.just("up|other")),
    st.tuples(
        st.sampled_from(["a", "b", "zone", "_id"]),
        st.sampled_from(["=", "!=", "=~", "!~"]),
        st.sampled_from(["", "x", CLUSTER, "x|y", "|x"]),
    ),
).map(lambda found: found if found[1].endswith("~") else (found[0], found[1], found[2].strip("|")))

rules: Final = st.builds(
    PlainRules,
    st.lists(st.lists(_conditions, min_size=1, max_size=2).map(tuple), max_size=2).map(tuple),
    st.frozensets(_names | st.sampled_from(["_id", "c", "c"]), max_size=3),
    st.sampled_from(["_id"] * 7 + ["zone"]),
    st.sampled_from([CLUSTER] * 5 + [None, None, "x"]),
    st.just(())
    | st.dictionaries(
        _names | st.sampled_from(["a", "b", "zone"]), st.sampled_from(["", "y", "z"])
    ).map(lambda added: tuple((name, value) for name, value in added.items() if name != NAME)),
)
