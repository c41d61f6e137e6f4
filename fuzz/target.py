"""A decoder with the promises that hold whatever it is fed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: How much processor time an input may take, in seconds: so much, and for each byte so much more.
#: Ordinary inputs take a thousandth of it.
_ANY: Final = 0.1
_EACH_BYTE: Final = 20e-6
#: What takes too long is tried so many times in all: another process may have been in the way.
_TRIES: Final = 3


class SlowError(Exception):
    """An input takes longer than its size allows."""


@dataclass(frozen=True)
class Target:
    """A decoder under test.

    Attributes:
        name: what it is called, and the folder of its corpus.
        run: feeds it an input; raises if a promise is broken, whatever that raises.
        seeds: inputs that it understands, from which others are made.
        words: pieces that its inputs are made of.
        longest: how many bytes inputs have at the most.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 8 * 1024

    def check(self, data: bytes, patience: float = 1.0) -> None:
        """Feed it an input.

        Args:
            data: the input.
            patience: how many times longer it may take, where code is watched while it runs.

        Raises:
            SlowError: it took too long.
            BaseException: a promise is broken.
        """
        allowed = patience * (_ANY + _EACH_BYTE * len(data))
        if self._timed(data) <= allowed:
            return
        spent = min(self._timed(data) for _ in range(_TRIES - 1))
        if spent > allowed:
            raise SlowError(f"{len(data)} bytes took {spent:.2f} s, {allowed:.2f} s are allowed")

    def _timed(self, data: bytes) -> float:
        began = time.thread_time()
        self.run(data)
        return time.thread_time() - began


def head_and_rest(data: bytes) -> tuple[int, bytes]:
    """Return the first byte, which chooses how a target is set up, and the rest."""
    return (data[0], data[1:]) if data else (0, b"")
