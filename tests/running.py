"""Daemons in the reactor of the tests, on real sockets, and treq to ask them.

A daemon here is what twistd would run with the same flags, but without a process of its own: that
is for tests of signals, of workers and of the command line.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import treq
import trustme
from prometheus_client import REGISTRY
from treq.client import HTTPClient
from twisted.application.service import IService
from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.ssl import Certificate
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers

from demo.stack import HOST, Stack, answers
from twisted.plugins import telemeter_plugin

reactor: Any = _reactor

#: For how long a test waits for something that takes a moment on an idle machine.
DEADLINE_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02

T = TypeVar("T")


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """A server's answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, for messages and assertions."""
        return self.body.decode("utf-8", "replace")

    def header(self, name: str) -> str:
        """Return the value of a header that is there once."""
        (value,) = self.headers.getRawHeaders(name, [])
        return value


async def ask(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 10.0,
    trusted: trustme.CA | None = None,
) -> Reply:
    """Make one HTTP request with treq, over a connection of its own; a refusal is an answer too.

    Args:
        url: what to ask for.
        method: how.
        body: what to send.
        headers: further headers.
        seconds: how long to wait for the answer's headers, and then for its body.
        trusted: who issues the server's certificate if the URL is https.

    Raises:
        Exception: as of treq, if no answer came.
    """
    root = None if trusted is None else Certificate.loadPEM(trusted.cert_pem.bytes())
    policy = BrowserLikePolicyForHTTPS(trustRoot=root)
    agent = Agent(reactor, policy, pool=HTTPConnectionPool(reactor, persistent=False))
    response = await HTTPClient(agent).request(
        method,
        url,
        headers=Headers({name: [text] for name, text in (headers or {}).items()}),
        data=body,
        timeout=seconds,
    )
    content = await treq.content(response).addTimeout(seconds, reactor)
    return Reply(response.code, response.headers, content)


# --- waiting --------------------------------------------------------------------------------------


async def until(probe: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Let the reactor run until a probe returns something true, and return that.

    Raises:
        AssertionError: it did not within so many seconds.
    """
    end = reactor.seconds() + seconds
    while not (result := probe()):
        assert reactor.seconds() < end, f"waited {seconds:g} s for {what}"
        await deferLater(reactor, _POLL_SECONDS, lambda: None)
    return result


async def in_thread(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Run a function that blocks, while the reactor goes on."""
    result: T = await deferToThread(function, *arguments, **named)
    return result


# --- metrics --------------------------------------------------------------------------------------


def counted(name: str, **labels: str) -> int:
    """Return the sum of the samples of this process that have this name and these labels."""
    return sum(
        int(sample.value)
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


# --- daemons --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Daemon:
    """A daemon in this process.

    Attributes:
        service: what twistd would run.
        url: of its listener for everybody.
        internal_url: of its listener for operators; an agent has one for both.
    """

    service: IService
    url: str
    internal_url: str


@asynccontextmanager
async def _running(plugin: Any, *flags: str) -> AsyncIterator[IService]:
    """Run the service of a plugin while its body lasts."""
    options = plugin.options()
    options.parseOptions(flags)
    service = plugin.makeService(options)
    try:
        service.privilegedStartService()
        service.startService()
        yield service
    finally:
        await maybeDeferred(service.stopService)


@asynccontextmanager
async def running_server(
    stack: Stack, *flags: str, trusted: trustme.CA | None = None, host: str = HOST
) -> AsyncIterator[Daemon]:
    """Run a telemeter-server on two free ports with these further flags, from when it is ready on.

    Args:
        stack: who gives out the ports.
        flags: further flags.
        trusted: who issued its certificates, if it has TLS.
        host: the address to listen at, as in a URL.
    """
    listen = f"{host}:{stack.free_port()}"
    internal = f"{host}:{stack.free_port()}"
    url = f"{'https' if '--tls-crt' in flags else 'http'}://{listen}"
    internal_url = f"{'https' if '--internal-tls-crt' in flags else 'http'}://{internal}"
    own = ("--listen", listen, "--listen-internal", internal)
    async with _running(telemeter_plugin.server, *own, *flags) as service:
        await _ready(f"{internal_url}/healthz/ready", trusted)
        yield Daemon(service, url, internal_url)


@asynccontextmanager
async def running_agent(stack: Stack, *flags: str) -> AsyncIterator[Daemon]:
    """Run a telemeter-client on a free port with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    url = f"http://{listen}"
    async with _running(telemeter_plugin.client, "--listen", listen, *flags) as service:
        yield Daemon(service, url, url)


async def _ready(url: str, trusted: trustme.CA | None) -> None:
    """Wait until a URL is answered with 200; treq would not take one with an IPv6 address."""
    context = None
    if trusted is not None:
        context = ssl.create_default_context()
        trusted.configure_trust(context)
    end = reactor.seconds() + DEADLINE_SECONDS
    while not await in_thread(answers, url, 200, context):
        assert reactor.seconds() < end, f"{url} is not ready"
        await deferLater(reactor, _POLL_SECONDS, lambda: None)
