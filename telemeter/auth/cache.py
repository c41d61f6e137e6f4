"""Remembering what the authorization server said, so that it is not asked with every request."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from prometheus_client import Counter
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from telemeter.auth.authorization_server import Answer, RefusedError
from telemeter.loop.clocks import LONG_AGO
from telemeter.loop.waiters import Once

READS: Final = Counter(
    "cache_reads_total",
    "Look-ups of authorizations by result: hit, or miss, when the authorization server has to be "
    "asked. Those misses that a broken cache caused count as error too.",
    ["result"],
)
WRITES: Final = Counter("cache_writes_total", "Authorizations stored, by result.", ["result"])
_HIT, _MISS, _UNREADABLE = map(READS.labels, ("hit", "miss", "error"))
_WRITTEN, _UNWRITABLE = map(WRITES.labels, ("success", "error"))

_TOO_MANY_REQUESTS = 429

#: Asks about a token; returns for how many seconds the answer holds, or raises as `Asker.ask`.
AskParent: TypeAlias = Callable[[bytes], Awaitable[float]]

log = Logger()

_Value = TypeVar("_Value")


class Asker(Protocol):
    """A place to ask whether a token is good."""

    async def ask(self, question: bytes) -> Answer:
        """Return the answer, if it is positive.

        Raises:
            RefusedError: the answer is negative.
            UnavailableError: nobody can say at present.
        """
        ...


class AnswerCache(Protocol):
    """A place where positive answers are kept."""

    async def get(self, key: str) -> bool:
        """Fire with whether there was a positive answer; fails if the store is broken."""
        ...

    async def put(self, key: str, answer: Answer) -> None:
        """Keep a positive answer; fails if the store is broken."""
        ...


class Expiring(Generic[_Value]):
    """A bounded map whose entries are forgotten: after a while, or the oldest when it is full."""

    def __init__(self, clock: IReactorTime, lifetime: float, size: int) -> None:
        """Make a map.

        Args:
            clock: tells their ages.
            lifetime: for how many seconds an entry is kept.
            size: how many entries are kept.
        """
        self._clock = clock
        self._lifetime = lifetime
        self._size = size
        self._entries: OrderedDict[str, tuple[float, _Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> _Value | None:
        """Return the value of an entry that has not expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if expires <= self._clock.seconds():
            del self._entries[key]
            return None
        return value

    def remaining(self, key: str) -> float:
        """For how many more seconds an entry is kept; 0 if there is none."""
        expires, _ = self._entries.get(key, (LONG_AGO, None))
        return max(0.0, expires - self._clock.seconds())

    def put(self, key: str, value: _Value, lifetime: float | None = None) -> None:
        """Add an entry, or renew it; it may have a lifetime of its own."""
        if lifetime is None:
            lifetime = self._lifetime
        if lifetime <= 0 or self._size <= 0:
            return
        self._entries.pop(key, None)
        while len(self._entries) >= self._size:
            self._entries.popitem(last=False)
        self._entries[key] = (self._clock.seconds() + lifetime, value)


class MemoryCache:
    """A cache of positive answers in this process."""

    def __init__(self, clock: IReactorTime, lifetime: float, size: int) -> None:
        self._entries: Expiring[bool] = Expiring(clock, lifetime, size)

    def has(self, key: str) -> bool:
        """Return whether there is a positive answer; unlike `get`, at once."""
        return self._entries.get(key) is not None

    async def get(self, key: str) -> bool:
        return self.has(key)

    async def put(self, key: str, answer: Answer) -> None:
        self._entries.put(key, True)

    def remaining(self, question: bytes) -> float:
        """Return for how many more seconds a positive answer is kept; 0 if it is not."""
        return self._entries.remaining(_key_of(question))


class CachingAsker:
    """A client that asks what is not cached, once however many wait for the answer."""

    def __init__(self, asker: Asker, store: AnswerCache, refused: Expiring[RefusedError]) -> None:
        """Make one.

        Args:
            asker: is asked what is not known.
            store: keeps positive answers.
            refused: keeps negative answers, briefly, so that a misconfigured sender in a hot loop
                does not become a load on the authorization server.
        """
        self._asker = asker
        self._store = store
        # What can be said at once needs no coroutine, and that is so of nearly every request.
        self._has = store.has if isinstance(store, MemoryCache) else _unknown
        self._refused = refused
        self._once: Once[None] = Once()

    def check(self, question: bytes) -> Deferred[None]:
        """Fire with None if the answer to a question is positive.

        Returns:
            None, or a failure: `RefusedError` or `UnavailableError`. Cancelling it leaves the
            question to the others who wait for its answer.
        """
        key = _key_of(question)
        if self._has(key):
            _HIT.inc()
            return succeed(None)
        return self._once.find(key, lambda: self._find_out(key, question))

    async def _find_out(self, key: str, question: bytes) -> None:
        refused = self._refused.get(key)
        if refused is not None:
            raise RefusedError(refused.status)
        if await self._is_stored(key):
            _HIT.inc()
            return
        _MISS.inc()
        try:
            answer = await self._asker.ask(question)
        except RefusedError as error:
            if error.status != _TOO_MANY_REQUESTS:
                self._refused.put(key, error)
            raise
        await self._remember(key, answer)

    async def _is_stored(self, key: str) -> bool:
        try:
            return await self._store.get(key)
        except Exception as error:
            _UNREADABLE.inc()
            log.warn("cannot read from the cache of authorizations", reason=_reason(error))
            return False

    async def _remember(self, key: str, answer: Answer) -> None:
        try:
            await self._store.put(key, answer)
        except Exception as error:
            _UNWRITABLE.inc()
            log.warn("cannot write to the cache of authorizations", reason=_reason(error))
        else:
            _WRITTEN.inc()


class RemoteAsker:
    """A cache of the positive answers of another process, for as long as that keeps them."""

    def __init__(self, ask: AskParent, clock: IReactorTime, size: int) -> None:
        """Make one.

        Args:
            ask: asks the other process.
            clock: tells their ages.
            size: how many positive answers are kept.
        """
        self._ask = ask
        self._positive: Expiring[bool] = Expiring(clock, 0, size)
        self._once: Once[None] = Once()

    def check(self, question: bytes) -> Deferred[None]:
        """As `CachingAsker.check`."""
        key = _key_of(question)
        if self._positive.get(key):
            _HIT.inc()
            return succeed(None)
        return self._once.find(key, lambda: self._find_out(key, question))

    async def _find_out(self, key: str, question: bytes) -> None:
        self._positive.put(key, True, await self._ask(question))


def _key_of(question: bytes) -> str:
    return hashlib.sha256(question).hexdigest()


def _unknown(key: str) -> bool:
    """Say of a key that nothing can be said about it at once."""
    return False


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
