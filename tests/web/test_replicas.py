"""The rate limit of several replicas."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.web.ratelimit import RateLimitedError, RateLimiter
from telemeter.web.replicas import Replicas, SharedSlot
from tests.fakes import NOW, Growth, Log, Reply, has_fired, result_of
from tests.web.server import CLUSTER, Server, up

INTERVAL = 270.0


class FakeMemcache:
    """A memcached in memory.

    Attributes:
        stored: the entries, with when they expire.
        broken: whether it raises whatever it is asked.
        waiting: what its answers wait for; None: they come at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.stored: dict[str, tuple[bytes, float]] = {}
        self.broken = False
        self.waiting: list[Deferred[None]] | None = None
        self._clock = clock

    async def call(self, method: str, key: str, *arguments: Any) -> Any:
        if self.waiting is not None:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if self.broken:
            raise ConnectionError("gone")
        now = self._clock.seconds()
        self.stored = {name: entry for name, entry in self.stored.items() if entry[1] > now}
        if method == "get":
            return 0, self.stored.get(key, (None,))[0]
        if method == "delete":
            return self.stored.pop(key, None) is not None
        value, _, lifetime = arguments
        if method == "add" and key in self.stored:
            return False
        over = lifetime if lifetime > 30 * 24 * 3600 else now + lifetime
        self.stored[key] = (value, over)
        return True


@pytest.fixture
def memcache(clock: Clock) -> FakeMemcache:
    return FakeMemcache(clock)


def wait_of(replicas: Replicas, cluster: str = "a") -> int:
    """How long a cluster must wait; 0: it has taken its turn."""
    try:
        result_of(Deferred.fromCoroutine(replicas.take(cluster)))
    except RateLimitedError as error:
        return error.retry_after
    return 0


@pytest.mark.parametrize(
    ("later", "wait"), [(0, 270), (0.9, 270), (1, 269), (269, 1), (269.999, 1), (270, 0)]
)
def test_a_turn_is_taken_at_all_replicas(
    clock: Clock, memcache: FakeMemcache, later: float, wait: int
) -> None:
    one, other = (Replicas(memcache, INTERVAL, clock) for _ in range(2))
    assert (wait_of(one), wait_of(one, "b")) == (0, 0)
    clock.advance(later)
    assert wait_of(other) == wait


def test_a_turn_that_was_given_back_is_free_at_all(clock: Clock, memcache: FakeMemcache) -> None:
    one, other = (Replicas(memcache, INTERVAL, clock) for _ in range(2))
    assert wait_of(one) == 0
    result_of(Deferred.fromCoroutine(one.give_back("a")))
    assert wait_of(other) == 0
    assert wait_of(one) == 270


@pytest.mark.parametrize("interval", [0.25, 1.5])
def test_an_interval_is_kept_that_memcached_cannot_express(
    clock: Clock, memcache: FakeMemcache, interval: float
) -> None:
    replicas = Replicas(memcache, interval, clock)
    waits = []
    for _ in range(4):
        waits.append(wait_of(replicas) > 0)
        clock.advance(interval - 0.01)
        waits.append(wait_of(replicas) > 0)
        clock.advance(0.01)
    assert waits == [False, True] * 4


def test_an_interval_of_months(clock: Clock, memcache: FakeMemcache) -> None:
    month = 31 * 24 * 3600
    replicas = Replicas(memcache, month, clock)
    assert wait_of(replicas) == 0
    (entry,) = memcache.stored.values()
    assert entry[1] == NOW + month
    assert wait_of(replicas) == month


@pytest.mark.parametrize("value", [b"", b"nonsense", b"nan", b"inf", b"-inf", b"%d" % (NOW + 900)])
def test_an_entry_that_says_nothing_stops_nobody(
    clock: Clock, memcache: FakeMemcache, value: bytes
) -> None:
    replicas = Replicas(memcache, INTERVAL, clock)
    assert wait_of(replicas) == 0
    (key,) = memcache.stored
    memcache.stored[key] = (value, NOW + 1e6)
    assert wait_of(replicas) == 0
    assert wait_of(replicas) == 270


def test_a_memcached_that_is_gone_stops_nobody_and_is_logged_once(
    clock: Clock, memcache: FakeMemcache, log: Log
) -> None:
    growth = Growth()
    replicas = Replicas(memcache, INTERVAL, clock)
    memcache.broken = True
    assert [wait_of(replicas) for _ in range(3)] == [0, 0, 0]
    result_of(Deferred.fromCoroutine(replicas.give_back("a")))
    memcache.broken = False
    assert [wait_of(replicas) for _ in range(3)] == [0, 270, 270]
    assert [event["log_format"] for event in log] == [
        "the rate limit holds for each replica by itself",
        "the rate limit holds for all replicas again",
    ]
    assert growth.of("telemeter_ratelimit_shared_total", result="error") == 3
    assert growth.of("telemeter_ratelimit_shared_total", result="taken") == 1
    assert growth.of("telemeter_ratelimit_shared_total", result="refused") == 2


# --- A slot ---------------------------------------------------------------------------------------


class Replica:
    """One of several servers."""

    def __init__(self, memcache: FakeMemcache, clock: Clock) -> None:
        self.limiter = RateLimiter(INTERVAL)
        self._replicas = Replicas(memcache, INTERVAL, clock)
        self._clock = clock

    def take(self) -> SharedSlot:
        slot = self.limiter.take("a", self._clock.seconds())
        return SharedSlot(slot, self._replicas, "a")


def test_a_turn_that_another_replica_took_is_not_taken_here(
    clock: Clock, memcache: FakeMemcache
) -> None:
    one, other = Replica(memcache, clock), Replica(memcache, clock)
    slot = one.take()
    result_of(slot.allowed)
    with pytest.raises(RateLimitedError):
        result_of(other.take().allowed)
    slot.give_back()
    slot.give_back()
    result_of(other.take().allowed)


def test_a_turn_that_is_given_back_before_memcached_answers(
    clock: Clock, memcache: FakeMemcache
) -> None:
    memcache.waiting = []
    one = Replica(memcache, clock)
    slot = one.take()
    slot.give_back()
    while memcache.waiting:
        memcache.waiting.pop(0).callback(None)
    assert has_fired(slot.allowed)
    assert memcache.stored == {}
    one.limiter.take("a", clock.seconds())


# --- Uploads --------------------------------------------------------------------------------------


@pytest.fixture
def servers(clock: Clock, memcache: FakeMemcache) -> tuple[Server, Server]:
    one, other = (Server(clock=clock, memcache=memcache) for _ in range(2))
    return one, other


@pytest.mark.parametrize("bare", [False, True])
def test_an_upload_counts_at_all_replicas(
    clock: Clock, servers: tuple[Server, Server], bare: bool
) -> None:
    one, other = servers
    token = one.token()
    caller = other.ask_tree if bare else other.ask
    other.issuer = one.issuer
    assert one.upload(up()).status == 200
    clock.advance(100)
    refused = other.upload(up(), token=token, caller=caller)
    assert (refused.status, refused.headers["retry-after"]) == (429, "170")
    assert refused.text.startswith(f"cluster {CLUSTER} has uploaded less than the interval")
    assert other.upstream.received == []
    clock.advance(170)
    assert other.upload(up(at=(NOW + 270) * 1000), token=token, caller=caller).status == 200
    assert one.upload(up(at=(NOW + 270) * 1000)).status == 429


def test_a_failed_upload_gives_the_turn_back_at_all(servers: tuple[Server, Server]) -> None:
    one, other = servers
    one.upstream.reply = Reply(status=503)
    assert one.upload(up()).status == 503
    assert other.upload(up()).status == 200


def test_without_memcached_the_body_waits_and_goes_on(
    clock: Clock, memcache: FakeMemcache, servers: tuple[Server, Server]
) -> None:
    memcache.broken = True
    assert [server.upload(up()).status for server in servers] == [200, 200]
    assert [server.upload(up()).status for server in servers] == [429, 429]
