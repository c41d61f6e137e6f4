"""The files that flags name: as they are on disk, or as another process has read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from errno import ENOENT
from os import strerror
from pathlib import Path
from typing import TypeAlias

#: Contents of files by their paths.
Contents: TypeAlias = dict[str, bytes]


def _from_disk(path: str) -> bytes:
    return Path(path).read_bytes()


_reader: ContextVar[Callable[[str], bytes]] = ContextVar("reader", default=_from_disk)


def read(path: str) -> bytes:
    """The content of a file; raises OSError, or ValueError if no file can have such a path."""
    return _reader.get()(path)


@contextmanager
def recording() -> Iterator[Contents]:
    """While this lasts, what is read is kept in the result too."""
    contents: Contents = {}
    reader = _reader.get()

    def read_and_keep(path: str) -> bytes:
        contents[path] = reader(path)
        return contents[path]

    before = _reader.set(read_and_keep)
    try:
        yield contents
    finally:
        _reader.reset(before)


@contextmanager
def reading_from(contents: Mapping[str, bytes]) -> Iterator[None]:
    """While this lasts there are these files and no others."""

    def read_kept(path: str) -> bytes:
        if path not in contents:
            raise OSError(ENOENT, strerror(ENOENT), path)
        return contents[path]

    before = _reader.set(read_kept)
    try:
        yield
    finally:
        _reader.reset(before)
