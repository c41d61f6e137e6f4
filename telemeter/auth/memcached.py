"""Memcached, which replicas of a server share: authorizations, and more."""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from telemeter.auth.authorization_server import Answer
from telemeter.loop.clocks import LONG_AGO, WallClock
from telemeter.loop.resolver import Names, UnknownNameError
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.loop.twisted_private import MemcachedConnection

#: For how many seconds a memcached that failed is left alone.
PAUSE: Final = 2.0
#: memcached takes a lifetime of more seconds than these for a time of day.
_LONGEST_RELATIVE = 30 * 24 * 3600
#: The largest value that is kept in memcached: an answer with 32 KiB of body, and its head.
_MOST_BYTES: Final = 64 * 1024
#: How many bytes of what is no answer a message shows.
_SHOWN: Final = 60

log = Logger()


class DownError(Exception):
    """A memcached does not answer."""


class NonsenseError(Exception):
    """A memcached said something that no memcached says; the text says what."""


class _Connection(MemcachedConnection):
    """A connection that says when it is lost, which Twisted's own does not.

    It ends as soon as something comes that is no answer, or a value that nobody can have stored.
    """

    transport: Any
    MAX_LENGTH = 2048

    def dataReceived(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        except Exception as error:  # whatever the protocol stumbles over
            reason = str(error) if isinstance(error, NonsenseError) else repr(error)
            self._give_up(f"expected an answer, saw {ascii(data[:_SHOWN])[1:]}: {reason}")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up(f"expected a line of {self.MAX_LENGTH} bytes at most, saw {len(line)}")

    def cmd_VALUE(self, line: bytes) -> None:
        """Begin to read a value, if it is one that may be stored here."""
        fields = line.split()[1:]
        if len(fields) < 2 or not all(each.isdigit() and len(each) < 21 for each in fields):
            raise NonsenseError("no flags and length of a value")
        if int(fields[1]) > _MOST_BYTES:
            raise NonsenseError(f"values have {_MOST_BYTES} bytes at most here")
        super().cmd_VALUE(line)

    def _give_up(self, reason: str) -> None:
        peer = getattr(self.transport.getPeer(), "host", "")
        log.warn("memcached is hung up on", peer=peer, reason=reason)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        self.setTimeout(None)
        super().connectionLost(reason)


class _Server:
    """One memcached, with a connection that is made when it is needed."""

    def __init__(self, reactor: Any, host: str, port: int, timeout: float) -> None:
        self.address = (host, port)
        self._reactor = reactor
        self._timeout = timeout
        # The host is an address: nothing is left to look up, which might take long.
        endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        self._endpoint = endpoint(reactor, host, port, timeout=timeout)
        self._connection: _Connection | None = None
        self._down_until: float = LONG_AGO

    @property
    def name(self) -> str:
        """The address in words."""
        host, port = self.address
        return f"{host}:{port}"

    @property
    def is_down(self) -> bool:
        """Whether it has failed a moment ago."""
        return bool(self._reactor.seconds() < self._down_until)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the protocol; raises if the memcached does not answer in time."""
        if self._reactor.seconds() < self._down_until:
            raise DownError(f"memcached {self.address} did not answer a moment ago")
        try:
            connection = await self._connect()
            called = getattr(connection, method)(*arguments)
            return await called.addTimeout(self._timeout, self._reactor)
        except Exception:
            self._down_until = max(self._down_until, self._reactor.seconds() + PAUSE)
            self.close()
            raise

    async def _connect(self) -> _Connection:
        connection = self._connection
        if connection is None or not connection.connected:
            attempt = connectProtocol(self._endpoint, _Connection(timeOut=int(self._timeout) + 1))
            connection = await attempt.addTimeout(self._timeout, self._reactor)
            if self._down_until == math.inf:
                connection.transport.loseConnection()
                raise DownError(f"memcached {self.address} is not used any more")
            if self._connection is not None and self._connection.connected:
                connection.transport.loseConnection()  # another request was quicker
                return self._connection
            self._connection = connection
        return connection

    def retire(self) -> None:
        """Let it go for good."""
        self._down_until = math.inf
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.transport is not None:
            connection.transport.loseConnection()


class Memcached(Service):
    """One or more memcached servers; each key has its server. It keeps positive answers, too.

    The names are looked up anew every interval, and a name may stand for several servers. When the
    set of servers changes, only the keys of the servers that came or went move (rendezvous
    hashing).
    """

    def __init__(
        self,
        reactor: Any,
        wall: WallClock,
        names: Sequence[tuple[str, int]],
        lifetime: int,
        interval: float,
        timeout: float = TIMEOUTS.memcached,
    ) -> None:
        """Make a store.

        Args:
            reactor: makes the connections.
            wall: tells when an answer expires that is kept for over 30 days.
            names: host and port of each.
            lifetime: for how many seconds a positive answer is kept.
            interval: seconds between look-ups of the names; 0: only once.
            timeout: how many seconds a memcached may take for anything.
        """
        self._timeout = timeout
        self._reactor = reactor
        self._wall = wall
        self._names = list(names)
        self._looked_up = Names(reactor, TIMEOUTS.lookup)
        self._lifetime = lifetime
        self._interval = interval
        self._servers: dict[tuple[str, int], _Server] = {}
        self._looking_up = LoopingCall(self._look_up)
        self._looking_up.clock = reactor

    def startService(self) -> None:
        super().startService()
        looking_up = (
            self._looking_up.start(self._interval) if self._interval > 0 else self._look_up()
        )
        looking_up.addErrback(
            lambda failure: log.failure("memcached names are not looked up any more", failure)
        )

    def stopService(self) -> None:
        super().stopService()
        if self._looking_up.running:
            self._looking_up.stop()
        self._use([])

    def _look_up(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._find_servers())

    async def _find_servers(self) -> None:
        self._use([each for host, port in self._names for each in await self._find(host, port)])

    async def _find(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return the addresses of a name."""
        try:
            entries = await self._looked_up.addresses(host)
        except UnknownNameError as error:
            log.warn("cannot look up a memcached", host=host, reason=str(error))
            return []
        # One family of a host that has both: its two addresses are one server.
        first = min(entries, key=lambda entry: entry[0] != socket.AF_INET)[0]
        return [(address, port) for family, address in dict.fromkeys(entries) if family == first]

    def _use(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Use the servers at these addresses; none found leaves those that were known."""
        if not addresses and self.running:
            return
        for address in set(self._servers) - set(addresses):
            self._servers.pop(address).retire()
        for address in addresses:
            if address not in self._servers:
                self._servers[address] = _Server(self._reactor, *address, timeout=self._timeout)

    def describe(self) -> str:
        """Return in words how the servers are, as far as is known."""
        down = [each.name for each in self._servers.values() if each.is_down]
        if not self._servers:
            return "no address is known"
        return f"no answer from {', '.join(down)}" if down else f"{len(self._servers)} in use"

    def _server(self, key: str) -> _Server:
        if not self._servers:
            raise DownError("no memcached is known by its address yet")
        return max(self._servers.values(), key=lambda server: _weight(server.address, key))

    async def call(self, method: str, key: str, *arguments: Any) -> Any:
        """Call a method of `MemCacheProtocol` at the server of a key.

        Args:
            method: its name.
            key: in ASCII; the first argument.
            arguments: the others.

        Raises:
            DownError: that server has failed a moment ago, or none is known.
            Exception: it does not answer in time, or as it should.
        """
        return await self._server(key).call(method, key.encode("ascii"), *arguments)

    async def get(self, key: str) -> bool:
        _, value = await self.call("get", key)
        return value is not None

    async def put(self, key: str, answer: Answer) -> None:
        expires = expiry(self._lifetime, self._wall)
        stored = await self.call("set", key, _as_http(answer), 0, expires)
        if not stored:
            raise DownError("memcached did not store the value")


def expiry(lifetime: int, wall: WallClock) -> int:
    """Return a lifetime in seconds as memcached takes it.

    Up to 30 days are a span, which memcached reckons by its own monotonic clock. More would be
    taken for a time of day, so they are given as one.
    """
    return lifetime if lifetime <= _LONGEST_RELATIVE else lifetime + int(wall.now())


def _weight(address: tuple[str, int], key: str) -> bytes:
    return hashlib.sha256(f"{address[0]}:{address[1]} {key}".encode()).digest()


def _as_http(answer: Answer) -> bytes:
    """Return the answer as the original Telemeter stores it: both can share one memcached."""
    phrase = HTTPStatus(answer.status).phrase
    head = (
        f"HTTP/1.1 {answer.status} {phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n\r\n"
    )
    return head.encode("latin-1", "replace") + answer.body
