"""GET /metrics/clusters: the record of the fleet as metrics, some for each cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from telemeter.fleet.record import NO_DRIFT, FleetRecord
from telemeter.fleet.totals import State
from telemeter.loop.clocks import Moment, WallClock, moment
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.samples.errors import BadInputError
from telemeter.samples.selector import Selector, parse_selector
from telemeter.web.federate import TEXT_TYPE, accepts_gzip
from telemeter.web.fleet_api import parameters_of, states_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route
from telemeter.web.site.stream import Stream

CLUSTER_METRICS: Final = "/metrics/clusters"
#: How many clusters are looked at before others get their turn.
_AT_ONCE: Final = 200
#: The label that names a cluster.
_ID: Final = "_id"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class ClusterMetric:
    """A metric that each cluster has.

    Attributes:
        name: its name.
        text: what it says.
        value: returns the value of the cluster in a slot, at a moment; None: it has none.
    """

    name: str
    text: str
    value: Callable[[FleetRecord, int, Moment], float | None]


def _uploaded(record: FleetRecord, slot: int, now: Moment) -> float | None:
    at = record.uploaded[slot]
    return round(record.date(at, now), 3) if at else None


def _drift(record: FleetRecord, slot: int, now: Moment) -> float | None:
    drift = record.drift[slot]
    return None if drift == NO_DRIFT else drift


#: The metrics, in the order in which they are shown. All are gauges.
METRICS: Final = (
    ClusterMetric(
        "telemeter_cluster_last_upload_timestamp_seconds",
        "When the cluster's last successful attempt was.",
        _uploaded,
    ),
    ClusterMetric(
        "telemeter_cluster_last_attempt_status",
        "The status of the answer to its last attempt.",
        lambda record, slot, now: record.status[slot],
    ),
    ClusterMetric(
        "telemeter_cluster_series",
        "The series of its last attempt that the rules let pass.",
        lambda record, slot, now: record.kept[slot],
    ),
    ClusterMetric(
        "telemeter_cluster_dropped_series",
        "The series of it that no rule of the whitelist allowed.",
        lambda record, slot, now: record.dropped[slot],
    ),
    ClusterMetric(
        "telemeter_cluster_clock_drift_seconds",
        "How far its newest timestamp lay ahead of the server's clock; negative: behind.",
        _drift,
    ),
    ClusterMetric(
        "telemeter_cluster_token_expiry_timestamp_seconds",
        "Until when its token holds.",
        lambda record, slot, now: record.expires[slot] or None,
    ),
)


def cluster_metrics_route(
    record: FleetRecord,
    clock: IReactorTime,
    wall: WallClock,
    settle: Callable[[], None] = lambda: None,
    patience: float = TIMEOUTS.reader,
) -> Route:
    """Return the route.

    Args:
        record: what is shown.
        clock: tells ages, and calls later.
        wall: tells the time of day.
        settle: puts into the record what waits to be.
        patience: for how many seconds a reader may take nothing, until it is hung up on.
    """

    async def get(request: IRequest) -> None:
        given = parameters_of(request, ("state", "match"))
        states, selector = states_of(given), _selector(given)
        request.setHeader("Content-Type", TEXT_TYPE)
        request.setHeader("Vary", "Accept-Encoding")
        compress = accepts_gzip(request.getHeader("Accept-Encoding") or "")
        if compress:
            request.setHeader("Content-Encoding", "gzip")
        if request.method == b"HEAD":
            return
        settle()
        pieces = _pieces(record, moment(clock, wall), states, selector)
        await Stream(request, pieces, clock, compress=compress, patience=patience).done

    return Route(CLUSTER_METRICS, get, timed=False)  # see `patience`


def _selector(given: Mapping[str, str]) -> Selector | None:
    """Return the selector of the parameter `match`; raises `Refused`."""
    text = given.get("match", "")
    if not text:
        return None
    try:
        selector = parse_selector(text)
    except BadInputError as error:
        raise Refused(400, f"match: {error}") from None
    for matcher in selector.matchers:
        if matcher.name != _ID:
            raise Refused(
                400, f"match: expected conditions on {_ID} only, saw one on {matcher.name!r}"
            )
    return selector


def _pieces(
    record: FleetRecord, now: Moment, states: frozenset[State], selector: Selector | None
) -> Iterator[bytes]:
    """Make the body: one metric after the other, as the format wants it."""
    chosen: list[tuple[int, bytes]] = []
    minute = record.minute_of(now.elapsed)
    for begin in range(0, len(record.places), _AT_ONCE):
        chosen += (
            (slot, cluster)
            for slot in record.places[begin : begin + _AT_ONCE]
            if (cluster := record.ids[slot])
            and (not states or record.state_of(slot, minute) in states)
            and (selector is None or selector.matches({_ID: cluster.decode("utf-8", "replace")}))
        )
        yield b""
    for metric in METRICS:
        yield f"# HELP {metric.name} {metric.text}\n# TYPE {metric.name} gauge\n".encode()
        for begin in range(0, len(chosen), _AT_ONCE):
            yield b"".join(_lines(record, metric, chosen[begin : begin + _AT_ONCE], now))


def _lines(
    record: FleetRecord, metric: ClusterMetric, chosen: list[tuple[int, bytes]], now: Moment
) -> Iterator[bytes]:
    for slot, cluster in chosen:
        if record.ids[slot] != cluster:
            continue  # it was forgotten meanwhile
        value = metric.value(record, slot, now)
        if value is not None:
            name = cluster.decode("utf-8", "replace").translate(_ESCAPES)
            yield f'{metric.name}{{{_ID}="{name}"}} {value}\n'.encode()
