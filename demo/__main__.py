"""The main job, live, on real input: `python -m demo` or `make demo`.

    source Prometheus --> agent --> two servers --> destination Prometheus

The agent asks the first server for its token and uploads to the second, which accepts the token
because both share one key. With `--once` (`make demo ONCE=1`) the demo ends as soon as the
destination has everything that it should have, and fails when it has not after a minute.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from demo.keys import signing_key
from demo.programs import (
    anonymized,
    query,
    start_agent,
    start_authorizer,
    start_destination,
    start_server,
    start_source,
    wait_for_samples,
)
from demo.stack import LogFollower, Program, Stack, StackError, parse_logfmt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

CLUSTER = "demo-cluster"
TOKEN = "demo-token"
SALT = "demo-salt"
INTERVAL = "5s"
DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.2

MATCHES = [
    '{__name__=~"up|ALERTS|prometheus_build_info"}',
    '{__name__="prometheus_tsdb_head_series"}',
    '{__name__="go_goroutines"}',
]
# Not go_goroutines: what the whitelist does not name stays out.
WHITELIST = [
    '{__name__=~"up|alerts|prometheus_build_info"}',
    '{__name__="prometheus_tsdb_head_series"}',
]


def repeated(flag: str, values: Sequence[str]) -> list[str]:
    """Return the flag once for each value."""
    return [word for value in values for word in (flag, value)]


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

    def started_program(self, program: Program, what: str) -> None:
        """Tell which program runs where."""
        self.say(f"{what:<40} {program.url:<24} {program.log}")


@dataclass
class Parts:
    """The running programs that the rest of the demo talks to."""

    source: Program
    agent: Program
    upload_server: Program
    destination: Program


def start_all(stack: Stack, report: Reporter) -> Parts:
    """Start every program of the demo, in the order in which they need one another."""
    source = start_source(stack)
    report.started_program(source, "source Prometheus")
    destination = start_destination(stack)
    report.started_program(destination, "destination Prometheus")
    authorizer = start_authorizer(stack, TOKEN)
    report.started_program(authorizer, "authorization server (stub)")

    server_flags = [
        *("--authorize", f"{authorizer.url}/"),
        *("--shared-key", str(stack.write("shared.key", signing_key()))),
        *("--forward-url", f"{destination.url}/api/v1/write"),
        *("--elide-label", "_elide"),
        *("--ratelimit", "0"),  # The agent's interval is short here, the default limit 4m30s.
        *repeated("--whitelist", WHITELIST),
        *("--log-level", "debug"),
    ]
    first = start_server(stack, "server-1", *server_flags)
    report.started_program(first.program, "telemeter-server 1 (issues the token)")
    second = start_server(stack, "server-2", *server_flags)
    report.started_program(second.program, "telemeter-server 2 (takes the uploads)")

    wait_for_samples(stack, source)
    report.say("the source has samples, and its alert fires")
    agent = start_agent(
        stack,
        "agent",
        *("--from", source.url),
        *("--id", CLUSTER),
        *("--to-auth", f"{first.url}/authorize?id={CLUSTER}"),
        *("--to-upload", f"{second.url}/upload"),
        *("--to-token", TOKEN),
        *("--interval", INTERVAL),
        *repeated("--match", MATCHES),
        *("--rename", "ALERTS=alerts"),
        *("--anonymize-labels", "instance"),
        *("--anonymize-salt", SALT),
    )
    report.started_program(agent, f"telemeter-client (every {INTERVAL})")
    return Parts(source, agent, second.program, destination)


def expectations(source: Program) -> dict[str, str]:
    """Return what the destination must have: queries that must find something, and their claims."""
    instance = source.url.removeprefix("http://")
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
            found = query(self.parts.destination.url, expression)
            if found:
                del self.missing[expression]
                self.report.say(f"destination: {claim}\n{'':9}{found[0]}")

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


def say_where_to_look(report: Reporter, parts: Parts) -> None:
    """Print the addresses worth opening in a browser."""
    graph = urllib.parse.urlencode(
        {"g0.expr": f'{{_id="{CLUSTER}"}}', "g0.tab": "0", "g0.range_input": "5m"}
    )
    report.say("it works; now look around:")
    print(f"{'':9}what arrived:     {parts.destination.url}/graph?{graph}")
    print(f"{'':9}what was sent:    {parts.agent.url}/federate")
    print(f"{'':9}where it is from: {parts.source.url}/graph", flush=True)


def run(stack: Stack, report: Reporter, *, once: bool) -> None:
    """Show the whole path; return only with `once`, as soon as everything has arrived.

    Raises:
        StackError: something did not arrive in time, or a program ended.
    """
    parts = start_all(stack, report)
    agent_log = LogFollower(parts.agent.log)
    watch = Watch(stack, report, parts, expectations(parts.source), agent_log)
    while watch.missing:
        if report.seconds() > DEADLINE_SECONDS:
            raise watch.failure()
        watch.look()
        time.sleep(LOOK_SECONDS)
    if once:
        report.say("everything has arrived")
        return
    say_where_to_look(report, parts)
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
    once: bool = parser.parse_args(arguments).once
    if shutil.which("prometheus") is None:
        print("the demo needs Prometheus: apt-get install prometheus", file=sys.stderr)
        return 2
    stop_on_signals()
    report = Reporter()
    stack = Stack("telemeter-demo-")
    try:
        with stack:
            run(stack, report, once=once)
    except KeyboardInterrupt:
        report.say("stopped")
        return 130 if once else 0
    except (StackError, OSError) as error:
        print(f"the demo failed: {error}\nkept for a look: {stack.folder}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
