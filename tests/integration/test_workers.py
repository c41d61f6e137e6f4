"""Several processes that answer clients are one server."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING

import pytest
import trustme
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from demo.keys import signing_key
from demo.programs import start_authorizer, twistd
from demo.stack import HOST, Ready, Stack, answers, fetch, parse_logfmt
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.server.workers.supervisor import PING_SECONDS

from .certificates import client_context, write_pair
from .crew import Crew, alive, start_crew
from .samples import counted
from .upstream import Upstream, running_upstream

if TYPE_CHECKING:
    from demo.stack import Program

CLUSTER = "crew"
SECRET = "secret-of-all-clusters"
# Ten for what is under way, and some for a busy machine.
STOP_SECONDS = 14.0


@pytest.fixture(scope="module")
def authorizer(stack: Stack) -> Program:
    return start_authorizer(stack, SECRET, "any")


@pytest.fixture(scope="module")
def sink() -> Iterator[Upstream]:
    """Run the upstream of the server that most tests share."""
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared_crew(stack: Stack, sink: Upstream, authorizer: Program) -> Crew:
    return start_crew(stack, "--forward-url", sink.url, "--authorize", f"{authorizer.url}/")


@pytest.fixture
def crew(shared_crew: Crew) -> Iterator[Crew]:
    """A server with a rate limit and an authorization server, whose workers live for long."""
    yield shared_crew
    shared_crew.close()


def start_unlimited(
    stack: Stack, upstream: Upstream, *flags: str, environment: Mapping[str, str] | None = None
) -> Crew:
    flags = ("--forward-url", upstream.url, "--ratelimit", "0", *flags)
    return start_crew(stack, *flags, environment=environment)


# --- What they share ------------------------------------------------------------------------------


def test_connections_spread(crew: Crew) -> None:
    pids = crew.pids()
    clients = [crew.client() for _ in range(16)]
    with ThreadPoolExecutor(len(clients)) as pool:
        statuses = pool.map(lambda client: client.ask("GET", "/healthz").status, clients)
        assert set(statuses) == {200}
    shares = Counter(crew.owner(client, pids) for client in clients)
    assert len(shares) == 2
    assert min(shares.values()) >= 4


def test_one_key_and_one_rate_limit(crew: Crew) -> None:
    clients = crew.client_of_each()
    jwts = [client.authorize("limited") for client in clients]
    assert clients[0].upload(jwts[1], "limited", "up").status == 200
    refused = clients[1].upload(jwts[0], "limited", "up")
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 270
    # And the other way round.
    clients = crew.client_of_each()
    jwt = clients[0].authorize("other")
    assert clients[1].upload(jwt, "other", "up").status == 200
    assert clients[0].upload(jwt, "other", "up").status == 429


def test_a_failed_upload_gives_the_turn_back_for_all(stack: Stack) -> None:
    crew = start_crew(stack, "--forward-url", f"http://{HOST}:{stack.free_port()}/")
    first, second = crew.client_of_each()
    jwt = first.authorize(CLUSTER)
    assert [client.upload(jwt, CLUSTER, "up").status for client in (first, second)] == [502, 502]
    crew.close()


def test_an_authorization_is_asked_for_once(crew: Crew) -> None:
    url = crew.server.internal_url

    def counts() -> dict[str, float]:
        return {
            "asked": counted(url, "client_api_requests_total", client="authorize"),
            "hit": counted(url, "cache_reads_total", result="hit"),
            "miss": counted(url, "cache_reads_total", result="miss"),
        }

    clients = crew.client_of_each()
    before = counts()
    for _ in range(3):
        assert [client.write("asked", SECRET).status for client in clients] == [200, 200]
    grown = {name: count - before[name] for name, count in counts().items()}
    assert grown == {"asked": 1, "miss": 1, "hit": 5}
    refused = [client.write("asked", "wrong") for client in clients]
    assert [answer.status for answer in refused] == [401, 401]
    assert counts()["asked"] == before["asked"] + 2


def test_one_page_of_metrics(crew: Crew) -> None:
    url = crew.server.internal_url
    labels = {"handler": "upload", "code": "401", "method": "post"}
    before = counted(url, "http_requests_total", **labels)
    for number, client in enumerate(crew.client_of_each()):
        for _ in range(number + 2):
            assert client.ask("POST", "/upload").status == 401
    assert counted(url, "http_requests_total", **labels) == before + 5
    assert counted(url, "http_request_duration_seconds_count", **labels) == before + 5
    assert counted(url, "http_request_duration_seconds_bucket", **labels, le="+Inf") == before + 5
    assert counted(url, "telemeter_workers") == 2

    page = fetch(f"{url}/metrics").text
    families = [family.name for family in parse_text(page)]
    assert len(families) == len(set(families))
    assert 'pid="' not in page
    for worker in ("0", "1"):
        assert counted(url, "telemeter_worker_process_cpu_seconds_total", worker=worker) > 0
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert len(list(parse_openmetrics(fetch(f"{url}/metrics", headers=accept).text))) > 20


def test_promtool_likes_the_page(crew: Crew, prometheus: None) -> None:
    page = fetch(f"{crew.server.internal_url}/metrics").body
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_one_log(crew: Crew) -> None:
    for client in crew.client_of_each():
        client.ask("GET", "/only-for-the-log")

    def lines() -> list[dict[str, str]]:
        whole, _, _ = crew.server.program.output().rpartition("\n")
        return [parse_logfmt(line) for line in whole.splitlines()]

    def asked() -> set[str]:
        return {line["worker"] for line in lines() if line.get("path") == "/only-for-the-log"}

    crew.stack.wait(lambda: asked() == {"0", "1"}, "the lines of both", crew.server.program)
    assert all("ts" in line for line in lines())
    (started,) = (line for line in lines() if line["msg"] == "starting telemeter-server")
    assert started["workers"] == "2"


# --- When one dies --------------------------------------------------------------------------------


@dataclass
class Uploads:
    """Uploads without a pause, each of a sample of its own.

    Attributes:
        crew: whom they are for.
        acknowledged: the samples that the server has accepted.
        sent: how many there were, with those that no answer came to.
        strange: other answers.
    """

    crew: Crew
    acknowledged: set[str] = field(default_factory=set)
    sent: int = 0
    strange: list[object] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, name: str) -> None:
        """Upload until it is over, over another connection whenever one breaks."""
        client = self.crew.client()
        jwt = client.authorize(CLUSTER)
        number = 0
        while not self._over.is_set():
            number += 1
            sample = f"{name}-{number}"
            self.sent += 1
            try:
                answer = client.upload(jwt, CLUSTER, "busy", number=sample)
            except (OSError, HTTPException):
                client = self.crew.client()
                continue
            if answer.status != 200:
                self.strange.append(answer)
            else:
                self.acknowledged.add(sample)

    def wait_for_more(self, count: int = 50) -> None:
        """Wait until so many more have been accepted."""
        wanted = len(self.acknowledged) + count
        self.crew.stack.wait(lambda: len(self.acknowledged) >= wanted, f"{wanted} uploads")

    def stop(self) -> None:
        """Make no more."""
        self._over.set()


@contextmanager
def uploading(crew: Crew) -> Iterator[Uploads]:
    """Have four clients upload."""
    uploads = Uploads(crew)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(uploads.run, name) for name in "abcd"]
        try:
            yield uploads
        finally:
            uploads.stop()
        for each in running:
            each.result()


def test_a_worker_that_is_killed_is_replaced(stack: Stack, upstream: Upstream) -> None:
    crew = start_unlimited(stack, upstream)
    url = crew.server.internal_url
    accepted = {"handler": "upload", "code": "200", "method": "post"}
    counts = [0.0]
    before = crew.pids()
    with uploading(crew) as uploads:
        uploads.wait_for_more()

        def is_replaced() -> bool:
            counts.append(counted(url, "http_requests_total", **accepted))
            return len(crew.pids()) == 2 and counted(url, "telemeter_workers") == 2

        os.kill(before[0], signal.SIGKILL)
        stack.wait(lambda: before[0] not in crew.pids(), "a worker to die")
        assert counted(url, "telemeter_workers") in (1, 2)
        stack.wait(is_replaced, "another worker", crew.server.program)
        uploads.wait_for_more()
        is_replaced()
    assert counts == sorted(counts)
    assert uploads.strange == []
    assert len(uploads.acknowledged) <= counted(url, "http_requests_total", **accepted)
    assert counted(url, "http_requests_total", **accepted) <= uploads.sent
    assert uploads.acknowledged <= {series["number"] for series in upstream.series()}
    assert counted(url, "telemeter_worker_restarts_total") == 1
    assert counted(url, "client_in_flight_requests", client="forward") == 0
    assert before[1] in crew.pids()
    lines = map(parse_logfmt, crew.server.program.output().splitlines())
    (line,) = (line for line in lines if line["msg"] == "a worker ended, and is replaced")
    assert line["how"] == "by SIGKILL"
    # The new one is like the others.
    for client in crew.client_of_each():
        assert client.upload(client.authorize("last"), "last", "up").status == 200
    crew.close()


def test_a_worker_that_cannot_start_says_why_and_is_not_tried_all_the_time(
    stack: Stack, upstream: Upstream
) -> None:
    stack.write(
        "sitecustomize.py",
        "import sys\nif 'telemeter.server.workers' in sys.orig_argv: sys.exit('no such luck')\n",
    )
    listen, internal = (f"{HOST}:{stack.free_port()}" for _ in range(2))
    argv = twistd("telemeter-server", "--listen", listen, "--listen-internal", internal)
    program = stack.start(
        "unlucky",
        [*argv, "--workers", "2", "--forward-url", upstream.url],
        f"http://{internal}",
        Ready("/healthz"),
        {"PYTHONPATH": str(stack.folder)},
    )

    def tries() -> int:
        return program.output().count("a worker ended")

    stack.wait(lambda: tries() >= 4, "two tries of each worker", program)
    assert "no such luck" in program.output()
    assert "pause_seconds=1" in program.output()
    assert answers(f"{program.url}/healthz/ready", 503)
    # Both were tried at once, again at once, and now there is a pause. Then they can start.
    (stack.folder / "sitecustomize.py").unlink()
    stack.wait(lambda: answers(f"{program.url}/healthz/ready", 200), "workers", program)
    assert tries() < 10
    assert program.stop() == -signal.SIGTERM


def wait_for_its_replacement(crew: Crew, pid: int) -> None:
    """Wait until one that has just been stopped is noticed, killed and replaced, and no other."""
    url, program = crew.server.internal_url, crew.server.program
    others = [each for each in crew.pids() if each != pid]
    seconds = TIMEOUTS.worker_silence + 3 * PING_SECONDS + 5
    crew.stack.wait(lambda: not alive(pid), "it to be killed", program, seconds)
    crew.stack.wait(lambda: counted(url, "telemeter_worker_restarts_total") == 1, "another one")
    crew.stack.wait(lambda: counted(url, "telemeter_workers") == 2, "it to be ready", program)
    assert counted(url, "telemeter_worker_silences_total") == 1
    assert set(others) < set(crew.pids())
    lines = [parse_logfmt(line) for line in program.output().splitlines()]
    (line,) = (line for line in lines if "sign of life" in line["msg"])
    assert (line["level"], line["pid"]) == ("error", str(pid))
    for client in crew.client_of_each():
        assert client.upload(client.authorize(CLUSTER), CLUSTER, "up").status == 200


def test_a_worker_that_is_stopped_is_replaced(stack: Stack, upstream: Upstream) -> None:
    crew, asleep = (start_unlimited(stack, upstream) for _ in range(2))
    # All of the other stands still meanwhile, as when a machine sleeps.
    asleep.server.program.signal(signal.SIGSTOP)
    stopped = crew.pids()[0]
    os.kill(stopped, signal.SIGSTOP)
    wait_for_its_replacement(crew, stopped)

    asleep.server.program.signal(signal.SIGCONT)
    stopped = asleep.pids()[1]
    os.kill(stopped, signal.SIGSTOP)
    wait_for_its_replacement(asleep, stopped)
    for each in (crew, asleep):
        each.close()


def test_it_needs_no_disk(stack: Stack, upstream: Upstream) -> None:
    """Nothing is written where temporary files go, and so a server minds neither if that is full
    nor if somebody cleans up there."""
    crew = start_unlimited(stack, upstream)
    url = crew.server.internal_url
    accepted = {"handler": "upload", "code": "200", "method": "post"}
    for client in crew.client_of_each():
        assert client.upload(client.authorize(CLUSTER), CLUSTER, "up").status == 200
    for pid in crew.pids():
        os.kill(pid, signal.SIGKILL)
    stack.wait(lambda: counted(url, "telemeter_worker_restarts_total") == 2, "other workers")
    stack.wait(lambda: counted(url, "telemeter_workers") == 2, "them to be ready")
    for client in crew.client_of_each():
        assert client.upload(client.authorize(CLUSTER), CLUSTER, "up").status == 200
    assert counted(url, "http_requests_total", **accepted) == 4
    assert crew.nothing_was_written()
    crew.close()


def test_a_server_that_may_not_have_such_memory_serves_without_these_metrics(
    stack: Stack, upstream: Upstream
) -> None:
    stack.write(
        "sitecustomize.py",
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n",
    )
    crew = start_unlimited(stack, upstream, environment={"PYTHONPATH": str(stack.folder)})
    (stack.folder / "sitecustomize.py").unlink()
    for client in crew.client_of_each():
        assert client.upload(client.authorize(CLUSTER), CLUSTER, "up").status == 200
    page = fetch(f"{crew.server.internal_url}/metrics").text
    assert "http_requests_total{" not in page
    assert counted(crew.server.internal_url, "telemeter_workers") == 2
    lines = map(parse_logfmt, crew.server.program.output().splitlines())
    reasons = [
        line["reason"] for line in lines if line["msg"] == "the metrics of a worker do not count"
    ]
    assert reasons == ["[Errno 27] File too large"] * 2
    crew.close()


# --- Reload ---------------------------------------------------------------------------------------


def passing(crew: Crew, upstream: Upstream) -> list[set[str]]:
    """Return which of two metrics each worker lets pass."""
    found = []
    for client in crew.client_of_each():
        upstream.received.clear()
        jwt = client.authorize(CLUSTER)
        assert client.upload(jwt, CLUSTER, "one", "two").status == 200
        found.append({series["__name__"] for series in upstream.series()})
    crew.close()
    return found


def test_a_reload_is_for_all_or_none(stack: Stack, upstream: Upstream) -> None:
    whitelist = stack.write("whitelist", "one\n")
    key = stack.write("shared.key", signing_key())
    crew = start_unlimited(
        stack, upstream, "--whitelist-file", str(whitelist), "--shared-key", str(key)
    )
    assert passing(crew, upstream) == [{"one"}, {"one"}]
    jwt = crew.client().authorize(CLUSTER)

    stack.write("shared.key", signing_key())
    stack.write("whitelist", "two\n{__name__=\n")
    status, text = crew.reload()
    assert status == 500
    assert "--whitelist-file" in text
    assert passing(crew, upstream) == [{"one"}, {"one"}]
    assert [client.upload(jwt, CLUSTER, "one").status for client in crew.client_of_each()] == [
        200,
        200,
    ]

    # A worker that is started now knows what the others know, not what is in the files.
    os.kill(crew.pids()[0], signal.SIGKILL)
    url = crew.server.internal_url
    stack.wait(lambda: counted(url, "telemeter_worker_restarts_total") == 1, "another worker")
    stack.wait(lambda: counted(url, "telemeter_workers") == 2, "another worker to be ready")
    assert passing(crew, upstream) == [{"one"}, {"one"}]

    stack.write("whitelist", "two\n")
    assert crew.reload() == (200, "reloaded\n")
    assert passing(crew, upstream) == [{"two"}, {"two"}]
    assert [client.upload(jwt, CLUSTER, "one").status for client in crew.client_of_each()] == [
        401,
        401,
    ]

    stack.write("whitelist", "one\ntwo\n")
    crew.server.program.signal(signal.SIGHUP)  # all processes of the group get it
    both = [{"one", "two"}] * 2
    stack.wait(lambda: passing(crew, upstream) == both, f"{both}", crew.server.program)
    assert counted(url, "telemeter_config_last_reload_successful") == 1
    assert counted(url, "telemeter_worker_restarts_total") == 1
    crew.close()


def test_tls(upstream: Upstream) -> None:
    authority = trustme.CA()
    with Stack() as stack:
        stack.context = client_context(authority)
        pair = write_pair(stack, "server", authority.issue_cert(HOST))
        crew = start_unlimited(stack, upstream, *pair.flags("--tls-crt", "--tls-key"))
        for client in crew.client_of_each():
            assert client.upload(client.authorize(CLUSTER), CLUSTER, "up").status == 200
        write_pair(stack, "server", authority.issue_cert(HOST, not_after=None))
        before = {client.certificate for client in crew.client_of_each()}
        assert len(before) == 1
        assert crew.reload()[0] == 200
        after = {client.certificate for client in crew.client_of_each()}
        assert len(after) == 1
        assert after != before
        crew.close()


# --- The end --------------------------------------------------------------------------------------


def to_the_parent(crew: Crew) -> None:
    """As `kill` does."""
    crew.server.program.stopped = True
    os.kill(crew.parent, signal.SIGTERM)


def to_all(crew: Crew) -> None:
    """As systemd does unless it is told otherwise."""
    crew.server.program.signal(signal.SIGTERM)


def from_the_terminal(crew: Crew) -> None:
    """As Ctrl-C does."""
    crew.server.program.stopped = True
    crew.server.program.signal(signal.SIGINT)


@pytest.mark.parametrize("end", [to_the_parent, to_all, from_the_terminal])
def test_what_is_under_way_is_finished(stack: Stack, upstream: Upstream, end: object) -> None:
    crew = start_unlimited(stack, upstream)
    pids = crew.pids()
    clients = crew.client_of_each()
    jwts = [client.authorize(CLUSTER) for client in clients]
    upstream.may_answer.clear()
    with ThreadPoolExecutor() as pool:
        under_way = [
            pool.submit(client.upload, jwt, CLUSTER, "up")
            for client, jwt in zip(clients, jwts, strict=True)
        ]
        stack.wait(lambda: len(upstream.received) == 2, "both uploads to be under way")
        end(crew)  # type: ignore[operator]
        ready = f"{crew.server.internal_url}/healthz/ready"
        stack.wait(lambda: fetch(ready).status == 503, "readiness to end", crew.server.program)
        stack.wait(lambda: not answers(f"{crew.server.url}/healthz", 200), "nobody to accept")
        assert crew.pids() == pids
        assert not any(upload.done() for upload in under_way)
        upstream.may_answer.set()
        assert [upload.result(10).status for upload in under_way] == [200, 200]
    assert crew.server.program.popen.wait(STOP_SECONDS) in (-signal.SIGTERM, -signal.SIGINT)
    assert not any(map(alive, pids))
    output = crew.server.program.output()
    assert "is replaced" not in output
    assert "Traceback" not in output
    crew.close()


def test_a_stuck_client_holds_nobody_for_long(stack: Stack, upstream: Upstream) -> None:
    crew = start_unlimited(stack, upstream)
    pids = crew.pids()
    client = crew.client()
    client.begin_upload(client.authorize(CLUSTER))
    crew.server.program.stopped = True
    to_the_parent(crew)
    assert crew.server.program.popen.wait(STOP_SECONDS) == -signal.SIGTERM
    assert not any(map(alive, pids))
    crew.close()


def test_workers_do_not_outlive_their_parent(stack: Stack, upstream: Upstream) -> None:
    crew = start_unlimited(stack, upstream)
    pids = crew.pids()
    crew.server.program.stopped = True
    os.kill(crew.parent, signal.SIGKILL)
    stack.wait(lambda: not any(map(alive, pids)), "the workers to end", crew.server.program)
