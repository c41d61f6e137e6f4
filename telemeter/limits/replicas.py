"""One upload per cluster and interval at all replicas of a server together, by way of memcached.

A server first asks its own table (`ratelimit`), which answers at once. Only then it asks memcached,
where an entry stands for a slot that was taken, and expires after the interval by memcached's own
monotonic clock. The clocks of two replicas may differ, so they only say how long the wait is about.
While memcached does not answer, the server's own table is all there is: nobody is refused because
of that.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final, Protocol

from prometheus_client import Counter
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from telemeter.auth.memcached import expiry
from telemeter.limits.ratelimit import RateLimitedError, Slot
from telemeter.loop.clocks import WallClock

ASKED: Final = Counter(
    "telemeter_ratelimit_shared_total",
    "Uploads that memcached was asked about by result: taken, refused (another replica has taken "
    "the slot), or error (memcached did not answer, the upload went on).",
    ["result"],
)
for _result in ("taken", "refused", "error"):
    ASKED.labels(_result)

log = Logger()


class Memcache(Protocol):
    """A caller of methods of `MemCacheProtocol` by name and key; see `Memcached.call`."""

    async def call(self, method: str, key: str, *arguments: Any) -> Any: ...


class Replicas:
    """The slots that clusters have taken at any of the replicas."""

    def __init__(self, memcache: Memcache, interval: float, wall: WallClock, mark: int) -> None:
        """Make it.

        Args:
            memcache: what all replicas share.
            interval: seconds between two uploads of a cluster, above 0.
            wall: tells about how long a slot of another replica still lasts.
            mark: tells this server's slots from those of others; see `RateLimiter.mark`.
        """
        self._memcache = memcache
        self._interval = interval
        self._wall = wall
        self._mark = mark
        self._works = True

    async def take(self, cluster: str) -> bool:
        """Take a cluster's slot; whether memcached knows of it, which is not vital.

        Raises:
            RateLimitedError: another replica has taken it.
        """
        try:
            wait = await self._wait_after_taking(cluster)
        except Exception as error:
            ASKED.labels("error").inc()
            self._note(works=False, reason=str(error) or repr(error))
            return False
        self._note(works=True)
        if wait > 0:
            ASKED.labels("refused").inc()
            raise RateLimitedError(max(1, math.ceil(wait)))
        ASKED.labels("taken").inc()
        return True

    async def give_back(self, cluster: str) -> None:
        """Let the cluster try again at any replica; if memcached does not answer, later."""
        try:
            await self._memcache.call("delete", _key(cluster))
        except Exception as error:
            self._note(works=False, reason=str(error) or repr(error))

    async def _wait_after_taking(self, cluster: str) -> float:
        """For how many seconds the cluster has to wait; 0: it has taken its slot."""
        key, now = _key(cluster), self._wall.now()
        entry = (b"%.3f" % now, self._mark, expiry(math.ceil(self._interval), self._wall))
        if await self._memcache.call("add", key, *entry):
            return 0
        mark, value = await self._memcache.call("get", key)
        taken = _taken_at(value)
        # Of our own slots our table knows better: lifetimes in memcached are whole seconds.
        if taken is not None and mark != self._mark:
            return min(max(taken + self._interval - now, 1), self._interval)
        await self._memcache.call("set", key, *entry)
        return 0

    def _note(self, *, works: bool, reason: str = "") -> None:
        """Say so when memcached begins to fail, and when that is over."""
        if works != self._works:
            self._works = works
            if works:
                log.info("the rate limit holds for all replicas again")
            else:
                log.warn("the rate limit holds for each replica by itself", reason=reason)


class SharedSlot:
    """A cluster's slot in an interval, at this replica and at the others.

    Attributes:
        allowed: None once the other replicas agree, or a failure: `RateLimitedError`.
    """

    def __init__(self, slot: Slot, replicas: Replicas, cluster: str) -> None:
        self._slot = slot
        self._replicas = replicas
        self._cluster = cluster
        self._is_known = False
        self._was_given_back = False
        self.allowed: Deferred[None] = Deferred.fromCoroutine(self._ask())

    async def _ask(self) -> None:
        try:
            self._is_known = await self._replicas.take(self._cluster)
        except RateLimitedError:
            self._slot.give_back()
            raise
        if self._was_given_back:
            self._tell_replicas()

    def give_back(self) -> None:
        """Let the cluster try again at once, because its upload led to nothing."""
        self._slot.give_back()
        self._was_given_back = True
        self._tell_replicas()

    def _tell_replicas(self) -> None:
        if self._is_known:
            self._is_known = False
            Deferred.fromCoroutine(self._replicas.give_back(self._cluster)).addErrback(
                lambda failure: log.failure("a slot could not be given back", failure)
            )


def _key(cluster: str) -> str:
    return f"telemeter-turn-{hashlib.sha256(cluster.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _taken_at(value: bytes | None) -> float | None:
    """When a slot was taken, by another server's wall clock; None if that is not what is there."""
    try:
        taken = float(value or b"nan")
    except ValueError:
        return None
    return taken if math.isfinite(taken) else None
