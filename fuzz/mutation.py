"""Inputs that are made of known ones by chance alone: what there is without atheris."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

#: Numbers at which things change.
_NUMBERS: Final = (0, 1, 2, 7, 8, 9, 10, 13, 31, 32, 127, 128, 129, 191, 192, 253, 254, 255)
_MOST_CHANGES: Final = 4
#: One input in so many has a piece of it many times over: what is not linear shows there.
_REPEATING: Final = 200


class Mutator:
    """A maker of inputs.

    Args:
        inputs: those it begins with, one at least.
        words: pieces to put in.
        longest: how many bytes an input has at the most.
        seed: decides on everything: the same seed makes the same inputs.
    """

    def __init__(
        self, inputs: Sequence[bytes], words: Sequence[bytes], longest: int, seed: int
    ) -> None:
        self._inputs = list(inputs) or [b""]
        self._words = list(words) or [b"\0"]
        self._longest = longest
        self._random = random.Random(seed)
        self._changes: list[Callable[[bytearray, int], None]] = [
            self._flip,
            self._flip,
            self._replace,
            self._number,
            self._add,
            self._insert,
            self._word,
            self._word,
            self._overwrite,
            self._cut,
            self._cut,
            self._copy,
            self._splice,
        ]

    def make(self) -> bytes:
        """Return the next input."""
        chance = self._random.random
        data = bytearray(self._inputs[int(chance() * len(self._inputs))])
        for _ in range(1 + int(chance() * chance() * _MOST_CHANGES)):
            change = self._changes[int(chance() * len(self._changes))]
            change(data, int(chance() * len(data)))
        if self._random.randrange(_REPEATING) == 0:
            self._repeat(data, int(chance() * (len(data) + 1)))
        return bytes(data[: self._longest])

    def _below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def _flip(self, data: bytearray, at: int) -> None:
        if data:
            data[at] ^= 1 << self._below(8)

    def _replace(self, data: bytearray, at: int) -> None:
        if data:
            data[at] = self._below(256)

    def _number(self, data: bytearray, at: int) -> None:
        if data:
            data[at] = _NUMBERS[self._below(len(_NUMBERS))]

    def _add(self, data: bytearray, at: int) -> None:
        if data:
            data[at] = (data[at] + self._below(9) - 4) & 255

    def _insert(self, data: bytearray, at: int) -> None:
        data[at:at] = self._random.randbytes(1 + self._below(4))

    def _word(self, data: bytearray, at: int) -> None:
        data[at:at] = self._words[self._below(len(self._words))]

    def _overwrite(self, data: bytearray, at: int) -> None:
        word = self._words[self._below(len(self._words))]
        data[at : at + len(word)] = word

    def _cut(self, data: bytearray, at: int) -> None:
        chance = self._random.random()
        del data[at : at + 1 + int(chance * chance * chance * (len(data) - at))]

    def _copy(self, data: bytearray, at: int) -> None:
        start = self._below(len(data) + 1)
        data[at:at] = data[start : start + 1 + self._below(32)]

    def _splice(self, data: bytearray, at: int) -> None:
        other = self._inputs[self._below(len(self._inputs))]
        data[at:] = other[self._below(len(other) + 1) :]

    def _repeat(self, data: bytearray, at: int) -> None:
        piece = data[at : at + 1 + self._below(24)] or bytearray(b"\0")
        data[at:at] = piece * (1 + self._below(self._longest // len(piece)))
