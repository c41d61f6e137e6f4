"""The rate limit of several replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.limits.ratelimit import RateLimitedError, RateLimiter
from telemeter.limits.replicas import Replicas, SharedSlot
from telemeter.loop.clocks import elapsed
from tests.fakes import NOW, UPTIME, FakeWall, Growth, Log, Reply, has_fired, result_of
from tests.web.server import CLUSTER, Server, up

INTERVAL = 270.0


class FakeMemcache:
    """A memcached in memory.

    Attributes:
        stored: the entries, with when they expire.
        identifiers: of each entry, as it is now.
        before: is called with each method before it is done.
        broken: whether it raises whatever it is asked.
        waiting: what its answers wait for; None: they come at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.stored: dict[str, tuple[int, bytes, float]] = {}
        self.identifiers: dict[str, bytes] = {}
        self.before: Callable[[str], None] = lambda method: None
        self.broken = False
        self.waiting: list[Deferred[None]] | None = None
        self._clock = clock

    async def call(self, method: str, key: str, *arguments: Any) -> Any:
        if self.waiting is not None:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if self.broken:
            raise ConnectionError("gone")
        self.before(method)
        now = self._clock.seconds()
        self.stored = {name: entry for name, entry in self.stored.items() if entry[2] > now}
        if method == "get":
            flags, value = self.stored.get(key, (0, None))[:2]
            return flags, self.identifiers.get(key, b""), value
        if method == "checkAndSet":
            value, identifier, flags, lifetime = arguments
            if key not in self.stored or identifier != self.identifiers[key]:
                return False
        else:
            assert method == "add"
            value, flags, lifetime = arguments
            if key in self.stored:
                return False
        over = lifetime - NOW + UPTIME if lifetime > 30 * 24 * 3600 else now + lifetime
        self.put(key, flags, value, over)
        return True

    def put(self, key: str, flags: int, value: bytes, over: float) -> None:
        """Have an entry, whatever there was."""
        self.stored[key] = (flags, value, over)
        self.identifiers[key] = b"%d" % (int(self.identifiers.get(key, b"0")) + 1)

    def forget(self, key: str) -> None:
        """Have no such entry."""
        del self.stored[key]


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
    one, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    assert (wait_of(one), wait_of(one, "b")) == (0, 0)
    clock.advance(later)
    assert wait_of(other) == wait


def test_a_turn_that_was_given_back_is_free_at_all(clock: Clock, memcache: FakeMemcache) -> None:
    one, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    entry = result_of(Deferred.fromCoroutine(one.take("a")))
    assert entry is not None
    result_of(Deferred.fromCoroutine(one.give_back("a", entry)))
    assert wait_of(other) == 0
    assert wait_of(one) == 270


def test_a_turn_of_another_is_not_given_back(clock: Clock, memcache: FakeMemcache) -> None:
    one, other, third = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2, 3))
    entry = result_of(Deferred.fromCoroutine(one.take("a")))
    assert entry is not None
    clock.advance(INTERVAL)
    assert wait_of(other) == 0
    result_of(Deferred.fromCoroutine(one.give_back("a", entry)))
    assert wait_of(third) == 270


def test_nor_one_that_another_takes_meanwhile(clock: Clock, memcache: FakeMemcache) -> None:
    one, other, third = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2, 3))
    entry = result_of(Deferred.fromCoroutine(one.take("a")))
    assert entry is not None

    def overtake(method: str) -> None:
        if method == "checkAndSet":
            memcache.before = lambda method: None
            (key,) = memcache.stored
            memcache.forget(key)
            assert wait_of(other) == 0

    memcache.before = overtake
    result_of(Deferred.fromCoroutine(one.give_back("a", entry)))
    assert wait_of(third) == 270


def test_of_two_that_replace_an_old_entry_one_wins(clock: Clock, memcache: FakeMemcache) -> None:
    first, one, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2, 3))
    assert wait_of(first) == 0
    clock.advance(INTERVAL)
    waits = []

    def overtake(method: str) -> None:
        if method == "checkAndSet":
            memcache.before = lambda method: None
            waits.append(wait_of(other))

    memcache.before = overtake
    assert wait_of(one) == 270
    assert waits == [0]


def test_an_entry_that_expires_meanwhile_is_made_anew(clock: Clock, memcache: FakeMemcache) -> None:
    first, one = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    assert wait_of(first) == 0

    def expire(method: str) -> None:
        if method == "get":
            memcache.before = lambda method: None
            (key,) = memcache.stored
            memcache.forget(key)

    memcache.before = expire
    assert wait_of(one) == 0


def test_who_is_overtaken_each_time_gives_up(clock: Clock, memcache: FakeMemcache) -> None:
    one = Replicas(memcache, INTERVAL, FakeWall(clock), 1)
    assert wait_of(one) == 0
    clock.advance(INTERVAL)

    def overtake(method: str) -> None:
        if method == "checkAndSet":
            (key,) = memcache.stored
            memcache.put(key, 1, memcache.stored[key][1], 1e9)

    memcache.before = overtake
    assert wait_of(one) == 30


def test_memcached_may_end_an_entry_a_second_early(clock: Clock, memcache: FakeMemcache) -> None:
    one, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    assert wait_of(one) == 0
    ((key, (flags, value, over)),) = memcache.stored.items()
    memcache.stored[key] = (flags, value, over - 1)
    clock.advance(INTERVAL - 0.001)
    assert wait_of(other) == 1


@pytest.mark.parametrize("interval", [0.25, 1.5])
def test_an_interval_is_kept_that_memcached_cannot_express(
    clock: Clock, memcache: FakeMemcache, interval: float
) -> None:
    replica = Replica(memcache, clock, interval)
    for _ in range(4):
        result_of(replica.take().allowed)
        clock.advance(interval - 0.01)
        with pytest.raises(RateLimitedError):
            replica.take()
        clock.advance(0.01)


def test_an_interval_of_months(clock: Clock, memcache: FakeMemcache) -> None:
    month = 31 * 24 * 3600
    one, other = (Replicas(memcache, month, FakeWall(clock), mark) for mark in (1, 2))
    assert wait_of(one) == 0
    (entry,) = memcache.stored.values()
    assert entry[2] == UPTIME + month + 2
    assert wait_of(other) == month


@pytest.mark.parametrize("value", [b"", b"nonsense", b"nan", b"inf", b"-inf"])
def test_an_entry_that_says_nothing_stops_nobody(
    clock: Clock, memcache: FakeMemcache, value: bytes
) -> None:
    one, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    assert wait_of(one) == 0
    (key,) = memcache.stored
    memcache.put(key, 7, value, 1e9)
    assert wait_of(one) == 0
    assert wait_of(other) == 270


@pytest.mark.parametrize("step", [-3600.0, -100.0, 100.0, 3600.0])
@pytest.mark.parametrize("later", [0.0, 100.0, 269.9])
def test_replicas_whose_wall_clocks_differ_share_turns_all_the_same(
    clock: Clock, memcache: FakeMemcache, step: float, later: float
) -> None:
    one = Replicas(memcache, INTERVAL, FakeWall(clock), 1)
    other = Replicas(memcache, INTERVAL, FakeWall(clock, ahead=step), 2)
    assert wait_of(one) == 0
    clock.advance(later)
    assert 1 <= wait_of(other) <= INTERVAL
    clock.advance(INTERVAL - later + 2)
    assert wait_of(other) == 0
    assert 1 <= wait_of(one) <= INTERVAL


def test_an_own_turn_that_memcached_still_has_is_over_when_the_own_table_says_so(
    clock: Clock, memcache: FakeMemcache
) -> None:
    replicas = Replicas(memcache, INTERVAL, FakeWall(clock), 1)
    assert wait_of(replicas) == 0
    clock.advance(INTERVAL - 1)
    assert wait_of(replicas) == 0
    clock.advance(1)
    assert wait_of(Replicas(memcache, INTERVAL, FakeWall(clock), 2)) == 269


def test_a_memcached_that_is_gone_stops_nobody_and_is_logged_once(
    clock: Clock, memcache: FakeMemcache, log: Log
) -> None:
    growth = Growth()
    replicas, other = (Replicas(memcache, INTERVAL, FakeWall(clock), mark) for mark in (1, 2))
    memcache.broken = True
    assert [wait_of(replicas) for _ in range(3)] == [0, 0, 0]
    result_of(Deferred.fromCoroutine(replicas.give_back("a", b"x")))
    memcache.broken = False
    assert [wait_of(each) for each in (other, replicas, replicas)] == [0, 270, 270]
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

    def __init__(self, memcache: FakeMemcache, clock: Clock, interval: float = INTERVAL) -> None:
        self.limiter = RateLimiter(interval)
        self._replicas = Replicas(memcache, interval, FakeWall(clock), self.limiter.mark)
        self._clock = clock

    def take(self) -> SharedSlot:
        slot = self.limiter.take("a", elapsed(self._clock))
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
    assert [value for _, value, _ in memcache.stored.values()] == [b"free"]
    one.limiter.take("a", elapsed(clock))


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
