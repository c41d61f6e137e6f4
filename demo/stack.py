"""Start real programs on this machine, wait for them, and leave none behind.

The demo and the integration tests stand on this one module. Three rules make it dependable: a wait
is always for a condition and has a deadline; a program that ends early is noticed at once and
named together with the end of its log; and no program outlives its stack, not even when the
process that owns the stack is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
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
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

# A request or a program of the stack must reach this machine, whatever proxy is configured.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
) -> Answer:
    """Make one HTTP request; a refusal (4xx, 5xx) is an answer too.

    Raises:
        OSError: no answer came.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
    try:
        with _opener.open(request, timeout=seconds) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, refusal.headers, refusal.read())


def answers_ok(url: str) -> bool:
    """Tell whether a GET of the URL is answered with 200 right now."""
    try:
        return fetch(url, seconds=2.0).status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Series:
    """One series of an instant query's result; the value is kept as Prometheus wrote it."""

    labels: Mapping[str, str]
    value: str

    def __str__(self) -> str:
        """The series as Prometheus writes it in its text format."""
        name = self.labels.get("__name__", "")
        pairs = [f'{key}="{value}"' for key, value in self.labels.items() if key != "__name__"]
        return f"{name}{{{', '.join(pairs)}}} {self.value}"


def query(url: str, expression: str) -> list[Series]:
    """Run an instant query at the Prometheus with that URL.

    Raises:
        OSError: no answer came.
        StackError: Prometheus refused the query.
    """
    parameters = urllib.parse.urlencode({"query": expression})
    answer = fetch(f"{url}/api/v1/query?{parameters}")
    if answer.status != 200:
        raise StackError(f"query {expression!r} at {url}: {answer.status} {answer.text}")
    result = json.loads(answer.body)["data"]["result"]
    return [Series(item["metric"], item["value"][1]) for item in result]


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
                [*_DIE_WITH_PARENT, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=_environment(),
                start_new_session=True,
            )

    def running(self) -> bool:
        """Tell whether the program has not ended yet."""
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the program's process group a signal; SIGTERM and SIGKILL make its end expected."""
        if number in (signal.SIGTERM, signal.SIGKILL):
            self.stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """End the program, gently first, by force after that many seconds; return its exit code."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        self.signal(signal.SIGKILL)  # Also whatever the program started and left in its group.
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
    """

    def __init__(self, prefix: str = "telemeter-") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.programs: list[Program] = []
        self.keep = False
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
        for port in random.sample(PORTS, len(PORTS)):
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
        self, name: str, argv: Sequence[str], url: str, ready: str = "/healthz/ready"
    ) -> Program:
        """Start a program and wait until it answers 200 at the path `ready` of its URL."""
        program = Program(name, list(argv), url, self.folder / f"{name}.log")
        self.programs.append(program)
        self.wait(lambda: answers_ok(url + ready), f"{name} to be ready at {url}{ready}", program)
        return program

    def start_again(self, program: Program, ready: str = "/healthz/ready") -> None:
        """Start a program that ended, with the same command line, and wait until it is ready."""
        program.start()
        what = f"{program.name} to be ready again"
        self.wait(lambda: answers_ok(program.url + ready), what, program)

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


# --- the programs of this project -----------------------------------------------------------------


def twistd(plugin: str, *flags: str) -> list[str]:
    """Return the command line of a daemon in the foreground, run by this Python's own twistd."""
    command = Path(sys.executable).with_name("twistd")
    return [str(command), "-n", "--pidfile=", plugin, *flags]


def start_authorizer(stack: Stack, *tokens: str, name: str = "authorizer") -> Program:
    """Start the stub authorization server; it knows these tokens."""
    listen = f"{HOST}:{stack.free_port()}"
    known = stack.write(f"{name}.tokens.json", json.dumps([{"token": token} for token in tokens]))
    flags = ["--listen", listen, "--tokens", str(known)]
    return stack.start(name, twistd("telemeter-authorizer", *flags), f"http://{listen}")


@dataclass
class Server:
    """A running telemeter-server and its two URLs."""

    program: Program
    url: str
    internal_url: str


def start_server(stack: Stack, name: str, *flags: str) -> Server:
    """Start a telemeter-server on two free ports with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    internal = f"{HOST}:{stack.free_port()}"
    argv = twistd("telemeter-server", "--listen", listen, "--listen-internal", internal, *flags)
    program = stack.start(name, argv, f"http://{listen}")
    return Server(program, f"http://{listen}", f"http://{internal}")


def start_agent(stack: Stack, name: str, *flags: str) -> Program:
    """Start a telemeter-client on a free port with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    argv = twistd("telemeter-client", "--listen", listen, *flags)
    return stack.start(name, argv, f"http://{listen}")


# --- Prometheus -----------------------------------------------------------------------------------

# The alert always fires, so that the source has a series ALERTS; its label `_elide` is the one that
# the server is told to remove.
_RULES = """\
groups:
  - name: demo
    rules:
      - alert: DemoAlwaysFiring
        expr: vector(1)
        labels:
          severity: info
          _elide: "yes"
"""


def start_source(stack: Stack, name: str = "source") -> Program:
    """Start the Prometheus to federate from: it scrapes itself and an alert of it always fires."""
    listen = f"{HOST}:{stack.free_port()}"
    rules = stack.write(f"{name}.rules.yml", _RULES)
    configuration = f"""\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files:
  - {rules}
scrape_configs:
  - job_name: prometheus
    static_configs:
      - targets: ["{listen}"]
"""
    return _start_prometheus(stack, name, listen, configuration)


def wait_for_samples(stack: Stack, source: Program) -> None:
    """Wait until the source has scraped itself and its alert fires: about five seconds."""
    stack.wait(
        lambda: query(source.url, "ALERTS") and query(source.url, "up == 1"),
        f"{source.name} to have scraped itself and evaluated its alert",
        source,
    )


def start_destination(stack: Stack, name: str = "destination") -> Program:
    """Start the Prometheus that takes remote write and scrapes nothing."""
    listen = f"{HOST}:{stack.free_port()}"
    return _start_prometheus(stack, name, listen, "", "--web.enable-remote-write-receiver")


def _start_prometheus(
    stack: Stack, name: str, listen: str, configuration: str, *flags: str
) -> Program:
    argv = [
        "prometheus",
        f"--config.file={stack.write(f'{name}.yml', configuration)}",
        f"--storage.tsdb.path={stack.folder / f'{name}.data'}",
        f"--web.listen-address={listen}",
        *flags,
    ]
    return stack.start(name, argv, f"http://{listen}", ready="/-/ready")
