"""The simulation of a fleet after an outage."""

from __future__ import annotations

import pytest

from bench.recovery import VirtualClock, markdown, plot, recover


@pytest.mark.parametrize("retry_after", [None, 60.0])
def test_a_fleet_with_spools_comes_back_spread(retry_after: float | None) -> None:
    recovery = recover("", 400, spool=True, retry_after=retry_after)
    # Each agent has what it collected in an hour, and goes on collecting.
    assert 400 * 13 < sum(recovery.arrivals) < 400 * 18
    assert len(recovery.arrivals) < 400
    assert recovery.peak < 3 * recovery.mean


def test_a_fleet_without_spools() -> None:
    recovery = recover("", 4000, spool=False)
    assert 4000 <= sum(recovery.arrivals) < 4000 * 2
    assert recovery.peak < 3 * recovery.mean


def test_the_page() -> None:
    cases = [recover("small & spooled", 10, spool=True)]
    assert "| small & spooled | " in markdown(10, cases)
    assert "small &amp; spooled" in plot(cases)


def test_the_clock() -> None:
    clock = VirtualClock()
    done: list[str] = []
    clock.callLater(2, done.append, "late")
    clock.callLater(1, done.append, "soon")
    never = clock.callLater(1, done.append, "never")
    never.cancel()
    assert [call.getTime() for call in clock.getDelayedCalls()] == [1, 2]
    clock.advance_to(1)
    assert (done, clock.seconds()) == (["soon"], 1)
    clock.advance_to(5)
    assert (done, clock.seconds()) == (["soon", "late"], 5)
