"""Varints and varint-length-delimited messages, as protobuf writes them.

Source: https://protobuf.dev/programming-guides/encoding/#varints and its section on delimiting
messages in a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from telemeter.samples.errors import BadInputError

_MAX_VARINT_BYTES = 10


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read the varint at `at`, not looking at `end` or beyond it.

    Returns:
        The number and the position behind it.

    Raises:
        BadInputError: cut off, or longer than ten bytes.
    """
    number = shift = 0
    for position in range(at, min(end, at + _MAX_VARINT_BYTES)):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + 1
        shift += 7
    if end - at < _MAX_VARINT_BYTES:
        raise BadInputError("a varint is cut off")
    raise BadInputError("a varint is longer than ten bytes")


def write_varint(number: int) -> bytes:
    """Encode a number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def split_delimited(data: bytes) -> Iterator[bytes]:
    """Return the messages of a stream in which each stands behind its length.

    Raises:
        BadInputError: a length reaches beyond the data that is there.
    """
    at, end = 0, len(data)
    while at < end:
        length, start = read_varint(data, at, end)
        if length > end - start:
            raise BadInputError(
                f"a message says it is {length} bytes long, {end - start} bytes are left"
            )
        at = start + length
        yield data[start:at]


def join_delimited(messages: Iterable[bytes]) -> bytes:
    """Put each message behind its length."""
    return b"".join(part for message in messages for part in (write_varint(len(message)), message))
