"""The files that flags name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from telemeter.config.files import read, reading_from, recording, signature


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


def test_some_are_read_anew(path: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with reading_from({path: b"kept", str(other): b"kept"}, anew=[path, f"{path}.not"]):
        assert read(path) == b"on disk"
        assert read(str(other)) == b"kept"
        with pytest.raises(FileNotFoundError):
            read(f"{path}.not")


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
