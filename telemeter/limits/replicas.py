"""One upload per cluster and interval at all replicas of a server together, by way of memcached.

A server first asks its own table (`ratelimit`), which answers at once. Only then it asks memcached,
where an entry stands for a slot that was taken. It says when, by the clock of its replica, and it
expires by memcached's own clock, which counts whole seconds: so it is given some more than the
interval. An entry is only ever replaced or given back by who has seen it as it is (`gets` and
`cas`), so of two replicas one wins, and none gives back a slot of another. While memcached does not
answer, the server's own table is all there is: nobody is refused because of that.
"""

from __future__ import annotations

import hashlib
import math
import secrets
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

#: Entries are kept for so many seconds more than an interval: memcached may end one a second early.
_MORE_SECONDS: Final = 2
#: The wait that a cluster is told of when nobody can say how long it is, in seconds.
_UNKNOWN_SECONDS: Final = 30.0
#: How often a slot is tried to take while other replicas change its entry.
_TRIES: Final = 3
#: The entry of a slot that was given back.
_FREE: Final = b"free"

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

    async def take(self, cluster: str) -> bytes | None:
        """Take a cluster's slot.

        Returns:
            What `give_back` wants; None: memcached does not know of it, which is not vital.

        Raises:
            RateLimitedError: another replica has taken it.
        """
        entry = b"%.3f %s" % (self._wall.now(), secrets.token_hex(8).encode())
        try:
            wait = await self._wait_after_taking(cluster, entry)
        except Exception as error:
            ASKED.labels("error").inc()
            self._note(works=False, reason=str(error) or repr(error))
            return None
        self._note(works=True)
        if wait > 0:
            ASKED.labels("refused").inc()
            raise RateLimitedError(max(1, math.ceil(wait)))
        ASKED.labels("taken").inc()
        return entry

    async def give_back(self, cluster: str, entry: bytes) -> None:
        """Let the cluster try again at any replica; if memcached does not answer, later.

        Args:
            cluster: whose slot it is.
            entry: what `take` has returned: another one that is there by now stays.
        """
        key = _key(cluster)
        try:
            _, identifier, value = await self._memcache.call("get", key, True)
            if value == entry:
                await self._memcache.call("checkAndSet", key, _FREE, identifier, self._mark, 1)
        except Exception as error:
            self._note(works=False, reason=str(error) or repr(error))

    async def _wait_after_taking(self, cluster: str, entry: bytes) -> float:
        """For how many seconds the cluster has to wait; 0: it has taken its slot."""
        key = _key(cluster)
        lifetime = expiry(math.ceil(self._interval) + _MORE_SECONDS, self._wall)
        for _ in range(_TRIES):
            if await self._memcache.call("add", key, entry, self._mark, lifetime):
                return 0
            mark, identifier, value = await self._memcache.call("get", key, True)
            if value is None:
                continue  # it has expired since
            # Of our own slots our table knows better.
            wait = 0.0 if mark == self._mark else self._wait_by(value)
            if wait > 0:
                return wait
            arguments = (key, entry, identifier, self._mark, lifetime)
            if await self._memcache.call("checkAndSet", *arguments):
                return 0
        return min(self._interval, _UNKNOWN_SECONDS)  # other replicas were quicker each time

    def _wait_by(self, value: bytes) -> float:
        """Return for how many seconds another replica's slot still lasts, by its entry."""
        taken = _taken_at(value)
        if taken is None:
            return 0
        age = self._wall.now() - taken
        if age > self._interval + _MORE_SECONDS + 1:
            # It would have expired: the clocks differ, so who knows since when it is there.
            return min(self._interval, _UNKNOWN_SECONDS)
        return min(self._interval - age, self._interval)

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
        allowed: fires with None once the other replicas agree, or fails with `RateLimitedError`.
    """

    def __init__(self, slot: Slot, replicas: Replicas, cluster: str) -> None:
        self._slot = slot
        self._replicas = replicas
        self._cluster = cluster
        self._entry: bytes | None = None
        self._was_given_back = False
        self.allowed: Deferred[None] = Deferred.fromCoroutine(self._ask())

    async def _ask(self) -> None:
        try:
            self._entry = await self._replicas.take(self._cluster)
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
        entry, self._entry = self._entry, None
        if entry is not None:
            Deferred.fromCoroutine(self._replicas.give_back(self._cluster, entry)).addErrback(
                lambda failure: log.failure("a slot could not be given back", failure)
            )


def _key(cluster: str) -> str:
    return f"telemeter-turn-{hashlib.sha256(cluster.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _taken_at(value: bytes) -> float | None:
    """When a slot was taken, by another server's wall clock; None if that is not what is there."""
    try:
        taken = float(value.partition(b" ")[0] or b"nan")
    except ValueError:
        return None
    return taken if math.isfinite(taken) else None
