"""The dashboards in etc/grafana, as files: what they ask for, and where their panels are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]
FILES: Final = sorted((ROOT / "etc" / "grafana").glob("*.json"))
COLUMNS: Final = 24
#: What Prometheus' client has, by `process_*` and `python_*` on the page of metrics.
USUAL: Final = re.compile(r"(telemeter_worker_)?process_\w+|python_\w+")
UNITS: Final = {"bytes", "cps", "none", "percentunit", "reqps", "s", "short"}

each_dashboard = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def panels(file: Path) -> list[dict[str, Any]]:
    """Return the panels of a dashboard that show something, without rows."""
    found: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics that a query asks for: those before braces."""
    return set(re.findall(r"\b([a-zA-Z_:]\w*)\{", expression))


def test_there_are_two() -> None:
    assert [file.stem for file in FILES] == ["telemeter-fleet", "telemeter-server"]


@each_dashboard
def test_it_can_be_imported_anywhere_and_read(file: Path) -> None:
    text = file.read_text()
    board = json.loads(text)
    assert text == json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert board["uid"] == file.stem
    assert board["schemaVersion"] >= 39
    assert "id" not in board
    variables = {each["name"]: each["type"] for each in board["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    uids = set(re.findall(r'"uid": "(.+)"', text)) - {file.stem}
    assert uids == {"${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == set(variables)


@each_dashboard
def test_every_panel_says_what_it_shows(file: Path) -> None:
    found = panels(file)
    titles = [panel["title"] for panel in found]
    assert all(titles)
    for panel in found:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]


@each_dashboard
def test_no_panel_covers_another(file: Path) -> None:
    board = json.loads(file.read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= COLUMNS, panel["title"]
        for column in range(at["x"], at["x"] + at["w"]):
            for line in range(at["y"], at["y"] + at["h"]):
                other = taken.setdefault((column, line), panel["title"])
                assert other == panel["title"], f"{other} and {panel['title']}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


@each_dashboard
def test_it_asks_for_metrics_that_there_are(file: Path) -> None:
    pages = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("metrics", "fleet"))
    known = set(re.findall(r"`([a-z][a-z_0-9]+)`", pages))
    known |= {name + end for name in known for end in ("_bucket", "_sum", "_count")}
    for panel in panels(file):
        for target in panel["targets"]:
            asked = metrics_of(target["expr"])
            assert asked, target["expr"]
            unknown = {name for name in asked - known if not USUAL.fullmatch(name)}
            assert not unknown, panel["title"]
