"""twistd's file with the number of its process, which may be in the way of a start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.logger import Logger

log = Logger()


def settle_pid_file(runner: Any) -> None:
    """Have twistd keep a file only where it is of use, and remove one that is left over.

    In the foreground, whoever started a daemon knows its process. twistd keeps a file all the same,
    and does not start where there is one that names any living process: in a container that is the
    daemon itself, number 1 again. So there is a file only if the user named one.

    Args:
        runner: twistd's options; `twist` has no such file.
    """
    if "pidfile" not in runner:
        return
    # The very object: who asks for a file of that name gets it.
    is_default = runner["pidfile"] is runner.defaults["pidfile"]
    if is_default and (runner["nodaemon"] or runner["debug"]):
        runner["pidfile"] = ""
    elif runner["pidfile"]:
        _remove_stale(Path(runner["pidfile"]))


def _remove_stale(path: Path) -> None:
    try:
        reason = _why_stale(path.read_bytes())
        if reason:
            path.unlink()
            log.warn("a stale pid file is removed", path=str(path), reason=reason)
    except OSError:
        return  # twistd says what it thinks of it


def _why_stale(content: bytes) -> str:
    """Return why what is in the file is about no daemon that runs; empty: it may be.

    Anything but a number stays for twistd to refuse: it may be another file altogether.
    """
    text = content.strip(b"\0 \r\n")
    if not text:
        return "it is empty"
    if not text.isdigit() or len(text) > 10:
        return ""
    number = int(text)
    if number == os.getpid():
        return "it names this process"
    process = Path("/proc") / str(number)
    try:
        if not (command := (process / "cmdline").read_bytes()):
            # A part of the kernel, one that has ended, or one that is being started.
            return "" if _has_program(process) else f"process {number} is no program"
    except OSError:
        return ""  # there is none, or it cannot be looked at: twistd knows what to do then
    return "" if b"twistd" in command else f"process {number} is another program"


def _has_program(process: Path) -> bool:
    try:
        (process / "exe").readlink()
    except FileNotFoundError:
        return False
    return True
