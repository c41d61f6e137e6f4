"""IPv6 addresses in every flag that takes a URL or HOST:PORT, with and without TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from demo.stack import Stack
from tests.fakes import Log
from tests.reactor import fixture_in_reactor, in_reactor
from tests.running import running_agent, running_server, until

from .certificates import server_context, write_pair
from .peer import Peer, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IPV6 = "::1"
CLUSTER = "ipv6-cluster"


@dataclass
class World:
    """Two daemons, and a peer that plays everybody else.

    Attributes:
        server: the URL of the server's external listener.
        peer: the source, the authorization server and the upstream.
        flags: those of the agent that say whom to trust.
    """

    server: str
    peer: Peer
    flags: list[str]


@fixture_in_reactor("module", params=["http", "https"])
async def world(request: pytest.FixtureRequest, stack: Stack) -> AsyncIterator[World]:
    """Run a server that listens and connects by IPv6 only."""
    authority = trustme.CA()
    ca = str(stack.write(f"{request.param}-ca.pem", authority.cert_pem.bytes()))
    context: ssl.SSLContext | None = None
    server_flags: list[str] = []
    agent_flags: list[str] = []
    if request.param == "https":
        context = server_context(authority.issue_cert(IPV6))
        pair = write_pair(stack, "ipv6", authority.issue_cert(IPV6))
        server_flags = [
            *pair.flags("--tls-crt", "--tls-key"),
            *(f"--{name}-ca-file={ca}" for name in ("forward", "authorize")),
        ]
        agent_flags = [f"--from-ca-file={ca}", f"--to-ca-file={ca}"]
    with running(Peer(context, host=IPV6)) as peer:
        async with running_server(
            stack,
            f"--authorize={peer.url('/tollbooth')}",
            f"--forward-url={peer.url('/write')}",
            *server_flags,
            host=f"[{IPV6}]",
        ) as server:
            yield World(server.url, peer, agent_flags)


async def upload_once(stack: Stack, log: Log, flags: list[str]) -> None:
    """Run an agent until it has uploaded."""
    async with running_agent(stack, *flags):
        await until(lambda: log.of("metrics uploaded"), "an upload")


@in_reactor
async def test_all_peers_by_ipv6(world: World, stack: Stack, log: Log) -> None:
    flags = [
        f"--from={world.peer.url()}",
        f"--to={world.server}",
        f"--id={CLUSTER}",
        "--to-token=secret",
        *world.flags,
    ]
    await upload_once(stack, log, flags)
    asked = {request.path: request for request in world.peer.requests}
    assert set(asked) == {"/federate", "/tollbooth", "/write"}
    for request in asked.values():
        assert request.headers["host"] == f"[{IPV6}]:{world.peer.port}"


@in_reactor
async def test_the_agents_other_urls(world: World, stack: Stack, log: Log) -> None:
    flags = [
        f"--from={world.peer.url('/federate')}",
        f"--to-auth={world.server}/authorize?id={CLUSTER}",
        f"--to-upload={world.peer.url('/upload')}",
        "--to-token=secret",
        *world.flags,
    ]
    await upload_once(stack, log, flags)
    assert world.peer.requests[-1].path == "/upload"
    assert world.peer.requests[-1].headers["host"] == f"[{IPV6}]:{world.peer.port}"
