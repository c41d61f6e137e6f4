"""A real browser, and servers for it to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from demo.issuer import install, is_installed
from demo.stack import Stack
from tests.integration.conftest import need_command, stack

__all__ = ["stack"]

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent
DESKTOP: Final = (1280, 800)
PHONE: Final = (360, 740)

#: Opens a page: URL, colour scheme, size, what to do with it before.
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def axe() -> str:
    """The checker of accessibility, as a script."""
    need_command("npm", "npm")
    if not is_installed(FOLDER):
        install(FOLDER)
    return (FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    need_command("chromium", "chromium")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens pages; what they complain of in the console fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(
        url: str,
        scheme: str = "light",
        size: tuple[int, int] = DESKTOP,
        prepare: Callable[[Page], object] = lambda page: None,
    ) -> Page:
        context = browser.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": size[0], "height": size[1]},
            bypass_csp=False,
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: complaints.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        prepare(page)
        page.goto(url)
        page.wait_for_selector("body[data-shown]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="module")
def full(stack: Stack) -> Callable[[int], str]:
    """Starts a server that knows so many clusters; its internal URL."""
    known: dict[int, str] = {}

    def start(clusters: int) -> str:
        if clusters not in known:
            known[clusters] = start_full(stack, clusters)
        return known[clusters]

    return start


def start_full(stack: Stack, clusters: int) -> str:
    """The internal URL of a new server that knows so many clusters."""
    import sys

    internal, listen = (f"127.0.0.1:{stack.free_port()}" for _ in range(2))
    argv = [
        *(sys.executable, "-m", "tests.browser.full_server", str(clusters)),
        *("--listen", listen, "--listen-internal", internal, "--whitelist", '{__name__="up"}'),
        *("--whitelist", 'node_load15{job="other"}'),
    ]
    url = f"http://{internal}"
    stack.start(f"full-{clusters}", argv, url, environment={"PYTHONPATH": str(ROOT)})
    return url
