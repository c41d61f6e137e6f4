"""Files with a SQLite database of ours: how they are opened, told from others, and set aside.

All functions may wait for the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: What SQLite keeps beside a database in WAL mode.
_SIDE_FILES: Final = ("-wal", "-shm")
#: Errors of SQLite that speak of what is in the database; all others, of the disk or of us.
_OF_THE_DATABASE: Final = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
)


class DatabaseError(Exception):
    """The disk does not take or give what it should; the message says why.

    Attributes:
        is_of_database: whether something is wrong with what is in the database, or somebody has
            taken it away: it has to be opened anew.
    """

    def __init__(self, reason: str, *, is_of_database: bool = False) -> None:
        super().__init__(reason)
        self.is_of_database = is_of_database


def connect(path: Path, busy: float) -> sqlite3.Connection:
    """Open a database for any one thread at a time; it is made, for us alone, if there is none.

    Args:
        path: where it is.
        busy: how many seconds to wait for whoever uses it meanwhile.

    Raises:
        OSError: the file cannot be opened for writing.
        sqlite3.Error: likewise, or it is no database.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)


def set_aside(path: Path, stem: str) -> Path:
    """Give a database that cannot be used another name, `STEM-NUMBER.sqlite`; return that.

    Raises:
        OSError: it cannot be renamed.
    """
    number = 1
    while (aside := path.with_name(f"{stem}-{number}.sqlite")).exists():
        number += 1
    path.rename(aside)
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(f"{aside}{suffix}")
    return aside


def is_of_disk(error: sqlite3.Error) -> bool:
    """Return whether an error says nothing about what is in the database."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF not in _OF_THE_DATABASE  # the rest of the code says more of it


@contextmanager
def told_as(error_type: type[DatabaseError]) -> Iterator[None]:
    """Have what SQLite and the disk say raised as an error of a type."""
    try:
        yield
    except sqlite3.Error as error:
        raise error_type(str(error), is_of_database=not is_of_disk(error)) from None
    except OSError as error:
        raise error_type(f"{error.strerror}: {error.filename}") from None


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Do all of something, or nothing; raises `sqlite3.Error`."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have done so itself
            database.execute("ROLLBACK")
        raise
