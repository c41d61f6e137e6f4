"""Metric families in the exchange format: decoding, encoding, and what their types mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from telemeter.samples.errors import BadInputError
from telemeter.samples.limits import MAX_NAME_LENGTH
from telemeter.samples.proto import metrics_pb2
from telemeter.samples.selector import NAME
from telemeter.samples.wire import join_delimited, split_delimited

Family: TypeAlias = metrics_pb2.MetricFamily
Metric: TypeAlias = metrics_pb2.Metric

PROTOBUF_CONTENT_TYPE: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
TEXT_CONTENT_TYPE: Final = "text/plain; version=0.0.4"

#: The oldest timestamp that is accepted, in milliseconds before now.
MAX_AGE_MS: Final = 24 * 3600 * 1000

#: Which field of a Metric holds the value, by the type of its family.
VALUE_FIELD: Final[dict[int, str]] = {
    metrics_pb2.COUNTER: "counter",
    metrics_pb2.GAUGE: "gauge",
    metrics_pb2.UNTYPED: "untyped",
    metrics_pb2.SUMMARY: "summary",
    metrics_pb2.HISTOGRAM: "histogram",
    metrics_pb2.GAUGE_HISTOGRAM: "histogram",
}
_VALUE_FIELDS: Final = ("counter", "gauge", "untyped", "summary", "histogram")
#: Types of which a sample is one number.
SCALAR_TYPES: Final = frozenset((metrics_pb2.COUNTER, metrics_pb2.GAUGE, metrics_pb2.UNTYPED))


def decode_families(data: bytes) -> list[Family]:
    """Decode delimited families.

    Raises:
        BadInputError: a length or a message is malformed, or text in it is not UTF-8.
    """
    families = []
    for number, message in enumerate(split_delimited(data), 1):
        try:
            families.append(Family.FromString(message))
        except DecodeError:
            raise BadInputError(f"metric family {number} is not a valid message") from None
    return families


def encode_families(families: Iterable[Family]) -> bytes:
    """Encode families, each behind its length."""
    return join_delimited(family.SerializeToString() for family in families)


def is_too_long(text: str) -> bool:
    """Return whether a name or a value is over `MAX_NAME_LENGTH`."""
    # Four bytes is the most a character takes: most texts need not be encoded to know.
    return len(text) * 4 > MAX_NAME_LENGTH and len(text.encode()) > MAX_NAME_LENGTH


def is_utf8(text: str) -> bool:
    """Tell whether a text has a form as UTF-8: half a surrogate pair, as in JSON, has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def label_fault(name: object, value: object) -> str:
    """Say why a server refuses samples with such a label; nothing, if it takes them.

    Args:
        name: the label's name, of any type, as JSON may hold it.
        value: its value, likewise.
    """
    for what, text in (("name", name), ("value", value)):
        if not isinstance(text, str):
            return f"the {what} of a label must be text"
        if not is_utf8(text):
            return f"the {what} of a label must be UTF-8"
        if is_too_long(text):
            return (
                f"the {what} of a label may have {MAX_NAME_LENGTH} bytes, this one has "
                f"{len(text.encode())}"
            )
    if not name or name == NAME:
        return f"a label must have a name, and one other than {NAME}"
    return ""


def holds_its_type(metric: Metric, family_type: int) -> bool:
    """Return whether the metric has the value field of its family's type, and no other."""
    field = VALUE_FIELD[family_type]
    for candidate in _VALUE_FIELDS:
        if metric.HasField(candidate) != (candidate == field):
            return False
    # A gauge without a number is no sample; a histogram or a summary may lack any of its parts.
    return family_type not in SCALAR_TYPES or bool(getattr(metric, field).HasField("value"))


def count_metrics(families: Iterable[Family]) -> int:
    """Return the number of metrics in all the families."""
    return sum(len(family.metric) for family in families)
