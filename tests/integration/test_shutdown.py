"""SIGTERM: what is in flight is finished, and nothing holds the process for long."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from demo.programs import Server, start_server
from demo.stack import Answer, Stack, fetch

from .upstream import Upstream
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER = "shutdown"
# When all is done, twistd ends itself by the signal that it got.
STOPPED = -signal.SIGTERM
# A daemon takes ten seconds at the most; the rest is for a busy machine.
BOUND_SECONDS = 12.0


@pytest.fixture
def server(stack: Stack, upstream: Upstream) -> Server:
    return start_server(stack, f"server-{len(stack.programs)}", "--forward-url", upstream.url)


def stop_after_sigterm(server: Server) -> tuple[int, float]:
    """Wait for the end of a server that has got SIGTERM; return its exit code and the seconds."""
    started = time.monotonic()
    code = server.program.popen.wait(30)
    return code, time.monotonic() - started


@contextmanager
def upload_in_flight(server: Server, upstream: Upstream) -> Iterator[Future[Answer]]:
    """Upload from a thread, to an upstream that has read the request and does not answer."""
    upstream.may_answer.clear()
    jwt = authorize(server.url, CLUSTER, "any")
    body = encode([gauge("in_flight", 1, {"_id": CLUSTER})])
    with ThreadPoolExecutor() as pool:
        future = pool.submit(upload, server.url, jwt, body)
        assert upstream.arrived.wait(10)
        yield future


def test_an_upload_in_flight_is_finished(stack: Stack, server: Server, upstream: Upstream) -> None:
    with upload_in_flight(server, upstream) as answer:
        server.program.signal(signal.SIGTERM)
        # Inside, it still answers, and says that it wants no more work.
        ready = f"{server.internal_url}/healthz/ready"
        stack.wait(lambda: fetch(ready).status == 503, "readiness to be 503", server.program)
        assert server.program.running()
        assert not answer.done()
        upstream.may_answer.set()
        assert answer.result(10).status == 200
    code, seconds = stop_after_sigterm(server)
    assert code == STOPPED
    assert seconds < BOUND_SECONDS
    assert [labels["__name__"] for labels in upstream.series()] == ["in_flight"]


def test_a_stuck_upstream_does_not_hold_the_server(server: Server, upstream: Upstream) -> None:
    with upload_in_flight(server, upstream) as answer:
        server.program.signal(signal.SIGTERM)
        code, seconds = stop_after_sigterm(server)
        assert code == STOPPED
        assert seconds < BOUND_SECONDS
        # The upstream's time is up before the server's: the agent learns of it.
        assert answer.result(10).status == 502


def test_a_stalled_client_does_not_hold_the_server(server: Server) -> None:
    jwt = authorize(server.url, CLUSTER, "any")
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = (
            "POST /upload HTTP/1.1\r\n"
            f"Host: {host}\r\n"
            f"Authorization: Bearer {jwt}\r\n"
            "Content-Length: 1000\r\n\r\n"
            "only the beginning"
        )
        connection.sendall(head.encode())
        # Answered after that request arrived, so the server has read it by then.
        assert fetch(f"{server.url}/healthz").status == 200
        server.program.signal(signal.SIGTERM)
        code, seconds = stop_after_sigterm(server)
    assert code == STOPPED
    assert seconds < BOUND_SECONDS


def test_an_idle_server_ends_at_once(server: Server) -> None:
    server.program.signal(signal.SIGTERM)
    code, seconds = stop_after_sigterm(server)
    assert code == STOPPED
    assert seconds < 3
