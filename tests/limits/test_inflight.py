"""The bytes in flight: bounded, and shared."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.limits.inflight import CrowdedOutError, InFlight
from tests.fakes import Growth, value_of

MOST = 1000


def test_what_is_held_is_counted() -> None:
    flight = InFlight(MOST)
    first, second = flight.account("a"), flight.account("a")
    first.hold(100)
    second.hold(50)
    first.hold(30)
    flight.show()
    assert (flight.held, value_of("telemeter_inflight_bytes")) == (180, 180)
    first.keep(90)
    assert flight.held == 140
    first.keep(1000)
    assert flight.held == 140
    first.close()
    second.close()
    flight.show()
    assert (flight.held, flight.peak, value_of("telemeter_inflight_bytes")) == (0, 180, 0)


def test_of_who_holds_nothing_nothing_is_kept() -> None:
    flight = InFlight(MOST)
    first, second = flight.account("a"), flight.account("a")
    first.hold(100)
    second.hold(50)
    first.close()
    assert flight.held_by == {"a": 50}
    second.keep(0)
    assert (flight.held_by, flight.held) == ({}, 0)


def test_a_request_that_is_over_holds_nothing_again() -> None:
    """Its body may be converted still, in a thread, when its sender has left."""
    flight = InFlight(MOST)
    account = flight.account("a")
    account.close()
    account.hold(10)
    assert flight.held == 0


def test_one_sender_alone_may_hold_a_quarter() -> None:
    growth = Growth()
    flight = InFlight(MOST)
    account = flight.account("a")
    account.hold(250)
    with pytest.raises(CrowdedOutError) as caught:
        account.hold(1)
    assert str(caught.value) == (
        "251 bytes of this sender's requests would be held, of 251 in all; together 1000 may be, "
        "and of one sender a third of what is free (--max-inflight-bytes)"
    )
    assert flight.held == 250
    assert growth.of("telemeter_inflight_refused_total") == 1


def test_another_sender_has_room() -> None:
    flight = InFlight(MOST)
    flight.account("greedy").hold(250)
    other = flight.account("other")
    other.hold(187)
    with pytest.raises(CrowdedOutError):
        other.hold(1)
    flight.account("third").hold(140)


def test_many_with_little_may_hold_nearly_all() -> None:
    flight = InFlight(MOST)
    for number in range(990):
        flight.account(str(number)).hold(1)
    assert flight.held == 990


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=100))
def test_however_greedy_others_are_there_is_room_for_one_more(
    wanted: list[tuple[int, int]],
) -> None:
    flight = InFlight(MOST)
    for sender, size in wanted:
        with suppress(CrowdedOutError):
            flight.account(str(sender)).hold(size)
    free = MOST - flight.held
    assert free > 0
    flight.account("another").hold(free // 4)
