"""Start real programs on this machine, wait for them, and leave none behind.

The demo and the integration tests both stand on this module. Three rules make it dependable: a wait
is always for a condition and has a deadline; a program that ends early is noticed at once and
named together with the end of its log; and no program outlives its stack, not even when the
process that owns the stack is killed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from email.message import Message
    from types import TracebackType

T = TypeVar("T")

HOST = "127.0.0.1"

# Client sockets take their ports from 32768 up (Linux's default range): a port below cannot be
# taken by one of them between the moment it was found free and the moment a program listens there.
PORTS = range(20000, 32000)

POLL_SECONDS = 0.05
READY_SECONDS = 30.0
# Longer than the ten seconds that a daemon may take to finish what it is doing.
STOP_SECONDS = 15.0

# The kernel kills the program as soon as the process that started it is gone, however that ended.
# It does so from setpriv's request on; the shell looks whether that process was gone before it.
_DIE_WITH_PARENT = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"'),
)

# A request or a program of the stack must reach this machine, whatever proxy is configured.
_no_proxies = urllib.request.ProxyHandler({})
_opener = urllib.request.build_opener(_no_proxies)


class StackError(Exception):
    """A program did not do what was waited for; the text says which, and ends with its log."""


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What an HTTP server answered."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, for messages and assertions."""
        return self.body.decode("utf-8", "replace")


def fetch(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 10.0,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Make one HTTP request; a refusal (4xx, 5xx) is an answer too.

    Args:
        url: what to ask for.
        method: how.
        body: what to send.
        headers: further headers.
        seconds: how long to wait for anything to happen.
        context: whom to trust and what to show if the URL is https.

    Raises:
        OSError: no answer came.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
    opener = _opener
    if context is not None:
        https = urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(_no_proxies, https)
    try:
        with opener.open(request, timeout=seconds) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, refusal.headers, refusal.read())


def answers(url: str, status: int, context: ssl.SSLContext | None = None) -> bool:
    """Tell whether a GET of the URL is answered with that status right now."""
    try:
        return fetch(url, seconds=2.0, context=context).status == status
    except OSError:
        return False


# --- logs -----------------------------------------------------------------------------------------

_FIELD = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|\S*)')


def parse_logfmt(line: str) -> dict[str, str]:
    """Split a logfmt line into its fields; a line of another kind has none."""
    return {
        key: json.loads(value) if value.startswith('"') else value
        for key, value in _FIELD.findall(line)
    }


@dataclass
class LogFollower:
    """Reads what a log has gained since the last look, whole lines only."""

    path: Path
    _position: int = 0

    def new_lines(self) -> list[str]:
        """Return the lines that were completed since the last call."""
        with self.path.open("rb") as log:
            log.seek(self._position)
            text = log.read()
        end = text.rfind(b"\n") + 1
        self._position += end
        return text[:end].decode("utf-8", "replace").splitlines()


@dataclass(frozen=True)
class Ready:
    """How a program shows that it is ready: what it answers to a GET of a path."""

    path: str
    status: int = 200


READY = Ready("/healthz/ready")


# --- programs -------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """Return the environment for programs: ours, without any proxy."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@dataclass
class Program:
    """A running program: its own process group, with stdout and stderr in one log file."""

    name: str
    argv: Sequence[str]
    url: str
    log: Path
    # What its environment has besides.
    environment: Mapping[str, str] = field(default_factory=dict)
    popen: subprocess.Popen[bytes] = field(init=False)
    # Stopped on purpose: its end is no failure.
    stopped: bool = False

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the program, also again after it ended; the log goes on in the same file."""
        self.stopped = False
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*_DIE_WITH_PARENT, str(os.getpid()), *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env={**_environment(), **self.environment},
                start_new_session=True,
            )

    def running(self) -> bool:
        """Tell whether the program has not ended yet."""
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the program's process group a signal; SIGTERM and SIGKILL make its end expected."""
        if number in (signal.SIGTERM, signal.SIGKILL):
            self.stopped = True
        if self.running():
            os.killpg(self.popen.pid, number)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End the program, gently first, by force after that many seconds; return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self.popen.wait()

    def output(self) -> str:
        """Return all that the program has written so far."""
        return self.log.read_text("utf-8", "replace")

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log, introduced by its path."""
        last = "\n".join(f"  | {line}" for line in self.output().splitlines()[-lines:])
        return f"--- {self.name}: end of {self.log}\n{last or '  | (empty)'}"


class Stack:
    """A set of programs with one temporary folder; a context manager that stops them all.

    The folder is removed at the end, unless the block failed or `keep` says otherwise.

    Attributes:
        folder: where the programs run.
        programs: all that were started.
        keep: whether the folder stays.
        context: whom to trust and what to show when programs that speak TLS are asked something.
    """

    def __init__(self, prefix: str = "telemeter-") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.programs: list[Program] = []
        self.keep = False
        self.context: ssl.SSLContext | None = None
        self._ports: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if isinstance(error, Exception):
            self.keep = True
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """Stop all programs, the last started first, all within one grace period."""
        for program in reversed(self.programs):
            program.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for program in reversed(self.programs):
            program.stop(max(0.0, deadline - time.monotonic()))

    def free_port(self) -> int:
        """Return a TCP port that nothing listens on and that this stack has not given out."""
        # Tests that run side by side take every other port, so that they never take the same.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        ports = PORTS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
        for port in random.sample(ports, len(ports)):
            if port in self._ports:
                continue
            with socket.socket() as probe:
                # As servers do: a port whose last connection still lingers counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError:
                    continue
            self._ports.add(port)
            return port
        raise StackError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")

    def write(self, name: str, text: str | bytes, mode: int = 0o600) -> Path:
        """Write a file into the stack's folder, readable by its owner only."""
        path = self.folder / name
        path.touch(mode)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def start(
        self,
        name: str,
        argv: Sequence[str],
        url: str,
        ready: Ready = READY,
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program, with these additions to the environment; wait until it is ready."""
        log = self.folder / f"{name}.log"
        program = Program(name, list(argv), url, log, environment or {})
        self.programs.append(program)
        self._wait_until_ready(program, ready)
        return program

    def start_again(self, program: Program, ready: Ready = READY) -> None:
        """Start a program that ended, with the same command line, and wait until it is ready."""
        program.start()
        self._wait_until_ready(program, ready)

    def _wait_until_ready(self, program: Program, ready: Ready) -> None:
        url = program.url + ready.path
        what = f"{program.name} to answer {ready.status} at {url}"
        self.wait(lambda: answers(url, ready.status, self.context), what, program)

    def check(self) -> None:
        """Raise StackError if a program ended that nobody stopped."""
        for program in self.programs:
            if not program.stopped and not program.running():
                code = program.popen.returncode
                how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                command = shlex.join(program.argv)
                raise StackError(f"{program.name} ended ({how}): {command}\n{program.tail()}")

    def wait(
        self,
        probe: Callable[[], T],
        what: str,
        guilty: Program | None = None,
        seconds: float = READY_SECONDS,
    ) -> T:
        """Call `probe` until it returns something true, and return that.

        An OSError from it (nobody answers yet) counts as not yet. `guilty` is the program whose
        log explains a failure.

        Raises:
            StackError: not so within that many seconds, or a program of the stack ended.
        """
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            last: object = None
            try:
                last = probe()
                if last:
                    return last
            except OSError as error:
                last = error
            if time.monotonic() > deadline:
                tail = f"\n{guilty.tail()}" if guilty else ""
                raise StackError(
                    f"waited {seconds:.0f} s for {what}; the last look gave {last!r}{tail}"
                )
            time.sleep(POLL_SECONDS)
