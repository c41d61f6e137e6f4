"""The text format of Prometheus, version 0.0.4: parsing and writing.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. Parsing
takes time linear in the size of the text.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from typing import Final

from telemeter.samples.errors import BadInputError
from telemeter.samples.family import VALUE_FIELD, Family
from telemeter.samples.proto import metrics_pb2
from telemeter.samples.series import is_native, parts_of, value_text

#: What Prometheus stores for a NaN that it reads from text.
NORMAL_NAN: Final[float] = struct.unpack("<d", (0x7FF8000000000001).to_bytes(8, "little"))[0]

_TYPES = {
    "counter": metrics_pb2.COUNTER,
    "gauge": metrics_pb2.GAUGE,
    "untyped": metrics_pb2.UNTYPED,
}
_TYPE_NAMES = {
    metrics_pb2.COUNTER: "counter",
    metrics_pb2.GAUGE: "gauge",
    metrics_pb2.UNTYPED: "untyped",
    metrics_pb2.SUMMARY: "summary",
    metrics_pb2.HISTOGRAM: "histogram",
    metrics_pb2.GAUGE_HISTOGRAM: "histogram",
}
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL = re.compile(
    r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*(,|(?=\}))'
)
_START_OF_LABELS = re.compile(r"[ \t]*\{")
_END_OF_LABELS = re.compile(r"[ \t]*\}")
# Printable ASCII, and no "_": float() would take other alphabets' digits, and 1_000.
_VALUE = re.compile(r"[ \t]*([!-^`-~]+)(?:[ \t]+([-+]?[0-9]{1,19}))?[ \t]*\Z")
_ESCAPE = re.compile(r"\\(.)")
_HELP_ESCAPE = re.compile(r"\\([\\n])")
_UNESCAPED = {"\\": "\\", '"': '"', "n": "\n"}
_SHOWN = 60


def parse_text(data: bytes) -> list[Family]:
    """Parse text into families.

    The series of a histogram or a summary come as untyped families of their own names, which is how
    Prometheus federates them.

    Raises:
        BadInputError: the text is not in the format; the message names the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BadInputError(f"the text is not UTF-8: {error}") from None
    families: dict[str, Family] = {}
    types: dict[str, int] = {}
    helps: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line:
            continue
        if line[0] == "#":
            _read_comment(line, number, types, helps)
        else:
            _read_sample(line, number, families, types)
    for name, family in families.items():
        if name in helps:
            family.help = helps[name]
    return list(families.values())


def _read_comment(line: str, number: int, types: dict[str, int], helps: dict[str, str]) -> None:
    words = line.split(None, 3)
    if len(words) < 3 or words[0] != "#":
        return
    _, keyword, name, *rest = words
    if keyword == "TYPE":
        kind = rest[0].lower() if rest else ""
        if kind not in ("counter", "gauge", "untyped", "summary", "histogram"):
            raise _broken(number, "a TYPE of counter, gauge, untyped, summary or histogram", line)
        if kind in _TYPES:
            types[name] = _TYPES[kind]
    elif keyword == "HELP" and rest:
        helps[name] = _HELP_ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], rest[0])


def _read_sample(
    line: str, number: int, families: dict[str, Family], types: dict[str, int]
) -> None:
    name = _METRIC_NAME.match(line)
    if name is None:
        raise _broken(number, "a metric name", line)
    family = families.get(name[0])
    if family is None:
        family = Family(name=name[0], type=types.get(name[0], metrics_pb2.UNTYPED))  # type: ignore[arg-type]
        families[name[0]] = family
    metric = family.metric.add()
    at = name.end()
    if start := _START_OF_LABELS.match(line, at):
        at = start.end()
        while label := _LABEL.match(line, at):
            metric.label.add(name=label[1], value=_unescape(label[2], number))
            at = label.end()
        end = _END_OF_LABELS.match(line, at)
        if end is None:
            raise _broken(number, 'labels such as {name="value"}', line[at:])
        at = end.end()
    rest = _VALUE.match(line, at)
    if rest is None:
        raise _broken(number, "a value and perhaps a timestamp in milliseconds", line[at:])
    try:
        value = float(rest[1])
    except ValueError:
        raise _broken(number, "a number", rest[1]) from None
    field = getattr(metric, VALUE_FIELD[family.type])
    field.value = NORMAL_NAN if math.isnan(value) else value
    if rest[2] is not None:
        try:
            metric.timestamp_ms = int(rest[2])
        except ValueError:
            raise _broken(number, "a timestamp of 64 bits", rest[2]) from None


def _unescape(value: str, number: int) -> str:
    if "\\" not in value:
        return value
    try:
        return _ESCAPE.sub(lambda escape: _UNESCAPED[escape[1]], value)
    except KeyError:
        raise _broken(number, 'the escapes \\\\, \\" and \\n only', value) from None


def _broken(number: int, expected: str, seen: str) -> BadInputError:
    shown = seen if len(seen) <= _SHOWN else seen[:_SHOWN] + "..."
    return BadInputError(f"text format, line {number}: expected {expected}, saw {shown!r}")


def render_text(families: Iterable[Family]) -> str:
    """Write families as text, with their timestamps.

    Native histograms have no text form: only their `_sum` and `_count` are written.
    """
    lines: list[str] = []
    for family in families:
        if family.HasField("help"):
            text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines.append(f"# HELP {_name(family.name)} {text}")
        lines.append(f"# TYPE {_name(family.name)} {_TYPE_NAMES[family.type]}")
        for metric in family.metric:
            labels = [(pair.name, pair.value) for pair in metric.label]
            stamp = f" {metric.timestamp_ms}" if metric.HasField("timestamp_ms") else ""
            for suffix, label, value in parts_of(metric, family.type):
                own = [*labels, label] if label else labels
                lines.append(_sample(family.name + suffix, own) + value_text(value) + stamp)
            if is_native(metric, family.type) and not metric.histogram.bucket:
                for suffix, value in (
                    ("_sum", metric.histogram.sample_sum),
                    ("_count", float(metric.histogram.sample_count)),
                ):
                    lines.append(_sample(family.name + suffix, labels) + value_text(value) + stamp)
    return "".join(line + "\n" for line in lines)


def _sample(name: str, labels: Iterable[tuple[str, str]]) -> str:
    pairs = [
        f"{label if _LABEL_NAME.fullmatch(label) else _quoted(label)}={_quoted(value)}"
        for label, value in labels
    ]
    if _METRIC_NAME.fullmatch(name):
        return f"{name}{{{','.join(pairs)}}} " if pairs else f"{name} "
    return f"{{{','.join([_quoted(name), *pairs])}}} "


def _name(name: str) -> str:
    return name if _METRIC_NAME.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
