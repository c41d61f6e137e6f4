"""The connections of clients: how many there may be, and which of them gives way to another.

When a process has no descriptors left, it can accept nobody, ask no other server, and answer no
health check. So there is a limit below that, and who has sent nothing for longest gives way.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from prometheus_client import Counter, Gauge
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from telemeter.loop.clocks import LONG_AGO

OPEN: Final = Gauge(
    "telemeter_connections_open",
    "Connections of clients and operators that are open.",
    multiprocess_mode="livesum",
)
GAVE_WAY: Final = Counter(
    "telemeter_connections_gave_way_total",
    "Connections that were closed because there were as many as there may be.",
)

#: The least time between two log lines about connections that give way, in seconds.
_QUIET_SECONDS: Final = 60.0
#: How many connections are looked at for one that is not being answered.
_LOOKED_AT: Final = 100

log = Logger()


class Connection(Protocol):
    """A connection that can give way; see `telemeter.web.site.channel.Channel`."""

    @property
    def is_busy(self) -> bool: ...
    def give_way(self) -> None: ...


_Connection = TypeVar("_Connection", bound=Connection)


class Connections(Generic[_Connection]):
    """The open connections of a site, by when something came over them last.

    Those that have completed a request are kept rather than those that have not.
    """

    def __init__(self, clock: IReactorTime, most: int | None) -> None:
        """Make it.

        Args:
            clock: tells when to log again.
            most: how many there may be; None: any number.
        """
        self._clock = clock
        self._most = most
        self._new: OrderedDict[_Connection, None] = OrderedDict()  # the longest silent first
        self._used: OrderedDict[_Connection, None] = OrderedDict()
        self._told: float = LONG_AGO
        self._untold = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._used)

    def opened(self, connection: _Connection) -> None:
        """Take note of a new connection; another, or this one, may have to give way."""
        self._new[connection] = None
        OPEN.inc()
        if self._most is not None and len(self) > self._most:
            self._make_room(connection)

    def heard(self, connection: _Connection) -> None:
        """Take note that something has come over a connection."""
        try:
            self._used.move_to_end(connection)  # nearly always it is one of these
        except KeyError:
            if connection in self._new:
                self._new.move_to_end(connection)

    def used(self, connection: _Connection) -> None:
        """Take note that a connection has completed its first request."""
        if self._new.pop(connection, self) is None:
            self._used[connection] = None

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        if self._new.pop(connection, self) is None or self._used.pop(connection, self) is None:
            OPEN.dec()

    def _make_room(self, newest: _Connection) -> None:
        for table in (self._new, self._used):
            for connection in islice(table, _LOOKED_AT):
                if not connection.is_busy and connection is not newest:
                    self._close(connection)
                    return
        self._close(newest)

    def _close(self, connection: _Connection) -> None:
        self.closed(connection)
        GAVE_WAY.inc()
        self._untold += 1
        now = self._clock.seconds()
        if now - self._told >= _QUIET_SECONDS:
            log.warn(
                "could not accept a connection without closing another: there are as many as there "
                "may be (of clients: --max-connections)",
                connections=self._most,
                closed=self._untold,
            )
            self._told, self._untold = now, 0
        connection.give_way()
