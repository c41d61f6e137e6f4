"""The agent's spool, on a real disk."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemeter.agent.spool import (
    Dropped,
    Entry,
    Spool,
    SpoolError,
    SpoolInUseError,
    SpoolState,
    read_state,
)

DAY = 24 * 3600.0
HOUR_MS = 3600 * 1000
NOW_MS = 1_700_000_000_000


def opened(folder: Path, *, max_bytes: int = 1 << 20, max_age: float = DAY) -> Spool:
    spool = Spool(str(folder), max_bytes=max_bytes, max_age=max_age)
    spool.lock()
    assert spool.open() == ""
    return spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = opened(tmp_path / "spool")
    yield spool
    spool.close()


def keep(spool: Spool, *bodies: bytes) -> None:
    for number, body in enumerate(bodies):
        assert spool.keep(NOW_MS + number, body) == Dropped()


def bodies(spool: Spool) -> list[bytes]:
    """All that waits, oldest first."""
    found: list[Entry] = []
    while entry := spool.next(without=[each.number for each in found]):
        found.append(entry)
    return [entry.body for entry in found]


def test_oldest_first(spool: Spool) -> None:
    keep(spool, b"a", b"b", b"c")
    for body in (b"a", b"b", b"c"):
        entry = spool.next()
        assert entry is not None
        assert entry.body == body
        spool.forget(entry.number)
    assert spool.next() is None


def test_newest_first(spool: Spool) -> None:
    keep(spool, b"a", b"b")
    entry = spool.next(newest=True)
    assert entry is not None
    assert entry.body == b"b"
    spool.forget(entry.number)
    keep(spool, b"c")
    assert [spool.next(newest=True).body, spool.next().body] == [b"c", b"a"]  # type: ignore[union-attr]


def test_what_is_not_wanted_now_is_left_out(spool: Spool) -> None:
    keep(spool, b"a", b"b", b"c")
    first = spool.next()
    assert first is not None
    second = spool.next(without=[first.number])
    assert second is not None
    assert second.body == b"b"
    assert spool.next(without=[first.number, second.number, second.number + 1]) is None


def test_everything_of_an_entry_is_kept(spool: Spool) -> None:
    spool.keep(NOW_MS, b"\x00\xff", is_write=True)
    entry = spool.next()
    assert entry is not None
    assert (entry.collected_ms, entry.is_write, entry.body) == (NOW_MS, True, b"\x00\xff")


def test_the_state(spool: Spool) -> None:
    assert spool.state() == SpoolState()
    keep(spool, b"abc", b"defg")
    assert spool.state() == SpoolState(2, 7 + 2 * 64, NOW_MS)
    spool.forget(1)
    assert spool.state() == SpoolState(1, 4 + 64, NOW_MS + 1)


def test_it_survives_the_end_of_the_process(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    keep(spool, b"a", b"b")
    spool.close()
    again = opened(tmp_path)
    assert bodies(again) == [b"a", b"b"]
    again.close()


def test_a_number_is_never_used_again(spool: Spool) -> None:
    keep(spool, b"a")
    spool.forget(1)
    keep(spool, b"b")
    entry = spool.next()
    assert entry is not None
    assert entry.number == 2


def test_nor_that_of_a_spool_that_was_set_aside(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    keep(spool, b"a", b"b")
    under_way = spool.next(newest=True)
    assert under_way is not None
    spool.close_database()
    for path in tmp_path.glob("spool.sqlite-*"):
        path.unlink()
    _no_database(tmp_path / "spool.sqlite")
    assert spool.open().startswith("set-aside-1.sqlite")
    keep(spool, b"c")
    spool.forget(under_way.number)
    assert bodies(spool) == [b"c"]
    spool.close()


def test_what_is_too_old_is_dropped(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_age=3600)
    spool.keep(NOW_MS - 2 * HOUR_MS, b"old")
    spool.keep(NOW_MS - HOUR_MS, b"just young enough")
    assert spool.keep(NOW_MS, b"new") == Dropped(by_age=1)
    assert bodies(spool) == [b"just young enough", b"new"]
    spool.close()


def test_the_oldest_are_dropped_while_there_is_too_much(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=3 * 1064)
    keep(spool, *(bytes([number]) * 1000 for number in range(3)))
    assert spool.keep(NOW_MS, b"x" * 1000) == Dropped(by_size=1)
    assert spool.keep(NOW_MS, b"y" * 2000) == Dropped(by_size=2)
    assert [body[:1] for body in bodies(spool)] == [b"x", b"y"]
    assert spool.state().size <= 3 * 1064
    spool.close()


def test_what_is_larger_than_the_whole_spool_drops_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=2000)
    keep(spool, b"a")
    with pytest.raises(SpoolError, match="has 2064 bytes, --spool-max-bytes is 2000"):
        spool.keep(NOW_MS, b"b" * 2000)
    assert bodies(spool) == [b"a"]
    spool.close()


def test_the_file_becomes_small_again(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=100 << 20)
    for _ in range(40):
        spool.keep(NOW_MS, os.urandom(500_000))
    for number in range(1, 41):
        spool.forget(number)
    spool.close()
    assert (tmp_path / "spool.sqlite").stat().st_size < 6 << 20


def test_nobody_else_may_read_it(spool: Spool, tmp_path: Path) -> None:
    keep(spool, b"a")
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    for path in (tmp_path / "spool").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_two_agents_on_one_folder(spool: Spool, tmp_path: Path) -> None:
    spool.lock()  # again: it is ours
    with pytest.raises(SpoolInUseError):
        Spool(str(tmp_path / "spool"), max_bytes=1000, max_age=1).lock()
    spool.close()
    opened(tmp_path / "spool").close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="the folder cannot be made: Not a directory"):
        Spool(str(tmp_path / "file" / "spool"), max_bytes=1, max_age=1).lock()


# --- The status -----------------------------------------------------------------------------------


def test_the_status_while_an_agent_runs(spool: Spool, tmp_path: Path) -> None:
    keep(spool, b"a", b"b")
    assert read_state(str(tmp_path / "spool")) == (SpoolState(2, 130, NOW_MS), NOW_MS + 1)
    spool.keep(NOW_MS + 5, b"c")
    assert read_state(str(tmp_path / "spool"))[0].entries == 3


def test_the_status_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"there is no spool\.sqlite in it"):
        read_state(str(tmp_path))
    (tmp_path / "spool.sqlite").touch()
    with pytest.raises(SpoolError, match=r"spool\.sqlite is no spool of this version"):
        read_state(str(tmp_path))
    (tmp_path / "spool.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(SpoolError, match="file is not a database"):
        read_state(str(tmp_path))


# --- What is wrong with a database ----------------------------------------------------------------


def _of_another_version(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()


def _without_its_table(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("DROP TABLE entries")
    database.close()


def _of_somebody_else(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()


def _no_database(path: Path) -> None:
    path.write_text("This is a letter." * 100)


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:20480] = b"\xa5" * 16384
    path.write_bytes(data)


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_of_another_version, "it has version 2, expected was 1"),
        (_without_its_table, "it is damaged: no such table: entries"),
        (_of_somebody_else, "it is no spool"),
        (_no_database, "it is damaged: file is not a database"),
        (_damaged, "it is damaged: "),
        (_cut_off, "it is damaged: "),
    ],
)
def test_what_cannot_be_used_is_set_aside(tmp_path: Path, spoil: object, said: str) -> None:
    spool = opened(tmp_path)
    keep(spool, *(os.urandom(3000) for _ in range(20)))
    spool.close()
    path = tmp_path / "spool.sqlite"
    assert callable(spoil)
    spoil(path)
    spoiled = path.read_bytes()
    spool = Spool(str(tmp_path), max_bytes=1 << 20, max_age=DAY)
    spool.lock()
    assert spool.open().startswith(f"set-aside-1.sqlite: {said}")
    assert (tmp_path / "set-aside-1.sqlite").read_bytes() == spoiled
    keep(spool, b"goes on")
    assert bodies(spool) == [b"goes on"]
    spool.close()
    # The next one does not take the place of the first.
    _no_database(path)
    assert spool.open().startswith("set-aside-2.sqlite")
    spool.close()


def test_an_empty_file_is_a_new_spool(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").touch()
    spool = opened(tmp_path)
    keep(spool, b"a")
    spool.close()


# --- The disk -------------------------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path) -> None:
    """As seen by a process that may write no more into files than so much."""
    spool = opened(tmp_path)
    keep(spool, b"a" * 1000, b"b" * 1000)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, usual[1]))
    try:
        with pytest.raises(SpoolError, match="disk"):
            for _ in range(100):
                spool.keep(NOW_MS, b"b" * 3000)
        # What is there can still be delivered, and is not delivered again.
        first = spool.next()
        assert first is not None
        with pytest.raises(SpoolError, match="disk"):
            spool.forget(first.number)
        second = spool.next()
        assert second is not None
        assert second.number > first.number
        before = spool.state().entries
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, previous)
    spool.keep(NOW_MS, b"c")
    assert spool.state().entries == before + 1
    assert b"a" * 1000 not in bodies(spool)
    spool.close()


def test_it_is_not_open(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), max_bytes=1000, max_age=1)
    for use in (spool.next, spool.state, lambda: spool.keep(0, b""), lambda: spool.forget(1)):
        with pytest.raises(SpoolError, match="it is not open"):
            use()


WRITER = """
import sys
from telemeter.agent.spool import Spool
spool = Spool(sys.argv[1], max_bytes=1 << 30, max_age=1e9)
spool.lock()
assert spool.open() == ""
number = 0
while True:
    number += 1
    spool.keep(number, number.to_bytes(8, "big") * 500)
    print(number, flush=True)
"""


def test_nothing_that_was_kept_is_lost_by_a_kill(tmp_path: Path) -> None:
    kept = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(20)]
        writer.kill()
        lines += writer.stdout.readlines()
        writer.wait()
        writer.stdout.close()
        numbers = [int(line) for line in lines if line.endswith("\n")]
        assert numbers == list(range(1, len(numbers) + 1))
        spool = opened(tmp_path, max_bytes=1 << 30, max_age=1e9)
        found = [int.from_bytes(body[:8], "big") for body in bodies(spool)][kept:]
        assert found[: len(numbers)] == numbers
        assert len(found) <= len(numbers) + 1  # one may have been kept, but not said so
        kept = spool.state().entries
        spool.close()
