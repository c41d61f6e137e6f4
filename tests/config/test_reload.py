"""Reading files again while the daemon runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.python.usage import UsageError

from telemeter.config.disk import Disk
from telemeter.config.files import signature
from telemeter.config.reload import WATCH_SECONDS, Reloader
from tests.fakes import NOW, FakeWall, Log, has_fired, result_of, run, start, value_of
from tests.tap.world import FakeReactor

SECONDS = 7.0


class World:
    """A reloader, and what it does."""

    def __init__(self, path: Path) -> None:
        self.reactor = FakeReactor()
        self.path = path
        self.path.write_text("first")
        self.all = 0
        self.watched = 0
        self.problem = ""
        self.reload_error: Exception | None = None
        self.wall = FakeWall(self.reactor)
        self.reloader = Reloader(
            self.reactor,
            self.wall,
            Disk(self.reactor, SECONDS),
            self.reload,
            [str(path), ""],
            self.reload_watched,
        )

    def reload(self) -> None:
        if self.reload_error is not None:
            raise self.reload_error
        if self.problem:
            raise UsageError(self.problem)
        self.all += 1

    def reload_watched(self) -> None:
        if self.problem:
            raise UsageError(self.problem)
        self.watched += 1

    def successful(self) -> bool:
        return bool(value_of("telemeter_config_last_reload_successful"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose reloader runs."""
    world = World(tmp_path / "file")
    world.reloader.startService()
    yield world
    if world.reloader.running:
        world.reloader.stopService()
    assert world.reactor.getDelayedCalls() == []


def test_a_start_counts_as_a_success(world: World) -> None:
    assert world.successful()
    assert value_of("telemeter_config_last_reload_success_timestamp_seconds") == NOW
    assert (world.all, world.watched) == (0, 0)


def test_on_request(world: World, log: Log) -> None:
    world.reactor.advance(7)
    run(world.reloader.reload())
    assert world.all == 1
    assert len(log.of("reloaded")) == 1
    assert value_of("telemeter_config_last_reload_success_timestamp_seconds") == NOW + 7


def test_without_anybody_who_waits(world: World, log: Log) -> None:
    world.reloader.reload_quietly()
    assert world.all == 1
    assert len(log.of("reloaded")) == 1


def test_a_refused_request_says_why(world: World, log: Log) -> None:
    world.problem = "--flag 'x': expected something else"
    with pytest.raises(ValueError, match="--flag 'x'"):
        run(world.reloader.reload())
    (event,) = log.of("not reloaded, the old configuration stays")
    assert (event["log_level"].name, event["reason"]) == ("error", world.problem)
    assert not world.successful()
    world.problem = ""
    run(world.reloader.reload())
    assert world.successful()


def test_a_refusal_that_nobody_waits_for_is_only_logged(world: World, log: Log) -> None:
    world.problem = "no"
    world.reloader.reload_quietly()
    assert len(log.of("not reloaded, the old configuration stays")) == 1
    assert not world.successful()


class Slow:
    """Reloads that take a while."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.under_way: list[Deferred[None]] = []
        self.reloader = Reloader(
            self.reactor, FakeWall(self.reactor), Disk(self.reactor, SECONDS), self.reload
        )

    def reload(self) -> Deferred[None]:
        self.under_way.append(Deferred())
        return self.under_way[-1]


def test_a_reload_waits_for_the_one_before(log: Log) -> None:
    slow = Slow()
    first, second = start(slow.reloader.reload()), start(slow.reloader.reload())
    assert len(slow.under_way) == 1
    slow.under_way[0].errback(UsageError("no"))
    with pytest.raises(ValueError, match="no"):
        result_of(first)
    assert len(slow.under_way) == 2
    assert not has_fired(second)
    slow.under_way[1].callback(None)
    assert result_of(second) is None
    assert len(log.of("reloaded")) == 1


def test_many_who_ask_at_once_are_served_by_one(log: Log) -> None:
    slow = Slow()
    for _ in range(100):
        slow.reloader.reload_quietly()
    assert len(slow.under_way) == 1
    for _ in range(100):  # the one under way may have read the files before they changed
        slow.reloader.reload_quietly()
    slow.under_way[0].callback(None)
    assert len(slow.under_way) == 1
    slow.reactor.advance(0.5)
    assert len(slow.under_way) == 2
    slow.under_way[1].callback(None)
    slow.reactor.advance(10)
    assert len(slow.under_way) == 2
    assert len(log.of("reloaded")) == 2


def test_a_storm_of_quick_reloads_is_few(world: World, log: Log) -> None:
    for _ in range(1000):
        world.reloader.reload_quietly()
        world.reactor.advance(0.001)
    world.reactor.advance(1)
    assert 2 <= world.all <= 3


def test_a_reload_that_breaks_off_is_logged_and_the_next_one_works(world: World, log: Log) -> None:
    good, world.reload_error = world.reload_error, KeyError("broken")
    world.reloader.reload_quietly()
    assert len(log.errors) == 1
    assert not world.successful()
    world.reload_error = good
    run(world.reloader.reload())
    assert world.all == 1
    assert world.successful()
    log.errors_are_fine = True


def test_a_mistake_of_ours_is_not_taken_for_a_refusal(world: World, log: Log) -> None:
    world.reload_error = UnicodeError("broken")
    world.reloader.reload_quietly()
    assert len(log.errors) == 1
    assert not world.successful()
    log.errors_are_fine = True


def test_watched_files_are_read_when_they_change(world: World) -> None:
    world.reactor.advance(WATCH_SECONDS)
    assert world.watched == 0
    world.path.write_text("second, and longer")
    world.reactor.advance(WATCH_SECONDS - 0.1)
    assert world.watched == 0
    world.reactor.advance(0.1)
    assert world.watched == 1
    world.reactor.advance(WATCH_SECONDS * 10)
    assert (world.watched, world.all) == (1, 0)


def test_a_change_that_is_no_good_is_tried_once_more(world: World, log: Log) -> None:
    world.problem = "no"
    world.path.write_text("second, and longer")
    world.reactor.advance(WATCH_SECONDS)
    (event,) = log.of("changed files cannot be used yet")
    assert (event["log_level"].name, event["reason"]) == ("info", "no")
    assert world.successful()
    world.reactor.pump([WATCH_SECONDS] * 5)
    assert len(log.of("changed files cannot be used yet")) == 1
    assert len(log.of("not reloaded, the old configuration stays")) == 1
    assert not world.successful()
    world.problem = ""
    world.path.write_text("third, and longer still")
    world.reactor.advance(WATCH_SECONDS)
    assert world.watched == 1
    assert world.successful()


def test_files_that_are_replaced_one_by_one_are_no_failure(world: World, log: Log) -> None:
    world.problem = "the private key does not belong to the first certificate"
    world.path.write_text("one of two")
    world.reactor.advance(WATCH_SECONDS)
    world.problem = ""
    world.path.write_text("both of them")
    world.reactor.advance(WATCH_SECONDS)
    assert (world.watched, world.successful()) == (1, True)
    # Nothing is left to look at again.
    world.reactor.pump([WATCH_SECONDS] * 3)
    assert world.watched == 1
    assert log.of("not reloaded, the old configuration stays") == []


def test_a_file_that_may_be_read_now_is_read(world: World, log: Log) -> None:
    world.problem = "expected a readable file: Permission denied"
    world.path.write_text("second, and longer")
    world.reactor.pump([WATCH_SECONDS] * 2)
    assert not world.successful()
    world.problem = ""
    world.path.chmod(0o600)
    world.reactor.advance(WATCH_SECONDS)
    assert (world.watched, world.successful()) == (1, True)


def test_what_changes_while_the_daemon_starts_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("first")
    reactor, reloads = FakeReactor(), []
    seen = signature([str(path)])
    path.write_text("second, and longer")
    reloader = Reloader(
        reactor,
        FakeWall(reactor),
        Disk(reactor, SECONDS),
        lambda: None,
        [str(path)],
        lambda: reloads.append(path.read_text()),
        seen,
    )
    reloader.startService()
    reactor.advance(WATCH_SECONDS)
    reloader.stopService()
    assert reloads == ["second, and longer"]


def test_a_good_change_does_not_hide_a_bad_reload(world: World) -> None:
    world.problem = "no"
    with pytest.raises(ValueError, match="no"):
        run(world.reloader.reload())
    world.problem = ""
    world.path.write_text("second, and longer")
    world.reactor.advance(WATCH_SECONDS)
    assert world.watched == 1
    assert not world.successful()


def test_nothing_is_read_after_a_stop(world: World) -> None:
    world.reloader.stopService()
    world.path.write_text("second, and longer")
    world.reactor.advance(WATCH_SECONDS * 3)
    assert world.watched == 0


@pytest.mark.parametrize("step", [-3600, 3600])
def test_the_time_of_a_reload_is_a_time_of_day_and_looks_go_on(world: World, step: int) -> None:
    world.wall.step(step)
    world.path.write_text("changed, and longer")
    world.reactor.advance(WATCH_SECONDS)
    assert world.watched == 1
    seconds = value_of("telemeter_config_last_reload_success_timestamp_seconds")
    assert seconds == NOW + step + WATCH_SECONDS
