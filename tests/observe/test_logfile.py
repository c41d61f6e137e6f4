"""A log file that others move away, cut short, and leave no room for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemeter.observe.logfile import LogFile
from tests.fakes import Log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.log"


@pytest.fixture
def file(path: Path) -> Iterator[LogFile]:
    path.parent.mkdir()
    file = LogFile(str(path))
    yield file
    file.close()


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_lines_go_to_the_end_of_what_is_there(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("before\n")
    file = LogFile(str(path))
    file.write("one\n")
    file.write("\udce9 é\n")
    file.flush()
    file.close()
    assert path.read_text().splitlines() == ["before", "one", "\\udce9 é"]


def test_a_file_that_was_moved_away_is_written_on_until_it_is_opened_anew(
    file: LogFile, path: Path
) -> None:
    file.write("one\n")
    moved = path.rename(f"{path}.moved")
    file.write("two\n")
    assert not path.exists()
    file.open_anew()
    file.write("three\n")
    assert (moved.read_text(), path.read_text()) == ("one\ntwo\n", "three\n")


def test_what_has_been_made_in_its_place_is_written_on(file: LogFile, path: Path) -> None:
    path.rename(f"{path}.moved")
    path.write_text("made\n")
    path.chmod(0o640)
    file.open_anew()
    file.write("one\n")
    assert path.read_text() == "made\none\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_permissions_of_the_old_one(file: LogFile, path: Path) -> None:
    path.chmod(0o604)
    path.unlink()
    before = os.umask(0o077)
    try:
        file.open_anew()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o604


def test_what_was_cut_short_has_no_hole(file: LogFile, path: Path) -> None:
    file.write("one\n")
    os.truncate(path, 0)
    file.write("two\n")
    assert path.read_bytes() == b"two\n"


def test_a_file_that_cannot_be_opened_anew_is_written_on(file: LogFile, path: Path) -> None:
    moved = path.parent.rename(f"{path.parent}.moved")
    with pytest.raises(OSError, match="No such file"):
        file.open_anew()
    file.write("one\n")
    assert (moved / path.name).read_text() == "one\n"


def test_its_path_holds_whatever_the_working_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    file = LogFile("a.log")
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "a.log").unlink()
    file.open_anew()
    file.close()
    assert (tmp_path / "a.log").exists()
    assert list((tmp_path / "other").iterdir()) == []


def test_no_descriptor_is_lost_or_inherited(file: LogFile, path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        path.unlink()
        file.open_anew()
        file.open_anew()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    leading_there = [
        int(each.name)
        for each in Path("/proc/self/fd").iterdir()
        if each.is_symlink() and os.path.realpath(each) == str(path)
    ]
    assert [os.get_inheritable(each) for each in leading_there] == [False]


# --- Rotation -------------------------------------------------------------------------------------


def test_nothing_is_rotated_by_itself(file: LogFile, path: Path) -> None:
    for _ in range(30):
        file.write("x" * 100_000 + "\n")
    assert names(path) == ["a.log"]
    assert path.stat().st_size == 30 * 100_001


def test_rotation_is_bounded(path: Path) -> None:
    path.parent.mkdir()
    for number in (3, 4, 6):  # of a time when more were kept
        Path(f"{path}.{number}").write_text("old\n")
    file = LogFile(str(path), rotate_bytes=10, keep=2)
    for number in range(1, 10):
        file.write(f"line {number}\n")
    file.close()
    assert names(path) == ["a.log", "a.log.1", "a.log.2", "a.log.6"]
    contents = [Path(f"{path}{end}").read_text() for end in ("", ".1", ".2")]
    assert contents == ["line 9\n", "line 8\n", "line 7\n"]


def test_a_line_that_is_too_long_by_itself_is_whole(path: Path) -> None:
    path.parent.mkdir()
    file = LogFile(str(path), rotate_bytes=10, keep=1)
    for text in ("a" * 50, "b", "c"):
        file.write(text + "\n")
    file.close()
    assert Path(f"{path}.1").read_text() == "a" * 50 + "\n"
    assert path.read_text() == "b\nc\n"


def test_what_cannot_be_rotated_is_written_on(path: Path, log: Log) -> None:
    path.parent.mkdir()
    file = LogFile(str(path), rotate_bytes=10, keep=1)
    blocker = Path(f"{path}.1")
    blocker.mkdir()
    (blocker / "in the way").touch()
    for text in ("first line", "second line", "third line"):
        file.write(text + "\n")
    assert path.read_text().splitlines() == ["first line", "second line", "third line"]
    (event,) = log.of("the log file cannot be rotated, and grows until it is opened anew")
    assert event["path"] == str(path)
    (blocker / "in the way").unlink()
    blocker.rmdir()
    file.open_anew()
    file.write("fourth line\n")
    file.close()
    assert path.read_text() == "fourth line\n"


# --- A full disk ----------------------------------------------------------------------------------


def test_lines_that_cannot_be_written_are_counted(
    file: LogFile, path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, 6

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(data)[:room])
        room -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr("telemeter.observe.logfile.os.write", limited)
        for text in ("one\n", "two\n", "three\n"):
            file.write(text)
    file.write("four\n")
    assert path.read_text() == "one\ntw\nfour\n"
    (event,) = log.of("the log file could not be written, lines are lost")
    assert (event["log_level"].name, event["lines"]) == ("warn", 2)
