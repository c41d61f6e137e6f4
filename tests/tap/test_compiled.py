"""The warning where Python alone does the work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from telemeter.tap import client, server
from telemeter.tap.compiled import warn_of_python
from tests.fakes import Log
from tests.tap.world import FakeReactor

ROOT = Path(__file__).parents[2]


def test_compiled_code_is_nothing_to_warn_of(log: Log) -> None:
    warn_of_python("compiled", "it is slow")
    assert log.events == []


def test_its_lack_costs_something_and_can_be_mended(log: Log) -> None:
    warn_of_python("python", "it is slow")
    (event,) = log.events
    assert event["log_level"].name == "warn"
    assert "it is slow" in event["log_format"]
    assert "apt install gcc python3-dev" in event["log_format"]


def test_who_asked_for_it_needs_no_compiler(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETER_TRANSCODER", "python")
    warn_of_python("python", "it is slow")
    (event,) = log.events
    assert event["log_format"].startswith("TELEMETER_TRANSCODER=python: ")
    assert "apt" not in event["log_format"]
