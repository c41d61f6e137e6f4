"""Pages of clusters, found in slices between other work."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import DeferredLock

from telemeter.fleet.record import FleetRecord
from telemeter.fleet.view import Query, View
from telemeter.loop.clocks import Elapsed, elapsed
from telemeter.loop.turns import in_turns
from telemeter.web.site.refused import Refused

#: For how many seconds a view of a large fleet is shown again before it is made anew.
_FRESH: Final = 1.0
#: Up to so many clusters a view costs next to nothing.
_SMALL: Final = 2000
#: How many views are kept, and how many requests may wait for theirs.
_KEPT: Final = 8
_WAITING: Final = 32


class Views:
    """The last few views of a record, made one after the other."""

    def __init__(self, record: FleetRecord, clock: Any) -> None:
        """Make none yet.

        Args:
            record: what to show.
            clock: tells the age of views, and calls later.
        """
        self._record = record
        self._clock = clock
        self._views: dict[Query, View] = {}
        self._lock = DeferredLock()

    async def page(self, query: Query, begin: int, end: int) -> tuple[list[int], int]:
        """Return the slots of a page, and how many clusters the query selects.

        Args:
            query: what is wanted.
            begin: the position of the page's first cluster.
            end: the position behind its last one.

        Raises:
            Refused: 503, too many are waiting for theirs.
        """
        if len(self._lock.waiting) >= _WAITING:
            raise Refused(
                503,
                "too many pages of the fleet are asked for at once: "
                f"{_WAITING} may wait (fixed), and they do",
            )
        await self._lock.acquire()
        try:
            view = self._view(query)
            if len(self._record) <= _SMALL:
                for _ in view.prepare(end):
                    pass
            else:
                await in_turns(self._clock, view.prepare(end))
            return view.slots(begin, end), view.total
        finally:
            self._lock.release()

    def _view(self, query: Query) -> View:
        now = elapsed(self._clock)
        view = self._views.pop(query, None)
        if view is None or not self._is_fresh(view, now):
            view = View(self._record, query, now)
        self._views[query] = view
        while len(self._views) > _KEPT:
            del self._views[next(iter(self._views))]
        return view

    def _is_fresh(self, view: View, now: Elapsed) -> bool:
        age = now - view.began
        if len(self._record) > _SMALL:
            return age < _FRESH
        return age < 60 and view.version == self._record.version
