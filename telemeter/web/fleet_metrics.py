"""The fleet as metrics: how many clusters are in which state."""

from __future__ import annotations

from typing import Final

from prometheus_client import Gauge

from telemeter.fleet.record import FleetRecord
from telemeter.fleet.totals import State
from telemeter.loop.clocks import Moment

CLUSTERS: Final = Gauge(
    "telemeter_fleet_clusters",
    "Clusters that are known, by state: ok, drifting (its clock is off), silent, failed (we could "
    "not pass its last attempt on), refused.",
    ["state"],
    multiprocess_mode="livemax",
)
SERIES: Final = Gauge(
    "telemeter_fleet_series",
    "Series of the last uploads of clusters that were heard of lately.",
    multiprocess_mode="livemax",
)
OLDEST: Final = Gauge(
    "telemeter_fleet_oldest_upload_timestamp_seconds",
    "The earliest of the clusters' last successful attempts; 0: there was none.",
    multiprocess_mode="livemax",
)


def show_fleet(record: FleetRecord, now: Moment) -> None:
    """Set the metrics, which is done when somebody asks for them."""
    totals = record.totals(now)
    for state in State:
        CLUSTERS.labels(state.name.lower()).set(totals.states.get(state, 0))
    SERIES.set(totals.minutes[-1][1].series if totals.minutes else 0)
    OLDEST.set(record.oldest_upload(now) or 0)
