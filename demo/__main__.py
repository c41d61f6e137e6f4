"""The main job, live, on real input: `python -m demo` or `make demo`.

    source Prometheus --> agent --> two servers --> destination Prometheus

Where there is no Prometheus (or with `--source builtin`), the source is a daemon of ours that shows
figures of this machine, and the second server keeps what arrives in memory.

The agent asks the first server for its token and uploads to the second, which accepts the token
because both share one key. With `--once` (`make demo ONCE=1`) the demo ends as soon as the
destination has everything that it should have, and fails when it has not after a minute. With
`--tls` (`make demo TLS=1`) every hop is encrypted, and everybody shows who it is.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from demo import builtin, issuer, plain, secure
from demo.programs import anonymized
from demo.scenario import CLUSTER, SALT, Parts, Reporter
from demo.stack import LogFollower, Program, Stack, StackError, parse_logfmt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.2


def expectations(source: Program) -> dict[str, str]:
    """Return what the destination must have: queries that must find something, and their claims."""
    instance = urllib.parse.urlsplit(source.url).netloc
    hidden = anonymized(SALT, instance)
    mine = f'_id="{CLUSTER}"'
    return {
        f"up{{{mine}}}": "series of the agent arrive, with its cluster id",
        f'up{{{mine}, instance="{hidden}"}}': f"instance {instance} is anonymized",
        f"alerts{{{mine}}}": "ALERTS is renamed to alerts",
        f'alerts{{{mine}, _elide=""}}': "the label _elide is removed",
    }


@dataclass
class Watch:
    """Follows the agent's cycles and what becomes visible at the destination."""

    stack: Stack
    report: Reporter
    parts: Parts
    missing: dict[str, str]
    agent_log: LogFollower
    uploads: int = 0

    def look(self) -> None:
        """Report what is new since the last look; raise StackError if a program ended."""
        self.stack.check()
        for line in self.agent_log.new_lines():
            self._agent_said(parse_logfmt(line))
        for expression, claim in list(self.missing.items()):
            found = self.parts.look(expression)
            if found:
                del self.missing[expression]
                self.report.say(f"destination: {claim}")
                self.report.more(str(found[0]))

    def _agent_said(self, fields: dict[str, str]) -> None:
        if fields.get("msg") == "metrics uploaded":
            self.uploads += 1
            self.report.say(
                f"agent: cycle {self.uploads}: uploaded {fields.get('samples')} samples in "
                f"{fields.get('families')} families, {fields.get('bytes')} bytes; "
                f"filtered {fields.get('filtered')}"
            )
        elif fields.get("msg") == "cycle failed":
            self.report.say(f"agent: cycle failed: {fields.get('stage')}: {fields.get('reason')}")

    def failure(self) -> StackError:
        """Say what is missing, and show the log of the part that most likely is to blame."""
        guilty = self.parts.upload_server if self.uploads else self.parts.agent
        wanted = "\n".join(f"  {claim}: {query}" for query, claim in self.missing.items())
        return StackError(
            f"after {DEADLINE_SECONDS:.0f} s the destination has nothing for:\n{wanted}\n"
            f"{guilty.tail()}"
        )


def run(
    stack: Stack, report: Reporter, start_all: Callable[[Stack, Reporter], Parts], *, once: bool
) -> None:
    """Show the whole path; return only with `once`, as soon as everything has arrived.

    Raises:
        StackError: something did not arrive in time, or a program ended.
    """
    parts = start_all(stack, report)
    deadline = report.seconds() + DEADLINE_SECONDS
    agent_log = LogFollower(parts.agent.log)
    watch = Watch(stack, report, parts, expectations(parts.source), agent_log)
    while watch.missing:
        if report.seconds() > deadline:
            raise watch.failure()
        watch.look()
        time.sleep(LOOK_SECONDS)
    for check in parts.checks:
        report.say(check())
    if once:
        report.say("everything has arrived")
        return
    report.say("it works; now look around:")
    report.more(*(f"{what:<18}{where}" for what, where in parts.views.items()))
    report.say("runs until Ctrl-C")
    while True:
        watch.look()
        time.sleep(LOOK_SECONDS)


def stop_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end the demo in good order; a second one changes nothing."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, interrupt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="end as soon as everything arrived")
    parser.add_argument("--tls", action="store_true", help="encrypt and authenticate every hop")
    parser.add_argument(
        "--source",
        choices=("prometheus", "builtin"),
        help="what to collect from (default: a Prometheus if there is one, else our own)",
    )
    given = parser.parse_args(arguments)
    once: bool = given.once
    start_all = builtin.start_all
    needed = {}
    if given.tls:
        start_all = secure.start_all
        needed = {"prometheus": "prometheus", "node": "nodejs"}
        if not issuer.is_installed():
            needed["npm"] = "npm"
    elif given.source == "prometheus" or (given.source is None and shutil.which("prometheus")):
        start_all = plain.start_all
        needed = {"prometheus": "prometheus"}
    if given.tls and given.source == "builtin":
        parser.error("--tls needs a Prometheus: --source builtin cannot go with it")
    missing = [package for command, package in needed.items() if shutil.which(command) is None]
    if missing:
        print(f"the demo needs more: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    stop_on_signals()
    report = Reporter()
    stack = Stack("telemeter-demo-")
    try:
        with stack:
            run(stack, report, start_all, once=once)
    except KeyboardInterrupt:
        report.say("stopped")
        return 130 if once else 0
    except (StackError, OSError) as error:
        print(f"the demo failed: {error}\nkept for a look: {stack.folder}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
