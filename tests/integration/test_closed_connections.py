"""Servers that close a connection after each answer, and do not say so, as HTTP/1.0 allows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from demo.programs import start_server

from .peer import Peer, running
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from demo.stack import Stack

CLUSTER = "any-cluster"
CLIENTS = 4
TIMES = 25


def test_no_request_suffers_from_it(stack: Stack) -> None:
    with running(Peer(says_close=False)) as peer:
        server = start_server(
            stack,
            "server",
            *("--authorize", peer.url("/tollbooth")),
            *("--forward-url", peer.url("/write")),
            *("--ratelimit", "0"),
            *("--forward-batch-requests", "1"),
        )

        def send(number: int) -> list[int]:
            body = encode([gauge("up", number, {"_id": CLUSTER})])
            tokens = (authorize(server.url, CLUSTER, "any") for _ in range(TIMES))
            return [upload(server.url, token, body).status for token in tokens]

        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = [status for sent in pool.map(send, range(CLIENTS)) for status in sent]
        assert statuses == [200] * CLIENTS * TIMES
        # None was needlessly sent twice: a connection is closed before, or is not used again.
        paths = [request.path for request in peer.requests]
        assert {path: paths.count(path) for path in ("/tollbooth", "/write")} == {
            "/tollbooth": CLIENTS * TIMES,
            "/write": CLIENTS * TIMES,
        }
        server.program.stop()
