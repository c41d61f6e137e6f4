"""The files that flags name: as they are on disk, or as another process has read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from errno import ENOENT
from pathlib import Path
from typing import TypeAlias

#: Contents of files by their paths.
Contents: TypeAlias = dict[str, bytes]
#: What tells one state of some files from another.
Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


def _from_disk(path: str) -> bytes:
    if not path:  # which would be the working directory
        raise OSError(ENOENT, os.strerror(ENOENT), path)
    return Path(path).read_bytes()


_reader: ContextVar[Callable[[str], bytes]] = ContextVar("reader", default=_from_disk)


def read(path: str) -> bytes:
    """Return a file's content; raises OSError, or ValueError if no file can have such a path."""
    return _reader.get()(path)


def signature(paths: Iterable[str]) -> Signature:
    """Return the state of some files on disk; those that are not there are left out.

    Their permissions are a part of it: a file that could not be read is worth another look then.
    """
    found = []
    for path in paths:
        with suppress(OSError):
            state = os.stat(path)  # noqa: PTH116 - follows links, as Kubernetes' volumes need
            times = state.st_mtime_ns, state.st_ctime_ns
            found.append((path, state.st_ino, state.st_size, *times))
    return tuple(found)


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
def reading_from(contents: Mapping[str, bytes], anew: Collection[str] = ()) -> Iterator[None]:
    """While this lasts there are these files and no others.

    Args:
        contents: what they hold.
        anew: paths that are read from the disk all the same.
    """

    def read_kept(path: str) -> bytes:
        if path in anew:
            return _from_disk(path)
        if path not in contents:
            raise OSError(ENOENT, os.strerror(ENOENT), path)
        return contents[path]

    before = _reader.set(read_kept)
    try:
        yield
    finally:
        _reader.reset(before)
