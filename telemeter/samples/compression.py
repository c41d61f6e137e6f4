"""Snappy, framed (agents' uploads) and as one block (remote write), with limits.

Both forms declare their decompressed size; it is checked before anything is allocated. Formats:
https://github.com/google/snappy/blob/main/framing_format.txt and format_description.txt there.
"""

from __future__ import annotations

from collections.abc import Sequence

import cramjam
import snappy

from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.wire import read_varint, write_varint

_STREAM_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
_CHUNK_HEADER = 4
_CHECKSUM = 4
_MAX_CHUNK_DATA = 65536
_COMPRESSED, _PLAIN = 0x00, 0x01
_FIRST_SKIPPABLE = 0x80


def max_framed_size(size: int) -> int:
    """Return the most bytes that `size` bytes take in the framed format, without padding chunks.

    A compressor stores a chunk plain when compressing does not help, so all it adds are headers.
    The slack leaves room for compressors that do not, and for small chunks.
    """
    return 1024 + size + size // 4


def compress_framed(data: bytes) -> bytes:
    """Compress to the framed format."""
    return bytes(cramjam.snappy.compress(data))


def decompress_framed(data: bytes, limit: int) -> bytes:
    """Decompress the framed format.

    Raises:
        TooLargeError: the chunks together hold `limit` bytes or more.
        BadInputError: the data is corrupt or cut off.
    """
    if not data:
        return b""
    size = _framed_size(data)
    if size >= limit:
        raise TooLargeError("the decompressed body is too long", limit=limit, seen=size)
    try:
        return bytes(cramjam.snappy.decompress(data))
    except cramjam.DecompressionError as error:
        raise BadInputError(f"the body is not valid framed snappy: {error}") from None


def _framed_size(data: bytes) -> int:
    """Walk the chunk headers and add up what the chunks say they hold."""
    if not data.startswith(_STREAM_IDENTIFIER):
        raise BadInputError("the body is not framed snappy: it does not start with its identifier")
    total, at, end = 0, len(_STREAM_IDENTIFIER), len(data)
    while at < end:
        start = at + _CHUNK_HEADER
        length = int.from_bytes(data[at + 1 : start], "little")
        stop = start + length
        if start > end or stop > end:
            raise BadInputError("the framed snappy body is cut off")
        kind = data[at]
        if kind == _COMPRESSED:
            if length < _CHECKSUM:
                raise BadInputError("a framed snappy chunk is shorter than its checksum")
            held, _ = read_varint(data, start + _CHECKSUM, stop)
            total += _checked(held)
        elif kind == _PLAIN:
            total += _checked(length - _CHECKSUM)
        elif kind < _FIRST_SKIPPABLE:
            raise BadInputError(f"framed snappy chunk type {kind:#x} is not known")
        at = stop
    return total


def _checked(held: int) -> int:
    if not 0 <= held <= _MAX_CHUNK_DATA:
        raise BadInputError(
            f"a framed snappy chunk may hold {_MAX_CHUNK_DATA} bytes, this one says {held}"
        )
    return held


def compress_block(data: bytes) -> bytes:
    """Compress to one block."""
    return snappy.compress(data)  # type: ignore[no-any-return]


def decompress_block(data: bytes, limit: int) -> bytes:
    """Decompress one block.

    Raises:
        TooLargeError: the block declares more than `limit` bytes.
        BadInputError: the data is corrupt or cut off.
    """
    size = block_size(data)
    if size > limit:
        raise TooLargeError("the decompressed body is too long", limit=limit, seen=size)
    try:
        return snappy.uncompress(data)  # type: ignore[no-any-return]
    except snappy.UncompressError as error:
        raise BadInputError(f"the body is not a valid snappy block: {error.__cause__}") from None


def join_blocks(blocks: Sequence[bytes]) -> bytes:
    """One block that decompresses to what the blocks hold, one after the other.

    A block is its decompressed length and then literals and copies, and a copy points back by a
    distance within its own block. So nothing needs to be compressed anew.

    Args:
        blocks: what `compress_block` returned.
    """
    if len(blocks) == 1:
        return blocks[0]
    total, parts = 0, []
    for block in blocks:
        size, start = read_varint(block, 0, len(block))
        total += size
        parts.append(memoryview(block)[start:])
    return b"".join((write_varint(total), *parts))


def block_size(block: bytes) -> int:
    """Return how many bytes a block says it decompresses to."""
    return read_varint(block, 0, len(block))[0]
