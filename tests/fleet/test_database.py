"""The record in a SQLite file: what is written is read again, and what else may lie there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest

from telemeter.fleet.database import (
    APPLICATION,
    VERSION,
    FleetDatabase,
    FleetDatabaseError,
    NotOurDatabaseError,
    SavedCluster,
    SavedMinute,
)


def cluster(name: str = "c", seen: float = 1000.0) -> SavedCluster:
    return SavedCluster(
        name, seen, 990.0, 5000.0, 10, 8, 2, 1, 200, -3, 0, 0, 900.0, 4, 401, "agent/1", b"t", b"e"
    )


MINUTE = SavedMinute(16, 1, 2, 3, 4, 5, 6, 7, '{"400": 2}')


@pytest.fixture
def path(tmp_path: FilePath) -> FilePath:
    return tmp_path / "fleet.sqlite"


@pytest.fixture
def database(path: FilePath) -> Iterator[FleetDatabase]:
    made = FleetDatabase(str(path), busy=0.05)
    assert made.open() == ""
    yield made
    made.close()


def again(path: FilePath) -> FleetDatabase:
    opened = FleetDatabase(str(path), busy=0.05)
    assert opened.open() == ""
    return opened


def test_what_was_written_is_read_by_the_next(database: FleetDatabase, path: FilePath) -> None:
    database.save_clusters([cluster("old", 10.0), cluster("a", 1000.0), cluster("b\0ü", 2000.0)])
    database.save_clusters([cluster("a", 1500.0)._replace(drift=None)])
    database.save_minutes([MINUTE, MINUTE._replace(at=3)])
    database.close()
    opened = again(path)
    clusters, minutes = opened.load(100.0, 10, 3)
    assert clusters == [cluster("b\0ü", 2000.0), cluster("a", 1500.0)._replace(drift=None)]
    assert minutes == [MINUTE]
    assert len(opened.load(0.0, 2, 0)[0]) == 2
    opened.close()
    assert path.stat().st_mode & 0o077 == 0  # which clusters there are is nobody else's business


def test_what_is_old_or_too_much_is_forgotten(database: FleetDatabase) -> None:
    database.save_clusters([cluster(f"c{at}", 600.0 + at) for at in range(10)])
    database.save_minutes([MINUTE, MINUTE._replace(at=1)])
    database.forget(603.0, 4)
    clusters, minutes = database.load(0.0, 100, 0)
    assert [each.id for each in clusters] == ["c9", "c8", "c7", "c6"]
    assert minutes == [MINUTE]


def test_a_file_is_of_one_server(database: FleetDatabase, path: FilePath) -> None:
    other = FleetDatabase(str(path))
    with pytest.raises(NotOurDatabaseError, match="another server uses this file"):
        other.open()
    database.close()
    assert other.open() == ""
    other.close()


def test_a_file_of_somebody_else_stays_as_it_is(path: FilePath) -> None:
    path.write_text("[a configuration, mistyped]")
    with pytest.raises(NotOurDatabaseError, match="expected a file of SQLite"):
        FleetDatabase(str(path)).open()
    assert path.read_text() == "[a configuration, mistyped]"
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (a)")
    foreign.close()
    before = path.read_bytes()
    refused = FleetDatabase(str(path))
    with pytest.raises(NotOurDatabaseError, match="the database of another program"):
        refused.open()
    refused.close()
    assert path.read_bytes() == before
    with pytest.raises(NotOurDatabaseError, match="expected a regular file"):
        FleetDatabase(str(path.parent)).open()


def test_a_later_schema_is_refused_rather_than_misread(
    database: FleetDatabase, path: FilePath
) -> None:
    database.close()
    later = sqlite3.connect(path)
    later.execute(f"PRAGMA user_version = {VERSION + 1}")
    later.close()
    with pytest.raises(NotOurDatabaseError, match=f"it has schema {VERSION + 1}"):
        FleetDatabase(str(path)).open()


def test_it_can_be_told_from_others(database: FleetDatabase, path: FilePath) -> None:
    database.close()
    reader = sqlite3.connect(path)
    assert reader.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
    reader.close()


def test_a_damaged_one_is_set_aside(database: FleetDatabase, path: FilePath) -> None:
    database.save_clusters([cluster(f"c{at}") for at in range(1000)])
    database.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    damaged = FleetDatabase(str(path))
    aside = damaged.open()
    assert aside.startswith("fleet.sqlite.damaged-1.sqlite: ")
    assert damaged.load(0.0, 10, 0) == ([], [])
    assert path.with_name("fleet.sqlite.damaged-1.sqlite").stat().st_size == size
    damaged.close()


def test_one_that_was_taken_away_is_noticed(database: FleetDatabase, path: FilePath) -> None:
    path.unlink()
    with pytest.raises(FleetDatabaseError, match="taken away") as caught:
        database.save_clusters([cluster()])
    assert caught.value.is_of_database
    assert database.open() == ""
    database.save_clusters([cluster()])
    assert database.load(0.0, 10, 0)[0] == [cluster()]


def test_a_locked_one_is_no_damage(database: FleetDatabase, path: FilePath) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FleetDatabaseError, match="locked") as caught:
        database.save_clusters([cluster()])
    assert not caught.value.is_of_database
    other.close()
    database.save_clusters([cluster()])


def test_a_folder_that_is_not_there(tmp_path: FilePath) -> None:
    missing = FleetDatabase(str(tmp_path / "missing" / "fleet.sqlite"))
    with pytest.raises(FleetDatabaseError, match="No such file or directory"):
        missing.open()
    assert not missing.is_open
