"""The warning where Python alone does the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemeter.observe.compiled import warn_of_python
from tests.fakes import Log

ROOT = Path(__file__).parents[2]


def test_compiled_code_is_nothing_to_warn_of(log: Log) -> None:
    warn_of_python("compiled", "it is slow")
    assert len(log) == 0


def test_its_lack_costs_something_and_can_be_mended(log: Log) -> None:
    warn_of_python("python", "it is slow")
    (event,) = log
    assert event["log_level"].name == "warn"
    assert "it is slow" in event["log_format"]
    assert "apt install gcc python3-dev" in event["log_format"]


def test_who_asked_for_it_needs_no_compiler(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETER_TRANSCODER", "python")
    warn_of_python("python", "it is slow", "TELEMETER_TRANSCODER")
    (event,) = log
    assert event["log_format"].startswith("TELEMETER_TRANSCODER=python: ")
    assert "apt" not in event["log_format"]


def test_a_switch_of_another_program_explains_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEMETER_TRANSCODER", "python")
    warn_of_python("python", "it is slow")
    (event,) = log
    assert "apt install gcc python3-dev" in event["log_format"]
