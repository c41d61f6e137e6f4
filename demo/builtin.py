"""The demo with nothing but Python: a source of our own, and a server that keeps what arrives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from demo.plain import start_between
from demo.programs import federated, start_builtin_source
from demo.scenario import Parts, Reporter

if TYPE_CHECKING:
    from demo.stack import Stack


def start_all(stack: Stack, report: Reporter) -> Parts:
    """Start every program of the demo, in the order in which they need one another."""
    source = start_builtin_source(stack)
    report.started_program(source, "source (figures of this machine)")
    agent, second = start_between(stack, report, source)
    everything = "/federate?match[]={__name__!=''}"
    views = {
        "what arrived:": f"{second.internal_url}{everything}",
        "what was sent:": f"{agent.url}/federate",
        "where it is from:": f"{source.url}{everything}",
    }
    look = partial(federated, second.internal_url)
    return Parts(source, agent, second.program, look, views)
