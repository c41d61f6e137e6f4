"""Memory that is given back."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.limits.inflight import InFlight
from telemeter.loop.memory import MemoryReturn
from telemeter.loop.threads import run_here

MIB = 1 << 20


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    class Library:
        @staticmethod
        def malloc_trim(pad: int) -> int:
            calls.append(pad)
            return 1

    monkeypatch.setattr("telemeter.loop.memory.ctypes.CDLL", lambda name: Library)
    return calls


def test_memory_is_given_back_after_a_peak(given_back: list[int]) -> None:
    clock = Clock()
    flight = InFlight(1 << 30)
    service = MemoryReturn(clock, flight, run_here)
    service.startService()
    account = flight.account("a")
    account.hold(100 * MIB)
    clock.advance(3)
    assert given_back == []
    account.keep(49 * MIB)
    clock.advance(3)
    assert given_back == [0]
    clock.advance(30)
    assert given_back == [0]
    account.close()
    clock.advance(3)
    assert given_back == [0, 0]
    service.stopService()
    assert not clock.getDelayedCalls()


def test_a_little_is_not_worth_it(given_back: list[int]) -> None:
    clock = Clock()
    flight = InFlight(1 << 30)
    service = MemoryReturn(clock, flight, run_here)
    service.startService()
    flight.account("a").hold(15 * MIB)
    flight.account("a").hold(MIB - 1)
    flight.held = 0
    clock.advance(30)
    assert given_back == []
    service.stopService()
