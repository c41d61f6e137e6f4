"""The two clocks, and what Twisted's reactors do with theirs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import LoopingCall, deferLater

from telemeter.loop.clocks import (
    LONG_AGO,
    SYSTEM_WALL_CLOCK,
    Elapsed,
    Moment,
    Wall,
    WallClock,
    elapsed,
    milliseconds,
    moment,
    run_on_elapsed_time,
)
from tests.fakes import NOW, UPTIME, FakeWall, clock_at

ROOT = Path(__file__).parents[2]


def test_a_moment_tells_the_date_of_another_by_its_age() -> None:
    clock = clock_at()
    wall = FakeWall(clock)
    began = elapsed(clock)
    clock.advance(60)
    assert moment(clock, wall).date(began) == Wall(NOW)
    wall.step(-3600)
    now = moment(clock, wall)
    assert (now.elapsed, now.wall) == (Elapsed(UPTIME + 60), Wall(NOW + 60 - 3600))
    assert now.date(began) == Wall(NOW - 3600)


def test_the_wall_clock_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.1239)
    assert SYSTEM_WALL_CLOCK.now() == Wall(1_700_000_000.1239)
    assert milliseconds(SYSTEM_WALL_CLOCK.now()) == 1_700_000_000_123


def test_neither_clock_is_taken_for_the_other() -> None:
    """It is mypy that holds this: it complains of an `ignore` that is not needed any more."""

    def by_elapsed(moment: Elapsed) -> None: ...
    def by_wall(moment: Wall) -> None: ...
    def with_wall(clock: WallClock) -> None: ...

    clock = clock_at()
    wall = FakeWall(clock)
    by_elapsed(wall.now())  # type: ignore[arg-type]
    by_wall(elapsed(clock))  # type: ignore[arg-type]
    by_wall(clock.seconds())  # type: ignore[arg-type]
    by_wall(LONG_AGO)  # type: ignore[arg-type]
    with_wall(clock)  # type: ignore[arg-type]
    Moment(wall.now(), elapsed(clock))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        elapsed(wall)  # type: ignore[arg-type]


def test_nobody_else_reads_the_wall_clock() -> None:
    reads = re.compile(
        r"\btime\.time\b|\btime_ns\b|\bdatetime\.(?:utc)?now\b|\bdate\.today\b"
        r"|\b(?:gm|local|c)time\(\)|\bfrom time import\b"
    )
    readers = {
        str(path.relative_to(ROOT))
        for folder in ("telemeter", "bench", "demo", "twisted")
        for kind in ("*.py", "*.pyx", "*.pxi")
        for path in (ROOT / folder).rglob(kind)
        if reads.search(path.read_text())
    }
    assert readers == {"telemeter/loop/clocks.py"}


# --- A reactor's own timers -----------------------------------------------------------------------


@pytest.fixture(params=["epoll", "poll", "select", "asyncio"])
def reactor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One of the reactors that twistd may be told to use, before it runs."""
    loop = asyncio.new_event_loop()
    makers: dict[str, Callable[[], Any]] = {
        "epoll": EPollReactor,
        "poll": PollReactor,
        "select": SelectReactor,
        "asyncio": lambda: AsyncioSelectorReactor(loop),
    }
    reactor = makers[request.param]()
    yield reactor
    for reader in list(reactor._internalReaders):
        reactor.removeReader(reader)
        reader.connectionLost(None)
    if request.param == "epoll":
        reactor._poller.close()
    loop.close()


class Monotonic:
    """A clock of elapsed time that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    clock = Monotonic()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def _never(*_: object) -> float:
    raise AssertionError("a timer reads the wall clock")


def test_every_timer_of_a_reactor_runs_on_elapsed_time(
    reactor: Any, monotonic: Monotonic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which holds as long as Twisted's timers read nothing but `reactor.seconds`."""
    monkeypatch.setattr(ReactorBase, "seconds", _never)
    monkeypatch.setattr(time, "time", _never)
    reactor.seconds = time.monotonic
    run_on_elapsed_time(reactor)
    fired: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: fired.append(name)

    reactor.callLater(60, note("call"))
    later = reactor.callLater(1, note("later"))
    later.delay(69)
    sooner = reactor.callLater(1000, note("sooner"))
    sooner.reset(50)
    deferLater(reactor, 80, note("deferred"))
    waiting: Deferred[None] = Deferred()
    waiting.addTimeout(90, reactor).addErrback(note("timeout"))
    loop = LoopingCall(note("loop"))
    loop.clock = reactor
    loop.start(55, now=False)
    assert [call.getTime() - 100 for call in (later, sooner)] == [70, 50]
    for seconds, names in (
        (49, []),
        (50, ["sooner"]),
        (60, ["loop", "call"]),
        (70, ["later"]),
        (100, ["deferred", "timeout"]),
        (110, ["loop"]),
    ):
        monotonic.now = 100.0 + seconds
        reactor.runUntilCurrent()
        assert sorted(fired) == sorted(names)
        fired.clear()
    loop.stop()
    last = reactor.callLater(7, note("last"))
    assert reactor.timeout() == 7
    last.cancel()


def test_a_reactor_is_made_to_run_on_elapsed_time_once(reactor: Any) -> None:
    run_on_elapsed_time(reactor)
    call = reactor.callLater(60, lambda: None)
    assert abs(call.getTime() - time.monotonic() - 60) < 30
    run_on_elapsed_time(reactor)
    call.cancel()


def test_a_reactor_that_has_timers_already_is_left_alone(reactor: Any) -> None:
    call = reactor.callLater(60, lambda: None)
    with pytest.raises(RuntimeError, match="has timers already"):
        run_on_elapsed_time(reactor)
    call.cancel()
