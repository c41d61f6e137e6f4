"""gzip bodies count if they are whole, and only if they are."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.net.coding import CodingError, Gunzip, decoder_for

PLAIN = b"".join(b'm{a="%d"} %d\n' % (n * 7919 % 1000, n) for n in range(300))
PACKED = gzip.compress(PLAIN, mtime=0)
PLENTY = 1 << 20


def decoded(data: bytes, *, step: int = 1 << 16, most: int = PLENTY) -> bytes:
    """Decode a whole body that comes in pieces."""
    decoder = Gunzip()
    found = b""
    for start in range(0, len(data), step):
        found += b"".join(decoder.feed(data[start : start + step], most - len(found)))
    decoder.end()
    return found


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_a_member(step: int) -> None:
    assert decoded(PACKED, step=step) == PLAIN


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(1, 300))
def test_several_members(bodies: list[bytes], step: int) -> None:
    packed = b"".join(gzip.compress(body) for body in bodies)
    assert decoded(packed, step=step) == b"".join(bodies)


def test_a_member_with_all_fields_of_its_head() -> None:
    deflated = PACKED[10:]
    # FEXTRA, FNAME, FCOMMENT and FHCRC
    fields = b"\x1f\x8b\x08\x1e\0\0\0\0\0\x03" + b"\x03\0abc" + b"name\0" + b"comment\0"
    checked = fields + (zlib.crc32(fields) & 0xFFFF).to_bytes(2, "little")
    assert decoded(checked + deflated) == PLAIN


def test_what_is_cut_off_anywhere_is_refused() -> None:
    for size in range(len(PACKED)):
        with pytest.raises(CodingError, match="cut off"):
            decoded(PACKED[:size])


@pytest.mark.parametrize("size", [1, 5, 10, 18, len(PACKED) - 1])
def test_a_second_member_that_is_cut_off_is_refused(size: int) -> None:
    with pytest.raises(CodingError, match="cut off"):
        decoded(PACKED + PACKED[:size])


DAMAGED = {
    "checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "length": PACKED[:-4] + b"\1\0\0\0",
    "data": PACKED[:60] + b"\xff\xff\xff\xff" + PACKED[64:],
    "plain": PLAIN,
    "zlib": zlib.compress(PLAIN),
    "method": PACKED[:2] + b"\x07" + PACKED[3:],
    "flags": PACKED[:3] + b"\xe0" + PACKED[4:],
    "padding": PACKED + bytes(512),
    "trailing": PACKED + b"more",
    "one byte": PACKED + b"\n",
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("step", [1, 1 << 16])
def test_what_is_damaged_is_refused(kind: str, step: int) -> None:
    with pytest.raises(CodingError, match=r"the gzip body is (damaged|cut off)"):
        decoded(DAMAGED[kind], step=step)


def test_a_damage_says_where_it_is() -> None:
    with pytest.raises(CodingError, match=r"^the gzip body is damaged: incorrect data check$"):
        decoded(DAMAGED["checksum"])
    with pytest.raises(CodingError, match="damaged after its first member: incorrect header"):
        decoded(DAMAGED["trailing"])


@pytest.mark.parametrize("most", [1, 100, len(PLAIN) - 1])
def test_no_more_is_decoded_than_is_wanted(most: int) -> None:
    assert b"".join(Gunzip().feed(PACKED, most)) == PLAIN[:most]


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert sum(map(len, Gunzip().feed(bomb, 1000))) == 1000


@pytest.mark.parametrize("size", [(1 << 18) - 1, 1 << 18, (1 << 18) + 1, 1 << 20])
def test_much_in_a_few_bytes(size: int) -> None:
    packed = gzip.compress(bytes(size))
    assert decoded(packed, most=size + 1) == bytes(size)
    assert decoded(packed, step=1, most=size + 1) == bytes(size)
    assert decoded(packed * 2, most=2 * size + 1) == bytes(2 * size)


@pytest.mark.parametrize(
    "fields",
    [[b"gzip"], [b"GZIP"], [b"Gzip"], [b"x-gzip"], [b"X-GZip"], [b" gzip\t"], [b"gzip, identity"]],
)
def test_names_of_gzip(fields: list[bytes]) -> None:
    assert isinstance(decoder_for(fields), Gunzip)


@pytest.mark.parametrize("fields", [[], [b""], [b" , "], [b"identity"], [b"Identity", b""]])
def test_no_coding(fields: list[bytes]) -> None:
    assert decoder_for(fields) is None


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ([b"br"], "'br'"),
        ([b"deflate"], "'deflate'"),
        ([b"gzip, gzip"], "'gzip, gzip'"),
        ([b"gzip", b"br"], "'gzip, br'"),
        ([b"gz\xfcp"], "'gz\\xfcp'"),
        ([b"x" * 10_000], f"'{'x' * 60}'"),
    ],
)
def test_another_coding_is_named(fields: list[bytes], shown: str) -> None:
    with pytest.raises(CodingError) as caught:
        decoder_for(fields)
    assert str(caught.value) == f"expected Content-Encoding gzip or none; saw {shown}"
