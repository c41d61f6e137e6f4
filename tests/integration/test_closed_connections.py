"""Servers that close a connection after each answer, and do not say so, as HTTP/1.0 allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, gatherResults

from tests.reactor import in_reactor
from tests.running import running_server

from .peer import Peer, running
from .telling import authorize, upload
from .wire import encode, gauge

if TYPE_CHECKING:
    from demo.stack import Stack

CLUSTER = "any-cluster"
CLIENTS = 4
TIMES = 25


@in_reactor
async def test_no_request_suffers_from_it(stack: Stack) -> None:
    with running(Peer(says_close=False)) as peer:
        async with running_server(
            stack,
            *("--authorize", peer.url("/tollbooth")),
            *("--forward-url", peer.url("/write")),
            *("--ratelimit", "0"),
            *("--forward-batch-requests", "1"),
        ) as server:

            async def send(number: int) -> list[int]:
                body = encode([gauge("up", number, {"_id": CLUSTER})])
                statuses = []
                for _ in range(TIMES):
                    token = await authorize(server.url, CLUSTER, "any")
                    statuses.append((await upload(server.url, token, body)).status)
                return statuses

            clients = [Deferred.fromCoroutine(send(number)) for number in range(CLIENTS)]
            statuses = [status for sent in await gatherResults(clients) for status in sent]
        assert statuses == [200] * CLIENTS * TIMES
        # None was needlessly sent twice: a connection is closed before, or is not used again.
        paths = [request.path for request in peer.requests]
        assert {path: paths.count(path) for path in ("/tollbooth", "/write")} == {
            "/tollbooth": CLIENTS * TIMES,
            "/write": CLIENTS * TIMES,
        }
