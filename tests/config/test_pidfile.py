"""twistd's file with the number of its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.twist._options import TwistOptions
from twisted.scripts._twistd_unix import ServerOptions

from telemeter.config.pidfile import settle_pid_file
from tests.fakes import Log


def settled(*flags: str) -> Any:
    """What twistd makes of its own flags when a daemon has settled them."""

    class Runner(ServerOptions):
        subCommands: Any = ()

        def postOptions(self) -> None:
            settle_pid_file(self)
            super().postOptions()

    runner = Runner()
    runner.parseOptions(["--no_save", *flags])
    return runner["pidfile"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("flag", ["-n", "--nodaemon"])
@pytest.mark.parametrize("content", ["1", "", "{own}", "no number"])
def test_there_is_none_in_the_foreground(folder: Path, flag: str, content: str) -> None:
    pid_file = folder / "twistd.pid"
    content = content.format(own=os.getpid())
    pid_file.write_text(content)
    assert settled(flag) == ""
    assert pid_file.read_text() == content  # it is somebody else's


@pytest.mark.parametrize("flags", [["--pidfile=twistd.pid"], ["--pidfile", "twistd.pid"]])
@pytest.mark.parametrize("more", [[], ["-n"]])
def test_who_asks_for_one_gets_it(folder: Path, flags: list[str], more: list[str]) -> None:
    assert settled(*flags, *more) == str(folder / "twistd.pid")


def test_there_is_one_in_the_background(folder: Path) -> None:
    assert settled() == str(folder / "twistd.pid")


@pytest.mark.parametrize("content", ["", "\n", "\0\0\0", "{own}", "{parent}\n"])
def test_a_stale_one_is_removed(
    folder: Path, content: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = folder / "twistd.pid"
    pid_file.write_text(content.format(own=os.getpid(), parent=os.getppid()))
    settled()
    assert not pid_file.exists()
    (event,) = log.of("a stale pid file is removed")
    assert event["path"] == "twistd.pid"
    assert event["reason"]


@pytest.fixture
def twistd_like() -> Iterator[int]:
    """A process whose command line looks like twistd's."""
    program = [sys.executable, "-c", "input()", "twistd"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as running:
        yield running.pid
        running.communicate(b"\n")


@pytest.fixture
def ended() -> Iterator[int]:
    """A process that has ended, and that nobody has waited for."""
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


def test_one_of_a_process_that_has_ended_is_removed(folder: Path, ended: int) -> None:
    (folder / "x.pid").write_text(str(ended))
    settled("--pidfile=x.pid")
    assert not (folder / "x.pid").exists()


def test_one_that_may_name_a_daemon_is_left_to_twistd(folder: Path, twistd_like: int) -> None:
    pid_file = folder / "x.pid"
    for content in (str(twistd_like), "not a number", "12 34", "9" * 4000, "99999999"):
        pid_file.write_text(content)
        settled("--pidfile=x.pid")
        assert pid_file.read_text() == content


def test_twist_has_none() -> None:
    options = TwistOptions()
    before = dict(options)
    settle_pid_file(options)
    assert dict(options) == before
