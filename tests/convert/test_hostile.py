"""Whatever bytes come in: they are understood, or refused with `BadInputError`, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemeter.convert.collect import Transforms
from telemeter.convert.upload import UploadRules, convert_upload
from telemeter.samples.compression import (
    compress_block,
    compress_framed,
    decompress_block,
    decompress_framed,
)
from telemeter.samples.errors import BadInputError
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import decode_families, encode_families
from telemeter.samples.format import Decoder
from telemeter.samples.proto.metrics_pb2 import GAUGE, HISTOGRAM, SUMMARY, BucketSpan
from telemeter.samples.proto.remote_pb2 import WriteRequest
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.samples.wire import split_delimited
from tests.samples.build import NOW, family, histogram, sample
from tests.samples.strategies import mutations

LIMIT = 1 << 16
RULES = UploadRules(
    Whitelist([parse_selector('{a!~"x.*"}')]), {"region": "eu"}, frozenset(["_elide"])
)
TRANSFORMS = Transforms({"region": "eu"}, {"up": "down"}, frozenset(["instance"]), b"salt")


def _valid_upload() -> bytes:
    """Something of everything that may be in an upload, small enough to be hit by mutations."""
    summary = sample(None, field="summary", b="é")
    summary.summary.quantile.add(quantile=0.5, value=1.0)
    native = histogram({1.0: 1}, count=1)
    native.histogram.positive_span.append(BucketSpan(offset=1, length=1))
    native.histogram.positive_delta.append(1)
    return encode_families(
        [
            family("up", sample(1.0, a="b"), sample(2.0, instance="c", _elide="d")),
            family("g", sample(-0.0, field="gauge"), kind=GAUGE),
            family("h", histogram({0.5: 1}, a="b"), native, kind=HISTOGRAM),
            family("s", summary, kind=SUMMARY),
        ]
    )


UPLOAD = _valid_upload()
TEXT = (
    b"# HELP up a\\nb\n# TYPE up gauge\n"
    b'up{a="b",c="\\"\\\\\\n",} -1.5e3 1795343615632\nup NaN\n# TYPE h histogram\nh_sum +Inf 1\n'
)


def convert(data: bytes, decode: Decoder) -> None:
    """Convert; what is taken must be whole, and small."""
    result = convert_upload(data, decode, {}, RULES, NOW)
    series = WriteRequest.FromString(result.payload).timeseries
    assert len(series) == result.series
    for one in series:
        names = [label.name for label in one.labels]
        assert "__name__" in names
        assert names == sorted(set(names))
        assert len(one.samples) + len(one.histograms) == 1


def transform(data: bytes) -> None:
    """Do what an agent does; a server must take what is left."""
    families = TRANSFORMS.apply(decode_families(data), NOW)
    render_text(families)
    # The agent does not look at labels called __name__, which no Prometheus sends.
    if all(pair.name != "__name__" for made in families for m in made.metric for pair in m.label):
        convert_upload(encode_families(families), decode_families, {"region": "eu"}, RULES, NOW)


def round_trip(data: bytes) -> None:
    families = parse_text(data)
    assert encode_families(parse_text(render_text(families).encode())) == encode_families(families)


READERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "split": (UPLOAD, lambda data: list(split_delimited(data))),
    "families": (UPLOAD, decode_families),
    "framed": (compress_framed(UPLOAD), lambda data: decompress_framed(data, LIMIT)),
    "block": (compress_block(UPLOAD), lambda data: decompress_block(data, LIMIT)),
    "text": (TEXT, round_trip),
    "convert": (UPLOAD, lambda data: convert(data, decode_families)),
    "convert text": (TEXT, lambda data: convert(data, parse_text)),
    "transform": (UPLOAD, transform),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_valid_is_understood(reader: str) -> None:
    valid, read = READERS[reader]
    if reader == "convert text":
        valid = TEXT.replace(b"up NaN\n", b"").replace(b"+Inf 1\n", b"+Inf 1795343615632\n")
    read(valid)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for _, read in READERS.values():
        with suppress(BadInputError):
            read(data)


@settings(max_examples=800)
@given(st.sampled_from(list(READERS)), st.data())
def test_what_is_almost_valid(reader: str, data: st.DataObject) -> None:
    valid, read = READERS[reader]
    mutated = data.draw(mutations(valid))
    with suppress(BadInputError):
        read(mutated)


@pytest.mark.parametrize("reader", READERS)
def test_every_byte_replaced_and_every_cut(reader: str) -> None:
    valid, read = READERS[reader]
    for at in range(len(valid)):
        for other in (0x00, 0x7F, 0x80, 0xFF, valid[at] ^ 1, valid[at] ^ 0x20):
            with suppress(BadInputError):
                read(valid[:at] + bytes([other]) + valid[at + 1 :])
        with suppress(BadInputError):
            read(valid[:at])


@given(st.text(max_size=100))
def test_any_text(text: str) -> None:
    with suppress(BadInputError):
        round_trip(text.encode("utf-8", "surrogatepass"))
