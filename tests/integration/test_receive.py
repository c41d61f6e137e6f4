"""Remote write by real senders: what they scraped arrives, every sample of it, and once.

One Prometheus writes to all servers, each a remote_write of its own with its own cluster; a vmagent
writes to two. What the Prometheus has stored itself is what must arrive. The faults are caused
while it runs, and the last tests look at the whole run.
"""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from demo.programs import Server, start_authorizer, start_prometheus, start_server
from demo.stack import Program, Ready, Stack, fetch

from .command_line import run_twistd
from .exporter import Exporter, running_exporter
from .samples import (
    Samples,
    as_victoria_keeps,
    ask,
    count,
    counted,
    relabeled,
    same,
    same_decimals,
    stored,
    wait_until_same,
)
from .senders import (
    PAGE,
    make_token,
    remote_write,
    start_sender,
    start_victoria,
    start_vmagent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "secret-of-all-clusters"
AGENT = "agents-cluster"
SCRAPES = 30
# Long enough for a sender that waits before it repeats a request.
SECONDS = 60.0
# The stub authorization server takes POST and nothing else.
AUTHORIZER = Ready("/", 405)


@dataclass
class System:
    """The programs of all tests.

    Attributes:
        exporter: what the senders scrape, besides themselves.
        prometheus: where some servers forward to.
        victoria: where the others forward to.
        authorizer: the authorization server of all servers but `needy`.
        servers: by name, which is the name of the sender's remote_write and the cluster too.
        needy: a server that asks `its_authorizer` about every request.
        sender: the Prometheus that writes to all of them.
        agent: the vmagent that writes to `plain` and `needy`.
    """

    exporter: Exporter
    prometheus: Program
    victoria: Program
    authorizer: Program
    its_authorizer: Program
    servers: dict[str, Server]
    sender: Program
    agent: Program

    def destination(self, name: str) -> Program:
        """Return what a server forwards to."""
        return self.prometheus if name in TO_PROMETHEUS else self.victoria


TO_PROMETHEUS = ("plain", "filtered", "killed")
TO_VICTORIA = ("victoria", "restarted", "needy")
FLAGS = {
    "filtered": (
        *("--whitelist", '{__name__=~"fixture_.+",case!="nan",text!~"x+"}'),
        *("--whitelist", "up"),
        *("--elide-label", "instance"),
        *("--elide-label", "pod"),
    ),
    "needy": ("--authorize-cache-expire", "0"),
}


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    with running_exporter() as exporter:
        yield exporter


@pytest.fixture(scope="module")
def system(prometheus: None, victoria_metrics: None, stack: Stack, exporter: Exporter) -> System:
    receiver = start_prometheus(
        stack,
        "prometheus",
        "",
        "--web.enable-remote-write-receiver",
        "--enable-feature=exemplar-storage,native-histograms",
    )
    victoria = start_victoria(stack, "victoria")
    authorizer = start_authorizer(stack, SECRET)
    its_authorizer = start_authorizer(stack, SECRET, name="its-authorizer")
    servers = {
        name: start_server(
            stack,
            f"server-{name}",
            *("--authorize", f"{(its_authorizer if name == 'needy' else authorizer).url}/"),
            *("--forward-url", f"{url}/api/v1/write"),
            *FLAGS.get(name, ()),
        )
        for names, url in ((TO_PROMETHEUS, receiver.url), (TO_VICTORIA, victoria.url))
        for name in names
    }
    plain = servers["plain"].url
    tokens = {name: make_token(stack, name, SECRET) for name in servers}
    entries = [
        *(remote_write(name, server.url, name, tokens[name]) for name, server in servers.items()),
        remote_write("foreign", plain, "somebody-else", tokens["plain"]),
        remote_write("unknown", plain, "nobody", make_token(stack, "nobody", "never-heard-of")),
    ]
    sender = start_sender(stack, "sender", exporter.address, entries)
    agent = start_vmagent(
        stack,
        "vmagent",
        exporter.address,
        [plain, servers["needy"].url],
        AGENT,
        make_token(stack, AGENT, SECRET),
    )
    return System(
        exporter, receiver, victoria, authorizer, its_authorizer, servers, sender, agent
    )
