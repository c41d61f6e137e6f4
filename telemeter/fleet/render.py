"""The record as JSON values: what the API answers and the page shows. See docs/fleet.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from telemeter.fleet.explain import Explanation, Miss, explain
from telemeter.fleet.history import Dropped, Past
from telemeter.fleet.record import Claim, Detail, Row, Totals, UnknownClaim
from telemeter.fleet.totals import Minute, problems_of
from telemeter.loop.clocks import Wall
from telemeter.samples.stored_series import StoredSeries
from telemeter.samples.whitelist import Whitelist

Value = dict[str, Any]

#: What the statuses of attempts that did not succeed mean, in a few words.
MEANINGS: Final = {
    400: "malformed or mislabelled",
    401: "not authorized",
    403: "forbidden",
    404: "not known",
    409: "identifier in use",
    413: "too large",
    415: "format not spoken",
    429: "too early",
    499: "sender went away",
    500: "internal error",
    502: "upstream not reachable",
    503: "busy or down",
    507: "store is full",
}


def row_value(row: Row) -> Value:
    """Return a line of the table."""
    return {
        "id": row.cluster,
        "state": row.state.name.lower(),
        "last_attempt": _time(row.seen),
        "last_upload": None if row.uploaded is None else _time(row.uploaded),
        "path": row.path.name.lower(),
        "status": row.status,
        "reason": row.reason,
        "received": row.received,
        "kept": row.kept,
        "dropped": row.dropped,
        "duplicates": row.duplicates,
        "drift": row.drift,
        "agent": row.agent,
        "token_expires": _time(row.expires) if row.expires else None,
        "claims": row.claims,
    }


def totals_value(totals: Totals, recent: int) -> Value:
    """Return the sums: counts of the moment, and of the last hour."""
    minutes = [minute for _, minute in totals.minutes]
    over = minutes[-6:-1]
    now = minutes[-1]
    return {
        "clusters": totals.clusters,
        "forgotten": totals.forgotten,
        "reporting": now.reporting,
        "recent_minutes": recent,
        "series": now.series,
        "states": {state.name.lower(): count for state, count in totals.states.items()},
        "uploads_per_minute": round(sum(minute.uploads for minute in over) / len(over), 1),
        "last_hour": {
            "uploads": sum(minute.uploads for minute in minutes),
            "refused": sum(minute.refused for minute in minutes),
            "failed": sum(minute.failed for minute in minutes),
            "forward_errors": sum(minute.forward_errors for minute in minutes),
            "problems": [
                {"status": status, "meaning": meaning_of(status), "count": count}
                for status, count in problems_of(minutes).most_common()
            ],
        },
    }


def meaning_of(status: int) -> str:
    """Return what a status says, in a few words."""
    return MEANINGS.get(status, "upstream failed" if status >= 500 else "refused")


def history_value(totals: Totals) -> list[Value]:
    """Return the last hour, by the minute."""
    return [minute_value(*minute) for minute in totals.minutes]


def minute_value(began: Wall, minute: Minute) -> Value:
    """One minute of it."""
    return {
        "at": round(began / 60) * 60,
        "reporting": minute.reporting,
        "series": minute.series,
        "uploads": minute.uploads,
        "kept": minute.kept,
        "dropped": minute.dropped,
        "refused": minute.refused,
        "failed": minute.failed,
        "forward_errors": minute.forward_errors,
    }


def detail_value(
    detail: Detail, whitelist: Whitelist, series: Sequence[StoredSeries] | None, limit: int
) -> Value:
    """All of a cluster; of its series, so many at most. None: they are not kept."""
    return {
        **row_value(detail.row),
        "attempts": [_attempt_value(*attempt) for attempt in detail.attempts],
        "dropped_examples": [_dropped_value(each, whitelist) for each in detail.dropped],
        "claim": None if detail.claim is None else _claim_value(detail.claim),
        "series": None if series is None else _series_value(series, limit),
    }


def _attempt_value(at: Wall, past: Past) -> Value:
    counts = {"received": past.received, "kept": past.kept, "dropped": past.dropped}
    return {
        "at": int(at),
        "path": past.path.name.lower(),
        "status": past.status,
        "seconds": past.seconds,
        "reason": past.reason,
        **(counts if past.measured else dict.fromkeys(counts)),
    }


def _claim_value(claim: Claim) -> Value:
    return {
        "at": _time(claim.at),
        "status": claim.status,
        "meaning": meaning_of(claim.status),
        "count": claim.count,
    }


def unknown_value(unknown: UnknownClaim) -> Value:
    """Return refused claims to be a cluster that is not known."""
    return {"id": unknown.cluster, **_claim_value(unknown.claim), "reason": unknown.reason}


def _dropped_value(series: Dropped, whitelist: Whitelist) -> Value:
    why: Explanation = explain(series, whitelist)
    return {
        "labels": dict(series.labels),
        "is_cut": series.is_cut,
        "passes_now": why.passes_now,
        "rules": [
            {"rule": near.rule.text, "misses": [_miss_value(miss) for miss in near.misses]}
            for near in why.rules
        ],
        "would_match": why.would_match,
    }


def _miss_value(miss: Miss) -> Value:
    return {"label": miss.matcher.name, "condition": repr(miss.matcher), "value": miss.value}


def _series_value(found: Sequence[StoredSeries], limit: int) -> Value:
    return {
        "is_cut": len(found) > limit,
        "items": [
            {
                "labels": dict(each.labels),
                "value": _number(each.value),
                "timestamp": each.timestamp_ms / 1000,
            }
            for each in found[:limit]
        ],
    }


def _number(value: float) -> str:
    """Return a sample's value as Prometheus writes it: JSON has neither NaN nor infinities."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _time(wall: Wall) -> float:
    return round(wall, 3)
