"""One target, fed with inputs that are made by chance: `python -m fuzz.blind TARGET`.

It runs as a process of its own: what it feeds the target with is in a file that outlives it, so an
input that ends the process is known as well.
"""

from __future__ import annotations

import argparse
import mmap
import resource
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzz import corpus, quiet
from fuzz.mutation import Mutator
from fuzz.target import Target
from fuzz.targets import TARGETS

#: In front of the input: how many there were before it, and how long it is.
_HEAD: Final = struct.Struct("<QQ")
#: How much more memory a run may take than it had at its start, in MB: so nothing is left behind.
_MOST_MEMORY: Final = 400
_LOOKING: Final = 5000
_TRACE_LINES: Final = 30


class LeakError(Exception):
    """A target keeps something of each input."""


class Slate:
    """The file with what is being tried."""

    def __init__(self, path: Path, longest: int) -> None:
        with path.open("w+b") as file:
            file.truncate(_HEAD.size + longest)
            self._map = mmap.mmap(file.fileno(), 0)

    def write(self, number: int, data: bytes) -> None:
        """Write down an input before it is tried."""
        _HEAD.pack_into(self._map, 0, number, len(data))
        self._map[_HEAD.size : _HEAD.size + len(data)] = data

    @staticmethod
    def read(path: Path) -> tuple[int, bytes]:
        """Return how many inputs there were, and what was tried last."""
        held = path.read_bytes()
        if len(held) < _HEAD.size:
            return 0, b""
        number, size = _HEAD.unpack_from(held)
        return number, held[_HEAD.size : _HEAD.size + size]


def feed(
    target: Target, runs: int, seconds: float, seed: int, slate: Slate, patience: float
) -> int:
    """Feed a target.

    Args:
        target: what is tried.
        runs: how many inputs there are; 0: as many as there is time for.
        seconds: for how long, unless that is 0.
        seed: what the inputs depend on.
        slate: knows what is being tried.
        patience: see `Target.check`.

    Returns:
        How many inputs there were.

    Raises:
        BaseException: a promise is broken.
    """
    known = [*target.seeds(), *corpus.kept(target.name)]
    mutator = Mutator(known, target.words, target.longest, seed)
    end = time.monotonic() + seconds if seconds else float("inf")
    before = _memory()
    number = 0
    while number < (runs or sys.maxsize):
        data = known[number] if number < len(known) else mutator.make()
        slate.write(number, data)
        target.check(data, patience)
        number += 1
        if number % 64 == 0 and time.monotonic() > end:
            break
        if number % _LOOKING == 0 and _memory() > before + _MOST_MEMORY:
            raise LeakError(f"{_memory() - before:.0f} MB more after {number} inputs")
    slate.write(number, b"")
    return number


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Feed a target; return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="fuzz.blind", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slate", type=Path, required=True)
    parser.add_argument("--patience", type=float, default=1.0)
    given = parser.parse_args(arguments)
    quiet.begin()
    target = TARGETS[given.target]
    slate = Slate(given.slate, target.longest)
    try:
        feed(target, given.runs, given.seconds, given.seed, slate, given.patience)
    except BaseException as error:
        traceback.print_exception(error, limit=-_TRACE_LINES)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
