"""The record of the fleet in a daemon, and on its way from workers."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from telemeter.fleet.attempt import Attempt, Path, encode_attempts
from telemeter.tap.fleet import ATTEMPTS, Batches, Fleet
from telemeter.tap.server_options import Options
from telemeter.tap.workers.control import MAX_REPORT
from tests.fakes import NOW, Log


def fleet(clock: Clock, *flags: str) -> Fleet:
    options = Options()
    options.parseOptions(flags)
    return Fleet(options, clock)


def attempts(count: int, reason: bytes = b"") -> list[Attempt]:
    return [
        Attempt(
            b"c%d" % number,
            float(NOW),
            Path.UPLOAD,
            200,
            reason=reason,
            examples=(b"x" * 512,) * 3,
        )
        for number in range(count)
    ]


def test_the_flag(clock: Clock) -> None:
    small = fleet(clock, "--fleet-max-clusters", "2")
    assert small.record is not None
    small.take(0, encode_attempts(attempts(3)))
    assert len(small.record) == 2
    paths = [route.path for route in small.routes(["/"])]
    assert "/api/v1/clusters/" in paths
    off = fleet(clock, "--fleet-max-clusters", "0")
    off.take(0, encode_attempts(attempts(3)))
    off.stop()
    assert [route.path for route in off.routes(["/"])] == ["/"]


def test_silent_is_who_misses_several_intervals(clock: Clock) -> None:
    for interval, minutes in (("4m30s", 15), ("0", 15), ("1h", 180)):
        record = fleet(clock, "--ratelimit", interval).record
        assert record is not None
        assert record.recent == minutes


class Parent:
    """Takes reports."""

    def __init__(self) -> None:
        self.reports: list[bytes] = []

    def report(self, kind: str, body: bytes) -> Deferred[None]:
        assert kind == ATTEMPTS
        assert len(body) <= MAX_REPORT
        self.reports.append(body)
        return succeed(None)


def test_attempts_are_reported_together(clock: Clock) -> None:
    parent, record = Parent(), fleet(clock)
    batches = Batches(parent.report, clock)
    for attempt in attempts(5):
        batches.record(attempt)
    assert parent.reports == []
    clock.advance(1)
    (report,) = parent.reports
    record.take(0, report)
    assert record.record is not None
    assert len(record.record) == 5
    clock.advance(60)
    batches.send()
    assert len(parent.reports) == 1


def test_many_large_ones_fit(clock: Clock) -> None:
    parent = Parent()
    batches = Batches(parent.report, clock)
    for attempt in attempts(200, b"r" * 200):
        batches.record(attempt)
    assert len(parent.reports) > 3
    assert not [call for call in clock.getDelayedCalls() if call.getTime() > NOW + 1]


def test_what_cannot_be_reported_is_forgotten(clock: Clock, log: Log) -> None:
    batches = Batches(lambda kind, body: fail(ValueError("busy")), clock)
    batches.record(attempts(1)[0])
    clock.advance(1)
    assert any("busy" in line for line in log.lines)
