"""Helpers for tests of the page: its table, and waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from playwright.sync_api import Page

from tests.running import DEADLINE_SECONDS

_POLL_MS: Final = 20


def ids(page: Page) -> list[str]:
    return page.locator("#rows td.id").all_inner_texts()


def cells(page: Page, column: int) -> list[str]:
    return page.locator(f"#rows td:nth-child({column})").all_inner_texts()


def act(page: Page, action: Callable[[], Any]) -> None:
    """Do something that shows other clusters, and wait until they are shown."""
    before = page.evaluate("document.body.dataset.shown")
    action()
    until(page, "before => document.body.dataset.shown !== before", before)


def until(page: Page, function: str, argument: object = None) -> None:
    """Wait until a function of the page returns something true.

    Playwright's own wait has the page evaluate a text, again and again, which its policy forbids.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not page.evaluate(function, argument):
        assert time.monotonic() < deadline, function
        page.wait_for_timeout(_POLL_MS)


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)  # past the policy, as only a debugger may
    found = page.evaluate("axe.run().then(result => result.violations)")
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]
