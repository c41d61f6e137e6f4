"""The record of the fleet in a SQLite file, so that it survives a restart.

Nothing here knows of the reactor or of the record. All methods may wait for the disk; only one is
called at a time. Rows are written behind, so a loss of power may cost the last of them, but never
the file: SQLite's write-ahead log is flushed when it is taken over into the database
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from telemeter.loop.sqlite_file import DatabaseError, connect, set_aside, told_as, transaction
from telemeter.loop.timeouts import TIMEOUTS

#: What tells the database from others: "TLMF".
APPLICATION: Final = 0x544C4D46


class SavedCluster(NamedTuple):
    """A cluster as it is kept; its fields are the columns of the table `cluster`.

    Attributes:
        id: its identifier.
        seen: when it last made an attempt, in seconds since the epoch.
        uploaded: when one last succeeded; 0: never.
        expires: until when its token holds; 0: not known.
        received, kept, dropped, duplicates: the series of its last attempt that came so far.
        status: of its last attempt.
        drift: by how many seconds its clock is ahead; None: not known.
        condition: the number of its `State`, silence aside.
        path: the number of the `Path` of its last attempt.
        claimed: when somebody who only claimed to be it was last refused; 0: never.
        claims: how often that was.
        claim_status: the status of the last one.
        agent: its User-Agent.
        trail: its last attempts, as `telemeter.fleet.history` packs them.
        examples: series that no rule allowed, likewise.
    """

    id: str
    seen: float
    uploaded: float
    expires: float
    received: int
    kept: int
    dropped: int
    duplicates: int
    status: int
    drift: int | None
    condition: int
    path: int
    claimed: float
    claims: int
    claim_status: int
    agent: str
    trail: bytes
    examples: bytes


class SavedMinute(NamedTuple):
    """The attempts of a minute; its fields are the columns of the table `minute`.

    Attributes:
        at: when it began, in minutes since the epoch.
        uploads, kept, dropped, failed, forward_errors, reporting, series: see `Minute`.
        problems: attempts that did not succeed, by status: a JSON object.
    """

    at: int
    uploads: int
    kept: int
    dropped: int
    failed: int
    forward_errors: int
    reporting: int
    series: int
    problems: str


_FIRST: Final = """
CREATE TABLE cluster (
    id TEXT PRIMARY KEY,
    seen REAL NOT NULL,
    uploaded REAL NOT NULL,
    expires REAL NOT NULL,
    received INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    status INTEGER NOT NULL,
    drift INTEGER,
    condition INTEGER NOT NULL,
    path INTEGER NOT NULL,
    claimed REAL NOT NULL,
    claims INTEGER NOT NULL,
    claim_status INTEGER NOT NULL,
    agent TEXT NOT NULL,
    trail BLOB NOT NULL,
    examples BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE minute (
    at INTEGER PRIMARY KEY,
    uploads INTEGER NOT NULL,
    kept INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    forward_errors INTEGER NOT NULL,
    reporting INTEGER NOT NULL,
    series INTEGER NOT NULL,
    problems TEXT NOT NULL
) STRICT;
"""
#: What takes a database from the version of its place in the list to the next one; what is in it
#: stays as it is, and a further step is added behind.
_MIGRATIONS: Final = (_FIRST,)
#: The version of the schema.
VERSION: Final = len(_MIGRATIONS)

_CLUSTER: Final = ", ".join(SavedCluster._fields)
_MINUTE: Final = ", ".join(SavedMinute._fields)
# The names are those of the fields above, never a sender's.
_REPLACE_CLUSTER: Final = (
    f"INSERT OR REPLACE INTO cluster ({_CLUSTER}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(SavedCluster._fields))})"
)
_REPLACE_MINUTE: Final = (
    f"INSERT OR REPLACE INTO minute ({_MINUTE}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(SavedMinute._fields))})"
)
_LOAD_CLUSTERS: Final = f"SELECT {_CLUSTER} FROM cluster WHERE seen >= ? ORDER BY seen DESC LIMIT ?"  # noqa: S608
_LOAD_MINUTES: Final = f"SELECT {_MINUTE} FROM minute WHERE at > ? ORDER BY at"  # noqa: S608
#: What every file of SQLite begins with.
_MAGIC: Final = b"SQLite format 3\0"


class FleetDatabaseError(DatabaseError):
    """The database cannot be used at the moment; the message says why."""


class NotOurDatabaseError(Exception):
    """The file must not be used: it is another server's, or no record of a fleet."""


class FleetDatabase:
    """The database in a file."""

    def __init__(self, path: str, *, busy: float = TIMEOUTS.fleet_busy) -> None:
        """Make it; nothing is read yet.

        Args:
            path: where it is.
            busy: how many seconds to wait for another program that uses it.
        """
        self._path = Path(path)
        self._busy = busy
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        self._opened_as = 0  # the inode

    @property
    def is_open(self) -> bool:
        """Return whether it was opened, and not closed since."""
        return self._database is not None

    def open(self) -> str:
        """Open the database, or make one.

        Returns:
            What one that was damaged is called now, and why; empty: there was none.

        Raises:
            NotOurDatabaseError: it is another server's, or something else; it is left as it is.
            FleetDatabaseError: the disk does not allow it.
        """
        self.close_database()
        with told_as(FleetDatabaseError):
            self._refuse_others()
            self._claim()
        aside = ""
        try:
            with told_as(FleetDatabaseError):
                self._database = self._connect()
        except FleetDatabaseError as error:
            if not error.is_of_database:
                raise
            with told_as(FleetDatabaseError):
                aside = f"{set_aside(self._path, self._path.name + '.damaged').name}: {error}"
                self._database = self._connect()
        with told_as(FleetDatabaseError):
            self._opened_as = self._path.stat().st_ino
        return aside

    def _claim(self) -> None:
        """Claim the file for this process, by a lock on another one beside it."""
        if self._lock is not None:
            return
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise NotOurDatabaseError("another server uses this file") from None
        except OSError:  # a file system without locks
            os.close(lock)
            return
        self._lock = lock

    def _refuse_others(self) -> None:
        """Refuse a file that is no database: somebody has mistyped its name, and needs it."""
        with suppress(FileNotFoundError):
            if not self._path.is_file():
                if self._path.exists():
                    raise NotOurDatabaseError("expected a regular file")
                return
            with self._path.open("rb") as file:
                head = file.read(len(_MAGIC))
            if head and head != _MAGIC:
                raise NotOurDatabaseError("expected a file of SQLite, it is something else")

    def _connect(self) -> sqlite3.Connection:
        database = connect(self._path, self._busy)
        try:
            version = _version_of(database)
            database.execute("PRAGMA journal_mode = WAL").fetchall()
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA journal_size_limit = 16777216").fetchall()
            _migrate(database, version)
            ((said,),) = database.execute("PRAGMA quick_check(1)")
            if said != "ok":
                raise FleetDatabaseError(f"it is damaged: {said}", is_of_database=True)
        except BaseException:
            database.close()
            raise
        return database

    def load(
        self, since: float, most: int, minutes_since: int
    ) -> tuple[list[SavedCluster], list[SavedMinute]]:
        """Return the clusters that were seen since a time, the last seen first, and the minutes.

        Args:
            since: that time, in seconds since the epoch.
            most: how many clusters at most.
            minutes_since: the minutes are those behind this one, in minutes since the epoch.

        Raises:
            FleetDatabaseError: the disk does not give them.
        """
        with told_as(FleetDatabaseError):
            database = self._opened()
            return (
                [SavedCluster(*row) for row in database.execute(_LOAD_CLUSTERS, (since, most))],
                [SavedMinute(*row) for row in database.execute(_LOAD_MINUTES, (minutes_since,))],
            )

    def save_clusters(self, clusters: Sequence[SavedCluster]) -> None:
        """Keep clusters, all of them or none; raises `FleetDatabaseError`."""
        self._check_place()
        self._do(lambda database: database.executemany(_REPLACE_CLUSTER, clusters))

    def save_minutes(self, minutes: Sequence[SavedMinute]) -> None:
        """Keep minutes, all of them or none; raises `FleetDatabaseError`."""
        self._check_place()
        self._do(lambda database: database.executemany(_REPLACE_MINUTE, minutes))

    def forget(self, before: float, most: int) -> None:
        """Forget what is older than a time; and of the clusters the oldest, if there are too many.

        Args:
            before: that time, in seconds since the epoch.
            most: how many clusters there may be.

        Raises:
            FleetDatabaseError: the disk does not take note.
        """

        def forget(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM minute WHERE at < ?", (int(before // 60),))
            database.execute("DELETE FROM cluster WHERE seen < ?", (before,))
            ((clusters,),) = database.execute("SELECT count(*) FROM cluster")
            if clusters > most:
                database.execute(
                    "DELETE FROM cluster WHERE id IN "
                    "(SELECT id FROM cluster ORDER BY seen LIMIT ?)",
                    (clusters - most,),
                )

        self._do(forget)

    def close_database(self) -> None:
        """Close the database; the file stays claimed."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def close(self) -> None:
        """Close the database, and give the file free."""
        self.close_database()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise FleetDatabaseError("it is not open")
        return self._database

    def _check_place(self) -> None:
        """Raise `FleetDatabaseError` if the file is not where it was: what is written is lost."""
        self._opened()
        with suppress(OSError):
            if self._path.stat().st_ino == self._opened_as:
                return
        raise FleetDatabaseError("the file was taken away", is_of_database=True)

    def _do(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Do all of something, or nothing; raises `FleetDatabaseError`."""
        database = self._opened()
        with told_as(FleetDatabaseError), transaction(database):
            work(database)


def _version_of(database: sqlite3.Connection) -> int:
    """Return the version of the schema, 0 for an empty database, which is not changed.

    Raises:
        NotOurDatabaseError: it is another program's, or of a later version of this one.
    """
    ((application, version),) = database.execute(
        "SELECT * FROM pragma_application_id(), pragma_user_version()"
    )
    ((tables,),) = database.execute("SELECT count(*) FROM sqlite_schema")
    if tables and application != APPLICATION:
        raise NotOurDatabaseError("it is the database of another program")
    if version > VERSION:
        raise NotOurDatabaseError(
            f"a later version of telemeter has written it: it has schema {version}, "
            f"this one knows up to {VERSION}"
        )
    return int(version)


def _migrate(database: sqlite3.Connection, version: int) -> None:
    """Bring the schema up to date, from a version on."""
    for number in range(version, VERSION):
        database.executescript(
            f"BEGIN IMMEDIATE; {_MIGRATIONS[number]} PRAGMA application_id = {APPLICATION}; "
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )
