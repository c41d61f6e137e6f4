"""The alerts in etc/prometheus, by Prometheus' own tool, and their runbooks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.integration.conftest import need_command

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "etc" / "prometheus"
RULES: Final = (FOLDER / "telemeter.rules.yml").read_text()
ALERTS: Final = re.findall(r"^      - alert: (\w+)$", RULES, re.MULTILINE)
#: What Prometheus itself has.
FOREIGN: Final = {"up"}
WORDS: Final = {"by", "instance", "job", "max", "rate", "reason", "sum", "time", "unless", "and"}


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "telemeter.rules.yml"), ("test", "rules", "telemeter.test.yml")],
)
def test_prometheus_takes_them(arguments: tuple[str, ...]) -> None:
    promtool = need_command("promtool", "prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_has_a_runbook_and_no_runbook_is_without_one() -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ALERTS
    runbooks = re.findall(r"runbook: docs/runbooks\.md#(\w+)", RULES)
    assert runbooks == [name.lower() for name in ALERTS]
    for words in ("summary: ", "description: ", "severity: "):
        assert RULES.count(words) == len(ALERTS)


def test_they_ask_for_metrics_that_there_are() -> None:
    known = set(re.findall(r"[a-z][a-z_0-9]+", (ROOT / "docs" / "metrics.md").read_text()))
    expressions = "".join(re.findall(r"expr: \|\n((?: {10}.*\n)+)", RULES))
    without_labels = re.sub(r"\{[^}]*\}|\[\w+\]|\"[^\"]*\"", "", expressions)
    asked = set(re.findall(r"[a-z][a-z_0-9]{2,}", without_labels)) - WORDS - {"increase"}
    assert len(asked) > 15
    assert asked - FOREIGN <= known
