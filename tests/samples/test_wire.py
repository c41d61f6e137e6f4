from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.samples.errors import BadInputError
from telemeter.samples.wire import join_delimited, read_varint, split_delimited, write_varint

TIB = 1 << 40

# From the page that wire.py names, and the corners of one, two, nine and ten bytes.
ENCODED = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (150, "9601"),
    (300, "ac02"),
    (16383, "ff7f"),
    (16384, "808001"),
    (2**63 - 1, "ffffffffffffffff7f"),
    (2**63, "80808080808080808001"),
    (2**64 - 1, "ffffffffffffffffff01"),
]


@pytest.mark.parametrize(("number", "encoded"), ENCODED)
def test_varints_are_those_of_protobuf(number: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert write_varint(number) == data
    assert read_varint(data, 0, len(data)) == (number, len(data))


@given(st.integers(0, 2**64 - 1), st.binary(max_size=4), st.binary(max_size=4))
def test_a_varint_is_read_back_from_amid_other_bytes(
    number: int, before: bytes, behind: bytes
) -> None:
    encoded = write_varint(number)
    data = before + encoded + behind
    end = len(before) + len(encoded)
    assert read_varint(data, len(before), len(data)) == (number, end)
    assert read_varint(data, len(before), end) == (number, end)


@pytest.mark.parametrize("number", [number for number, _ in ENCODED])
def test_a_varint_cut_off_anywhere_is_refused(number: int) -> None:
    data = write_varint(number)
    for end in range(len(data)):
        with pytest.raises(BadInputError, match="a varint is cut off"):
            read_varint(data, 0, end)  # the rest is there, but not to be looked at
        with pytest.raises(BadInputError, match="a varint is cut off"):
            read_varint(data[:end], 0, end)


def test_nothing_beyond_the_tenth_byte_is_read() -> None:
    assert read_varint(b"\x80" * 9 + b"\x00", 0, 10) == (0, 10)
    for data in (b"\x80" * 10, b"\x80" * 10 + b"\x00", b"\x80" * 1000):
        with pytest.raises(BadInputError, match="a varint is longer than ten bytes"):
            read_varint(data, 0, len(data))


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_delimited_messages_are_split_as_they_were_joined(messages: list[bytes]) -> None:
    assert list(split_delimited(join_delimited(messages))) == messages


def test_a_message_stands_behind_its_length() -> None:
    assert join_delimited([b"", b"abc", b"x" * 200]) == b"\x00\x03abc\xc8\x01" + b"x" * 200


def test_a_stream_cut_off_anywhere_is_refused() -> None:
    messages = [b"abc", b"", b"x" * 200]
    data = join_delimited(messages)
    whole = {len(join_delimited(messages[:count])) for count in range(4)}
    for end in range(len(data) + 1):
        if end in whole:
            assert len(list(split_delimited(data[:end]))) < 4
        else:
            with pytest.raises(BadInputError, match=r"cut off|bytes are left"):
                list(split_delimited(data[:end]))


def test_messages_before_the_broken_one_are_handed_out() -> None:
    stream = split_delimited(join_delimited([b"abc"]) + b"\x05ab")
    assert next(stream) == b"abc"
    with pytest.raises(BadInputError, match="it is 5 bytes long, 2 bytes are left"):
        next(stream)


@pytest.mark.parametrize("length", [4, TIB, 2**64 - 1])
def test_a_length_is_checked_against_what_is_there(length: int) -> None:
    with pytest.raises(BadInputError, match=f"it is {length} bytes long, 3 bytes are left"):
        list(split_delimited(write_varint(length) + b"abc"))
