"""A server reads its files again while it serves, and a broken one changes nothing."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo.keys import signing_key
from demo.programs import start_server
from demo.stack import Stack
from tests.reactor import fixture_in_reactor, in_reactor
from tests.running import Daemon, Reply, ask, running_server

from . import wire
from .telling import authorize, upload
from .wire import encode, gauge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .upstream import Upstream

CLUSTER = "reloaded"


@dataclass
class Reloadable:
    """A server with files to change, and what it forwards to."""

    stack: Stack
    server: Daemon
    upstream: Upstream

    async def reload(self) -> Reply:
        return await ask(f"{self.server.internal_url}/-/reload", method="POST", body=b"")

    async def authorize(self) -> str:
        return await authorize(self.server.url, CLUSTER, "any")

    async def forwarded(self, jwt: str) -> set[str]:
        """Upload two series, and return the names of those that were forwarded."""
        self.upstream.received.clear()
        families = [gauge(name, 1, {"_id": CLUSTER}) for name in ("one", "two")]
        answer = await upload(self.server.url, jwt, encode(families))
        assert answer.status == 200, answer.text
        return {labels["__name__"] for labels in self.upstream.series()}


def flags_of_it(stack: Stack, upstream: Upstream) -> list[str]:
    return [
        *("--forward-url", upstream.url),
        *("--shared-key", str(stack.write("shared.key", signing_key()))),
        *("--whitelist-file", str(stack.write("whitelist", "one\n"))),
        *("--ratelimit", "0"),
    ]


@fixture_in_reactor()
async def reloadable(stack: Stack, upstream: Upstream) -> AsyncIterator[Reloadable]:
    async with running_server(stack, *flags_of_it(stack, upstream)) as server:
        yield Reloadable(stack, server, upstream)


@in_reactor
async def test_a_new_whitelist(reloadable: Reloadable) -> None:
    jwt = await reloadable.authorize()
    assert await reloadable.forwarded(jwt) == {"one"}
    reloadable.stack.write("whitelist", "two\n")
    assert await reloadable.forwarded(jwt) == {"one"}
    assert (await reloadable.reload()).status == 200
    assert await reloadable.forwarded(jwt) == {"two"}


def test_a_signal_does_the_same(stack: Stack, upstream: Upstream) -> None:
    server = start_server(stack, "server", *flags_of_it(stack, upstream))
    jwt = wire.authorize(server.url, CLUSTER, "any")
    stack.write("whitelist", "one\ntwo\n")
    server.program.signal(signal.SIGHUP)

    def both_are_forwarded() -> bool:
        upstream.received.clear()
        families = [gauge(name, 1, {"_id": CLUSTER}) for name in ("one", "two")]
        assert wire.upload(server.url, jwt, encode(families)).status == 200
        return {labels["__name__"] for labels in upstream.series()} == {"one", "two"}

    stack.wait(both_are_forwarded, "the new whitelist", server.program)


@in_reactor
async def test_a_broken_file_changes_nothing(reloadable: Reloadable) -> None:
    jwt = await reloadable.authorize()
    reloadable.stack.write("shared.key", signing_key())
    reloadable.stack.write("whitelist", "two\n{__name__=\n")
    refused = await reloadable.reload()
    assert refused.status == 500
    assert "--whitelist-file" in refused.text
    assert "line 2" in refused.text
    # Neither the whitelist nor the key that came with it is in use.
    assert await reloadable.forwarded(jwt) == {"one"}


@in_reactor
async def test_a_new_key(reloadable: Reloadable) -> None:
    old = await reloadable.authorize()
    reloadable.stack.write("shared.key", signing_key())
    assert (await reloadable.reload()).status == 200
    body = encode([gauge("one", 1, {"_id": CLUSTER})])
    assert (await upload(reloadable.server.url, old, body)).status == 401
    assert await reloadable.forwarded(await reloadable.authorize()) == {"one"}


@in_reactor
async def test_nobody_outside_can_ask_for_it(reloadable: Reloadable) -> None:
    server = reloadable.server
    assert (await ask(f"{server.url}/-/reload", method="POST", body=b"")).status == 404
    assert (await ask(f"{server.internal_url}/-/reload")).status == 405
