"""The keeper of the fleet's record: a restart finds what was known, whatever the disk does."""

from __future__ import annotations

import sqlite3
from pathlib import Path as FilePath
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.fleet.attempt import Attempt, Path
from telemeter.fleet.database import FleetDatabase, FleetDatabaseError
from telemeter.fleet.record import FleetRecord
from telemeter.fleet.totals import State
from telemeter.loop.clocks import elapsed, moment
from telemeter.loop.services import StartError
from telemeter.loop.threads import run_here
from telemeter.server.fleet_keeper import INTERVAL, FleetKeeper
from tests.fakes import NOW, FakeWall, Log, result_of

A_DAY = 86_400.0


class Server:
    """A record and its keeper, on a clock of their own."""

    def __init__(
        self, path: FilePath, at: float = 0.0, size: int = 100, retention: float = 30 * A_DAY
    ) -> None:
        """Start them.

        Args:
            path: the database.
            at: so many seconds after the first one, by the wall clock.
            size: how many clusters there may be.
            retention: after how many seconds they are forgotten.
        """
        self.clock = Clock()
        self.clock.advance(5000)  # machines that were started anew have small elapsed times
        self.wall = FakeWall(self.clock)
        self.wall.step(NOW + at - self.wall.now())
        self.record = FleetRecord(size, moment(self.clock, self.wall))
        self.database = FleetDatabase(str(path), busy=0.05)
        self.keeper = FleetKeeper(
            self.record,
            self.database,
            self.clock,
            self.wall,
            run_here,
            flag="telemeter-server: --fleet-database 'sqlite:x'",
            retention=retention,
        )
        self.keeper.startService()

    def attempt(self, cluster: str, status: int = 200, **more: Any) -> None:
        made = Attempt(cluster.encode(), elapsed(self.clock), Path.UPLOAD, status)
        if status == 200:
            made.measured, made.received, made.kept = True, 12, 10
        for name, value in more.items():
            setattr(made, name, value)
        self.record.record(made)

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)

    def is_behind(self) -> bool:
        return self.keeper.behind_since is not None

    def stop(self) -> None:
        stopped = self.keeper.stopService()
        self.clock.pump([0.0] * 20)
        result_of(stopped)

    def states(self) -> dict[str, State]:
        now = moment(self.clock, self.wall)
        rows = [self.record.row(at, now) for at in self.record.places if self.record.ids[at]]
        return {row.cluster: row.state for row in rows}

    def details(self) -> list[Any]:
        now = moment(self.clock, self.wall)
        return sorted(
            (self.record.detail(at, now) for at in self.record.places if self.record.ids[at]),
            key=lambda detail: detail.row.cluster,
        )


@pytest.fixture
def path(tmp_path: FilePath) -> FilePath:
    return tmp_path / "fleet.sqlite"


def test_a_restart_knows_what_was_known(path: FilePath) -> None:
    first = Server(path)
    first.attempt("quiet", drift=1000, agent=b"agent/1", expires=NOW + 9000)
    first.wait(1200)
    first.attempt("fine", examples=(b"\n\x06\n\x01a\x12\x01b",))
    first.attempt("bad", 400, reason=b"malformed")
    first.attempt("fine", 401, verified=False)
    details = first.details()
    totals = first.record.totals(moment(first.clock, first.wall))
    first.stop()

    second = Server(path, 1200.0)
    assert second.states() == {
        "quiet": State.SILENT,
        "fine": State.OK,
        "bad": State.REFUSED,
    }
    assert second.details() == details
    assert second.record.totals(moment(second.clock, second.wall)) == totals
    second.wait(1200)  # and who was not heard of since becomes silent
    assert set(second.states().values()) == {State.SILENT}
    second.stop()


def test_a_kill_costs_what_was_not_written_yet(path: FilePath) -> None:
    first = Server(path)
    first.attempt("early")
    first.wait(INTERVAL + 1)
    first.attempt("late")
    first.database.close()  # as a kill would
    assert set(Server(path, 30.0).states()) == {"early"}


def test_only_what_has_changed_is_written(path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(path)
    written: list[str] = []
    save = server.database.save_clusters

    def saving(clusters: Any) -> None:
        written.extend(each.id for each in clusters)
        save(clusters)

    monkeypatch.setattr(server.database, "save_clusters", saving)
    for number in range(1200):
        server.attempt(f"c{number % 100}")
    server.wait(INTERVAL + 3)
    assert sorted(written) == sorted(f"c{number}" for number in range(100))
    written.clear()
    server.attempt("c7", 401, verified=False)
    server.wait(INTERVAL + 3)
    assert written == ["c7"]
    server.stop()


def test_a_disk_that_takes_nothing_costs_no_attempt(
    path: FilePath, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(path)
    server.attempt("before")
    server.wait(INTERVAL + 3)
    good = server.wall.now()

    def full(_: Any) -> None:
        raise FleetDatabaseError("database or disk is full")

    save = server.database.save_clusters
    monkeypatch.setattr(server.database, "save_clusters", full)
    server.attempt("meanwhile")
    server.wait(5 * INTERVAL)
    behind = server.keeper.behind_since
    assert behind is not None
    assert good - INTERVAL <= behind <= good
    assert set(server.states()) == {"before", "meanwhile"}
    monkeypatch.setattr(server.database, "save_clusters", save)
    told = [event for event in log if "cannot be written" in event["log_format"]]
    assert [event["reason"] for event in told] == ["database or disk is full"]  # once
    server.wait(INTERVAL + 3)
    assert not server.is_behind()
    server.stop()
    assert set(Server(path, 200.0).states()) == {"before", "meanwhile"}


def test_a_file_that_is_deleted_is_written_anew(path: FilePath) -> None:
    server = Server(path)
    server.attempt("a")
    server.wait(INTERVAL + 3)
    path.unlink()
    server.attempt("b")
    server.wait(3 * INTERVAL)
    assert not server.is_behind()
    server.stop()
    assert set(Server(path, 100.0).states()) == {"a", "b"}


def test_a_file_that_comes_later_is_read_later(tmp_path: FilePath) -> None:
    folder = tmp_path / "mount"
    path = folder / "fleet.sqlite"
    folder.mkdir()
    first = Server(path)
    first.attempt("known")
    first.attempt("both", 400)
    first.stop()
    folder.rename(tmp_path / "away")
    second = Server(path, 60.0)
    assert second.is_behind()
    second.attempt("new")
    second.attempt("both")
    (tmp_path / "away").rename(folder)
    second.wait(INTERVAL + 3)
    assert not second.is_behind()
    assert second.states() == {"known": State.OK, "both": State.OK, "new": State.OK}
    second.stop()
    assert set(Server(path, 120.0).states()) == {"known", "both", "new"}


@pytest.mark.parametrize("is_of_database", [False, True])
def test_a_file_that_cannot_be_read_at_first_is_read_later(
    path: FilePath, monkeypatch: pytest.MonkeyPatch, is_of_database: bool
) -> None:
    first = Server(path)
    first.attempt("known")
    first.stop()
    load = FleetDatabase.load
    failures = [FleetDatabaseError("disk I/O error", is_of_database=is_of_database)]

    def fails_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return load(*arguments)

    monkeypatch.setattr(FleetDatabase, "load", fails_once)
    second = Server(path, 60.0)
    assert second.is_behind()
    second.attempt("new")
    second.wait(INTERVAL + 3)
    assert not second.is_behind()
    assert set(second.states()) == {"known", "new"}
    second.stop()


def test_a_file_of_somebody_else_is_one_line(path: FilePath) -> None:
    path.write_text("something else")
    with pytest.raises(StartError) as caught:
        Server(path)
    assert str(caught.value) == (
        "telemeter-server: --fleet-database 'sqlite:x': expected a file of SQLite, "
        "it is something else"
    )


def test_clusters_are_forgotten_in_time(path: FilePath) -> None:
    server = Server(path, retention=3600.0)
    for number in range(30):
        server.attempt(f"old{number}")
    server.wait(4000)
    server.attempt("new")
    server.wait(2000)
    assert set(server.states()) == {"new"}
    now = moment(server.clock, server.wall)
    assert sum(server.record.totals(now).states.values()) == 1
    server.attempt("another")  # takes a place that has become free
    assert len(server.record.places) == 30
    server.stop()
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT id FROM cluster ORDER BY id").fetchall() == [
        ("another",),
        ("new",),
    ]
    reader.close()


def test_no_more_are_read_than_there_is_room_for(path: FilePath) -> None:
    first = Server(path)
    for number in range(10):
        first.attempt(f"c{number}")
        first.wait(2)
    first.stop()
    second = Server(path, 30.0, size=3)
    assert set(second.states()) == {"c7", "c8", "c9"}
    second.attempt("more")
    assert set(second.states()) == {"c8", "c9", "more"}  # the oldest gives way
    second.stop()


def test_what_a_wrong_clock_has_written_is_no_later_than_now(path: FilePath) -> None:
    ahead = Server(path, 10 * A_DAY)
    ahead.attempt("c")
    ahead.stop()
    server = Server(path)
    assert server.states() == {"c": State.OK}
    server.wait(1000)
    assert server.states() == {"c": State.SILENT}
    server.stop()


def test_a_clock_that_is_set_wrong_makes_nothing_forgotten(path: FilePath) -> None:
    server = Server(path)
    server.attempt("c")
    server.wait(INTERVAL + 3)
    server.wall.step(90 * A_DAY)
    server.wait(90 * INTERVAL + 3)  # until it looks for what is to be forgotten
    assert set(server.states()) == {"c"}
    server.stop()
    assert set(Server(path, 2000.0).states()) == {"c"}


def test_what_somebody_wrote_into_it_does_no_harm(path: FilePath) -> None:
    first = Server(path)
    first.attempt("c", 400, reason=b"why")
    first.stop()
    by_hand = sqlite3.connect(path)
    by_hand.execute(
        "UPDATE cluster SET seen = 9e999, expires = 9e999, received = -5, kept = 1 << 60, "
        "status = 70000, condition = 77, path = 9, trail = x'05ff', examples = x'ff', "
        "agent = ?, drift = 1 << 50",
        ("x" * 5000,),
    )
    by_hand.execute("UPDATE minute SET problems = '[1'")
    by_hand.commit()
    by_hand.close()
    second = Server(path, 30.0)
    (detail,) = second.details()
    assert (detail.attempts, detail.dropped) == ((), ())
    assert len(detail.row.agent) == 64
    second.stop()


def test_a_stop_does_not_wait_long_for_a_disk_that_hangs(path: FilePath, log: Log) -> None:
    server = Server(path)
    server.attempt("c")

    async def hangs(*_: Any, **__: Any) -> Any:
        return await Deferred()

    server.keeper._run = hangs
    stopped = server.keeper.stopService()
    for _ in range(6):
        server.clock.advance(1)
    result_of(stopped)
    assert any("did not answer" in event["log_format"] for event in log)
    assert server.clock.getDelayedCalls() == []
