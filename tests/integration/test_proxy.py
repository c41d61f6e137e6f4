"""Requests through a real tinyproxy: its log says what went through it, and what did not."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from twisted.internet.defer import Deferred

from demo.programs import start_authorizer, twistd
from demo.stack import HOST, LogFollower, Program, Ready, Stack, fetch
from telemeter import __version__
from telemeter.net.body import read_body
from telemeter.net.client import make_agent, make_pool
from telemeter.net.errors import explain
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy
from tests.net.scripted import reactor
from tests.reactor import in_reactor

from .conftest import need_command
from .proxies import (
    ANY_ADDRESS,
    NAME,
    Target,
    TinyProxy,
    running_target,
    start_tinyproxy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twisted.web.iweb import IAgent

    from .upstream import Upstream

USER = "proxy-user"
PASSWORD = "secret-proxy-password"
TOKEN = "secret-cluster-token"
CLUSTER = "behind-a-proxy"
LIMIT = 100_000
SECONDS = 10.0


@pytest.fixture(scope="session")
def tinyproxy() -> None:
    """Need Debian's tinyproxy; its package tinyproxy-bin comes without a service."""
    need_command("tinyproxy", "tinyproxy-bin")


@dataclass
class Site:
    """Two targets, and two proxies that can be used to reach them."""

    stack: Stack
    plain: Target
    secure: Target
    other_name: Target
    open_proxy: TinyProxy
    locked_proxy: TinyProxy
    authorities: Path

    @property
    def targets(self) -> tuple[Target, Target]:
        return (self.plain, self.secure)

    async def ask(self, *urls: str, no_proxy: str = "", proxy: str = "") -> list[str]:
        """Ask for URLs one after the other, as the daemons do; return what came of each.

        Connections are used again. No answer shows the proxy's password.
        """
        pool = make_pool(reactor)
        agent = make_agent(
            reactor,
            "ask",
            "ask",
            pool=pool,
            policy=ClientPolicy(self.authorities.read_bytes(), authority_flag="--ca-file"),
            proxies=Proxies.from_environment(
                {
                    "HTTP_PROXY": proxy or self.open_proxy.address,
                    "HTTPS_PROXY": proxy or self.open_proxy.address,
                    "NO_PROXY": no_proxy,
                }
            ),
        )
        try:
            results = [await ask(agent, url) for url in urls]
        finally:
            await pool.closeCachedConnections()
        assert not any(PASSWORD in result for result in results)
        return results


async def ask(agent: IAgent, url: str) -> str:
    """Return the status and the body, or why there is none."""

    async def get() -> str:
        response = await agent.request(b"GET", url.encode())
        body = await read_body(response, LIMIT)
        return f"{response.code} {body.decode()}"

    try:
        return await Deferred.fromCoroutine(get()).addTimeout(SECONDS, reactor)
    except Exception as error:
        return explain(error)


def without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def servers(ca: trustme.CA) -> Iterator[tuple[Target, Target, Target]]:
    with (
        running_target() as plain,
        running_target(ca.issue_cert(NAME, ANY_ADDRESS)) as secure,
        running_target(ca.issue_cert("other.test")) as other_name,
    ):
        yield plain, secure, other_name


@pytest.fixture(scope="module")
def running(
    tinyproxy: None, stack: Stack, ca: trustme.CA, servers: tuple[Target, Target, Target]
) -> Site:
    return Site(
        stack,
        *servers,
        start_tinyproxy(stack, "open-proxy"),
        start_tinyproxy(stack, "locked-proxy", USER, PASSWORD),
        stack.write("ca.pem", ca.cert_pem.bytes()),
    )


@pytest.fixture
def site(running: Site) -> Site:
    """The site, with nothing asked yet."""
    for target in (*running.targets, running.other_name):
        target.requests.clear()
        target.headers.clear()
    for proxy in (running.open_proxy, running.locked_proxy):
        proxy.requests(running.stack)
    return running


@in_reactor
async def test_http_goes_through_the_proxy(site: Site) -> None:
    assert await site.ask(site.plain.url("/a?b=c")) == ["200 the answer"]
    assert site.open_proxy.requests(site.stack) == [f"GET {site.plain.url('/a?b=c')} HTTP/1.1"]
    assert site.plain.requests == ["GET /a?b=c HTTP/1.1"]
    (headers,) = site.plain.headers
    assert "tinyproxy" in headers["via"]
    assert headers["host"] == f"{NAME}:{site.plain.port}"


@in_reactor
async def test_https_goes_through_a_tunnel(site: Site) -> None:
    assert await site.ask(site.secure.url("/hidden?b=c")) == ["200 the answer"]
    assert site.open_proxy.requests(site.stack) == [f"CONNECT {NAME}:{site.secure.port} HTTP/1.1"]
    assert site.secure.requests == ["GET /hidden?b=c HTTP/1.1"]
    (headers,) = site.secure.headers
    # The proxy did not see the request, and so could not add anything.
    assert headers == {
        "host": f"{NAME}:{site.secure.port}",
        "user-agent": f"ask/{__version__}",
    }
    assert "hidden" not in site.open_proxy.program.output()


@in_reactor
async def test_a_tunnel_is_used_again(site: Site) -> None:
    assert await site.ask(*[site.secure.url("/")] * 3) == ["200 the answer"] * 3
    assert len(site.open_proxy.requests(site.stack)) == 1
    assert len(site.secure.requests) == 3


@in_reactor
async def test_much_comes_through_a_tunnel(site: Site) -> None:
    site.secure.answer = b"0123456789" * 9_000
    try:
        (answer,) = await site.ask(site.secure.url("/"))
    finally:
        site.secure.answer = b"the answer"
    assert answer == "200 " + "0123456789" * 9_000


@in_reactor
async def test_user_and_password(site: Site) -> None:
    proxy = f"http://{USER}:{PASSWORD}@{site.locked_proxy.address}"
    urls = [target.url("/a") for target in site.targets]
    assert await site.ask(*urls, proxy=proxy) == ["200 the answer"] * 2
    assert site.locked_proxy.requests(site.stack) == [
        f"GET {site.plain.url('/a')} HTTP/1.1",
        f"CONNECT {NAME}:{site.secure.port} HTTP/1.1",
    ]
    for target in site.targets:
        (headers,) = target.headers
        assert "proxy-authorization" not in headers


@in_reactor
async def test_no_password(site: Site) -> None:
    address = site.locked_proxy.address
    urls = [target.url("/a") for target in site.targets]
    assert await site.ask(*urls, proxy=address) == [
        f"the proxy {address} refused the request with status 407: "
        "check the user and password in HTTP_PROXY",
        f"the proxy {address} refused CONNECT to {NAME}:{site.secure.port} with status 407: "
        "check the user and password in HTTPS_PROXY",
    ]
    assert not any(target.requests for target in site.targets)


@in_reactor
async def test_a_wrong_password(site: Site) -> None:
    address = site.locked_proxy.address
    (error,) = await site.ask(site.secure.url("/a"), proxy=f"{USER}:x{PASSWORD}@{address}")
    # Where others say 407 again, tinyproxy says 401.
    assert error == (
        f"the proxy {address} refused CONNECT to {NAME}:{site.secure.port} with status 401: "
        "check the user and password in HTTPS_PROXY"
    )
    assert not site.secure.requests


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        (NAME, NAME),
        (f"other.test, {NAME.upper()}", NAME),
        ("*", NAME),
        (ANY_ADDRESS, ANY_ADDRESS),
        ("10.0.0.0/8,0.0.0.0/8", ANY_ADDRESS),
        # Loopback is never proxied.
        ("", HOST),
        ("", "localhost"),
    ],
)
@in_reactor
async def test_what_is_excluded_is_reached_directly(site: Site, no_proxy: str, host: str) -> None:
    url = site.plain.url("/a", host)
    assert await site.ask(url, no_proxy=no_proxy) == ["200 the answer"]
    assert site.open_proxy.requests(site.stack) == []
    (headers,) = site.plain.headers
    assert "via" not in headers


@pytest.mark.parametrize("host", [NAME, ANY_ADDRESS])
@in_reactor
async def test_https_that_is_excluded_is_reached_directly(site: Site, host: str) -> None:
    assert await site.ask(site.secure.url("/a", host), no_proxy=host) == ["200 the answer"]
    assert site.open_proxy.requests(site.stack) == []
    assert site.secure.requests == ["GET /a HTTP/1.1"]


@in_reactor
async def test_a_port_is_excluded(site: Site) -> None:
    no_proxy = f"{NAME}:{site.secure.port}"
    urls = [target.url("/a") for target in site.targets]
    assert await site.ask(*urls, no_proxy=no_proxy) == ["200 the answer"] * 2
    assert site.open_proxy.requests(site.stack) == [f"GET {site.plain.url('/a')} HTTP/1.1"]


@pytest.mark.parametrize("no_proxy", [f".{NAME}", f"x{NAME}", "192.0.2.0/24", f"{NAME}:1"])
@in_reactor
async def test_what_is_not_excluded_goes_through_the_proxy(site: Site, no_proxy: str) -> None:
    assert await site.ask(site.plain.url("/a"), no_proxy=no_proxy) == ["200 the answer"]
    assert site.open_proxy.requests(site.stack) == [f"GET {site.plain.url('/a')} HTTP/1.1"]


@in_reactor
async def test_certificates_are_checked_against_the_target(site: Site) -> None:
    (error,) = await site.ask(site.other_name.url("/a"))
    assert error == (
        f"no TLS with {NAME}:{site.other_name.port}: wrong name: wanted {NAME}, "
        "the certificate is for other.test"
    )
    assert len(site.open_proxy.requests(site.stack)) == 1
    assert not site.other_name.requests


@in_reactor
async def test_a_server_that_the_proxy_cannot_reach(site: Site) -> None:
    nobody = f"{NAME}:{site.stack.free_port()}"
    (error,) = await site.ask(f"https://{nobody}/")
    assert error == (
        f"the proxy {site.open_proxy.address} refused CONNECT to {nobody} with status 500: "
        "perhaps it cannot connect there"
    )


@in_reactor
async def test_a_proxy_that_is_not_there(site: Site) -> None:
    nobody = f"{HOST}:{site.stack.free_port()}"
    errors = await site.ask(*(target.url("/") for target in site.targets), proxy=nobody)
    assert len(errors) == 2
    for error in errors:
        assert error.startswith(f"the proxy {nobody}: cannot connect: ")
    assert not any(target.requests for target in site.targets)


# --- the daemons ----------------------------------------------------------------------------------


def start_behind(
    stack: Stack, name: str, proxy: str, argv: list[str], url: str, ready: Ready
) -> Program:
    """Start a program whose environment names a proxy for everything, and no other."""
    others = [f"--unset={variable}" for variable in os.environ.keys() - without_proxies().keys()]
    proxies = [f"HTTP_PROXY=http://{proxy}", f"https_proxy=http://{proxy}"]
    return stack.start(name, ["env", *others, *proxies, *argv], url, ready)


def test_the_daemons_use_a_proxy(site: Site, ca: trustme.CA, upstream: Upstream) -> None:
    """The agent towards the server, and the server towards its upstream; never towards --from."""
    stack = site.stack
    proxy = f"{USER}:{PASSWORD}@{site.locked_proxy.address}"
    certificate = ca.issue_cert(NAME)
    external, internal = stack.free_port(), stack.free_port()
    forward_url = upstream.url.replace(HOST, ANY_ADDRESS)
    authorizer = start_authorizer(stack, TOKEN)
    server = start_behind(
        stack,
        "proxied-server",
        proxy,
        twistd(
            "telemeter-server",
            *("--listen", f"{ANY_ADDRESS}:{external}"),
            *("--listen-internal", f"{HOST}:{internal}"),
            *("--tls-crt", str(stack.write("server.crt", chain(certificate)))),
            *("--tls-key", str(stack.write("server.key", certificate.private_key_pem.bytes()))),
            *("--authorize", f"{authorizer.url}/"),
            *("--forward-url", forward_url),
            *("--ratelimit", "0"),
            *("--log-level", "debug"),
            "--proxy-from-environment",
        ),
        f"http://{HOST}:{internal}",
        Ready("/healthz/ready"),
    )
    site.plain.answer = b"# TYPE things gauge\nthings 42 %d\n" % (time.time() * 1000)
    agent_port = stack.free_port()
    agent = start_behind(
        stack,
        "proxied-agent",
        proxy,
        twistd(
            "telemeter-client",
            *("--listen", f"{HOST}:{agent_port}"),
            *("--from", site.plain.url("/federate")),
            *("--to", f"https://{NAME}:{external}"),
            *("--to-ca-file", str(site.authorities)),
            *("--id", CLUSTER),
            *("--to-token", TOKEN),
            *("--interval", "1s"),
            *("--log-level", "debug"),
        ),
        f"http://{HOST}:{agent_port}",
        Ready("/healthz/ready"),
    )
    follower = LogFollower(agent.log)
    seen: list[str] = []

    def uploaded() -> bool:
        seen.extend(line for line in follower.new_lines() if 'msg="metrics uploaded"' in line)
        return len(seen) >= 2

    try:
        stack.wait(uploaded, "two uploads", agent)
        assert fetch(f"{agent.url}/healthz").status == 200
    finally:
        site.plain.answer = b"the answer"
        agent.stop()
        server.stop()
    asked = set(site.locked_proxy.requests(stack))
    assert asked == {
        f"CONNECT {NAME}:{external} HTTP/1.1",
        f"POST {forward_url} HTTP/1.1",
    }
    assert len(site.plain.requests) >= 2
    assert not [headers for headers in site.plain.headers if "via" in headers]
    assert all("via" in headers for headers in upstream.headers)
    assert {labels["__name__"] for labels in upstream.series()} == {"things"}
    for program in (agent, server):
        assert PASSWORD not in program.output()


def chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
