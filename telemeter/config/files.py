"""The files that flags name: as they are on disk, or as they were read before or elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from errno import EISDIR, ENOENT
from typing import Final, TypeAlias

#: The largest file that is read, in bytes.
MAX_BYTES: Final = 16 << 20

#: Contents of files by their paths.
Contents: TypeAlias = dict[str, bytes]
#: What reading files came to, by their paths: their contents, or why they cannot be read.
Readings: TypeAlias = Mapping[str, bytes | OSError | ValueError]
#: What tells one state of some files from another.
Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


#: What is no regular file: others may have no end, or let a reader wait for ever.
_KINDS: Final = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def from_disk(path: str) -> bytes:
    """Return a regular file's content as it is on disk now; raises as `read` does."""
    if not path:  # which would be the working directory
        raise OSError(ENOENT, os.strerror(ENOENT), path)
    # To open a device may do something. What else comes in between is opened without a wait.
    _require_regular(os.stat(path).st_mode, path)  # noqa: PTH116 - follows links
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        _require_regular(state.st_mode, path)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            size = max(len(content), state.st_size)
            raise ValueError(f"it has {size} bytes or more, and may have {MAX_BYTES}")
        return content
    finally:
        os.close(descriptor)


def _require_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise OSError(EISDIR, os.strerror(EISDIR), path)
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(f"it is {kind}, and no regular file")


_reader: ContextVar[Callable[[str], bytes]] = ContextVar("reader", default=from_disk)


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
def reading_from(readings: Readings) -> Iterator[None]:
    """While this lasts there are these files and no others."""

    def read_kept(path: str) -> bytes:
        found = readings.get(path)
        if found is None:
            raise OSError(ENOENT, os.strerror(ENOENT), path)
        if isinstance(found, bytes):
            return found
        raise found

    before = _reader.set(read_kept)
    try:
        yield
    finally:
        _reader.reset(before)
