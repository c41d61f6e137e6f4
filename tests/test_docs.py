"""The pages of docs/ and what points at them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import telemeter.web.site

ROOT = Path(__file__).parents[1]
PROTOCOL = ROOT / "docs" / "protocol.md"
SOURCES = sorted(
    path
    for folder in ("telemeter", "twisted", "tests", "bench", "demo")
    for pattern in ("*.py", "*.pyx", "*.pxi", "*.pxd")
    for path in (ROOT / folder).rglob(pattern)
    if path != Path(__file__)
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
#: A pointer is written `docs/protocol.md, "Heading"`; comments and docstrings may break the line.
POINTER = re.compile(r'docs/protocol\.md(?:,(?:\s|#)*"(?P<heading>[^"]+)")?')


def headings(page: Path) -> list[str]:
    """Return the headings of a page."""
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return what a link to a heading has behind its `#`, as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", heading.lower())
    return words.replace(" ", "-")


def test_the_way_of_a_request_names_what_there_is() -> None:
    """The docstring of `telemeter.web.site` has functions, and behind them their files."""
    text = telemeter.web.site.__doc__ or ""
    pointers = re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`\)", text)
    assert len(pointers) >= 10
    known = dict(pointers)
    classes = {name.split(".")[0]: file for name, file in known.items()}
    for name in re.findall(r"`([\w.]+)`", text):
        if name.endswith(".py"):
            continue
        file = known.get(name) or classes[name.split(".")[0]]
        path = file if "/" in file else f"web/site/{file}"
        found: object = import_module("telemeter." + path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
    for file in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / "telemeter" / (file if "/" in file else f"web/site/{file}")).is_file(), file


def test_every_pointer_to_the_protocol_names_a_heading() -> None:
    known = headings(PROTOCOL)
    wrong = [
        f"{path.relative_to(ROOT)}: {pointer[0]!r}"
        for path in SOURCES
        for pointer in POINTER.finditer(path.read_text())
        if pointer["heading"] not in known
    ]
    assert not wrong


def test_code_refers_to_no_numbered_sections_but_those_of_an_rfc() -> None:
    # "Section 3" of nothing, or of a text that is not in this repository.
    numbered = re.compile(r"(?<!RFC \d{4}, )\bsections?\s+\d|specification \d", re.IGNORECASE)
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]!r}"
        for path in SOURCES
        for found in numbered.finditer(path.read_text())
    ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_heading_leads_somewhere(page: Path) -> None:
    for name, part in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        target = page.parent / name if name else page
        assert part in map(anchor, headings(target)), f"{name}#{part}"


def test_every_metric_that_the_page_lists_is_declared_by_its_daemon() -> None:
    """Dashboards and alerts go by these names."""
    server, agent = (ROOT / "docs" / "metrics.md").read_text().split("## Agent")
    for page, module in ((server, "telemeter.tap.server"), (agent, "telemeter.tap.client")):
        rows = re.findall(r"^\| (`.+?) \| .*\|$", page, re.MULTILINE)
        cells = " ".join(row.split(" | ")[0] for row in rows)
        listed = set(re.findall(r"`([a-z_0-9]+)`", cells))
        code = f"""
import {module}
from prometheus_client import REGISTRY
print(*REGISTRY._names_to_collectors)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert len(listed) > 8
        assert listed - set(done.stdout.split()) == set()
