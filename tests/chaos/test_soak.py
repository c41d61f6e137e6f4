"""What a long run has to look like."""

from __future__ import annotations

import random

import pytest

from chaos.soak import Soak
from chaos.trend import fit, percentile


def test_a_line_through_points() -> None:
    trend = fit([(x, 3.0 + 2.0 * x) for x in range(10)])
    assert trend.slope == pytest.approx(2.0)
    assert trend.error == pytest.approx(0.0, abs=1e-9)
    assert trend.surely_above(1.9)
    assert not trend.surely_above(2.0)


def test_noise_is_no_slope() -> None:
    luck = random.Random(3)
    noise = [(float(x), luck.gauss(0, 1)) for x in range(1000)]
    trend = fit(noise)
    # As the formula says: the deviation over the spread of x.
    assert trend.error == pytest.approx(1 / (1000**3 / 12) ** 0.5, rel=0.1)
    assert abs(trend.slope) < 3 * trend.error
    assert not trend.surely_above(3 * trend.error)
    grows = [(x, y + x / 100) for x, y in noise]
    assert fit(grows).surely_above(0.005)


def test_percentiles() -> None:
    numbers = list(range(1, 101))
    assert percentile(numbers, 0.99) == 99
    assert percentile(numbers, 1.0) == 100
    assert percentile([5.0], 0.5) == 5.0
    assert percentile([], 0.99) == 0.0


def good() -> Soak:
    seen = Soak(300.0, 100.0, requests=30_000)
    seen.memory = [(float(at), 70.0 + at % 3) for at in range(90, 300)]
    seen.descriptors = [(float(at), 30.0) for at in range(90, 300)]
    seen.p99 = [0.01, 0.011, 0.009, 0.012, 0.01]
    return seen


def test_a_good_run() -> None:
    seen = good()
    assert seen.faults() == []
    assert "| requests, not answered with 2xx | 30,000, 0 |" in seen.table()
    assert "| p99 of each fifth | 10, 11, 9, 12, 10 ms |" in seen.table()


def test_what_is_wrong_with_a_run() -> None:
    seen = good()
    seen.failures = 2
    seen.memory = [(float(at), 70.0 + at / 30) for at in range(90, 300)]
    seen.descriptors[-1] = (300.0, 40.0)
    seen.p99[-1] = 0.2
    assert [fault.split()[0] for fault in seen.faults()] == ["2", "memory", "descriptors", "p99"]
