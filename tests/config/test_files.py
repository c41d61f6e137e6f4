"""The files that flags name."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telemeter.config import files
from telemeter.config.files import MAX_BYTES, read, reading_from, recording, signature


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_bytes(b"on disk")
    return str(path)


def test_they_are_read_from_disk(path: str) -> None:
    assert read(path) == b"on disk"
    with pytest.raises(FileNotFoundError):
        read(f"{path}.not")


def test_no_name_is_not_the_working_directory() -> None:
    with pytest.raises(FileNotFoundError):
        read("")


def test_what_is_read_is_recorded(path: str) -> None:
    with recording() as contents:
        assert contents == {}
        assert read(path) == b"on disk"
        with pytest.raises(FileNotFoundError):
            read(f"{path}.not")
    assert contents == {path: b"on disk"}
    Path(path).write_bytes(b"changed")
    assert read(path) == b"changed"
    assert contents == {path: b"on disk"}


def test_one_recording_in_another(path: str) -> None:
    with recording() as outer:
        with recording() as inner:
            read(path)
        assert outer == inner == {path: b"on disk"}


def test_what_was_recorded_is_read_instead(path: str) -> None:
    with reading_from({"elsewhere": b"kept"}):
        assert read("elsewhere") == b"kept"
        with pytest.raises(FileNotFoundError, match="No such file"):
            read(path)
        with recording() as contents:
            read("elsewhere")
    assert contents == {"elsewhere": b"kept"}
    assert read(path) == b"on disk"
    with pytest.raises(FileNotFoundError):
        read("elsewhere")


def test_an_error_ends_it_too(path: str) -> None:
    with pytest.raises(KeyError), reading_from({}):
        raise KeyError("x")
    assert read(path) == b"on disk"


def test_why_a_file_could_not_be_read_is_kept_too() -> None:
    with reading_from(
        {"a": PermissionError(13, "Permission denied"), "b": ValueError("it is odd")}
    ):
        with pytest.raises(PermissionError):
            read("a")
        with pytest.raises(ValueError, match="it is odd"):
            read("b")


# --- What is read ---------------------------------------------------------------------------------


def test_links_are_followed(path: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read(str(link)) == b"on disk"


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a FIFO, and no regular file"),
        (make_socket, "it is a socket, and no regular file"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "it is a device, and no regular file"),
    ],
)
def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], None], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make("it")
    with pytest.raises(ValueError, match=reason):
        read("it")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read(str(tmp_path))


def test_what_takes_a_file_s_place_meanwhile_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.stat

    def look_and_replace(*arguments: Any, **named: Any) -> os.stat_result:
        found = look(*arguments, **named)
        Path(path).unlink()
        os.mkfifo(path)
        return found

    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look_and_replace)
        with pytest.raises(ValueError, match="it is a FIFO"):
            read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_size_is_limited(path: str) -> None:
    os.truncate(path, MAX_BYTES)
    assert len(read(path)) == MAX_BYTES
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(ValueError, match=f"it has {MAX_BYTES + 1} bytes or more, and may have"):
        read(path)


def test_size_is_limited_whatever_a_file_says_of_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b"Name:" in read("/proc/self/status")  # whose size is 0, it says
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="it has 11 bytes or more, and may have 10"):
        read("/proc/self/status")


# --- Their state ----------------------------------------------------------------------------------


def test_the_state_of_files(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text("a")
    paths = [str(one), str(two)]
    before = signature(paths)
    assert signature(paths) == before
    two.write_text("b")
    with_both = signature(paths)
    assert with_both != before
    two.chmod(0o600)
    with_mode = signature(paths)
    assert with_mode != with_both
    os.utime(two, ns=(1, 1))
    assert signature(paths) != with_mode
    two.unlink()
    assert signature(paths) == before


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    # As Kubernetes replaces files: by pointing a link to another folder.
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "data"
    link.symlink_to("old")
    path = [str(link / "token")]
    before = signature(path)
    link.unlink()
    link.symlink_to("new")
    assert signature(path) != before
