"""An agent against a server, both in the reactor of the tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.reactor import in_reactor
from tests.running import ask, running_agent, running_server, until

from .peer import Peer, Reply, Request, as_all_servers, running

if TYPE_CHECKING:
    from demo.stack import Stack
    from tests.fakes import Log

    from .upstream import Upstream

CLUSTER = "in-process"
SOURCE = """\
# TYPE kept gauge
kept{{pod="one"}} 1 {now}
# TYPE dropped gauge
dropped{{pod="one"}} 2 {now}
"""


def as_source(request: Request) -> Reply:
    """Answer as a Prometheus with two series, and for everything else as all servers do."""
    if request.path != "/federate":
        return as_all_servers(request)
    return Reply(200, SOURCE.format(now=int(time.time() * 1000)).encode())


def flags_of_agent(peer: Peer, server_url: str) -> list[str]:
    return [
        *("--from", peer.url()),
        *("--match", "{__name__!=''}"),
        *("--to", server_url),
        *("--id", CLUSTER),
        *("--to-token", "any"),
        *("--label", "region=eu"),
        *("--rename", "kept=renamed"),
    ]


@in_reactor
async def test_what_is_whitelisted_arrives_transformed(
    stack: Stack, upstream: Upstream, log: Log
) -> None:
    with running(Peer(answer=as_source)) as peer:
        async with (
            running_server(
                stack,
                *("--authorize", peer.url("/tollbooth")),
                *("--forward-url", upstream.url),
                *("--whitelist", "renamed"),
                *("--label", "via=telemeter"),
            ) as server,
            running_agent(stack, *flags_of_agent(peer, server.url)) as agent,
        ):
            await until(lambda: log.of("metrics uploaded"), "an upload")
            assert (await ask(f"{agent.url}/healthz/ready")).status == 200
    (labels,) = upstream.series()
    assert labels == {
        "__name__": "renamed",
        "_id": CLUSTER,
        "pod": "one",
        "region": "eu",
        "via": "telemeter",
    }
    assert "/tollbooth" in [request.path for request in peer.requests]


@in_reactor
async def test_a_second_upload_too_soon_is_refused_and_said(
    stack: Stack, upstream: Upstream, log: Log
) -> None:
    with running(Peer(answer=as_source)) as peer:
        async with (
            running_server(
                stack,
                *("--authorize", peer.url("/tollbooth")),
                *("--forward-url", upstream.url),
            ) as server,
            running_agent(stack, *flags_of_agent(peer, server.url)) as agent,
        ):
            await until(lambda: log.of("metrics uploaded"), "an upload")
            # A cycle begins at once then.
            await ask(f"{agent.url}/-/reload", method="POST", body=b"")
            (failed,) = await until(lambda: log.of("cycle failed"), "the refusal")
    assert "429" in failed["reason"]
    assert len(upstream.received) == 1


@in_reactor
async def test_a_server_that_goes_and_comes_back_is_used_again(
    stack: Stack, upstream: Upstream, log: Log
) -> None:
    listen = f"127.0.0.1:{stack.free_port()}"
    url = f"http://{listen}"
    with running(Peer(answer=as_source)) as peer:
        server_flags = ("--listen", listen, "--forward-url", upstream.url, "--ratelimit", "0")
        async with running_agent(stack, *flags_of_agent(peer, url)) as agent:
            await until(lambda: log.of("cycle failed"), "the failure of a cycle")
            async with running_server(stack, *server_flags):
                await ask(f"{agent.url}/-/reload", method="POST", body=b"")
                await until(lambda: log.of("metrics uploaded"), "an upload")
    assert {labels["_id"] for labels in upstream.series()} == {CLUSTER}
