"""Authorizations in real memcacheds: what is asked of them, and what happens when they are gone."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.keys import signing_key
from demo.programs import start_authorizer, start_server
from demo.stack import HOST, Program, Stack
from telemeter.auth.composite import make_composite, parse_composite
from tests.reactor import in_reactor
from tests.running import DEADLINE_SECONDS, Daemon, counted, reactor, running_server, until

from .crew import Client, Said
from .telling import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.fakes import Log

    from .upstream import Upstream

SECRET = "secret-of-all-clusters"


@pytest.fixture(scope="module")
def authorizer(stack: Stack) -> Program:
    return start_authorizer(stack, SECRET)


def talk(memcached: Program, command: str) -> bytes:
    """Send a memcached one command, and return its answer; empty when it answers nothing."""
    host, _, port = memcached.url.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(f"{command}\r\nquit\r\n".encode())
        with connection.makefile("rb") as answer:
            return answer.read()


def wait_until_it_listens(stack: Stack, memcached: Program) -> None:
    what = f"{memcached.name} to answer"
    stack.wait(lambda: talk(memcached, "version").startswith(b"VERSION"), what, memcached)


def start_memcached(stack: Stack, name: str) -> Program:
    port = stack.free_port()
    # Only root has to say, and may, which user it is to run as.
    argv = ["memcached", "-l", HOST, "-p", str(port), "-U", "0", "-m", "8", "-u", "root"]
    memcached = Program(name, argv, f"{HOST}:{port}", stack.folder / f"{name}.log")
    stack.programs.append(memcached)
    wait_until_it_listens(stack, memcached)
    return memcached


@pytest.fixture
def cache(memcached: None, stack: Stack) -> Iterator[Program]:
    cache = start_memcached(stack, f"memcached-{len(stack.programs)}")
    yield cache
    cache.stop()


@pytest.fixture
def other_cache(memcached: None, stack: Stack) -> Iterator[Program]:
    cache = start_memcached(stack, f"memcached-{len(stack.programs)}")
    yield cache
    cache.stop()


def running(
    stack: Stack, authorizer: Program, upstream: Upstream, *caches: Program, expire: int = 60
) -> AbstractAsyncContextManager[Daemon]:
    """Run a server that uses these memcacheds."""
    return running_server(
        stack,
        *("--authorize", f"{authorizer.url}/"),
        *("--forward-url", upstream.url),
        *(part for cache in caches for part in ("--memcached", cache.url)),
        *("--memcached-expire", str(expire)),
        *("--memcached-interval", "1"),
    )


async def status(server: Daemon, cluster: str, secret: str = SECRET) -> int:
    """Write one sample of a cluster; return the status of the answer."""
    return (await write(server.url, cluster, secret)).status


def key_of(cluster: str) -> str:
    """Return where a cluster's positive answer is kept: the original Telemeter shares it."""
    question = parse_composite(f"Bearer {make_composite(cluster, SECRET)}").question
    return hashlib.sha256(question).hexdigest()


class Counts:
    """How much the counters of all servers have grown since the last look."""

    def __init__(self) -> None:
        self._before = self._look()

    def _look(self) -> dict[str, int]:
        counts = {
            name: counted("cache_reads_total", result=name) for name in ("hit", "miss", "error")
        }
        counts["stored"] = counted("cache_writes_total", result="success")
        counts["not stored"] = counted("cache_writes_total", result="error")
        counts["asked"] = counted("client_api_requests_total", client="authorize")
        return counts

    def grown(self) -> dict[str, int]:
        """Return by how much, without what has not grown."""
        now = self._look()
        grown = {name: count - self._before[name] for name, count in now.items()}
        self._before = now
        return {name: count for name, count in grown.items() if count}


MISS = {"miss": 1, "asked": 1, "stored": 1}
HIT = {"hit": 1}
BROKEN = {"miss": 1, "error": 1, "asked": 1, "not stored": 1}


@in_reactor
async def test_a_positive_answer_serves_all_servers(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    first = running(stack, authorizer, upstream, cache)
    second = running(stack, authorizer, upstream, cache)
    async with first as one, second as other:
        counts = Counts()
        assert await status(one, "one") == 200
        assert counts.grown() == MISS
        assert await status(one, "one") == 200
        assert counts.grown() == HIT
        assert await status(other, "one") == 200
        assert counts.grown() == HIT
        assert await status(other, "two") == 200
        assert counts.grown() == MISS
    assert talk(cache, f"get {key_of('one')}").startswith(b"VALUE")
    assert b"HTTP/1.1 201 Created\r\n" in talk(cache, f"get {key_of('one')}")
    ids = [series["_id"] for series in upstream.series()]
    assert ids == ["one", "one", "one", "two"]


@in_reactor
async def test_a_refusal_is_not_stored(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    async with running(stack, authorizer, upstream, cache) as server:
        counts = Counts()
        assert await status(server, "one", "never-heard-of") == 401
        assert counts.grown() == {"miss": 1, "asked": 1}
        assert await status(server, "one", "never-heard-of") == 401
        assert counts.grown() == {}
    assert b"STAT cmd_set 0\r\n" in talk(cache, "stats")


@in_reactor
async def test_a_positive_answer_expires(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    async with running(stack, authorizer, upstream, cache, expire=3) as server:
        counts = Counts()
        assert await status(server, "one") == 200
        assert counts.grown() == MISS
        assert await status(server, "one") == 200
        assert counts.grown() == HIT
        gone = f"get {key_of('one')}"
        await until(lambda: talk(cache, gone) == b"END\r\n", "the entry to expire")
        assert await status(server, "one") == 200
        assert counts.grown() == MISS


@in_reactor
async def test_a_memcached_that_is_killed_refuses_nobody(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program, log: Log
) -> None:
    async with running(stack, authorizer, upstream, cache) as server:
        counts = Counts()
        assert await status(server, "one") == 200
        assert await status(server, "one") == 200
        assert counts.grown() == {**MISS, **HIT}
        cache.stop(seconds=0)
        for _ in range(5):
            assert await status(server, "one") == 200
            assert counts.grown() == BROKEN
        assert "cannot read from the cache of authorizations" in "\n".join(log.lines)
        cache.start()
        wait_until_it_listens(stack, cache)
        end = reactor.seconds() + DEADLINE_SECONDS
        grown: dict[str, int] = {}
        while "hit" not in grown:
            assert reactor.seconds() < end, "no hit in the memcached that came back"
            assert await status(server, "one") == 200
            grown = counts.grown()
        assert await status(server, "one") == 200
        assert counts.grown() == HIT


def stands_still(pid: int) -> bool:
    """Tell whether all threads of a process are stopped, which a signal does not do at once."""
    threads = Path("/proc", str(pid), "task").iterdir()
    return all((each / "stat").read_text().rpartition(")")[2].split()[0] == "T" for each in threads)


@in_reactor
async def test_a_memcached_that_hangs_refuses_nobody(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    async with running(stack, authorizer, upstream, cache) as server:
        assert await status(server, "one") == 200
        counts = Counts()
        cache.signal(signal.SIGSTOP)
        try:
            await until(lambda: stands_still(cache.popen.pid), "memcached to stand still")
            began = time.monotonic()
            assert await status(server, "one") == 200
            assert await status(server, "one") == 200
            assert time.monotonic() - began < 5
            assert counts.grown() == {name: 2 * count for name, count in BROKEN.items()}
        finally:
            cache.signal(signal.SIGCONT)


@in_reactor
async def test_keys_are_spread_over_two_memcacheds(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program, other_cache: Program
) -> None:
    async with running(stack, authorizer, upstream, cache, other_cache) as server:
        clusters = [f"cluster-{number}" for number in range(30)]
        counts = Counts()
        for grown in (MISS, HIT):
            for cluster in clusters:
                assert await status(server, cluster) == 200
            assert counts.grown() == {name: len(clusters) for name in grown}
        on_first, on_other = (
            {c for c in clusters if talk(memcached, f"get {key_of(c)}").startswith(b"VALUE")}
            for memcached in (cache, other_cache)
        )
        assert on_first | on_other == set(clusters)
        assert on_first & on_other == set()
        assert len(on_first) > 5
        assert len(on_other) > 5

        # Without one of them, what the other holds is still known.
        other_cache.stop(seconds=0)
        for cluster in clusters:
            assert await status(server, cluster) == 200
        lost = len(on_other)
        assert counts.grown() == {"hit": len(on_first), **dict.fromkeys(BROKEN, lost)}
    assert len(upstream.series()) == 3 * len(clusters)


# --- The rate limit -------------------------------------------------------------------------------


class Replica:
    """One of several servers."""

    def __init__(self, stack: Stack, upstream: Upstream, cache: Program, *flags: str) -> None:
        self._server = start_server(
            stack,
            f"server-{len(stack.programs)}",
            *("--forward-url", upstream.url),
            *("--shared-key", str(stack.folder / "shared.key")),
            *("--memcached", cache.url),
            *flags,
        )

    def authorize(self, cluster: str) -> str:
        """Exchange any token for a JWT."""
        with closing(Client(self._server.url)) as client:
            return client.authorize(cluster)

    def upload(self, jwt: str, cluster: str) -> Said:
        """Upload a sample, by a connection of its own: a refusal may close it."""
        with closing(Client(self._server.url)) as client:
            return client.upload(jwt, cluster, "up")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_cluster_has_one_turn_at_all_servers(
    stack: Stack, upstream: Upstream, cache: Program, workers: str
) -> None:
    stack.write("shared.key", signing_key())
    first = Replica(stack, upstream, cache)
    other = Replica(stack, upstream, cache, "--workers", workers)
    jwt = first.authorize("one")
    assert first.upload(jwt, "one").status == 200
    refused = other.upload(jwt, "one")
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 270
    # What is not forwarded does not count.
    upstream.status = 503
    jwt = first.authorize("two")
    assert first.upload(jwt, "two").status == 503
    upstream.status = 200
    # The first does not wait until memcached has heard of it.
    stack.wait(lambda: other.upload(jwt, "two").status == 200, "the turn to be free again")
    assert first.upload(jwt, "two").status == 429
    # Without memcached each has its own limit.
    cache.stop(seconds=0)
    jwt = first.authorize("three")
    assert [replica.upload(jwt, "three").status for replica in (first, other)] == [200, 200]
    assert [replica.upload(jwt, "three").status for replica in (first, other)] == [429, 429]
