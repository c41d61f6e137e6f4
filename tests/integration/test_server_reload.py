"""A server reads its files again while it serves, and a broken one changes nothing."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from demo.keys import signing_key
from demo.programs import Server, start_server
from demo.stack import Answer, Stack, fetch

from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from .upstream import Upstream

CLUSTER = "reloaded"


@dataclass
class Reloadable:
    """A server with files to change, and what it forwards to."""

    stack: Stack
    server: Server
    upstream: Upstream

    def reload(self) -> Answer:
        return fetch(f"{self.server.internal_url}/-/reload", method="POST", body=b"")

    def forwarded(self, jwt: str) -> set[str]:
        """Upload two series, and return the names of those that were forwarded."""
        self.upstream.received.clear()
        families = [gauge(name, 1, {"_id": CLUSTER}) for name in ("one", "two")]
        answer = upload(self.server.url, jwt, encode(families))
        assert answer.status == 200, answer.text
        return {labels["__name__"] for labels in self.upstream.series()}


@pytest.fixture
def reloadable(stack: Stack, upstream: Upstream) -> Reloadable:
    server = start_server(
        stack,
        f"server-{len(stack.programs)}",
        *("--forward-url", upstream.url),
        *("--shared-key", str(stack.write("shared.key", signing_key()))),
        *("--whitelist-file", str(stack.write("whitelist", "one\n"))),
        *("--ratelimit", "0"),
    )
    return Reloadable(stack, server, upstream)


def test_a_new_whitelist(reloadable: Reloadable) -> None:
    jwt = authorize(reloadable.server.url, CLUSTER, "any")
    assert reloadable.forwarded(jwt) == {"one"}
    reloadable.stack.write("whitelist", "two\n")
    assert reloadable.forwarded(jwt) == {"one"}
    assert reloadable.reload().status == 200
    assert reloadable.forwarded(jwt) == {"two"}


def test_a_signal_does_the_same(reloadable: Reloadable) -> None:
    jwt = authorize(reloadable.server.url, CLUSTER, "any")
    reloadable.stack.write("whitelist", "one\ntwo\n")
    program = reloadable.server.program
    program.signal(signal.SIGHUP)
    names = {"one", "two"}
    reloadable.stack.wait(lambda: reloadable.forwarded(jwt) == names, f"{names}", program)


def test_a_broken_file_changes_nothing(reloadable: Reloadable) -> None:
    jwt = authorize(reloadable.server.url, CLUSTER, "any")
    reloadable.stack.write("shared.key", signing_key())
    reloadable.stack.write("whitelist", "two\n{__name__=\n")
    refused = reloadable.reload()
    assert refused.status == 500
    assert "--whitelist-file" in refused.text
    assert "line 2" in refused.text
    # Neither the whitelist nor the key that came with it is in use.
    assert reloadable.forwarded(jwt) == {"one"}


def test_a_new_key(reloadable: Reloadable) -> None:
    old = authorize(reloadable.server.url, CLUSTER, "any")
    reloadable.stack.write("shared.key", signing_key())
    assert reloadable.reload().status == 200
    family = gauge("one", 1, {"_id": CLUSTER})
    assert upload(reloadable.server.url, old, encode([family])).status == 401
    new = authorize(reloadable.server.url, CLUSTER, "any")
    assert reloadable.forwarded(new) == {"one"}


def test_nobody_outside_can_ask_for_it(reloadable: Reloadable) -> None:
    assert fetch(f"{reloadable.server.url}/-/reload", method="POST", body=b"").status == 404
    assert fetch(f"{reloadable.server.internal_url}/-/reload").status == 405
