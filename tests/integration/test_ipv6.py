"""IPv6 addresses in every flag that takes a URL or HOST:PORT, with and without TLS."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from demo.programs import start_agent, twistd
from demo.stack import Stack

from .certificates import server_context, write_pair
from .peer import Peer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture(params=["http", "https"], scope="module")
def world(request: pytest.FixtureRequest, stack: Stack) -> Iterator[World]:
    """Start a server that listens and connects by IPv6 only."""
    secure = request.param == "https"
    authority = trustme.CA()
    ca = str(stack.write(f"{request.param}-ca.pem", authority.cert_pem.bytes()))
    context: ssl.SSLContext | None = None
    server_flags: list[str] = []
    agent_flags: list[str] = []
    if secure:
        context = server_context(authority.issue_cert(IPV6))
        pair = write_pair(stack, "ipv6", authority.issue_cert(IPV6))
        server_flags = [
            *pair.flags("--tls-crt", "--tls-key"),
            *(f"--{name}-ca-file={ca}" for name in ("forward", "authorize")),
        ]
        agent_flags = [f"--from-ca-file={ca}", f"--to-ca-file={ca}"]
    with ExitStack() as ends:
        peer = ends.enter_context(running(Peer(context, host=IPV6)))
        listen, internal = (f"[{IPV6}]:{stack.free_port()}" for _ in range(2))
        argv = twistd(
            "telemeter-server",
            f"--listen={listen}",
            f"--listen-internal={internal}",
            f"--authorize={peer.url('/tollbooth')}",
            f"--forward-url={peer.url('/write')}",
            *server_flags,
        )
        name = f"{request.param}-server"
        program = stack.start(name, argv, f"http://{internal}")
        yield World(f"{request.param}://{listen}", peer, agent_flags)
        program.stop()


def upload_once(stack: Stack, name: str, flags: list[str]) -> None:
    """Run an agent until it has uploaded."""
    agent = start_agent(stack, name, *flags)
    stack.wait(lambda: "metrics uploaded" in agent.output(), "an upload", agent)
    agent.stop()


def test_all_peers_by_ipv6(world: World, stack: Stack) -> None:
    flags = [
        f"--from={world.peer.url()}",
        f"--to={world.server}",
        f"--id={CLUSTER}",
        "--to-token=secret",
        *world.flags,
    ]
    upload_once(stack, f"agent-of-{world.server[:5]}", flags)
    asked = {request.path: request for request in world.peer.requests}
    assert set(asked) == {"/federate", "/tollbooth", "/write"}
    for request in asked.values():
        assert request.headers["host"] == f"[{IPV6}]:{world.peer.port}"


def test_the_agents_other_urls(world: World, stack: Stack) -> None:
    flags = [
        f"--from={world.peer.url('/federate')}",
        f"--to-auth={world.server}/authorize?id={CLUSTER}",
        f"--to-upload={world.peer.url('/upload')}",
        "--to-token=secret",
        *world.flags,
    ]
    upload_once(stack, f"urls-of-{world.server[:5]}", flags)
    assert world.peer.requests[-1].path == "/upload"
    assert world.peer.requests[-1].headers["host"] == f"[{IPV6}]:{world.peer.port}"
