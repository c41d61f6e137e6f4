"""The files that flags name."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemeter.tap.files import read, reading_from, recording


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_bytes(b"on disk")
    return str(path)


def test_they_are_read_from_disk(path: str) -> None:
    assert read(path) == b"on disk"
    with pytest.raises(FileNotFoundError):
        read(f"{path}.not")


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
