"""Names of Twisted with an underscore that the start of a daemon depends on.

Each is tested, so that a Twisted without one of them is noticed. Those that HTTP depends on are in
`telemeter.net` and `telemeter.web`, and tested there.
"""

from __future__ import annotations

import os
import sys
from traceback import format_exception_only
from typing import Any, Final

#: As much as a pipe takes at once, and so gives back at once (PIPE_BUF).
_PIPE_BYTES: Final = 4096


def say_in_words_why_nothing_started() -> None:
    """Have twistd in the background print why a daemon cannot start as text, and whole.

    It waits for its child, which tells it through a pipe. By itself it prints the first 100 bytes
    of that as Python writes bytes: `b"..."`.
    """
    from twisted.scripts._twistd_unix import UnixApplicationRunner

    runner: Any = UnixApplicationRunner
    runner._formatChildException = _format_exception
    runner._waitForStart = _wait_for_start


def _format_exception(runner: Any, exception: BaseException) -> bytes:
    """Return what the child tells: the reason, behind a byte that is not that of a success."""
    reason = str(exception)
    if not isinstance(exception, SystemExit):
        reason = format_exception_only(exception)[-1].strip()
    return f"1 {reason}".encode("utf-8", "backslashreplace")[:_PIPE_BYTES]


def _wait_for_start(runner: Any, pipe: int) -> int:
    """Wait for the child to tell how it went; return the exit status."""
    told = os.read(pipe, _PIPE_BYTES)
    if told == b"0":
        return 0
    print(told[2:].decode("utf-8", "replace"), file=sys.__stderr__, flush=True)
    return 1
