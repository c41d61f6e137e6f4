from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.samples.compression import (
    block_size,
    compress_block,
    compress_framed,
    decompress_block,
    decompress_framed,
    join_blocks,
    max_framed_size,
)
from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.wire import write_varint

from .recordings import upload_body

IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"
LIMIT = 1 << 20
COMPRESSED, PLAIN, PADDING = 0x00, 0x01, 0xFE
#: Bytes that do not compress.
NOISE = random.Random(1).randbytes(200_000)


def chunk(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(3, "little") + data


def checksum(data: bytes) -> bytes:
    """CRC-32C, masked as the framing format has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def plain(data: bytes) -> bytes:
    return chunk(PLAIN, checksum(data) + data)


def packed(data: bytes) -> bytes:
    return chunk(COMPRESSED, checksum(data) + compress_block(data))


datas = st.one_of(
    st.binary(max_size=500),
    st.tuples(st.binary(max_size=5), st.integers(0, 40_000)).map(lambda made: made[0] * made[1]),
    st.integers(0, len(NOISE)).map(lambda size: NOISE[:size]),
)


class TestFramed:
    @given(datas)
    def test_round_trip(self, data: bytes) -> None:
        framed = compress_framed(data)
        assert decompress_framed(framed, len(data) + 1) == data
        assert len(framed) <= max_framed_size(len(data))

    @pytest.mark.parametrize("size", [1, 255, 65536, 65537, 200_000])
    def test_the_limit_is_the_first_size_that_is_refused(self, size: int) -> None:
        for data in (bytes(size), NOISE[:size]):
            framed = compress_framed(data)
            assert decompress_framed(framed, size + 1) == data
            for limit in (size, size - 1, 1, 0):
                with pytest.raises(TooLargeError) as caught:
                    decompress_framed(framed, limit)
                assert (caught.value.limit, caught.value.seen) == (limit, size)

    @pytest.mark.parametrize("held", [compress_block(bytes(65536)), write_varint(65536)])
    def test_the_declared_size_is_checked_before_anything_is_decompressed(
        self, held: bytes
    ) -> None:
        corrupt = IDENTIFIER + chunk(COMPRESSED, b"CRC?" + held) * 3
        with pytest.raises(BadInputError, match="not valid framed snappy") as caught:
            decompress_framed(corrupt, 3 * 65536 + 1)
        assert not isinstance(caught.value, TooLargeError)
        with pytest.raises(TooLargeError):
            decompress_framed(corrupt, 3 * 65536)

    @pytest.mark.parametrize("held", [65537, 1 << 30, 1 << 40])
    def test_a_chunk_may_not_declare_more_than_the_format_allows(self, held: int) -> None:
        body = IDENTIFIER + chunk(COMPRESSED, b"CRC?" + write_varint(held))
        with pytest.raises(BadInputError, match=f"may hold 65536 bytes, this one says {held}"):
            decompress_framed(body, 1 << 50)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            pytest.param(b"", b"", id="nothing"),
            pytest.param(IDENTIFIER, b"", id="only the identifier"),
            pytest.param(IDENTIFIER + plain(b"abc"), b"abc", id="plain"),
            pytest.param(IDENTIFIER + packed(b"abc"), b"abc", id="compressed"),
            pytest.param(IDENTIFIER + plain(b""), b"", id="empty chunk"),
            pytest.param(IDENTIFIER + plain(b"abc") + packed(b"def"), b"abcdef", id="two chunks"),
            pytest.param(
                IDENTIFIER + packed(b"abc") + IDENTIFIER + plain(b"def"),
                b"abcdef",
                id="two streams",
            ),
            pytest.param(
                IDENTIFIER + chunk(0x80, b"??") + plain(b"abc") + chunk(0xFD, b""),
                b"abc",
                id="chunks to skip",
            ),
            pytest.param(
                IDENTIFIER + chunk(PADDING, bytes(5000)) + plain(b"abc") + chunk(PADDING, b""),
                b"abc",
                id="padding",
            ),
        ],
    )
    def test_what_the_format_allows(self, body: bytes, expected: bytes) -> None:
        assert decompress_framed(body, LIMIT) == expected

    def test_chunks_to_skip_do_not_count(self) -> None:
        body = IDENTIFIER + chunk(0x80, bytes(5000)) + chunk(PADDING, bytes(5000)) + plain(b"abc")
        assert decompress_framed(body, 4) == b"abc"

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            pytest.param(plain(b"abc"), "does not start with its identifier", id="no identifier"),
            pytest.param(b"\x03\x08abc", "does not start with its identifier", id="a block"),
            pytest.param(b"\xff\x06\x00\x00sNaPpX", "does not start", id="another identifier"),
            pytest.param(IDENTIFIER[:-1], "does not start with", id="cut off identifier"),
            pytest.param(IDENTIFIER + b"\x01\x07\x00", "cut off", id="cut off header"),
            pytest.param(IDENTIFIER + plain(b"abc")[:-1], "cut off", id="cut off chunk"),
            pytest.param(IDENTIFIER + chunk(0x02, b"abc"), "type 0x2 is not known", id="type 2"),
            pytest.param(IDENTIFIER + chunk(0x7F, b"abc"), "type 0x7f is not known", id="type 7f"),
            pytest.param(IDENTIFIER + chunk(PLAIN, b"abc"), "says -1", id="plain, no checksum"),
            pytest.param(
                IDENTIFIER + chunk(COMPRESSED, b"abc"),
                "shorter than its checksum",
                id="no checksum",
            ),
            pytest.param(
                IDENTIFIER + chunk(COMPRESSED, b"CRC?"), "a varint is cut off", id="no size"
            ),
            pytest.param(
                IDENTIFIER + chunk(COMPRESSED, b"CRC?") + b"\x05", "cut off", id="size elsewhere"
            ),
            pytest.param(
                IDENTIFIER + chunk(PLAIN, b"CRC?" + bytes(65537)), "says 65537", id="plain, long"
            ),
            pytest.param(
                IDENTIFIER + chunk(0xFF, b"sNaPpX"),
                "not valid framed snappy",
                id="second identifier",
            ),
        ],
    )
    def test_what_it_does_not_allow(self, body: bytes, reason: str) -> None:
        with pytest.raises(BadInputError, match=reason):
            decompress_framed(body, LIMIT)

    @pytest.mark.parametrize("make", [plain, packed])
    @pytest.mark.parametrize("flipped", range(4, 8))
    def test_the_checksum_is_checked(self, make: Callable[[bytes], bytes], flipped: int) -> None:
        body = bytearray(make(b"abcdefgh" * 9))
        assert decompress_framed(IDENTIFIER + bytes(body), LIMIT) == b"abcdefgh" * 9
        body[flipped] ^= 0x10
        with pytest.raises(BadInputError, match="checksum"):
            decompress_framed(IDENTIFIER + bytes(body), LIMIT)

    def test_a_body_cut_off_anywhere_is_refused_or_shorter(self) -> None:
        whole = decompress_framed(upload_body(), LIMIT)
        for end in range(1, len(upload_body())):
            try:
                part = decompress_framed(upload_body()[:end], LIMIT)
            except BadInputError:
                continue
            assert part == b"" != whole  # just the identifier


class TestBlock:
    @given(datas)
    def test_round_trip(self, data: bytes) -> None:
        assert decompress_block(compress_block(data), len(data)) == data

    @pytest.mark.parametrize("size", [1, 1000, 100_000])
    def test_the_limit_is_the_largest_size_that_is_taken(self, size: int) -> None:
        block = compress_block(bytes(size))
        assert decompress_block(block, size) == bytes(size)
        with pytest.raises(TooLargeError) as caught:
            decompress_block(block, size - 1)
        assert (caught.value.limit, caught.value.seen) == (size - 1, size)

    @pytest.mark.parametrize("declared", [LIMIT + 1, 1 << 32, 1 << 62])
    def test_a_declared_size_is_refused_before_anything_is_allocated(self, declared: int) -> None:
        with pytest.raises(TooLargeError, match="too long"):
            decompress_block(write_varint(declared) + b"\x00a", LIMIT)

    @pytest.mark.parametrize(
        "block",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\x80", id="cut off size"),
            pytest.param(b"\x80" * 10 + b"\x01", id="endless size"),
            pytest.param(b"\x03", id="no data"),
            pytest.param(b"\x03\x08ab", id="cut off data"),
            pytest.param(b"\x04\x08abc", id="less than declared"),
            pytest.param(b"\x02\x08abc", id="more than declared"),
            pytest.param(b"\x08\x00a\x15\x02", id="copy from before the start"),
            pytest.param(upload_body(), id="framed"),
        ],
    )
    def test_what_is_no_block_is_refused(self, block: bytes) -> None:
        with pytest.raises(BadInputError):
            decompress_block(block, LIMIT)

    def test_a_block_cut_off_anywhere_is_refused(self) -> None:
        block = compress_block(NOISE[:300] + bytes(300))
        for end in range(len(block)):
            with pytest.raises(BadInputError):
                decompress_block(block[:end], LIMIT)

    @given(st.lists(datas, min_size=1, max_size=5))
    def test_joined_blocks_hold_what_each_held(self, data: list[bytes]) -> None:
        joined = join_blocks([compress_block(part) for part in data])
        plain = b"".join(data)
        assert block_size(joined) == len(plain)
        assert decompress_block(joined, len(plain)) == plain

    def test_large_blocks_join_too(self) -> None:
        """Beyond the 64 KiB within which a compressor looks back."""
        plain = NOISE[:1000] * 300 + NOISE
        blocks = [compress_block(plain), compress_block(b""), compress_block(plain)]
        assert decompress_block(join_blocks(blocks), 1 << 20) == plain + plain
