"""One upload per cluster and interval."""

from __future__ import annotations

import math
from typing import Final

#: At the most so many clusters are remembered; each had a valid token within the last interval.
MAX_CLUSTERS: Final = 2_000_000


class RateLimitedError(Exception):
    """The cluster has uploaded within the interval.

    Attributes:
        retry_after: when it may again, in whole seconds from now.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} seconds")
        self.retry_after = retry_after


class Slot:
    """A cluster's turn in an interval."""

    __slots__ = ("_cluster", "_limiter", "taken")

    def __init__(self, limiter: RateLimiter, cluster: str, taken: float) -> None:
        self._limiter = limiter
        self._cluster = cluster
        self.taken = taken

    def give_back(self) -> None:
        """Let the cluster try again at once, because its upload led to nothing."""
        self._limiter.release(self._cluster, self)


class RateLimiter:
    """Hands out slots; what is past its interval is forgotten."""

    def __init__(self, interval: float, max_clusters: int = MAX_CLUSTERS) -> None:
        """Make a limiter.

        Args:
            interval: seconds between two uploads of a cluster; 0 switches the limit off.
            max_clusters: how many clusters are remembered; the oldest is forgotten first.
        """
        self._interval = interval
        self._max = max_clusters
        # In the order in which they were taken, so the front is what expires first.
        self._slots: dict[str, Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def take(self, cluster: str, now: float) -> Slot:
        """Take the cluster's slot.

        Raises:
            RateLimitedError: it is taken.
        """
        slot = Slot(self, cluster, now)
        if self._interval <= 0:
            return slot
        self._forget(now)
        held = self._slots.get(cluster)
        if held is not None:
            wait = held.taken + self._interval - now
            raise RateLimitedError(max(1, math.ceil(wait)))
        self._slots[cluster] = slot
        return slot

    def release(self, cluster: str, slot: Slot) -> None:
        """Free a slot, if it is still the one that the cluster holds."""
        if self._slots.get(cluster) is slot:
            del self._slots[cluster]

    def _forget(self, now: float) -> None:
        while self._slots:
            cluster = next(iter(self._slots))
            if len(self._slots) < self._max and now < self._slots[cluster].taken + self._interval:
                return
            del self._slots[cluster]
