"""A wall clock that a test sets, for programs that it starts: Debian's faketime.

It stands between a program and the C library. The monotonic clock stays as it is, as when somebody
sets the clock of a machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARED_MEMORY = Path("/dev/shm")


def _library() -> Path:
    """Return where Debian has the library: in a folder for the machine's architecture."""
    found = itertools.chain.from_iterable(
        Path(folder).glob("**/faketime/libfaketimeMT.so.1") for folder in ("/usr/lib", "/usr/lib64")
    )
    return next(found)


@dataclass(frozen=True)
class FakeTime:
    """The wall clock of some programs.

    Attributes:
        path: a file that says how far it is ahead of the machine's.
    """

    path: Path

    def __post_init__(self) -> None:
        self.set(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs need in their environment to go by it."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # What files say of themselves stays true.
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead: int) -> None:
        """Set it to so many seconds after the machine's, or before."""
        new = self.path.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        new.rename(self.path)  # never is the file empty


def clean_up() -> None:
    """Remove what faketime leaves behind of programs that have ended."""
    for path in _SHARED_MEMORY.glob("*faketime_*"):
        number = re.fullmatch(r"(?:sem\.)?faketime_(?:shm|sem)_(\d+)", path.name)
        if number is not None and not _exists(int(number[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
