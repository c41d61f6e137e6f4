"""/api/v1/fleet and /api/v1/clusters: the record of the fleet as JSON. See docs/fleet.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from telemeter.fleet.record import FleetRecord
from telemeter.fleet.render import (
    Value,
    detail_value,
    history_value,
    row_value,
    totals_value,
    unknown_value,
)
from telemeter.fleet.totals import State
from telemeter.fleet.view import SORTS, Query
from telemeter.loop.clocks import WallClock, moment
from telemeter.loop.turns import turn
from telemeter.samples.stored_series import SeriesSource, StoredSeries
from telemeter.samples.whitelist import Whitelist
from telemeter.web.fleet_views import Views
from telemeter.web.site.query import parse_fields, query_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

#: The paths of the API.
FLEET: Final = "/api/v1/fleet"
CLUSTERS: Final = "/api/v1/clusters"
EVENTS: Final = "/api/v1/events"

#: The most clusters on a page, and the most series that are shown of a cluster.
MAX_LIMIT: Final = 500
MAX_SERIES: Final = 1000
#: How many of them are looked at before others get their turn.
_AT_ONCE = 100
_MAX_PAGE = 1_000_000_000
_MAX_QUERY = 4096
#: The parameters of a text to look for besides identifiers: those of `Query`, in their order.
FILTERS: Final = ("reason", "agent")
_STATES: Final = {state.name.lower(): state for state in State}


class FleetApi:
    """The API.

    Attributes:
        series: where the clusters' series are; None: nowhere.
    """

    def __init__(
        self,
        record: FleetRecord,
        clock: IReactorTime,
        wall: WallClock,
        whitelist: Callable[[], Whitelist],
        series: SeriesSource | None = None,
        settle: Callable[[], None] = lambda: None,
        database: Callable[[], Value | None] = lambda: None,
    ) -> None:
        """Make the API.

        Args:
            record: what to show.
            clock: tells ages, and calls later.
            wall: tells the time of day.
            whitelist: the rules that hold at the moment.
            series: where the clusters' series are; None: nowhere.
            settle: puts into the record what waits to be; called before it is looked at.
            database: tells how the database of the record is; None: there is none.
        """
        self._record = record
        self._settle = settle
        self._database = database
        self._clock = clock
        self._wall = wall
        self._whitelist = whitelist
        self.series = series
        self._views = Views(record, clock)

    def routes(self) -> list[Route]:
        return [
            Route(FLEET, self.fleet),
            Route(CLUSTERS, self.clusters, timed=False),  # of many clusters
            Route(f"{CLUSTERS}/", self.cluster, branch=True, listed=False, timed=False),
        ]

    def fleet(self, request: IRequest) -> bytes:
        """Return the totals, and the last hour."""
        self._settle()
        now = moment(self._clock, self._wall)
        totals = self._record.totals(now)
        return answer_json(
            request,
            {
                "now": now.wall,
                **totals_value(totals, self._record.recent),
                "history": history_value(totals),
                "filters": FILTERS,
                "unknown_claims": [
                    unknown_value(each) for each in self._record.unknown_claims(now)
                ],
                "database": self._database(),
            },
        )

    async def clusters(self, request: IRequest) -> bytes:
        """Return a page of clusters."""
        given = parameters_of(request, ("page", "limit", "sort", "order", "q", "state", *FILTERS))
        limit = _integer(given, "limit", 50, MAX_LIMIT)
        page = _integer(given, "page", 1, _MAX_PAGE)
        query = _query(given)
        begin = (page - 1) * limit
        self._settle()
        slots, total = await self._views.page(query, begin, begin + limit)
        now = moment(self._clock, self._wall)
        return answer_json(
            request,
            {
                "now": now.wall,
                "clusters": len(self._record),
                "total": total,
                "page": page,
                "pages": max(1, -(-total // limit)),
                "limit": limit,
                "sort": query.sort,
                "order": "desc" if query.is_descending else "asc",
                "items": [row_value(self._record.row(slot, now)) for slot in slots],
            },
        )

    async def cluster(self, request: IRequest) -> bytes:
        """One cluster, named by the rest of the path, or by the parameter `id`."""
        name = unquote_to_bytes(request.path[len(CLUSTERS) + 1 :])
        given = parameters_of(request, ("id", "series"))
        limit = _integer(given, "series", MAX_SERIES, MAX_SERIES)
        cluster = name.decode("utf-8", "replace") if name else given.get("id", "")
        self._settle()
        slot = self._record.slot_of(cluster)
        if slot is None:
            raise Refused(404, "no such cluster is known: it has not sent anything, or long ago")
        now = moment(self._clock, self._wall)
        detail = self._record.detail(slot, now)
        series = await self._series_of(cluster, limit + 1)
        value = detail_value(detail, self._whitelist(), series, limit)
        return answer_json(request, {"now": now.wall, **value})

    async def _series_of(self, cluster: str, most: int) -> list[StoredSeries] | None:
        """Return the first series of a cluster, if they are kept, without blocking others."""
        if self.series is None:
            return None
        series = iter(self.series.series(cluster))
        found: list[StoredSeries] = []
        while some := list(islice(series, min(_AT_ONCE, most - len(found)))):
            found += some
            if len(some) == _AT_ONCE:
                await turn(self._clock)
        return found


def answer_json(request: IRequest, value: object) -> bytes:
    """Return the body of an answer in JSON, which nobody may keep or show as something else."""
    request.setHeader("Content-Type", "application/json")
    request.setHeader("Cache-Control", "no-store")
    return dump(value)


def dump(value: object) -> bytes:
    """Return a value as JSON, in ASCII: no character of it means something to anything else."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def parameters_of(request: IRequest, known: tuple[str, ...]) -> Mapping[str, str]:
    """Return the parameters of a request; raises `Refused` for one that is not known."""
    query = query_of(request)
    if len(query) > _MAX_QUERY:
        raise Refused(414, f"the query may have {_MAX_QUERY} bytes (fixed), it has {len(query)}")
    pairs = parse_fields(query, errors="replace")
    for name, _ in pairs:
        if name not in known:
            raise Refused(400, f"there is no parameter {name[:64]!r}, only {', '.join(known)}")
    return dict(pairs)


def _integer(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= most):
        raise Refused(400, f"{name}: expected a number from 1 to {most}; saw {text[:64]!r}")
    return int(text)


def _query(given: Mapping[str, str]) -> Query:
    sort = given.get("sort") or "state"
    order = given.get("order") or ("desc" if sort == "state" else "asc")
    if sort not in SORTS:
        raise Refused(400, f"sort: expected one of {', '.join(SORTS)}; saw {sort[:64]!r}")
    if order not in ("asc", "desc"):
        raise Refused(400, f"order: expected asc or desc; saw {order[:64]!r}")
    texts = (given.get(name, "") for name in FILTERS)
    return Query(sort, order == "desc", given.get("q", ""), states_of(given), *texts)


def states_of(given: Mapping[str, str]) -> frozenset[State]:
    """Return the states that the parameter `state` names; raises `Refused`."""
    names = [name for name in given.get("state", "").split(",") if name]
    for name in names:
        if name not in _STATES:
            raise Refused(400, f"state: expected some of {', '.join(_STATES)}; saw {name[:64]!r}")
    return frozenset(_STATES[name] for name in names)
