"""Values of flags: from the text to what it means.

Each function here takes the text of a flag and returns its value; it raises ValueError with what
was expected.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from telemeter.samples.errors import BadInputError
from telemeter.samples.family import is_too_long, is_utf8, label_fault
from telemeter.samples.limits import MAX_NAME_LENGTH
from telemeter.samples.selector import NAME, Selector, parse_selector

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
#: The longest duration in seconds: as in Go, what 63 bits of nanoseconds hold.
_LONGEST = 2**63 / 1e9
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


_BINARY_PREFIXES: Final = {None: 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}


def text(value: str) -> str:
    """Any text."""
    if not is_utf8(value):
        raise ValueError("expected UTF-8")
    return value


def raw(value: str) -> str:
    """Take any bytes, as paths may have them; what is no UTF-8 is half surrogate pairs."""
    return value


def fleet_database(value: str) -> str:
    """Parse `sqlite:PATH`; return the path, which is empty for an empty text."""
    kind, _, path = value.partition(":")
    if value and (kind != "sqlite" or not path or "\0" in path):
        raise ValueError("expected sqlite:PATH, such as sqlite:/var/lib/telemeter/fleet.sqlite")
    return path


def header_text(value: str) -> str:
    """Text that goes into a header."""
    if not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII")
    return value


def host_name(value: str) -> str:
    """Parse a host's name, as a Host header has it without the port; return it in lower case."""
    if not re.fullmatch(r"[0-9A-Za-z_]([0-9A-Za-z_.-]{0,252}[0-9A-Za-z_])?", value):
        raise ValueError("expected a host name such as telemeter.example.com, without a port")
    return value.lower()


def duration(value: str) -> float:
    """Parse a Go duration, such as `4m30s`, `1.5h` or `0`; return seconds."""
    if value == "0":
        return 0.0
    seconds, at = 0.0, 0
    while part := _DURATION_PART.match(value, at):
        seconds += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if not value or at < len(value):
        raise ValueError("expected a duration such as 4m30s, 15s or 0")
    if seconds > _LONGEST:
        raise ValueError("expected a duration such as 4m30s, 15s or 0, of 292 years at most")
    return seconds


def positive_duration(value: str) -> float:
    """Parse a Go duration above 0; return seconds."""
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError("expected a duration above 0, such as 4m30s or 15s")
    return seconds


def integer(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[-+]?[0-9]{1,19}", value) or not low <= int(value) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(value)

    return parse


def byte_size(value: str) -> int:
    """Parse a number of bytes, such as `256MiB`, `1GiB` or `1048576`."""
    match = re.fullmatch(r"([1-9][0-9]{0,14})(B|KiB|MiB|GiB)?", value)
    if match is None:
        raise ValueError("expected a number of bytes such as 256MiB, 1GiB or 1048576")
    return int(match[1]) << _BINARY_PREFIXES[match[2]]


def rate(value: str) -> float:
    """Parse a number above 0 of something per second."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) or float(value) <= 0:
        raise ValueError("expected a number above 0, such as 1 or 0.5")
    return float(value)


def fraction(value: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("expected a number from 0 to 1")
    return number


def choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of some words."""

    def parse(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value.lower()

    return parse


def word_list(value: str) -> list[str]:
    """Parse a comma-separated list; a word with a comma in it stands in double quotes."""
    if not value:
        return []
    try:
        return [word.strip() for word in next(csv.reader([value], strict=True))]
    except csv.Error as error:
        raise ValueError(f"expected a comma-separated list: {error}") from None


def memcached_list(value: str) -> list[tuple[str, int]]:
    """Parse a comma-separated list of HOST:PORT."""
    found = []
    for word in word_list(value):
        parts = urlsplit(f"//{word}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if (
            not host
            or not port
            or " " in host
            or parts.netloc != word
            or parts.username is not None
        ):
            raise ValueError(
                "expected HOST:PORT, such as localhost:11211, or several with commas between them"
            )
        found.append((host, port))
    return found


def pair_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE."""
    pairs = []
    for word in word_list(value):
        name, separator, rest = word.partition("=")
        if not separator or not name:
            raise ValueError("expected NAME=VALUE, or several with commas between them")
        pairs.append((name, rest))
    return pairs


def label_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE for labels."""
    pairs = pair_list(text(value))
    for name, _ in pairs:
        if not name or name == NAME:
            raise ValueError(f"expected the name of a label other than {NAME}")
    return pairs


def sample_label_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of NAME=VALUE for labels of samples that are uploaded."""
    pairs = pair_list(value)
    for pair in pairs:
        if fault := label_fault(*pair):
            raise ValueError(f"expected what a server takes in a sample: {fault}")
    return pairs


def label_name(value: str) -> str:
    """Parse the name of a label that may be added or removed."""
    if not value or value == NAME:
        raise ValueError(f"expected the name of a label other than {NAME}")
    if "=" in value or "," in value:
        raise ValueError("expected the name of one label, without a value")
    if fault := label_fault(value, ""):
        raise ValueError(f"no sample has it: {fault}")
    return value


def label_names(value: str) -> list[str]:
    """Parse a comma-separated list of names of labels."""
    return [label_name(word) for word in word_list(value)]


def rename_list(value: str) -> list[tuple[str, str]]:
    """Parse a comma-separated list of OLD=NEW for names of metrics."""
    pairs = pair_list(text(value))
    for _, new in pairs:
        if not new or is_too_long(new):
            raise ValueError(
                f"expected a new name of 1 to {MAX_NAME_LENGTH} bytes, every server would refuse "
                f"one of {len(new.encode())}"
            )
    return pairs


def scope_list(value: str) -> list[str]:
    """Parse scopes of an access token (RFC 6749, section 3.3), with spaces between them."""
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+( +[\x21\x23-\x5b\x5d-\x7e]+)*", value):
        raise ValueError("expected a scope, or several with spaces between them: printable ASCII")
    return value.split()


def selector(value: str) -> Selector:
    """Parse a PromQL vector selector."""
    try:
        return parse_selector(value.strip())
    except BadInputError as error:
        raise ValueError(str(error)) from None
