"""What Twisted itself must have for this to work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from twisted.scripts._twistd_unix import UnixApplicationRunner

from telemeter.loop.twisted_private import say_in_words_why_nothing_started

NAMES = ("_formatChildException", "_waitForStart")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> UnixApplicationRunner:
    """What twistd runs an application with, as it is in the background."""
    for name in NAMES:  # to be undone
        monkeypatch.setattr(UnixApplicationRunner, name, getattr(UnixApplicationRunner, name))
    say_in_words_why_nothing_started()
    return UnixApplicationRunner({"profile": False, "debug": False})


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (SystemExit(f"telemeter-server: 'é' {'x' * 500}"), f"telemeter-server: 'é' {'x' * 500}\n"),
        (OSError("a\udcff"), "OSError: a\\udcff\n"),
        (ValueError(), "ValueError\n"),
    ],
    ids=["reason", "other", "empty"],
)
def test_the_reason_comes_whole_and_as_text(
    runner: UnixApplicationRunner,
    pipe: tuple[int, int],
    error: BaseException,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.__stderr__", sys.stderr)
    os.write(pipe[1], runner._formatChildException(error))
    assert runner._waitForStart(pipe[0]) == 1
    assert capsys.readouterr().err == shown


def test_a_very_long_reason_fits_the_pipe(runner: UnixApplicationRunner) -> None:
    assert len(runner._formatChildException(SystemExit("é" * 10_000))) == 4096


def test_a_success(runner: UnixApplicationRunner, pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"0")
    assert runner._waitForStart(pipe[0]) == 0
