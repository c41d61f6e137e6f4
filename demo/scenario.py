"""What the plain and the secure demo have in common: what is sent, and what is told about it."""

from __future__ import annotations

import shlex
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from demo.programs import Series
    from demo.stack import Program

CLUSTER = "demo-cluster"
TOKEN = "demo-token"
SALT = "demo-salt"
INTERVAL = "5s"

MATCHES = [
    '{__name__=~"up|ALERTS|prometheus_build_info"}',
    '{__name__="prometheus_tsdb_head_series"}',
    '{__name__="go_goroutines"}',
    '{__name__=~"node_load.*|node_memory_.*"}',
]
# Not go_goroutines, nor all of node_load: what the whitelist does not name stays out.
WHITELIST = [
    '{__name__=~"up|alerts|prometheus_build_info"}',
    '{__name__="prometheus_tsdb_head_series"}',
    '{__name__=~"node_load1|node_memory_MemAvailable_bytes"}',
]


def repeated(flag: str, values: Sequence[str]) -> list[str]:
    """Return the flag once for each value."""
    return [word for value in values for word in (flag, value)]


SERVER_FLAGS = [
    *("--elide-label", "_elide"),
    *("--ratelimit", "0"),  # The agent's interval is short here, the default limit 4m30s.
    *repeated("--whitelist", WHITELIST),
    *("--log-level", "debug"),
]
AGENT_FLAGS = [
    *("--id", CLUSTER),
    *("--interval", INTERVAL),
    *repeated("--match", MATCHES),
    *("--rename", "ALERTS=alerts"),
    *("--anonymize-labels", "instance"),
]


def graph_url(program: Program, **parameters: str) -> str:
    """Return the address of a Prometheus' page that shows graphs."""
    query = urllib.parse.urlencode({f"g0.{name}": text for name, text in parameters.items()})
    return f"{program.url}/graph?{query}".rstrip("?")


@dataclass
class Reporter:
    """Tells on stdout what happens, with the seconds since the start."""

    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds since the demo started."""
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """Print one line now."""
        print(f"[{self.seconds():5.1f}s] {text}", flush=True)

    def more(self, *lines: str) -> None:
        """Print lines that belong to what was said last."""
        print("\n".join(f"{'':9}{line}".rstrip() for line in lines), flush=True)

    def started_program(self, program: Program, what: str) -> None:
        """Tell which program runs where."""
        self.say(f"{what:<40} {program.url:<24} {program.log}")

    def command_line(self, program: Program) -> None:
        """Show how a program was started, fit to be copied; it runs in its log's folder."""
        self.more(*_shell_lines(program.argv, program.log.parent), "")


@dataclass
class Parts:
    """The running programs that the rest of the demo talks to.

    Attributes:
        source, agent, upload_server: the programs.
        look: finds the series at the destination that a selector selects.
        views: what is worth a look once it works, and how to look at it.
        checks: what must be so besides, once everything has arrived: each returns it in words, or
            raises StackError.
    """

    source: Program
    agent: Program
    upload_server: Program
    look: Callable[[str], Sequence[Series]]
    views: dict[str, str]
    checks: Sequence[Callable[[], str]] = ()


def _shell_lines(argv: Sequence[str], folder: Path) -> list[str]:
    """Return a command line with a line for each flag, and with paths in the folder shortened."""
    lines = [argv[0].removeprefix(f"{Path(sys.executable).parent}/")]
    for word in argv[1:]:
        shown = shlex.quote(word.replace(f"{folder}/", ""))
        if word.startswith("--") and word != "--pidfile=":
            lines.append(f"    {shown}")
        else:
            lines[-1] += f" {shown}"
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
