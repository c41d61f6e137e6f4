"""Authorizations in real memcacheds: what is asked of them, and what happens when they are gone."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from demo.keys import signing_key
from demo.programs import Server, start_authorizer, start_server
from demo.stack import HOST, Answer, Program, Stack, fetch
from telemeter.auth.composite import make_composite, parse_composite

from .crew import Client, Said
from .samples import counted
from .wire import write_body, write_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def start(
    stack: Stack, authorizer: Program, upstream: Upstream, *caches: Program, expire: int = 60
) -> Server:
    """Start a server that uses these memcacheds."""
    return start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--authorize", f"{authorizer.url}/"),
        *("--forward-url", upstream.url),
        *(part for cache in caches for part in ("--memcached", cache.url)),
        *("--memcached-expire", str(expire)),
        *("--memcached-interval", "1"),
    )


def write(server: Server, cluster: str, secret: str = SECRET) -> Answer:
    """Write one sample for a cluster."""
    return fetch(
        f"{server.url}/metrics/v1/receive",
        method="POST",
        body=write_body(cluster),
        headers=write_headers(cluster, secret),
    )


def key_of(cluster: str) -> str:
    """Return where a cluster's yes is kept: the original can share it."""
    question = parse_composite(f"Bearer {make_composite(cluster, SECRET)}").question
    return hashlib.sha256(question).hexdigest()


class Counts:
    """How much the counters of a server have grown since the last look."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._look()

    def _look(self) -> dict[str, int]:
        url = self._server.internal_url
        counts = {
            name: counted(url, "cache_reads_total", result=name)
            for name in ("hit", "miss", "error")
        }
        counts["stored"] = counted(url, "cache_writes_total", result="success")
        counts["not stored"] = counted(url, "cache_writes_total", result="error")
        counts["asked"] = counted(url, "client_api_requests_total", client="authorize")
        return {name: int(count) for name, count in counts.items()}

    def grown(self) -> dict[str, int]:
        """Return by how much, without what has not grown."""
        now = self._look()
        grown = {name: count - self._before[name] for name, count in now.items()}
        self._before = now
        return {name: count for name, count in grown.items() if count}


MISS = {"miss": 1, "asked": 1, "stored": 1}
HIT = {"hit": 1}
BROKEN = {"miss": 1, "error": 1, "asked": 1, "not stored": 1}


def test_a_yes_is_remembered_for_all_servers(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    first = start(stack, authorizer, upstream, cache)
    second = start(stack, authorizer, upstream, cache)
    counts, others = Counts(first), Counts(second)
    assert write(first, "one").status == 200
    assert counts.grown() == MISS
    assert write(first, "one").status == 200
    assert counts.grown() == HIT
    assert write(second, "one").status == 200
    assert others.grown() == HIT
    assert write(second, "two").status == 200
    assert others.grown() == MISS
    assert talk(cache, f"get {key_of('one')}").startswith(b"VALUE")
    assert b"HTTP/1.1 201 Created\r\n" in talk(cache, f"get {key_of('one')}")
    ids = [series["_id"] for series in upstream.series()]
    assert ids == ["one", "one", "one", "two"]


def test_a_no_is_not_stored(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    server = start(stack, authorizer, upstream, cache)
    counts = Counts(server)
    assert write(server, "one", "never-heard-of").status == 401
    assert counts.grown() == {"miss": 1, "asked": 1}
    assert write(server, "one", "never-heard-of").status == 401
    assert counts.grown() == {}
    assert b"STAT cmd_set 0\r\n" in talk(cache, "stats")


def test_a_yes_expires(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    server = start(stack, authorizer, upstream, cache, expire=3)
    counts = Counts(server)
    assert write(server, "one").status == 200
    assert counts.grown() == MISS
    assert write(server, "one").status == 200
    assert counts.grown() == HIT
    gone = f"get {key_of('one')}"
    stack.wait(lambda: talk(cache, gone) == b"END\r\n", "the entry to expire", cache, seconds=10)
    assert write(server, "one").status == 200
    assert counts.grown() == MISS


def test_a_memcached_that_is_killed_refuses_nobody(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    server = start(stack, authorizer, upstream, cache)
    counts = Counts(server)
    assert write(server, "one").status == 200
    assert write(server, "one").status == 200
    assert counts.grown() == {**MISS, **HIT}
    cache.stop(seconds=0)
    for _ in range(5):
        assert write(server, "one").status == 200
        assert counts.grown() == BROKEN
    cache.start()
    wait_until_it_listens(stack, cache)

    def hit() -> bool:
        assert write(server, "one").status == 200
        return "hit" in counts.grown()

    stack.wait(hit, "a hit in the memcached that came back", server.program, seconds=10)
    assert write(server, "one").status == 200
    assert counts.grown() == HIT
    assert "cannot read from the cache of authorizations" in server.program.output()


def test_a_memcached_that_hangs_refuses_nobody(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program
) -> None:
    server = start(stack, authorizer, upstream, cache)
    assert write(server, "one").status == 200
    counts = Counts(server)
    cache.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert write(server, "one").status == 200
        assert write(server, "one").status == 200
        assert time.monotonic() - began < 5
        assert counts.grown() == {name: 2 * count for name, count in BROKEN.items()}
    finally:
        cache.signal(signal.SIGCONT)


def test_keys_are_spread_over_two_memcacheds(
    stack: Stack, authorizer: Program, upstream: Upstream, cache: Program, other_cache: Program
) -> None:
    server = start(stack, authorizer, upstream, cache, other_cache)
    clusters = [f"cluster-{number}" for number in range(30)]
    counts = Counts(server)
    for grown in (MISS, HIT):
        for cluster in clusters:
            assert write(server, cluster).status == 200
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
        assert write(server, cluster).status == 200
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
