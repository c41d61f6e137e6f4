"""The wait before another try: exponential backoff with full jitter.

Many agents lose one server at the same moment. Each waits for a random part of a window that
doubles with every failure, so that they come back spread over the whole of it. The method is
described in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

#: The first window, in seconds.
FIRST_SECONDS: Final = 5.0
#: The widest window, in seconds.
LONGEST_SECONDS: Final = 300.0
#: Nobody tries again sooner, in seconds; at most the first window.
SOONEST_SECONDS: Final = 1.0
#: A server that asks for a longer wait is given this, in seconds: it may be a mistake.
LONGEST_RETRY_AFTER: Final = 3600.0


class Backoff:
    """The waits between the failures of one thing.

    Attributes:
        failures: how many there were since it last succeeded.
    """

    def __init__(
        self,
        jitter: Callable[[float, float], float] = random.uniform,
        *,
        first: float = FIRST_SECONDS,
        longest: float = LONGEST_SECONDS,
    ) -> None:
        """Make a backoff without failures.

        Args:
            jitter: returns a random number between two others.
            first: the first window, in seconds.
            longest: the widest window, in seconds.
        """
        self.failures = 0
        self._jitter = jitter
        self._first = first
        self._longest = longest

    def succeeded(self) -> None:
        """Begin with the first window again."""
        self.failures = 0

    def wait(self, retry_after: float | None = None) -> float:
        """Count a failure, and return how many seconds to wait.

        Args:
            retry_after: how long the server asked to wait; None: it did not. The window comes on
                top of it: all who were told the same must not come back together.
        """
        window = min(self._longest, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        soonest = min(SOONEST_SECONDS, window / 2)
        if retry_after is None:
            return self._jitter(soonest, window)
        asked = min(max(retry_after, 0.0), LONGEST_RETRY_AFTER)
        return asked + self._jitter(soonest, window)
