"""A server that may open few files, and many who connect at once."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from demo.programs import start_server
from demo.stack import fetch

if TYPE_CHECKING:
    from demo.stack import Stack

    from .upstream import Upstream

FEW = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
BURSTS = 5
BURST = 400


def burst(url: str) -> None:
    """Connect many times, wait for none, and leave when one who came last has been served."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with ExitStack() as stack:
        for _ in range(BURST):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect((host, int(port)))
        assert fetch(f"{url}/healthz").status == 200


def test_it_stays_ready_while_many_connect_at_once(stack: Stack, upstream: Upstream) -> None:
    stack.write("sitecustomize.py", FEW)
    server = start_server(
        stack,
        "server",
        *("--forward-url", upstream.url),
        environment={"PYTHONPATH": str(stack.folder)},
    )
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(BURSTS):
            bursting = pool.submit(burst, server.url)
            while not bursting.done():
                seen.add(fetch(f"{server.internal_url}/healthz/ready").status)
            bursting.result()
    assert seen == {200}
