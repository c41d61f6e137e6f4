"""The spool: the agent's collections on disk, until they are delivered.

One SQLite database in a folder. Whatever is kept there survives a kill at any instant, and the loss
of power: each collection is a transaction of its own, in a write-ahead log that is flushed to the
disk before `keep` returns (https://www.sqlite.org/pragma.html#pragma_synchronous). There are a few
such transactions every interval, so nothing is gained by flushing less.

Nothing here knows of the reactor. All methods may wait for the disk; only one is called at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from telemeter.loop.sqlite_file import (
    DatabaseError,
    connect,
    is_of_disk,
    set_aside,
    told_as,
    transaction,
)
from telemeter.loop.timeouts import TIMEOUTS

#: What tells the database from others: "TLMS".
APPLICATION: Final = 0x544C4D53
#: The version of the schema.
VERSION: Final = 1

_FILE: Final = "spool.sqlite"
_LOCK: Final = "lock"
_SCHEMA: Final = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    collected_ms INTEGER NOT NULL,
    is_write INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_time ON entries (collected_ms, size);
"""
_IDENTITY: Final = "SELECT * FROM pragma_application_id(), pragma_user_version()"
_OTHERS: Final = "FROM entries WHERE number NOT IN (SELECT value FROM json_each(?))"
_STATE: Final = f"SELECT count(*), coalesce(sum(size), 0), coalesce(min(collected_ms), 0) {_OTHERS}"
_ENTRY: Final = f"SELECT number, collected_ms, is_write, body {_OTHERS} ORDER BY number"
_OLDEST: Final = f"{_ENTRY} ASC LIMIT 1"
_NEWEST: Final = f"{_ENTRY} DESC LIMIT 1"
#: The bytes that a collection counts for besides its body.
_ENTRY_BYTES: Final = 64
#: Pages of 4 KiB that are left unused in the file before it is made smaller.
_MOST_FREE_PAGES: Final = 1024


class SpoolError(DatabaseError):
    """The disk does not take or give what it should; the message says why."""


class SpoolInUseError(Exception):
    """Another agent uses the folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A collection that waits.

    Attributes:
        number: greater than those of all that were kept before.
        collected_ms: when it was collected, in milliseconds since the epoch.
        is_write: whether the body is a remote-write request as it is sent, rather than families.
        body: delimited families in framed snappy; or a `WriteRequest` in a snappy block.
    """

    number: int
    collected_ms: int
    is_write: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What there is in a spool.

    Attributes:
        entries: how many collections wait.
        size: the bytes that they count for.
        oldest_ms: when the oldest was collected, in milliseconds since the epoch; 0: there is none.
    """

    entries: int = 0
    size: int = 0
    oldest_ms: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many collections were dropped undelivered, to keep a spool within its bounds."""

    by_age: int = 0
    by_size: int = 0


class Spool:
    """The spool in a folder."""

    def __init__(
        self,
        folder: str,
        *,
        max_bytes: int,
        max_age: float,
        busy: float = TIMEOUTS.spool_busy,
    ) -> None:
        """Make it; nothing is read yet.

        Args:
            folder: where it is.
            max_bytes: how many bytes its collections may count for; the file on disk is somewhat
                larger.
            max_age: how many seconds old a collection may become.
            busy: how many seconds to wait for whoever reads it meanwhile.
        """
        self._busy = busy
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._max_age_ms = int(max_age * 1000)
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        self._opened_as = 0  # the inode of the database
        self._last_number = 0  # that was given out: a new database must not use it again
        self._gone: set[int] = set()  # delivered, but the disk did not take note

    def lock(self) -> None:
        """Claim the folder for this process, and make it if there is none.

        Raises:
            SpoolInUseError: another process has it.
            SpoolError: it cannot be made.
        """
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"the folder cannot be made: {error.strerror}") from None
        try:
            lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # on a disk that takes nothing no two agents can harm each other
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SpoolInUseError from None
        except OSError:  # a file system without locks
            os.close(lock)
            return
        self._lock = lock

    def open(self) -> str:
        """Open the database, or make one.

        Returns:
            The name that one which cannot be used was given, and why; empty: there was none.

        Raises:
            SpoolError: the disk does not allow it.
        """
        self.close_database()
        path = self._folder / _FILE
        self._claim_again()
        aside = ""
        fault = _fault(path, self._busy)
        if fault:
            aside = f"{self._set_aside(path)}: {fault}"
        with told_as(SpoolError):
            database = connect(path, self._busy)
            self._opened_as = path.stat().st_ino
        try:
            with told_as(SpoolError):
                _prepare(database, self._last_number)
        except SpoolError:
            database.close()
            raise
        self._database = database
        return aside

    def _claim_again(self) -> None:
        """Claim the folder again if somebody has taken it away meanwhile."""
        if self._lock is None:  # the disk took nothing when the agent started
            self._claim()
            return
        with suppress(OSError):
            if os.fstat(self._lock).st_ino == (self._folder / _LOCK).stat().st_ino:
                return
        os.close(self._lock)
        self._lock = None
        self._claim()

    def _claim(self) -> None:
        try:
            self.lock()
        except SpoolInUseError:
            raise SpoolError("another agent uses the folder") from None

    def _check_place(self) -> None:
        """Raise `SpoolError` if the database is not where it was any more: it would be lost."""
        path = self._folder / _FILE
        self._opened()
        with suppress(OSError):
            if path.stat().st_ino == self._opened_as:
                return
        raise SpoolError(f"{path.name} was taken away", is_of_database=True)

    def _set_aside(self, path: Path) -> str:
        """Give a database that cannot be used another name; return that."""
        try:
            return set_aside(path, "set-aside").name
        except OSError as error:
            raise SpoolError(f"{path.name} cannot be set aside: {error.strerror}") from None

    def keep(self, collected_ms: int, body: bytes, *, is_write: bool = False) -> Dropped:
        """Keep a collection; when this returns, it is on the disk.

        What is too old by then is dropped, and the oldest while there is too much.

        Args:
            collected_ms: when it was collected, in milliseconds since the epoch.
            body: see `Entry`.
            is_write: see `Entry`.

        Raises:
            SpoolError: it is not kept.
        """
        size = len(body) + _ENTRY_BYTES
        if size > self._max_bytes:
            raise SpoolError(
                f"the collection has {size} bytes, --spool-max-bytes is {self._max_bytes}"
            )
        self._check_place()
        with self._transaction() as database:
            self._forget_gone(database)
            by_age = database.execute(
                "DELETE FROM entries WHERE collected_ms < ?", (collected_ms - self._max_age_ms,)
            ).rowcount
            by_size = 0
            too_much = _state(database).size + size - self._max_bytes
            while too_much > 0:
                oldest = database.execute(
                    "SELECT number, size FROM entries ORDER BY number LIMIT 1"
                ).fetchone()
                if oldest is None:
                    break
                number, freed = oldest
                database.execute("DELETE FROM entries WHERE number = ?", (number,))
                too_much -= freed
                by_size += 1
            database.execute(
                "INSERT INTO entries (collected_ms, is_write, size, body) VALUES (?, ?, ?, ?)",
                (collected_ms, is_write, size, body),
            )
        self._gone.clear()
        return Dropped(by_age, by_size)

    def next(self, *, newest: bool = False, without: Collection[int] = ()) -> Entry | None:
        """Return what is to be delivered next; None: there is nothing.

        Args:
            newest: whether that is the newest, rather than the oldest.
            without: the numbers of those that are not to be delivered now.

        Raises:
            SpoolError: the disk does not give it.
        """
        skipped = json.dumps([*without, *self._gone])
        with told_as(SpoolError):
            for number, collected_ms, is_write, body in self._opened().execute(
                _NEWEST if newest else _OLDEST, (skipped,)
            ):
                self._last_number = max(self._last_number, number)
                return Entry(number, collected_ms, bool(is_write), body)
        return None

    def forget(self, number: int) -> None:
        """Forget a collection that was delivered.

        Raises:
            SpoolError: the disk does not take note; it is forgotten with the next that is kept.
        """
        self._gone.add(number)
        with self._transaction() as database:
            self._forget_gone(database)
        self._gone.clear()
        with told_as(SpoolError):
            ((free,),) = self._opened().execute("PRAGMA freelist_count")
            if free > _MOST_FREE_PAGES:
                # `execute` would stop after the first page.
                self._opened().executescript(f"PRAGMA incremental_vacuum({free})")

    def state(self) -> SpoolState:
        """Return what there is; raises `SpoolError`."""
        with told_as(SpoolError):
            return _state(self._opened(), self._gone)

    def close_database(self) -> None:
        """Close the database; the folder stays claimed."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def close(self) -> None:
        """Close the database, and give the folder free."""
        self.close_database()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise SpoolError("it is not open")
        return self._database

    def _forget_gone(self, database: sqlite3.Connection) -> None:
        database.executemany(
            "DELETE FROM entries WHERE number = ?", [(number,) for number in self._gone]
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of something, or nothing; raises `SpoolError`."""
        database = self._opened()
        with told_as(SpoolError), transaction(database):
            yield database


def read_state(folder: str, busy: float = TIMEOUTS.spool_busy) -> tuple[SpoolState, int]:
    """Return what there is in a spool, and when the newest was collected; an agent may use it.

    Raises:
        SpoolError: there is none, or it cannot be read.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise SpoolError(f"there is no {_FILE} in it")
    with told_as(SpoolError):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy)
        try:
            ((application, version),) = database.execute(_IDENTITY)
            if (application, version) != (APPLICATION, VERSION):
                raise SpoolError(f"{_FILE} is no spool of this version")
            ((newest,),) = database.execute("SELECT coalesce(max(collected_ms), 0) FROM entries")
            return _state(database), newest
        finally:
            database.close()


def _state(database: sqlite3.Connection, gone: Collection[int] = ()) -> SpoolState:
    ((entries, size, oldest),) = database.execute(_STATE, (json.dumps([*gone]),))
    return SpoolState(entries, size, oldest)


def _prepare(database: sqlite3.Connection, last_number: int) -> None:
    """Make what is not there yet; numbers go on behind the last one."""
    ((tables,),) = database.execute("SELECT count(*) FROM sqlite_schema")
    if not tables:  # on a full disk, what is there can still be read
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL").fetchall()
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA journal_size_limit = 1048576").fetchall()
    if not tables:
        database.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION}; "
            f"PRAGMA user_version = {VERSION}; COMMIT;"
        )
        database.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('entries', ?)", (last_number,)
        )


def _fault(path: Path, busy: float) -> str:
    """Return why a database cannot be used; empty: it can, or there is none.

    Raises:
        SpoolError: the disk does not say.
    """
    try:
        if not path.stat().st_size:
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SpoolError(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        database = sqlite3.connect(path, timeout=busy)
        try:
            ((application, version),) = database.execute(_IDENTITY)
            if (application, version) == (0, 0):
                ((tables,),) = database.execute("SELECT count(*) FROM sqlite_schema")
                return "it is no spool" if tables else ""
            if application != APPLICATION:
                return "it is no spool"
            if version != VERSION:
                return f"it has version {version}, expected was {VERSION}"
            ((said,),) = database.execute("PRAGMA integrity_check(1)")
            database.execute("SELECT number, collected_ms, is_write, size, body FROM entries")
            return "" if said == "ok" else f"it is damaged: {said}"
        finally:
            database.close()
    except sqlite3.Error as error:
        if is_of_disk(error):
            raise SpoolError(str(error)) from None
        return f"it is damaged: {error}"
