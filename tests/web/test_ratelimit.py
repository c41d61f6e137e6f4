"""One upload per cluster and interval."""

from __future__ import annotations

import pytest

from telemeter.web.ratelimit import RateLimitedError, RateLimiter


def wait_of(limiter: RateLimiter, cluster: str, now: float) -> int:
    """How long a cluster must wait; 0 if it need not."""
    try:
        limiter.take(cluster, now)
    except RateLimitedError as error:
        assert str(error.retry_after) in str(error)
        return error.retry_after
    return 0


@pytest.mark.parametrize(
    ("later", "wait"),
    [(0, 270), (0.001, 270), (0.9, 270), (1, 269), (269, 1), (269.999, 1), (270, 0), (1e6, 0)],
)
def test_the_wait_is_in_whole_seconds_rounded_up(later: float, wait: int) -> None:
    limiter = RateLimiter(270)
    limiter.take("a", 1000)
    assert wait_of(limiter, "a", 1000 + later) == wait


def test_a_refusal_does_not_prolong_the_wait() -> None:
    limiter = RateLimiter(10)
    limiter.take("a", 0)
    assert [wait_of(limiter, "a", now) for now in range(1, 11)] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_clusters_are_independent() -> None:
    limiter = RateLimiter(10)
    assert [wait_of(limiter, cluster, 0) for cluster in ("a", "b", "", "A")] == [0, 0, 0, 0]
    assert len(limiter) == 4


@pytest.mark.parametrize("interval", [0, -1])
def test_no_interval_is_no_limit_and_no_memory(interval: float) -> None:
    limiter = RateLimiter(interval)
    slots = [limiter.take("a", 0) for _ in range(10)]
    assert len(limiter) == 0
    slots[0].give_back()
    assert len(limiter) == 0


def test_a_slot_that_was_given_back_is_free() -> None:
    limiter = RateLimiter(10)
    slot = limiter.take("a", 0)
    slot.give_back()
    assert len(limiter) == 0
    assert wait_of(limiter, "a", 0) == 0
    assert wait_of(limiter, "a", 1) == 9


def test_an_old_slot_frees_nothing() -> None:
    limiter = RateLimiter(10)
    old = limiter.take("a", 0)
    limiter.take("a", 10)
    old.give_back()
    assert wait_of(limiter, "a", 11) == 9


def test_giving_back_twice_does_no_harm() -> None:
    limiter = RateLimiter(10)
    slot = limiter.take("a", 0)
    slot.give_back()
    limiter.take("a", 1)
    slot.give_back()
    assert wait_of(limiter, "a", 2) == 9


def test_what_is_past_is_forgotten() -> None:
    limiter = RateLimiter(10)
    for second in range(100):
        limiter.take(f"cluster-{second}", second)
        assert len(limiter) <= 10
    limiter.take("last", 1000)
    assert len(limiter) == 1


def test_it_remembers_so_many_clusters_and_no_more() -> None:
    limiter = RateLimiter(10, max_clusters=3)
    for number in range(5):
        limiter.take(str(number), number / 10)
        assert len(limiter) <= 3
    assert wait_of(limiter, "4", 1) > 0
    assert wait_of(limiter, "3", 1) > 0
    assert wait_of(limiter, "0", 1) == 0


def test_a_slot_that_was_given_back_and_taken_again_expires_last() -> None:
    limiter = RateLimiter(10)
    limiter.take("a", 0).give_back()
    limiter.take("b", 1)
    limiter.take("a", 2)
    assert wait_of(limiter, "b", 11) == 0
    assert wait_of(limiter, "a", 11) == 1
