"""The record of the fleet in a daemon, and on its way from workers."""

from __future__ import annotations

from typing import cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from telemeter.config.server_options import Options
from telemeter.fleet.attempt import Attempt, Path, decode_attempts, encode_attempts
from telemeter.loop.clocks import Elapsed
from telemeter.loop.reactor import IDaemonReactor
from telemeter.observe.outcome import Outcome
from telemeter.server.fleet import ATTEMPTS, Fleet, reporter
from telemeter.server.workers.control import MAX_REPORT
from telemeter.web.site.routing import make_site
from tests.fakes import UPTIME, FakeWall, Log, ask, value_of


def fleet(clock: Clock, *flags: str) -> Fleet:
    options = Options()
    options.parseOptions(flags)
    return Fleet(options.config, cast(IDaemonReactor, clock), FakeWall(clock))


def attempts(count: int) -> list[Attempt]:
    return [Attempt(b"c%d" % at, Elapsed(UPTIME), Path.UPLOAD, 200) for at in range(count)]


def test_the_flag(clock: Clock) -> None:
    small = fleet(clock, "--fleet-max-clusters", "2")
    assert small.record is not None
    small.take(0, encode_attempts(attempts(3)))
    clock.advance(1)
    assert len(small.record) == 2
    paths = [route.path for route in small.routes()]
    assert "/api/v1/clusters/" in paths
    off = fleet(clock, "--fleet-max-clusters", "0")
    off.take(0, encode_attempts(attempts(3)))
    off.stop()
    assert (off.routes(), off.page()) == ([], None)


def test_what_workers_report_is_recorded_in_the_order_in_which_it_ended(clock: Clock) -> None:
    """The report of one worker may come before that of another, with what was earlier."""
    here = fleet(clock)
    assert here.record is not None
    first = Attempt(b"c", Elapsed(UPTIME - 2), Path.UPLOAD, 200)
    second = Attempt(b"c", Elapsed(UPTIME - 1), Path.UPLOAD, 400)
    here.take(1, encode_attempts([second]))
    clock.advance(0.5)
    here.take(0, encode_attempts([first]))
    assert len(here.record) == 0
    clock.advance(0.5)
    assert here.record.status[0] == 400
    for _ in range(5):  # so many do not wait
        here.take(0, encode_attempts(attempts(4096)))
    assert len(here.record) == 4097
    here.take(0, encode_attempts([first]))
    here.stop()
    assert clock.getDelayedCalls() == []


def test_silent_is_who_misses_several_intervals(clock: Clock) -> None:
    for interval, minutes in (("4m30s", 15), ("0", 15), ("1h", 180)):
        record = fleet(clock, "--ratelimit", interval).record
        assert record is not None
        assert record.recent == minutes


def outcomes(count: int, status: int = 200, reason: str = "") -> list[Outcome]:
    """Uploads of as many clusters that are over."""
    return [
        Outcome(
            cluster=f"c{number}",
            verified=True,
            received=0,
            examples=(b"x" * 512,) * 3,
            reason=reason,
            path="upload",
            status=status,
            seconds=0.1,
            headers=Headers(),
        )
        for number in range(count)
    ]


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
    parent, here = Parent(), fleet(clock)
    observe = reporter(parent.report, clock, FakeWall(clock))
    for outcome in outcomes(5):
        observe(outcome)
    assert parent.reports == []
    clock.advance(1)
    (report,) = parent.reports
    here.take(0, report)
    clock.advance(1)
    assert here.record is not None
    assert len(here.record) == 5
    clock.advance(60)
    observe.stop()
    assert len(parent.reports) == 1


def test_attempts_are_recorded_together_and_soon(clock: Clock) -> None:
    here = fleet(clock)
    assert here.observer is not None
    assert here.record is not None
    for outcome in outcomes(5):
        here.observer(outcome)
    assert len(here.record) == 0
    clock.advance(0.5)
    assert len(here.record) == 5
    for outcome in outcomes(200):
        here.observer(outcome)
    assert 100 < len(here.record) < 200
    here.stop()
    assert len(here.record) == 200
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("path", ["/api/v1/fleet", "/api/v1/clusters", "/api/v1/clusters/c0"])
def test_who_asks_is_told_of_the_last_attempt_too(clock: Clock, path: str) -> None:
    here = fleet(clock)
    site = make_site(here.routes(), clock)
    assert here.observer is not None
    here.observer(outcomes(1)[0])
    answer = ask(site, "GET", path)
    assert answer.status == 200
    assert answer.json.get("clusters", 1) == 1
    here.stop()


def test_many_large_ones_fit(clock: Clock) -> None:
    parent = Parent()
    observe = reporter(parent.report, clock, FakeWall(clock))
    for outcome in outcomes(300, 400, "r" * 200):
        observe(outcome)
    observe.stop()
    assert len(parent.reports) > 3
    assert sum(len(decode_attempts(report)) for report in parent.reports) == 300
    assert not [call for call in clock.getDelayedCalls() if call.getTime() > UPTIME + 1]


def test_what_cannot_be_reported_is_forgotten(clock: Clock, log: Log) -> None:
    observe = reporter(lambda kind, body: fail(ValueError("busy")), clock, FakeWall(clock))
    observe(outcomes(1)[0])
    clock.advance(1)
    assert any("busy" in line for line in log.lines)


def test_the_metrics_of_the_fleet(clock: Clock) -> None:
    here = fleet(clock)
    refused = Attempt(b"bad", Elapsed(UPTIME), Path.UPLOAD, 403)
    here.take(0, encode_attempts([*attempts(3), refused]))
    clock.advance(1)
    here.measure()
    found = {
        state: value_of("telemeter_fleet_clusters", state=state)
        for state in ("ok", "drifting", "silent", "failed", "refused")
    }
    assert found == {"ok": 3, "drifting": 0, "silent": 0, "failed": 0, "refused": 1}
    clock.advance(3600)
    here.measure()
    assert value_of("telemeter_fleet_clusters", state="silent") >= 3
    assert value_of("telemeter_fleet_clusters", state="ok") == 0
    off = fleet(clock, "--fleet-max-clusters", "0")
    off.measure()
