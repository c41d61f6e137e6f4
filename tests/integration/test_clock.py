"""The clock of a machine is set back, or forward, by an hour while the daemons run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from demo import faketime
from demo.faketime import FakeTime
from demo.programs import Server, federated, listen_address, start_agent, start_server, twistd
from demo.stack import POLL_SECONDS, Answer, Program, Stack, fetch

from .conftest import need_command
from .crew import Client, start_crew
from .peer import Peer, Reply, Request, as_all_servers, running
from .upstream import Upstream
from .wire import authorize, encode, gauge, upload, write_body, write_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR = 3600
STEPS = pytest.mark.parametrize("step", [-HOUR, HOUR], ids=["back", "forward"])
#: The interval of everything that can be told one, in seconds.
SECONDS = 8.0
#: Timers may be late by so much on a busy machine, and early by a rounding.
LATE, EARLY = 12.0, 0.2


@pytest.fixture(scope="module", autouse=True)
def _faketime() -> Iterator[None]:
    """Need Debian's faketime, and tidy up after it when the programs have ended."""
    need_command("faketime", "faketime")
    yield
    faketime.clean_up()


@pytest.fixture
def clock(stack: Stack) -> Iterator[FakeTime]:
    """A clock that the programs of a test go by; they end with it."""
    before = len(stack.programs)
    yield FakeTime(stack.folder / f"clock-{before}")
    for program in stack.programs[before:]:
        program.stop()


@dataclass
class Stopwatch:
    """Tells whether something took as long as it should."""

    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def check(self, expected: float, seconds: float | None = None) -> None:
        """Fail unless it took that long: until now, or what was measured."""
        took = self.seconds if seconds is None else seconds
        assert expected - EARLY <= took <= expected + LATE, (expected, took)


def wait_for(what: str, probe: Callable[[], bool], seconds: float = SECONDS + LATE) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)


# --- A server -------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A cluster that uploads and writes to a server, as an agent and a Prometheus do."""

    server: Server
    name: str
    _jwt: str = ""

    def upload(self) -> Answer:
        """Upload one sample; with another token, if the one from before does not hold any more."""
        body = encode([gauge("up", 1, {"_id": self.name})])
        if self._jwt:
            answer = upload(self.server.url, self._jwt, body)
            if answer.status != 401:
                return answer
        self._jwt = authorize(self.server.url, self.name, "any")
        return upload(self.server.url, self._jwt, body)

    def write(self) -> int:
        """Write one sample remotely; return the status."""
        headers, body = write_headers(self.name, "secret"), write_body(self.name)
        url = f"{self.server.url}/metrics/v1/receive"
        return fetch(url, method="POST", headers=headers, body=body, seconds=30).status


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running(Peer()) as peer:
        yield peer


def is_open(connection: socket.socket) -> bool:
    """Tell whether the other end has not closed a connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


def used_connection(url: str) -> socket.socket:
    """Make a request, and keep the connection."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    return connection


@STEPS
@pytest.mark.parametrize("workers", [1, 2])
def test_the_timers_of_a_server(
    stack: Stack, clock: FakeTime, peer: Peer, upstream: Upstream, workers: int, step: int
) -> None:
    questions: list[float] = []

    def answer(request: Request) -> Reply:
        if b"secret" in request.body:
            questions.append(time.monotonic())
        return as_all_servers(request)

    peer.answer = answer
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--workers", str(workers), "--forward-url", upstream.url),
        *("--authorize", peer.url("/tollbooth"), "--authorize-cache-expire", f"{SECONDS}s"),
        *("--ratelimit", f"{SECONDS}s", "--idle-timeout", f"{SECONDS}s"),
        environment=clock.environment,
    )
    cluster = Cluster(server, "a")
    since_upload = Stopwatch()
    assert cluster.upload().status == 200
    assert cluster.write() == 200
    since_request = Stopwatch()
    with used_connection(server.url) as idle, ThreadPoolExecutor() as pool:
        upstream.may_answer.clear()
        upstream.arrived.clear()
        since_forward = Stopwatch()
        forward = pool.submit(lambda: (cluster.write(), since_forward.seconds))
        assert upstream.arrived.wait(10)

        clock.set(step)

        if since_upload.seconds < SECONDS / 2:
            refused = cluster.upload()
            assert refused.status == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= SECONDS
        status, seconds = forward.result()
        assert status == 502
        since_forward.check(5.0, seconds)
        if since_request.seconds < SECONDS - 1:
            assert is_open(idle)
        upstream.may_answer.set()

        wait_for("the next upload to be taken", lambda: cluster.upload().status == 200)
        since_upload.check(SECONDS)
        wait_for("the next question", lambda: bool(cluster.write()) and len(questions) > 1)
        Stopwatch().check(SECONDS, questions[1] - questions[0])
        wait_for("the idle connection to be closed", lambda: not is_open(idle))
        since_request.check(SECONDS)
    assert_dates(server, upstream, "a", step)


def assert_dates(server: Server, upstream: Upstream, cluster: str, step: int) -> None:
    """Fail unless samples have the time of day that was set, and nobody is taken for silent."""
    uploads = [
        series.samples[0].timestamp / 1000
        for request in upstream.received
        for series in request.timeseries
        if series.labels[0].value == "up"
    ]
    assert abs(uploads[-1] - time.time() - step) < 60
    assert abs(uploads[0] - time.time()) < 60
    page = json.loads(fetch(f"{server.internal_url}/api/v1/clusters?q={cluster}").body)
    (line,) = page["items"]
    assert abs(page["now"] - time.time() - step) < 60
    assert 0 <= page["now"] - line["last_upload"] < 60
    assert line["state"] != "silent"


@pytest.mark.parametrize(("workers", "step"), [(1, -HOUR), (2, HOUR)])
def test_a_server_that_stops_waits_as_long_as_ever(
    stack: Stack, clock: FakeTime, upstream: Upstream, workers: int, step: int
) -> None:
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--workers", str(workers), "--forward-url", upstream.url),
        environment=clock.environment,
    )
    client = Client(server.url)
    client.begin_upload(authorize(server.url, "a", "any"))
    watch = Stopwatch()
    server.program.signal(signal.SIGTERM)
    ready = f"{server.internal_url}/healthz/ready"
    wait_for("readiness to be 503", lambda: fetch(ready).status == 503)
    clock.set(step)
    server.program.popen.wait(30)
    watch.check(10.0)
    client.close()


@STEPS
def test_the_store_keeps_a_cluster_for_its_retention(
    stack: Stack, clock: FakeTime, step: int
) -> None:
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--store-retention", f"{SECONDS}s"),
        environment=clock.environment,
    )
    watch = Stopwatch()
    assert Cluster(server, "a").upload().status == 200
    clock.set(step)
    kept = federated(server.internal_url, "up")
    assert kept or watch.seconds > SECONDS - EARLY
    wait_for("the cluster to be dropped", lambda: not federated(server.internal_url, "up"))
    watch.check(SECONDS)


@STEPS
def test_access_tokens_are_renewed_in_time(
    stack: Stack, clock: FakeTime, peer: Peer, upstream: Upstream, step: int
) -> None:
    grants: list[float] = []

    def issuer(request: Request) -> Reply:
        if request.method == "GET":
            found = {"issuer": peer.url(), "token_endpoint": peer.url("/token")}
        else:
            grants.append(time.monotonic())
            found = {
                "access_token": f"token-{len(grants)}",
                "token_type": "Bearer",
                "expires_in": "12",
            }
        return Reply(200, json.dumps(found).encode(), "application/json")

    peer.answer = issuer
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--forward-url", upstream.url, "--oidc-issuer", peer.url()),
        *("--client-id", "a", "--client-secret", "secret"),
        environment=clock.environment,
    )
    cluster = Cluster(server, "a")
    # On a busy machine the upstream may be late.
    wait_for("a write to be taken", lambda: cluster.write() == 200)
    clock.set(step)
    count = len(grants)
    wait_for("another access token", lambda: bool(cluster.write()) and len(grants) > count)
    # After 8 of its 12 seconds, which began when it was asked for: it may have come late.
    assert 3.0 < grants[-1] - grants[-2] < 12.0 + LATE


def wait_for_lines(program: Program, pattern: str, count: int) -> list[str]:
    """Wait until a program has logged so many lines like this; return what was found in them."""
    wait_for(
        f"{count} lines like {pattern}", lambda: len(re.findall(pattern, program.output())) >= count
    )
    return re.findall(pattern, program.output())


def test_a_worker_is_replaced_after_its_pause(
    stack: Stack, clock: FakeTime, upstream: Upstream
) -> None:
    crew = start_crew(stack, "--forward-url", upstream.url, environment=clock.environment)
    pauses = r'msg="a worker ended, and is replaced".* pause_seconds=(\d+)'
    found: list[str] = []
    while found[-1:] != ["2"]:
        wait_for("two workers", lambda: len(crew.pids()) == 2)
        os.kill(crew.pids()[-1], signal.SIGKILL)
        found = wait_for_lines(crew.server.program, pauses, len(found) + 1)
    clock.set(-HOUR)
    wait_for("two workers", lambda: len(crew.pids()) == 2)
    crew.wait_until_ready()


# --- An agent -------------------------------------------------------------------------------------

INTERVAL = 3.0


@dataclass
class Everybody:
    """A Prometheus and a telemeter-server at once.

    Attributes:
        collections: when the Prometheus was asked.
        may_answer: while it is not set, the Prometheus does not answer.
    """

    collections: list[float] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request) -> Reply:
        if request.method == "GET":
            self.collections.append(time.monotonic())
            self.may_answer.wait(30)
        return as_all_servers(request)

    def gaps(self) -> list[float]:
        """Return how many seconds lay between collections."""
        return [later - one for one, later in pairwise(self.collections)]


@pytest.fixture
def everybody(peer: Peer) -> Iterator[Everybody]:
    everybody = Everybody()
    everybody.may_answer.set()
    peer.answer = everybody
    yield everybody
    everybody.may_answer.set()


def agent_flags(peer: Peer, to: str = "") -> list[str]:
    """Return the flags of an agent that collects from a peer, and uploads there or elsewhere."""
    return [
        *("--from", peer.url(), "--to", to or peer.url(), "--to-token", "a", "--id", "a"),
        *("--interval", f"{INTERVAL}s"),
    ]


def start_by_twistd(stack: Stack, peer: Peer, environment: Mapping[str, str]) -> Program:
    name = f"agent-{len(stack.programs)}"
    return start_agent(stack, name, *agent_flags(peer), environment=environment)


def start_by_twist(stack: Stack, peer: Peer, environment: Mapping[str, str]) -> Program:
    listen, url = listen_address(stack)
    twist = str(Path(sys.executable).with_name("twist"))
    argv = [twist, "telemeter-client", "--listen", listen, *agent_flags(peer)]
    return stack.start(f"agent-{len(stack.programs)}", argv, url, environment=environment)


@pytest.mark.parametrize(
    ("start", "step"),
    [(start_by_twistd, -HOUR), (start_by_twistd, HOUR), (start_by_twist, -HOUR)],
)
def test_an_agent_collects_every_interval(
    stack: Stack,
    clock: FakeTime,
    peer: Peer,
    everybody: Everybody,
    start: Callable[[Stack, Peer, Mapping[str, str]], Program],
    step: int,
) -> None:
    agent = start(stack, peer, clock.environment)
    # Now it is at rest.
    wait_for("an upload", lambda: "metrics uploaded" in agent.output())
    clock.set(step)
    before = len(everybody.collections)
    wait_for("two more", lambda: len(everybody.collections) >= before + 2, 2 * (INTERVAL + LATE))
    for gap in everybody.gaps():
        Stopwatch().check(INTERVAL, gap)


@STEPS
def test_an_agent_gives_up_on_a_source_and_tries_again(
    stack: Stack, clock: FakeTime, peer: Peer, everybody: Everybody, step: int
) -> None:
    everybody.may_answer.clear()
    agent = start_by_twistd(stack, peer, clock.environment)
    wait_for("a collection", lambda: bool(everybody.collections))
    clock.set(step)
    wait_for("the collection to fail", lambda: "cycle failed" in agent.output())
    Stopwatch(everybody.collections[0]).check(INTERVAL)
    everybody.may_answer.set()
    wait_for("an upload", lambda: "metrics uploaded" in agent.output())
    # It takes as long to give up, and to try again as well, give or take a quarter.
    Stopwatch().check(1.75 * INTERVAL, everybody.gaps()[0])
    last = float(_metric(agent, "federate_last_success_timestamp_seconds"))
    assert abs(last - time.time() - step) < 60


def test_a_dry_run_gives_up_on_a_source(
    stack: Stack, clock: FakeTime, peer: Peer, everybody: Everybody
) -> None:
    everybody.may_answer.clear()
    argv = twistd("telemeter-client", "--dry-run", *agent_flags(peer))
    run = Program("dry-run", argv, "", stack.folder / "dry-run.log", clock.environment)
    try:
        wait_for("a collection", lambda: bool(everybody.collections))
        clock.set(-HOUR)
        assert run.popen.wait(INTERVAL + LATE) != 0
        Stopwatch(everybody.collections[0]).check(INTERVAL)
    finally:
        run.stop()


@STEPS
def test_an_agent_goes_on_when_the_clock_of_its_server_is_set(
    stack: Stack, clock: FakeTime, peer: Peer, everybody: Everybody, upstream: Upstream, step: int
) -> None:
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--workers", "2", "--forward-url", upstream.url, "--ratelimit", f"{INTERVAL}s"),
        environment=clock.environment,
    )
    agent = start_agent(stack, f"agent-{len(stack.programs)}", *agent_flags(peer, server.url))
    wait_for("an upload", lambda: bool(upstream.received))
    clock.set(step)
    before = len(upstream.received)
    watch = Stopwatch()
    wait_for(f"more from\n{agent.tail()}", lambda: len(upstream.received) > before)
    # A token that is refused costs a cycle at most.
    assert watch.seconds < 2.25 * INTERVAL + LATE


def _metric(program: Program, name: str) -> str:
    """Return a value of a program's metrics page."""
    page = fetch(f"{program.url}/metrics").text
    (line,) = (line for line in page.splitlines() if line.startswith(f"{name} "))
    return line.split()[1]
