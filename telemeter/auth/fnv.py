"""The 64-bit FNV-1a hash, which stands for an account where no authorization server names one.

Source: http://www.isthe.com/chongo/tech/comp/fnv/
"""

from __future__ import annotations

_OFFSET_BASIS = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_DIGITS = "0123456789abcdefghijklmnopqrstuv"


def fnv1a_base32(text: str) -> str:
    """Return the hash of a text as a base-32 number (digits 0-9a-v)."""
    number = _OFFSET_BASIS
    for byte in text.encode():
        number = (number ^ byte) * _PRIME & 0xFFFFFFFFFFFFFFFF
    digits = ""
    while number:
        number, digit = divmod(number, 32)
        digits = _DIGITS[digit] + digits
    return digits or "0"
