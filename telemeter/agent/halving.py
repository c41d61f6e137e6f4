"""What becomes of a remote-write request that a receiver refuses: it is halved.

A receiver that refuses a request does not say for which of its series. So both halves are sent,
and of those the ones that are refused are halved again, down to one series. Nothing here sends
anything.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from telemeter.convert.parts import count_series, one_of_each, split

#: Statuses by which a receiver refuses what is sent, rather than to take anything from us now.
REFUSALS: Final = frozenset({400, 409, 413, 415, 422})
_TOO_LARGE: Final = 413
#: How many series stand for all of a request, when those of the one before were all refused.
SAMPLES: Final = 16


class Halving:
    """A request on its way, and what became of its series.

    A receiver that takes no samples of yesterday refuses every series of every collection of
    yesterday, each of which would cost twice as many requests as it has series. So when one
    collection was refused to its last series, and the next is refused as a whole, some series of it
    are tried, and if they are refused as well, the rest goes with them.

    Attributes:
        delivered: how many series were accepted.
        refused: how many series were refused alone, by status.
        reason: why the last of those was refused.
        is_halved: whether what is sent next is a part of something that was refused.
        most_series: how many series a request may have, as far as that is known now; 0: it is not.
    """

    def __init__(self, payload: bytes, *, most_series: int = 0, hopeless: bool = False) -> None:
        """Begin with a request.

        Args:
            payload: a `WriteRequest` that holds series and nothing else.
            most_series: how many series a request may have, as far as that is known; 0: it is not.
            hopeless: whether every series of the request before this one was refused.

        Raises:
            BadInputError: it is none.
        """
        self.delivered = 0
        self.refused: Counter[int] = Counter()
        self.reason = ""
        self.is_halved = False
        self.most_series = most_series
        self._count = count_series(payload)
        pieces = -(-self._count // most_series) if most_series else 1
        self._parts = deque(split(payload, pieces)) if payload else deque()
        self._whole = payload if hopeless and pieces == 1 else b""
        self._tried = 0  # of the samples

    @property
    def part(self) -> bytes:
        """What is to be sent next, as a `WriteRequest`; empty: all is done."""
        return self._parts[0] if self._parts else b""

    @property
    def is_hopeless(self) -> bool:
        """Whether every series was refused; of a few series that says nothing."""
        return not self.delivered and self.refused.total() == self._count > SAMPLES

    def accepted(self) -> None:
        """Take note that the part was accepted."""
        count = count_series(self._parts.popleft())
        if self._tried:
            self._end_of_trial()
        else:
            self.delivered += count

    def was_refused(self, status: int, reason: str) -> None:
        """Take note that the part was refused.

        Args:
            status: one of `REFUSALS`.
            reason: in words.
        """
        part = self._parts.popleft()
        count = count_series(part)
        self.is_halved = True
        if status == _TOO_LARGE and count > 1:  # of one alone it says nothing about others
            self.most_series = max(1, count // 2)
        if self._tried:
            self._tried -= 1
            if not self._tried:
                self.refused[status] += self._count
                self.reason = reason
        elif count > SAMPLES and part == self._whole and status != _TOO_LARGE:
            samples = one_of_each(part, SAMPLES)
            self._tried = len(samples)
            self._parts.extend(samples)
        elif count > 1:
            self._parts.extendleft(reversed(split(part)))
        else:
            self.refused[status] += 1
            self.reason = reason

    def _end_of_trial(self) -> None:
        """Halve after all: a sample was accepted."""
        self._tried = 0
        self._parts = deque(split(self._whole))
        self._whole = b""
