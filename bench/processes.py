"""What processes cost, as /proc tells: processor time and memory of a program and its children."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_KILOBYTE = 1024


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment.

    Attributes:
        pid, parent, session: its own number, its parent's, and its session's.
        seconds: the processor time of it, and of its children that have ended and were waited for.
    """

    pid: int
    parent: int
    session: int
    seconds: float


def parse_stat(text: str) -> Process:
    """Read a /proc/PID/stat, whose second field is a name in parentheses that may hold any."""
    pid = int(text.split(" ", 1)[0])
    # From the third field on, as proc(5) counts them.
    fields = text[text.rindex(")") + 2 :].split()
    ticks = sum(int(fields[number - 3]) for number in (14, 15, 16, 17))
    return Process(pid, int(fields[4 - 3]), int(fields[6 - 3]), ticks / _TICKS_PER_SECOND)


def parse_peak(status: str) -> int:
    """Read the most bytes of memory that a process has had from its /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KILOBYTE
    return 0  # it has ended


def parse_busy(stat: str) -> float:
    """Read the processor seconds of the whole machine, all kinds but idle, from /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, stat.split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


def all_processes() -> dict[int, Process]:
    """Return the processes of this machine, by their numbers."""
    found = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                process = parse_stat((folder / "stat").read_text())
            except (OSError, ValueError):
                continue  # it has just ended
            found[process.pid] = process
    return found


def tree(root: int, processes: Mapping[int, Process]) -> list[Process]:
    """Return a process, its descendants, and what else is in the session that it leads."""
    found = {root} | {process.pid for process in processes.values() if process.session == root}
    grows = True
    while grows:
        children = {process.pid for process in processes.values() if process.parent in found}
        grows = not children <= found
        found |= children
    return [processes[pid] for pid in found if pid in processes]


def cpu_seconds(root: int) -> float:
    """Return the processor time that a process and its descendants have used so far."""
    return sum(process.seconds for process in tree(root, all_processes()))


def peak_bytes(root: int) -> int:
    """Return the most memory that a process and its descendants had, each at its worst moment."""
    total = 0
    for process in tree(root, all_processes()):
        try:
            total += parse_peak((_PROC / str(process.pid) / "status").read_text())
        except OSError:
            continue  # it has just ended
    return total


class Others:
    """Measures how busy other programs keep the machine."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._own = _machine_and_own()

    def processors(self) -> float:
        """Return how many processors others have kept busy on average since the beginning."""
        busy, own = _machine_and_own()
        others = (busy - self._busy) - (own - self._own)
        return max(0.0, others / (time.monotonic() - self._began))


def _machine_and_own() -> tuple[float, float]:
    busy = parse_busy((_PROC / "stat").read_text())
    return busy, cpu_seconds(os.getpid())


@dataclass(frozen=True, slots=True)
class Machine:
    """What the measurements were made on.

    Attributes:
        cpu: the processor's model.
        processors: how many of them this process may use.
        python: the version of Python.
    """

    cpu: str
    processors: int
    python: str


def parse_cpu_model(cpuinfo: str) -> str:
    """Read the processor's model from /proc/cpuinfo; some architectures do not tell."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return os.uname().machine
