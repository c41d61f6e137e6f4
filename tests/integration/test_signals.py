"""Signals to the running programs: what stops them, what does not, and what they say."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.programs import Server, start_server, twistd
from demo.stack import HOST, POLL_SECONDS, READY, Program, Ready, Stack, fetch, parse_logfmt

from .crew import alive
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .upstream import Upstream

CLUSTER = "signals"
TELLING = (signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Kind:
    """A program, as it is started for these tests."""

    plugin: str
    flags: str
    ready: Ready = READY

    def __str__(self) -> str:
        return " ".join([self.plugin, *(["--workers"] if "--workers" in self.flags else [])])


SERVER = Kind("telemeter-server", "--listen 127.0.0.1:0 --listen-internal {listen}")
CREW = Kind("telemeter-server", f"{SERVER.flags} --workers 2 --forward-url http://127.0.0.1:9/")
AGENT = Kind(
    "telemeter-client",
    "--listen {listen} --from http://127.0.0.1:9 --to http://127.0.0.1:9 --id x --to-token t",
)
AUTHORIZER = Kind("telemeter-authorizer", "--listen {listen} --tokens {tokens}", Ready("/", 405))
SOURCE = Kind("telemeter-demo-source", "--listen {listen}")
KINDS = [SERVER, CREW, AGENT, AUTHORIZER, SOURCE]


def command_of(stack: Stack, kind: Kind, runner: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """Return a program's command line and the URL that it answers at."""
    listen = f"{HOST}:{stack.free_port()}"
    tokens = stack.write("tokens.json", '[{"token": "a"}]')
    flags = kind.flags.format(listen=listen, tokens=tokens).split()
    command = twistd(kind.plugin, *flags)
    if runner:
        at = command.index(kind.plugin)
        command = [str(Path(command[0]).with_name(runner[0])), *runner[1:], *command[at:]]
    return command, f"http://{listen}"


def started(stack: Stack, kind: Kind, runner: tuple[str, ...] = ()) -> Program:
    """Start a program and wait until it is ready."""
    command, url = command_of(stack, kind, runner)
    return stack.start(f"{kind.plugin}-{len(stack.programs)}", command, url, kind.ready)


def records(program: Program, message: str) -> list[dict[str, str]]:
    """Return the lines of a program's log that say something."""
    lines = [parse_logfmt(line) for line in program.output().splitlines()]
    return [line for line in lines if line.get("msg") == message]


@pytest.mark.parametrize(
    ("kind", "runner"),
    [
        *((kind, ("twistd", "-n")) for kind in KINDS),
        (CREW, ("twistd", "-n", "--syslog")),
        (AUTHORIZER, ("twistd", "-n", "--logger", "twisted.python.log.PythonLoggingObserver")),
        (SERVER, ("twist",)),
        (AGENT, ("twist",)),
    ],
    ids=str,
)
def test_sighup_and_sigusr1_end_nothing(stack: Stack, kind: Kind, runner: tuple[str, ...]) -> None:
    program = started(stack, kind, runner)
    for number in (*TELLING, *TELLING):
        program.signal(number)  # to all processes of the group
        assert fetch(program.url + kind.ready.path).status == kind.ready.status
    assert program.stop() == -signal.SIGTERM
    assert "Traceback" not in program.output()
    assert "a worker ended" not in program.output()


def caught(pid: int, number: int) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@contextmanager
def just_started(stack: Stack, kind: Kind) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """Start a program and wait only until it has handlers for signals."""
    command, url = command_of(stack, kind)
    output = stack.folder / f"early-{random.randrange(10**9)}.log"
    with (
        output.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=stack.folder) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not all(caught(process.pid, number) for number in TELLING):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(POLL_SECONDS / 50)
            yield process, url, output
        finally:
            process.kill()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_comes_before_the_start_is_over_is_kept(stack: Stack, kind: Kind) -> None:
    with just_started(stack, kind) as (process, url, output):
        for number in (*TELLING, *TELLING):
            process.send_signal(number)

        def is_ready() -> bool:
            assert process.poll() is None, output.read_text()
            try:
                return fetch(url + kind.ready.path).status == kind.ready.status
            except OSError:
                return False

        stack.wait(is_ready, "the program to be ready")
        if kind not in (AUTHORIZER, SOURCE):  # the files may have changed since they were read
            stack.wait(lambda: "msg=reloaded" in output.read_text(), "a reload")
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def test_workers_are_not_ended_in_their_first_moments_either(stack: Stack) -> None:
    with just_started(stack, CREW) as (process, url, output):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers: set[int] = set()

        def is_ready() -> bool:
            for worker in map(int, children.read_text().split()):
                workers.add(worker)
                for number in (*TELLING, signal.SIGINT):  # as a terminal does
                    os.kill(worker, number)
            try:
                return fetch(url + "/healthz/ready").status == 200
            except OSError:
                return False

        deadline = time.monotonic() + 30
        while not is_ready():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(POLL_SECONDS / 50)
        assert len(workers) == 2
        assert set(map(int, children.read_text().split())) == workers
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
    assert "a worker ended" not in output.read_text()


@pytest.mark.parametrize("kind", [SERVER, AGENT], ids=str)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_start_is_over_leaves_no_traceback(
    stack: Stack, kind: Kind, number: signal.Signals
) -> None:
    with just_started(stack, kind) as (process, _, output):
        process.send_signal(number)
        assert process.wait(20) == -number
        assert "Traceback" not in output.read_text()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_burst_around_the_stop_changes_nothing(stack: Stack, kind: Kind) -> None:
    orders = random.Random(7)
    program = started(stack, kind)
    for attempt in range(3):
        if attempt:
            stack.start_again(program, kind.ready)
        program.stopped = True
        burst = [*TELLING, *TELLING, signal.SIGTERM]
        orders.shuffle(burst)
        for number in (*burst, *TELLING):
            os.kill(program.popen.pid, number)
        while program.running():  # until the very end
            for number in TELLING:
                os.kill(program.popen.pid, number)
        assert program.popen.returncode == -signal.SIGTERM, program.tail()
        assert "Traceback" not in program.output(), program.tail()
        assert records(program, "stopping")[attempt]["signal"] == "SIGTERM"
    assert len(records(program, "stopped")) == 3


# --- A server with work to do ---------------------------------------------------------------------


@dataclass
class Busy:
    """A server with an upload under way, which its upstream does not answer."""

    server: Server
    upstream: Upstream

    @property
    def program(self) -> Program:
        return self.server.program

    def kill(self, number: int) -> None:
        """Send a signal to the parent only."""
        self.program.stopped = True
        os.kill(self.program.popen.pid, number)

    def children(self) -> list[int]:
        """Return the workers."""
        pid = self.program.popen.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def wait_until_stopping(self, stack: Stack) -> None:
        """Wait until the server, and every worker, accepts nobody any more."""
        host, _, port = self.server.url.removeprefix("http://").partition(":")

        def is_closed() -> bool:
            try:
                socket.create_connection((host, int(port)), timeout=2).close()
            except OSError:
                return True
            return False

        stack.wait(lambda: records(self.program, "stopping"), "the stop to begin")
        stack.wait(is_closed, "the listener to close")


@contextmanager
def busy_server(stack: Stack, upstream: Upstream, workers: int) -> Iterator[Busy]:
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--workers", str(workers), "--forward-url", upstream.url),
    )
    upstream.may_answer.clear()
    jwt = authorize(server.url, CLUSTER, "any")
    body = encode([gauge("in_flight", 1, {"_id": CLUSTER})])
    with ThreadPoolExecutor() as pool:
        uploading = pool.submit(upload, server.url, jwt, body)
        try:
            assert upstream.arrived.wait(10)
            yield Busy(server, upstream)
        finally:
            upstream.may_answer.set()
            uploading.exception(20)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_says_what_it_finished(stack: Stack, upstream: Upstream, workers: int) -> None:
    with busy_server(stack, upstream, workers) as busy:
        busy.kill(signal.SIGTERM)
        busy.wait_until_stopping(stack)
        upstream.may_answer.set()
        assert busy.program.popen.wait(20) == -signal.SIGTERM
    (stopping,) = records(busy.program, "stopping")
    (stopped,) = records(busy.program, "stopped")
    assert (stopping["level"], stopping["signal"]) == ("info", "SIGTERM")
    assert (stopped["level"], stopped["requests"]) == ("info", "1")
    assert 0 <= float(stopped["seconds"]) < 10
    assert busy.program.output().splitlines()[-1].startswith("ts=")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_one_ends_at_once(
    stack: Stack, upstream: Upstream, workers: int, number: signal.Signals
) -> None:
    with busy_server(stack, upstream, workers) as busy:
        children = busy.children()
        assert len(children) == (workers if workers > 1 else 0)
        busy.kill(number)
        busy.wait_until_stopping(stack)
        assert busy.program.running()
        began = time.monotonic()
        busy.kill(number)
        assert busy.program.popen.wait(20) == -number
        stack.wait(lambda: not any(alive(child) for child in children), "the workers to end")
        assert time.monotonic() - began < 4  # and not the 5 or 10 seconds of the requests
    assert records(busy.program, "stopped") == []
    assert "Traceback" not in busy.program.output()


def test_one_of_each_kind_is_one_stop(stack: Stack, upstream: Upstream) -> None:
    """As when a terminal's Ctrl-C reaches a supervisor too, which passes it on as SIGTERM."""
    with busy_server(stack, upstream, 1) as busy:
        busy.kill(signal.SIGINT)
        busy.wait_until_stopping(stack)
        busy.kill(signal.SIGTERM)
        upstream.may_answer.set()
        assert busy.program.popen.wait(20) == -signal.SIGINT
    (stopped,) = records(busy.program, "stopped")
    assert stopped["requests"] == "1"
