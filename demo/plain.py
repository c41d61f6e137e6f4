"""The demo as simple as it can be: everything on this machine, and nothing encrypted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from demo.keys import signing_key
from demo.programs import (
    Server,
    query,
    start_agent,
    start_authorizer,
    start_destination,
    start_server,
    start_source,
    wait_for_samples,
)
from demo.scenario import (
    AGENT_FLAGS,
    CLUSTER,
    INTERVAL,
    SALT,
    SERVER_FLAGS,
    TOKEN,
    Parts,
    Reporter,
    graph_url,
)

if TYPE_CHECKING:
    from demo.stack import Program, Stack


def start_all(stack: Stack, report: Reporter) -> Parts:
    """Start every program of the demo, in the order in which they need one another."""
    source = start_source(stack)
    report.started_program(source, "source Prometheus")
    destination = start_destination(stack)
    report.started_program(destination, "destination Prometheus")
    wait_for_samples(stack, source)
    report.say("the source has samples, and its alert fires")
    forward = ("--forward-url", f"{destination.url}/api/v1/write")
    agent, second = start_between(stack, report, source, *forward)
    arrived = graph_url(destination, expr=f'{{_id="{CLUSTER}"}}', tab="0", range_input="5m")
    views = {
        "what arrived:": arrived,
        "what was sent:": f"{agent.url}/federate",
        "where it is from:": graph_url(source),
    }
    return Parts(source, agent, second.program, partial(query, destination.url), views)


def start_between(
    stack: Stack, report: Reporter, source: Program, *flags: str
) -> tuple[Program, Server]:
    """Start what is of Telemeter itself, the servers with further flags.

    Returns:
        The agent, and the server that it uploads to.
    """
    authorizer = start_authorizer(stack, TOKEN)
    report.started_program(authorizer, "authorization server (stub)")
    server_flags = [
        *("--authorize", f"{authorizer.url}/"),
        *("--shared-key", str(stack.write("shared.key", signing_key()))),
        *flags,
        *SERVER_FLAGS,
    ]
    first = start_server(stack, "server-1", *server_flags)
    report.started_program(first.program, "telemeter-server 1 (issues the token)")
    second = start_server(stack, "server-2", *server_flags)
    report.started_program(second.program, "telemeter-server 2 (takes the uploads)")
    agent = start_agent(
        stack,
        "agent",
        *("--from", source.url),
        *("--to-auth", f"{first.url}/authorize?id={CLUSTER}"),
        *("--to-upload", f"{second.url}/upload"),
        *("--to-token", TOKEN),
        *("--anonymize-salt", SALT),
        *AGENT_FLAGS,
    )
    report.started_program(agent, f"telemeter-client (every {INTERVAL})")
    return agent, second
