"""Targets of the conversions: the compiled code against its reference, whatever comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, TypeAlias, TypeVar

from twisted.internet.task import Clock

from fuzz.target import Target, head_and_rest
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import (
    CollectConverter,
    Transformed,
    UploadConverter,
    WriteConverter,
)
from telemeter.convert.results import Converted, Written
from telemeter.convert.sieve import WriteRules
from telemeter.convert.upload import UploadRules
from telemeter.net.upstream import ForwardError
from telemeter.samples.errors import BadInputError
from telemeter.samples.escaping import Escaping, escape_families
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import decode_families, encode_families
from telemeter.samples.limits import MAX_OUTPUT
from telemeter.samples.proto.metrics_pb2 import GAUGE, GAUGE_HISTOGRAM, HISTOGRAM, SUMMARY
from telemeter.samples.proto.remote_pb2 import Histogram, TimeSeries, WriteRequest
from telemeter.samples.proto.write_v2_pb2 import Metadata, Request
from telemeter.samples.proto.write_v2_pb2 import TimeSeries as TimeSeries2
from telemeter.samples.selector import parse_rules, parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.samples.wire import join_delimited, split_delimited
from telemeter.store.federation import Federation, Messages, Text
from telemeter.store.store import Store
from tests.fakes import clock_at
from tests.samples.build import NOW, family, histogram, sample
from tests.samples.recordings import federated, forwarded
from tests.store.stored import EVERYTHING, settle

_T = TypeVar("_T")
#: What became of a body: the result, or the class and the words of its refusal.
_Outcome: TypeAlias = _T | tuple[type[BadInputError], str]

_CLUSTER: Final = "c"
_WHITELIST: Final = Whitelist(
    parse_rules('up\n{__name__=~"go_.*|h.*|s",a!="x"}\n{job="y",b=~"(a|b)+"}')
)


def _outcome(convert: Callable[[], _T]) -> _Outcome[_T]:
    try:
        return convert()
    except BadInputError as error:
        text = str(error)
        assert len(text) < 2000
        return type(error), text


# --- Uploads --------------------------------------------------------------------------------------

_UPLOADS: Final = tuple(
    UploadConverter(rules)
    for rules in (
        UploadRules(),
        UploadRules(_WHITELIST),
        UploadRules(labels={"region": "eu", "instance": "here"}, elided=frozenset(("b", "le"))),
        UploadRules(_WHITELIST, {"a": "", "_id": "z"}, frozenset(("job", "quantile"))),
    )
)
_REQUIRED: Final[Sequence[dict[str, str]]] = ({}, {"_id": _CLUSTER})


def run_upload(data: bytes) -> None:
    """The compiled code makes the same of an upload as its reference, or leaves it to that."""
    kind, body = head_and_rest(data)
    converter, required = _UPLOADS[kind & 3], _REQUIRED[kind >> 2 & 1]
    compiled = converter.compiled(body, decode_families, required, NOW)
    reference = _outcome(lambda: converter.reference(body, decode_families, required, NOW))
    assert compiled is None or compiled == reference
    if isinstance(reference, Converted):
        _check_converted(reference)


def run_upload_text(data: bytes) -> None:
    """What an upload in the text format becomes is in order."""
    kind, body = head_and_rest(data)
    converter, required = _UPLOADS[kind & 3], _REQUIRED[kind >> 2 & 1]
    made = _outcome(lambda: converter.convert(body, parse_text, required, NOW))
    if isinstance(made, Converted):
        _check_converted(made)


def _check_converted(converted: Converted) -> None:
    series = _series_in(converted.payload)
    assert len(series) == converted.series
    assert all(len(one.samples) + len(one.histograms) == 1 for one in series)
    stamped = converted.past + converted.present + converted.future
    assert stamped == converted.received >= converted.dropped


def _series_in(payload: bytes) -> list[TimeSeries]:
    """Return the series of a request, after a look at their labels."""
    assert len(payload) <= 4 * MAX_OUTPUT
    series = list(WriteRequest.FromString(payload).timeseries)
    for one in series:
        names = [label.name for label in one.labels]
        assert names == sorted(set(names))
        assert all(label.name and label.value for label in one.labels)
    return series


def _plain_families() -> bytes:
    return encode_families(
        [
            family("up", sample(1.0, _id="c", a="b"), sample(2.0, _id="c", job="y", b="ab")),
            family("go_x", sample(-0.0, _id="c", instance="i", field="gauge"), kind=GAUGE),
        ]
    )


def _all_families() -> bytes:
    summary = sample(None, field="summary", _id="c", b="é")
    summary.summary.quantile.add(quantile=0.5, value=1.0)
    native = histogram({}, count=3, _id="c")
    native.histogram.schema = 3
    native.histogram.zero_count = 1
    native.histogram.zero_threshold = 0.001
    native.histogram.positive_span.add(offset=1, length=2)
    native.histogram.positive_delta.extend([1, 0])
    fine = histogram({}, count=1, _id="c", a="2")
    fine.histogram.schema = 20
    fine.histogram.negative_span.add(offset=-5, length=1)
    fine.histogram.negative_delta.append(1)
    return encode_families(
        [
            family("h", histogram({0.5: 1}, _id="c", a="b"), native, fine, kind=HISTOGRAM),
            family("gh", histogram({1e9: 2}, _id="c", count=2), kind=GAUGE_HISTOGRAM),
            family("s", summary, kind=SUMMARY),
        ]
    )


def _upload_seeds() -> list[bytes]:
    recorded = join_delimited(islice(split_delimited(federated()), 12))
    bodies = (b"", _plain_families(), _all_families(), recorded)
    return [bytes([kind]) + body for body in bodies for kind in range(8)]


def _text_seeds() -> list[bytes]:
    text = (
        f'# TYPE up gauge\nup{{_id="c",a="b"}} 1 {NOW}\nup{{_id="c",job="y"}} NaN {NOW + 1}\n'
        f'# HELP h x\nh_bucket{{_id="c",le="+Inf"}} 1 {NOW}\n'
    )
    return [bytes([kind]) + text.encode() for kind in range(8)]


# --- Remote writes --------------------------------------------------------------------------------

_WRITE_RULES: Final = (
    WriteRules(),
    WriteRules(cluster=_CLUSTER),
    WriteRules(_WHITELIST, frozenset(("b", "le")), cluster=_CLUSTER, keep_origins=True),
    WriteRules(elided=frozenset(("a",)), partition_label="a", most_name=8, most_value=16),
)
_WRITES: Final = tuple(map(WriteConverter, _WRITE_RULES))
_KEEPING: Final = tuple(WriteConverter(rules, keep_version=True) for rules in _WRITE_RULES)


def run_write_1(data: bytes) -> None:
    """The compiled code makes the same of a remote write as its reference, or leaves it to that."""
    _run_write(data, 1)


def run_write_2(data: bytes) -> None:
    """So it does of remote write 2.0, which can stay 2.0, too."""
    _run_write(data, 2)
    kind, body = head_and_rest(data)
    rules = _WRITE_RULES[kind & 3]
    kept = _outcome(lambda: _KEEPING[kind & 3].convert(body, 2, rules.cluster))
    if isinstance(kept, Written):
        request = Request.FromString(kept.payload)
        assert len(request.timeseries) == kept.series
        for series in request.timeseries:
            assert max(series.labels_refs, default=0) < len(request.symbols)


def _run_write(data: bytes, version: int) -> None:
    kind, body = head_and_rest(data)
    rules, converter = _WRITE_RULES[kind & 3], _WRITES[kind & 3]
    compiled = _outcome(lambda: converter.compiled(body, version, rules.cluster))
    reference = _outcome(lambda: converter.reference(body, version, rules.cluster))
    assert compiled is None or compiled == reference
    if isinstance(reference, Written):
        _series_in(reference.payload)


_SETS: Final = ((), (("a", "b"),), (("a", "x"), ("job", "y"), ("b", "ab")), (("le", "1"),))


def _write_1_seeds() -> list[bytes]:
    request = WriteRequest()
    for at, labels in enumerate(_SETS):
        series = request.timeseries.add()
        for name, value in sorted((("__name__", "up"), ("_id", "c"), *labels)):
            series.labels.add(name=name, value=value)
        series.samples.add(value=at, timestamp=NOW + at)
    bodies = [b"", request.SerializeToString()]
    first = request.timeseries[0]
    for native in (_histogram(3), _histogram(10), _custom_histogram()):
        series = TimeSeries(labels=first.labels, histograms=[native])
        series.labels.add(name="a", value="b")
        series.exemplars.add(value=1.0, timestamp=NOW).labels.add(name="trace", value="t")
        bodies.append(WriteRequest(timeseries=[first, series]).SerializeToString())
    request.metadata.add(type=2, metric_family_name="up", help="help", unit="s")
    recorded = WriteRequest.FromString(forwarded())
    bodies += [
        request.SerializeToString(),
        WriteRequest(timeseries=recorded.timeseries[:8]).SerializeToString(),
    ]
    return [bytes([kind]) + body for body in bodies for kind in range(4)]


def _write_2_seeds() -> list[bytes]:
    symbols = ["", "__name__", "up", "_id", "c", "a", "b", "job", "y", "help"]
    request = Request(symbols=symbols)
    for at, references in enumerate(([], [5, 6], [5, 6, 7, 8])):
        series = request.timeseries.add(labels_refs=[1, 2, 3, 4, *references])
        series.samples.add(value=at, timestamp=NOW + at, start_timestamp=at)
    bodies = [b"", request.SerializeToString()]
    for native in (_histogram(3), _histogram(10), _custom_histogram()):
        series = TimeSeries2(labels_refs=[1, 2, 3, 4, 5, 8])
        series.histograms.add().MergeFromString(native.SerializeToString())
        series.exemplars.add(labels_refs=[5, 8], value=1.0, timestamp=NOW)
        series.metadata.type = Metadata.METRIC_TYPE_COUNTER
        series.metadata.help_ref = 9
        both = [request.timeseries[1], series]
        bodies.append(Request(symbols=symbols, timeseries=both).SerializeToString())
    return [bytes([kind]) + body for body in bodies for kind in range(4)]


def _histogram(schema: int) -> Histogram:
    made = Histogram(count_int=3, sum=1.5, schema=schema, zero_count_int=1, timestamp=NOW)
    made.positive_spans.add(offset=1, length=2)
    made.positive_deltas.extend([1, 0])
    return made


def _custom_histogram() -> Histogram:
    made = Histogram(count_int=3, sum=1.5, schema=-53, timestamp=NOW, custom_values=[0.5, 1e6])
    made.positive_spans.add(offset=0, length=3)
    made.positive_deltas.extend([1, 0, 0])
    return made


# --- Collections ----------------------------------------------------------------------------------

_COLLECTS: Final = tuple(
    CollectConverter(transforms)
    for transforms in (
        Transforms(),
        Transforms({"region": "eu"}, {"up": "down", "h": ""}, frozenset(("a", "b")), b"salt"),
        Transforms({"": "x", "a": ""}, {"go_x": "é" * 128}, frozenset(("instance", "a"))),
        Transforms({"__name__": "x"}, {}, frozenset(("__name__", "a"))),
    )
)


def run_collect(data: bytes) -> None:
    """An agent makes the same of a collection either way, and a server takes what is left."""
    kind, body = head_and_rest(data)
    converter = _COLLECTS[kind & 3]
    labels = {"_id": _CLUSTER}
    compiled = converter.compiled(body, decode_families, NOW)
    reference = _outcome(lambda: converter.reference(body, decode_families, NOW))
    if not isinstance(reference, Transformed):
        assert compiled is None
        return
    shown = render_text(escape_families(reference.decoded(), Escaping.UNDERSCORES))
    parse_text(shown.encode())
    sent = reference.labelled(labels)
    assert compiled is None or _numbers(compiled, labels) == _numbers(reference, labels)
    if kind & 3 < 2:  # the others add what no server takes
        taken = _UPLOADS[0].reference(sent, decode_families, labels, NOW)
        assert taken.received == reference.samples
    assert len(sent) <= 16 * len(body) + 128 * reference.samples


def _numbers(made: Transformed, labels: dict[str, str]) -> tuple[bytes, int, int, int]:
    return made.labelled(labels), made.families, made.samples, made.received


# --- The embedded store ---------------------------------------------------------------------------


def run_store(data: bytes) -> None:
    """What the store took it shows to every reader as what that can read."""
    kind, body = head_and_rest(data)
    version = kind >> 1 & 1
    rules = replace(_WRITE_RULES[0], keep_origins=True)
    try:
        written = WriteConverter(rules).convert(body, version + 1, None)
    except BadInputError:
        return
    clock = Clock()
    clock.advance(clock_at().seconds())
    store = Store(clock, 600, 1000)
    if not written.payload:
        return
    try:
        settle(store.forward(_CLUSTER, written.payload, written.series), clock)
    except ForwardError as error:
        assert error.status == 400  # unknown fields go on, but not all of them can be stored
        return
    selectors = [parse_selector(EVERYTHING)]
    for escaping in Escaping:
        messages = decode_families(
            b"".join(Federation(store, selectors, Messages(escaping=escaping)).pieces())
        )
        keys = [
            (made.name, *sorted((pair.name, pair.value) for pair in metric.label))
            for made in messages
            for metric in made.metric
        ]
        assert len(set(keys)) == len(keys)
        if escaping is Escaping.NONE:
            continue
        text = b"".join(Federation(store, selectors, Text(escaping=escaping)).pieces())
        parse_text(text)
        encoding = Text(open_metrics=True, escaping=escaping)
        assert b"".join(Federation(store, selectors, encoding).pieces()).endswith(b"# EOF\n")


def _store_seeds() -> list[bytes]:
    return [
        *(b"\0" + seed[1:] for seed in _write_1_seeds()[::4]),
        *(b"\2" + seed[1:] for seed in _write_2_seeds()[::4]),
    ]


_PROTOBUF_WORDS: Final = (
    *(b"\x0a\x02", b"\x12\x01", b"\x0a\x03_id\x12\x01c", b"__name__", b"\x18\x04", b"\x0a\x00"),
    *(
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x00",
        b"\x00\x00\x00\x00\x00\x00\xf8\x7f",
    ),
    *(b"\x02\x00\x00\x00\x00\x00\xf0\x7f", b"\x20\x69", b"\xc3\xa9", b"\xed\xa0\x80", b"\x08\x01"),
)
TARGETS: Final = (
    Target("upload", run_upload, _upload_seeds, _PROTOBUF_WORDS),
    Target(
        "upload-text", run_upload_text, _text_seeds, (b"# TYPE ", b'_id="c"', b"NaN", b'"', b" 1")
    ),
    Target("write-1", run_write_1, _write_1_seeds, _PROTOBUF_WORDS),
    Target("write-2", run_write_2, _write_2_seeds, _PROTOBUF_WORDS),
    Target("collect", run_collect, _upload_seeds, _PROTOBUF_WORDS),
    Target("store", run_store, _store_seeds, _PROTOBUF_WORDS),
)
