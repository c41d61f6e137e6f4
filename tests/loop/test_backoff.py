"""Exponential backoff with full jitter."""

from __future__ import annotations

import pytest

from telemeter.loop.backoff import Backoff


def test_the_window_doubles_up_to_five_minutes() -> None:
    asked: list[tuple[float, float]] = []

    def jitter(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    backoff = Backoff(jitter)
    waits = [backoff.wait() for _ in range(9)]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert {low for low, _ in asked} == {1.0}
    backoff.succeeded()
    assert backoff.wait() == 5


def test_it_never_overflows() -> None:
    backoff = Backoff(lambda low, high: high)
    assert [backoff.wait() for _ in range(5000)][-1] == 300


def test_a_short_first_window() -> None:
    assert Backoff(lambda low, high: low, first=0.5).wait() == 0.25
    assert Backoff(lambda low, high: high, first=0.5).wait() == 0.5


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [(0.0, 1, 5), (30.0, 31, 35), (1e9, 3601, 3605), (-5.0, 1, 5)],
)
def test_what_the_server_asked_for_and_the_window_on_top(
    retry_after: float, least: float, most: float
) -> None:
    assert Backoff(lambda low, high: low).wait(retry_after) == least
    assert Backoff(lambda low, high: high).wait(retry_after) == most


def test_agents_in_step_do_not_stay_in_step() -> None:
    waits = [Backoff().wait(60.0) for _ in range(200)]
    assert min(waits) < 61.5
    assert max(waits) > 64.5
    assert len(set(waits)) > 190
