"""The kept inputs of each target, one a file, named by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: What is kept for good: inputs that differ in what they reach, as few as can be, ...
KEPT: Final = Path(__file__).parent / "corpus"
#: ... and those that once broke a promise.
FAULTS: Final = Path(__file__).parent / "faults"
#: What runs leave: new inputs, and in `found` those that break a promise. Git does not know it.
WORK: Final = Path(__file__).parents[1] / ".fuzz"
FOUND: Final = WORK / "found"


def name_of(data: bytes) -> str:
    """Return the name of an input."""
    return hashlib.sha256(data).hexdigest()[:16]


def folders(target: str) -> tuple[Path, Path]:
    """Return the folders of what is kept for a target; either may not be there."""
    return KEPT / target, FAULTS / target


def kept(target: str) -> list[bytes]:
    """Return what is kept for a target."""
    return [data for folder in folders(target) for data in read(folder)]


def read(folder: Path) -> list[bytes]:
    """Return the inputs in a folder, the shortest first; none, if there is no such folder."""
    if not folder.is_dir():
        return []
    inputs = {path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return sorted(inputs, key=lambda data: (len(data), data))


def write(folder: Path, inputs: Iterable[bytes]) -> None:
    """Write inputs into a folder, besides those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / name_of(data)).write_bytes(data)


def keep_found(target: str, data: bytes) -> Path:
    """Write down an input that breaks a promise; return where it is."""
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{target}-{name_of(data)}"
    path.write_bytes(data)
    return path
