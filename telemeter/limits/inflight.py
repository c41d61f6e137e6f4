"""The bytes in flight: how much of the senders' requests is held at a time, and by whom.

What counts is a body while it comes, what becomes of it while it is converted, and what is left of
it while it waits for the upstream's answer. Over the limit a request is refused, so that memory is
bounded whatever comes; and a sender that holds much leaves room for others.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

HELD: Final = Gauge(
    "telemeter_inflight_bytes",
    "Bytes of requests that are held: bodies, what they are converted to, and what waits for the "
    "upstream.",
    multiprocess_mode="livesum",
)
REFUSED: Final = Counter(
    "telemeter_inflight_refused_total",
    "Requests that were refused because too many bytes of their sender, or of all, were in flight.",
)

#: A sender may hold this part of what is free. So a sender alone may hold a quarter of the limit.
_PART_OF_FREE: Final = 3


class CrowdedOutError(Exception):
    """Too many bytes are in flight; the text says whose and how many may be."""


class InFlight:
    """The bytes in flight in this process.

    A sender may hold up to a third of what is free then. So one alone may hold a quarter of the
    limit, and however many hold as much as they may, there is room for another.

    Attributes:
        most: how many bytes there may be.
        held_by: how many there are of each sender that has any; accounts keep it.
        held: how many there are of all.
        peak: how many there were at most since `forget_peak`.
    """

    def __init__(self, most: int) -> None:
        """Make it.

        Args:
            most: how many bytes there may be.
        """
        self.most = most
        self.held_by: dict[str | bytes, int] = {}
        self.held = 0
        self.peak = 0

    def account(self, sender: str | bytes) -> Account:
        """Return an account of a request, which holds nothing yet.

        Args:
            sender: whatever tells it from others.
        """
        return Account(self, sender)

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak = self.held

    def show(self) -> None:
        """Show in the metrics how many bytes there are; to do that at each change costs more."""
        HELD.set(self.held)


class Account:
    """The bytes of one request."""

    __slots__ = ("_in_flight", "_is_closed", "_sender", "_size")

    def __init__(self, in_flight: InFlight, sender: str | bytes) -> None:
        self._in_flight = in_flight
        self._sender = sender
        self._size = 0
        self._is_closed = False

    def hold(self, size: int) -> None:
        """Hold some more bytes.

        Each piece of a body comes here, so this calls nothing else of ours.

        Raises:
            CrowdedOutError: there may not be so many; nothing is counted.
        """
        if not size or self._is_closed:
            return
        flight, sender = self._in_flight, self._sender
        held, own = flight.held + size, flight.held_by.get(sender, 0) + size
        if own > (flight.most - held) // _PART_OF_FREE:
            REFUSED.inc()
            raise CrowdedOutError(
                f"{own} bytes of this sender's requests would be held, of {held} in all; together "
                f"{flight.most} may be, and of one sender a third of what is free "
                "(--max-inflight-bytes)"
            )
        flight.held = held
        flight.held_by[sender] = own
        if held > flight.peak:
            flight.peak = held
        self._size += size

    def keep(self, size: int) -> None:
        """Hold no more than so many bytes from now on."""
        fewer = self._size - size
        if fewer <= 0:
            return
        flight, sender = self._in_flight, self._sender
        flight.held -= fewer
        left = flight.held_by[sender] - fewer
        if left:
            flight.held_by[sender] = left
        else:
            del flight.held_by[sender]
        self._size = size

    def close(self) -> None:
        """Hold nothing, ever."""
        self.keep(0)
        self._is_closed = True
