"""A log file that others may move away or cut short while it is written."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from threading import RLock
from typing import Final

from twisted.logger import Logger

# Every line goes to the end of the file, wherever that is by then: after logrotate's `copytruncate`
# has cut it short, the next line is at its beginning, and not behind a hole.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC

log = Logger()


def open_anew(descriptor: int, path: str) -> None:
    """Have a descriptor lead to the file that a path names now, which is made if there is none.

    A new file has the permissions of the one before.

    Raises:
        OSError: it cannot be opened; the descriptor leads where it did.
    """
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        new = os.open(path, _FLAGS | os.O_EXCL, mode)
    except FileExistsError:
        new = os.open(path, _FLAGS)
    else:
        os.fchmod(new, mode)  # whatever the umask is
    try:
        os.dup2(new, descriptor, inheritable=False)
    finally:
        os.close(new)


class LogFile:
    """A stream of text to the end of a file.

    What cannot be written is counted, and told as soon as something can be written again: a full
    disk ends no daemon.

    Attributes:
        path: the file, from the root.
    """

    def __init__(self, path: str, rotate_bytes: int = 0, keep: int = 1) -> None:
        """Open it, or make it.

        Args:
            path: the file.
            rotate_bytes: before it has more, it becomes PATH.1, and a new one begins; 0: never.
            keep: how many such old files there are at most.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = os.path.abspath(path)  # noqa: PTH100 - the folder may change, a link may lead elsewhere later
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._may_rotate = True
        self._lost = 0
        self._is_torn = False
        self._lock = RLock()
        self._descriptor = os.open(self.path, _FLAGS, 0o666)

    def write(self, text: str) -> None:
        """Write whole lines."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                self._rotate_before(len(data))
                self._put(b"\n" + data if self._is_torn else data)
            except OSError:
                self._lost += 1
                return
            lost, self._lost = self._lost, 0
        if lost:
            log.warn("the log file could not be written, lines are lost", lines=lost)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            view = view[written:]
            self._is_torn = bool(view)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def open_anew(self) -> None:
        """Go on in the file that has the path now; raises OSError, and then goes on as before."""
        with self._lock:
            open_anew(self._descriptor, self.path)
            self._may_rotate = True
            self._is_torn = False

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def _rotate_before(self, size: int) -> None:
        """Rotate if so many bytes more are too many."""
        if not self._rotate_bytes or not self._may_rotate:
            return
        present = os.fstat(self._descriptor).st_size
        if not present or present + size <= self._rotate_bytes:
            return
        try:
            self._rotate()
        except OSError as error:
            self._may_rotate = False
            log.error(
                "the log file cannot be rotated, and grows until it is opened anew",
                path=self.path,
                reason=error.strerror,
            )

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            newer = f"{self.path}.{number - 1}" if number > 1 else self.path
            with suppress(FileNotFoundError):
                os.replace(newer, f"{self.path}.{number}")  # noqa: PTH105
        open_anew(self._descriptor, self.path)
        self._is_torn = False
        number = self._keep + 1  # there are more if fewer are kept than before
        with suppress(FileNotFoundError):
            while True:
                os.unlink(f"{self.path}.{number}")  # noqa: PTH108
                number += 1
