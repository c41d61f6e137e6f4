"""The hash that stands for an account."""

from __future__ import annotations

import pytest

from telemeter.auth.fnv import fnv1a_base32

# From the test vectors that the authors of the hash publish (test_fnv.c, fnv1a_64).
VECTORS = {
    "": 0xCBF29CE484222325,
    "a": 0xAF63DC4C8601EC8C,
    "b": 0xAF63DF4C8601F1A5,
    "c": 0xAF63DE4C8601EFF2,
    "d": 0xAF63D94C8601E773,
    "e": 0xAF63D84C8601E5C0,
    "f": 0xAF63DB4C8601EAD9,
    "fo": 0x08985907B541D342,
    "foo": 0xDCB27518FED9D577,
    "foob": 0xDD120E790C2512AF,
    "fooba": 0xCAC165AFA2FEF40A,
    "foobar": 0x85944171F73967E8,
}


@pytest.mark.parametrize("text", VECTORS)
def test_the_published_vectors(text: str) -> None:
    digits = fnv1a_base32(text)
    assert set(digits) <= set("0123456789abcdefghijklmnopqrstuv")
    assert not digits.startswith("0")
    assert int(digits, 32) == VECTORS[text]


def test_text_is_hashed_as_utf_8() -> None:
    # The two bytes of U+00FC, by hand.
    expected = 0xCBF29CE484222325
    for byte in b"\xc3\xbc":
        expected = (expected ^ byte) * 0x100000001B3 % 2**64
    assert int(fnv1a_base32("\u00fc"), 32) == expected
