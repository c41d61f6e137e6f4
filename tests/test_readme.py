"""The README shows what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    """The code blocks of a page, with their languages."""
    return re.findall(r"^```(\w+\n.*?)^```$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


def test_remote_write_is_configured_as_the_integration_tests_do() -> None:
    """They read their configuration out of docs/remote-write.md."""
    shown = [block for block in blocks("README.md") if block.startswith(("sh\n", "yaml\n"))]
    assert len(shown) == 2
    tested = blocks("docs/remote-write.md")
    assert all(block in tested for block in shown)


def test_every_link_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
