"""A circuit breaker: while an upstream is down, nobody waits for it to find that out again."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from telemeter.net.upstream import ForwardError

#: The name of the metric that says whether the upstream counts as down.
OPEN_NAME: Final = "telemeter_forward_breaker_open"
OPEN: Final = Gauge(
    OPEN_NAME,
    "1 while the upstream counts as down and requests are refused without asking it, otherwise 0.",
    multiprocess_mode="livemax",
)
OPENED: Final = Counter(
    "telemeter_forward_breaker_opened_total",
    "How often the upstream came to count as down, after several failures in a row.",
)
REFUSED: Final = Counter(
    "telemeter_forward_breaker_refused_total",
    "Requests to the upstream that were refused because it counted as down.",
)

#: How many failures in a row are taken for more than bad luck.
_FAILURES: Final = 5
#: How many seconds pass between two requests that find out whether the upstream is back.
_PROBE_SECONDS: Final = 3.0
#: When a sender that is refused should try again, in seconds.
_RETRY_SECONDS: Final = 10

log = Logger()


class Breaker:
    """The circuit breaker of one upstream and tenant.

    What no sender can bring about counts as a failure: a refused connection, no answer in time, and
    the statuses with which gateways speak of servers behind them. Any answer else is a success.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """Make it, closed.

        Args:
            clock: tells when to try again.
        """
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._next_probe = 0.0
        OPEN.set(0)

    @property
    def is_open(self) -> bool:
        """Whether the upstream counts as down."""
        return self._opened_at is not None

    def describe(self) -> str:
        """Return its state in words."""
        if self._opened_at is None:
            return "up" if not self._failures else f"up, {self._failures} failures in a row"
        seconds = self._clock.seconds() - self._opened_at
        return f"down for {seconds:.0f} seconds; it is tried every {_PROBE_SECONDS:g} seconds"

    def check(self) -> None:
        """Refuse a request that would not be let pass now.

        Raises:
            ForwardError: the upstream counts as down, and was tried a moment ago.
        """
        if self._opened_at is not None and self._clock.seconds() < self._next_probe:
            REFUSED.inc()
            raise ForwardError(
                503, "the upstream is down at present; it was tried just now", str(_RETRY_SECONDS)
            )

    def admit(self) -> None:
        """Let a request to the upstream pass, perhaps to find out whether it is back.

        Raises:
            ForwardError: see `check`.
        """
        if self._opened_at is not None:
            self.check()
            self._next_probe = self._clock.seconds() + _PROBE_SECONDS

    def succeeded(self) -> None:
        """Take note that the upstream has answered."""
        self._failures = 0
        if self._opened_at is not None:
            seconds = f"{self._clock.seconds() - self._opened_at:.1f}"
            self._opened_at = None
            OPEN.set(0)
            log.info("the upstream is back", seconds=seconds)

    def failed(self, reason: str) -> None:
        """Take note that it has not.

        Args:
            reason: for the log.
        """
        self._failures += 1
        if self._opened_at is None and self._failures >= _FAILURES:
            self._opened_at = self._clock.seconds()
            self._next_probe = self._opened_at + _PROBE_SECONDS
            OPEN.set(1)
            OPENED.inc()
            log.warn("the upstream counts as down", failures=self._failures, reason=reason)
