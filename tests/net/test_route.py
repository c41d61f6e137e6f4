"""Agents in a network with proxies: which way their requests take, and what is sent on it."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import trustme
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from telemeter import __version__
from telemeter.net.body import BytesBody, read_body
from telemeter.net.client import make_agent, make_pool
from telemeter.net.errors import explain
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy, server_options
from tests.fakes import Log, result_of
from tests.net.network import End, Ends, Network

PASSWORD = "pass/word@secret"
ENCODED = "pass%2Fword%40secret"
BASIC = b"Basic " + base64.b64encode(b"user:pass/word@secret")

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CA = trustme.CA(organization_name="Root", organization_unit_name="One")


def tls(factory: Any, network: Network, *names: str, ca: trustme.CA = CA) -> Any:
    """The same over TLS, with a certificate for these names."""
    leaf = ca.issue_cert(*names)
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    options = server_options(chain, leaf.private_key_pem.bytes())
    return TLSMemoryBIOFactory(options, False, factory, clock=network)


def answering(answer: bytes) -> Ends:
    """A server, or a proxy for http, that answers each request."""

    def reply(end: End) -> None:
        if end.received.endswith((b"\r\n\r\n", b"body")):
            end.send(answer)

    return Ends(reply)


class TunnelProxy(Factory):
    """A proxy that opens tunnels.

    Attributes:
        heads: what it was asked.
    """

    noisy = False

    def __init__(self, network: Network) -> None:
        self.heads: list[bytes] = []
        self._network = network

    def buildProtocol(self, addr: object) -> End:
        end = End()
        end.dataReceived = lambda data: self._asked(end, data)  # type: ignore[method-assign]
        return end

    def _asked(self, end: End, data: bytes) -> None:
        self.heads.append(data)
        target = re.match(rb"CONNECT (\S+):([0-9]+) HTTP/1\.1\r\n", data)
        assert target is not None
        assert data.endswith(b"\r\n\r\n")
        far = End()
        # From here on it only carries bytes, both ways.
        far.dataReceived = end.send  # type: ignore[method-assign]
        end.dataReceived = far.send  # type: ignore[method-assign]
        self._network.join(far, target[1].decode(), int(target[2]))
        end.send(b"HTTP/1.1 200 Connection established\r\n\r\n")


class Requests:
    """An agent in a network in memory, with a proxy for http and one for https."""

    def __init__(self, environ: dict[str, str], *, pool: bool = False) -> None:
        self.network = Network()
        self.pool: HTTPConnectionPool | None = make_pool(self.network) if pool else None
        self.agent: IAgent = make_agent(
            self.network,
            "test",
            "a-program",
            pool=self.pool,
            policy=ClientPolicy(CA.cert_pem.bytes(), authority_flag="--ca-file"),
            proxies=Proxies.from_environment(environ),
        )
        self.direct = answering(ANSWER)
        self.http_proxy = answering(ANSWER)
        self.https_proxy = TunnelProxy(self.network)
        self.secure = answering(ANSWER)
        self.network.servers = {
            ("target.test", 80): self.direct,
            ("target.test", 443): tls(self.secure, self.network, "target.test"),
            ("http-proxy.test", 3128): self.http_proxy,
            ("https-proxy.test", 3128): self.https_proxy,
        }

    def start(self, url: str, method: bytes = b"GET", **more: Any) -> Deferred[IResponse]:
        request = self.agent.request(method, url.encode(), Headers({"X": ["y"]}), **more)
        self.network.flow()
        return request

    def get(self, url: str, **more: Any) -> bytes:
        """The body of the answer."""
        response = result_of(self.start(url, **more))
        body = read_body(response, 100)
        self.network.flow()
        return result_of(body)

    def error(self, url: str) -> str:
        """Why there is no answer."""
        errors: list[Failure] = []
        self.start(url).addErrback(errors.append)
        self.network.advance(1)  # A refused connection is noticed only then.
        (failure,) = errors
        assert failure.value is not None
        return explain(failure.value)


HTTP = {"HTTP_PROXY": f"user:{ENCODED}@http-proxy.test:3128"}
HTTPS = {"HTTPS_PROXY": f"user:{ENCODED}@https-proxy.test:3128"}
BOTH = HTTP | HTTPS
USER_AGENT = f"User-Agent: a-program/{__version__}".encode()


def test_a_proxy_for_http() -> None:
    requests = Requests(BOTH)
    assert requests.get("http://target.test/a?b=c#d") == b"ok"
    assert requests.network.connected == [("http-proxy.test", 3128)]
    (end,) = requests.http_proxy.made
    lines = end.received.split(b"\r\n")
    assert lines[0] == b"GET http://target.test/a?b=c HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        b"Connection: close",
        b"Host: target.test",
        b"Proxy-Authorization: " + BASIC,
        USER_AGENT,
        b"X: y",
    ]


def test_a_proxy_without_password() -> None:
    requests = Requests({"HTTP_PROXY": "http-proxy.test:3128"})
    assert requests.get("http://target.test:8080/") == b"ok"
    (end,) = requests.http_proxy.made
    assert b"Proxy-Authorization" not in end.received
    assert b"\r\nHost: target.test:8080\r\n" in end.received


def test_the_headers_of_a_request_are_left_as_they_are() -> None:
    """They may be used again for a server that must not see the password."""
    requests = Requests(BOTH | {"NO_PROXY": "direct.test"})
    requests.network.servers["direct.test", 80] = direct = answering(ANSWER)
    headers = Headers({"X": ["y"]})
    for host in ("target.test", "direct.test"):
        request = requests.agent.request(b"GET", f"http://{host}/".encode(), headers)
        requests.network.flow()
        assert result_of(request).code == 200
    assert list(headers.getAllRawHeaders()) == [(b"X", [b"y"])]
    assert BASIC in requests.http_proxy.made[0].received
    assert b"Proxy-Authorization" not in direct.made[0].received


def test_a_body_goes_through_a_proxy() -> None:
    requests = Requests(BOTH)
    assert requests.get("http://target.test/", method=b"POST", bodyProducer=BytesBody(b"body"))
    (end,) = requests.http_proxy.made
    assert end.received.startswith(b"POST http://target.test/ HTTP/1.1\r\n")
    assert end.received.endswith(b"\r\n\r\nbody")


def test_a_proxy_for_https() -> None:
    requests = Requests(BOTH)
    assert requests.get("https://target.test/a?b=c") == b"ok"
    assert requests.network.connected == [("https-proxy.test", 3128), ("target.test", 443)]
    (head,) = requests.https_proxy.heads
    assert head.startswith(b"CONNECT target.test:443 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: " + BASIC + b"\r\n" in head
    assert b"\r\n" + USER_AGENT + b"\r\n" in head
    (end,) = requests.secure.made
    lines = end.received.split(b"\r\n")
    assert lines[0] == b"GET /a?b=c HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        b"Connection: close",
        b"Host: target.test",
        USER_AGENT,
        b"X: y",
    ]


def test_servers_are_told_which_program_asks() -> None:
    requests = Requests({})
    for url in ("http://target.test/", "https://target.test/"):
        assert requests.get(url) == b"ok"
    for server in (requests.direct, requests.secure):
        assert b"\r\n" + USER_AGENT + b"\r\n" in server.made[0].received


def test_proxies_that_are_spoken_to_over_tls() -> None:
    environ = {name: f"https://{value}" for name, value in BOTH.items()}
    requests = Requests(environ)
    for name, factory in (("http", requests.http_proxy), ("https", requests.https_proxy)):
        host = f"{name}-proxy.test"
        requests.network.servers[host, 3128] = tls(factory, requests.network, host)
    assert requests.get("http://target.test/") == b"ok"
    assert BASIC in requests.http_proxy.made[0].received
    assert requests.get("https://target.test/") == b"ok"
    assert BASIC in requests.https_proxy.heads[0]
    assert b"Proxy-Authorization" not in requests.secure.made[0].received
    assert requests.network.connected == [
        ("http-proxy.test", 3128),
        ("https-proxy.test", 3128),
        ("target.test", 443),
    ]


@pytest.mark.parametrize("url", ["http://target.test/", "https://target.test/"])
def test_the_certificate_of_a_proxy_is_checked(url: str) -> None:
    environ = {name: f"https://{value}" for name, value in BOTH.items()}
    requests = Requests(environ)
    for name, factory in (("http", requests.http_proxy), ("https", requests.https_proxy)):
        proxy = tls(factory, requests.network, "target.test")
        requests.network.servers[f"{name}-proxy.test", 3128] = proxy
    name = url.partition(":")[0]
    error = requests.error(url)
    assert error.endswith(
        f"no TLS with {name}-proxy.test:3128: wrong name: wanted {name}-proxy.test, "
        "the certificate is for target.test"
    )
    assert not requests.https_proxy.heads
    assert not [end for end in requests.http_proxy.made if end.received]


def test_the_certificate_is_checked_against_the_target_through_a_tunnel() -> None:
    requests = Requests(HTTPS)
    # What a proxy might try that wants to listen.
    requests.network.servers["target.test", 443] = tls(
        requests.secure, requests.network, "https-proxy.test"
    )
    assert requests.error("https://target.test/") == (
        "no TLS with target.test:443: wrong name: wanted target.test, "
        "the certificate is for https-proxy.test"
    )
    requests.network.servers["target.test", 443] = tls(
        requests.secure, requests.network, "target.test", ca=trustme.CA(organization_name="Nosy")
    )
    error = requests.error("https://target.test/")
    assert "no TLS with target.test:443: unknown issuer: " in error
    assert "O=Nosy (trust it with --ca-file" in error
    assert not [end for end in requests.secure.made if end.received]


@pytest.mark.parametrize(
    "no_proxy", ["target.test", ".test", "*", "target.test:80,target.test:443"]
)
def test_what_is_excluded_is_reached_directly(no_proxy: str) -> None:
    requests = Requests(BOTH | {"NO_PROXY": no_proxy})
    assert requests.get("http://target.test/a") == b"ok"
    assert requests.get("https://target.test/a") == b"ok"
    assert requests.network.connected == [("target.test", 80), ("target.test", 443)]
    for server in (requests.direct, requests.secure):
        assert server.made[0].received.startswith(b"GET /a HTTP/1.1\r\n")
        assert b"Proxy-Authorization" not in server.made[0].received


@pytest.mark.parametrize("host", ["my_server", "_my_.test", "my-.test", "my_one.server.test."])
def test_names_of_containers(host: str) -> None:
    requests = Requests({})
    requests.network.servers[host, 80] = requests.direct
    assert requests.get(f"http://{host}/") == b"ok"
    if host.endswith("."):
        requests.network.servers[host, 443] = tls(
            requests.secure, requests.network, "*.server.test"
        )
        assert requests.get(f"https://{host}/") == b"ok"
    proxied = Requests({"HTTP_PROXY": f"{host}:3128"})
    proxied.network.servers[host, 3128] = proxied.http_proxy
    assert proxied.get("http://target.test/") == b"ok"


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "a." * 127 + "a", "a%41"])
def test_what_is_no_name(host: str) -> None:
    requests = Requests({})
    assert "invalid hostname" in requests.error(f"http://{host}/")
    assert not requests.network.connected


def test_a_proxy_for_the_other_scheme_only() -> None:
    requests = Requests(HTTPS)
    assert requests.get("http://target.test/a") == b"ok"
    assert requests.network.connected == [("target.test", 80)]
    requests = Requests(HTTP)
    assert requests.get("https://target.test/a") == b"ok"
    assert requests.network.connected == [("target.test", 443)]


def test_connections_are_used_again() -> None:
    requests = Requests(BOTH | {"NO_PROXY": "direct.test"}, pool=True)
    requests.network.servers["direct.test", 80] = direct = answering(ANSWER)
    requests.network.servers["other.test", 443] = tls(
        answering(ANSWER), requests.network, "other.test"
    )
    for _ in range(2):
        for url in ("http://target.test/", "http://other.test/", "http://direct.test/"):
            assert requests.get(url) == b"ok"
        for url in ("https://target.test/", "https://other.test/"):
            assert requests.get(url) == b"ok"
    # One to the proxy for all of http, one direct one, and one tunnel for each target.
    assert requests.network.connected == [
        ("http-proxy.test", 3128),
        ("direct.test", 80),
        ("https-proxy.test", 3128),
        ("target.test", 443),
        ("https-proxy.test", 3128),
        ("other.test", 443),
    ]
    assert requests.http_proxy.made[0].received.count(b"GET http://other.test/ HTTP/1.1") == 2
    assert direct.made[0].received.count(b"GET / HTTP/1.1") == 2
    assert requests.pool is not None
    closed = requests.pool.closeCachedConnections()
    requests.network.flow()
    result_of(closed)
    assert not requests.network.getDelayedCalls()


def test_a_proxy_for_http_that_wants_another_password() -> None:
    requests = Requests(BOTH, pool=True)
    requests.network.servers["http-proxy.test", 3128] = answering(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nwhy"
    )
    for _ in range(2):
        assert requests.error("http://target.test/") == (
            "the proxy http-proxy.test:3128 refused the request with status 407: "
            "check the user and password in HTTP_PROXY"
        )
    # What it said was read, and so the connection was used again.
    assert requests.network.connected == [("http-proxy.test", 3128)]


def test_a_refusal_without_an_end() -> None:
    requests = Requests(BOTH)
    requests.network.servers["http-proxy.test", 3128] = answering(
        b"HTTP/1.1 407 No\r\n\r\n" + b"x" * 100_000
    )
    assert "check the user and password in HTTP_PROXY" in requests.error("http://target.test/")


def test_a_proxy_for_https_that_wants_another_password() -> None:
    requests = Requests(BOTH)
    requests.network.servers["https-proxy.test", 3128] = answering(b"HTTP/1.1 407 No\r\n\r\n")
    assert requests.error("https://target.test/") == (
        "the proxy https-proxy.test:3128 refused CONNECT to target.test:443 with status 407: "
        "check the user and password in HTTPS_PROXY"
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(scheme: str) -> None:
    requests = Requests(BOTH)
    del requests.network.servers[f"{scheme}-proxy.test", 3128]
    assert requests.error(f"{scheme}://target.test/") == (
        f"the proxy {scheme}-proxy.test:3128: cannot connect: Connection was refused by other side."
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_request_is_given_up_while_its_proxy_is_connected(scheme: str) -> None:
    requests = Requests(BOTH)
    requests.network.silent.add((f"{scheme}-proxy.test", 3128))
    errors: list[Failure] = []
    request = requests.start(f"{scheme}://target.test/")
    request.addErrback(errors.append)
    assert not errors
    request.cancel()
    (failure,) = errors
    assert failure.value is not None
    assert explain(failure.value) == f"the proxy {scheme}-proxy.test:3128: no answer in time"
    requests.network.advance(60)
    assert not requests.network.getDelayedCalls()


def test_a_request_is_given_up_while_its_answer_is_awaited() -> None:
    requests = Requests(BOTH)
    requests.network.servers["http-proxy.test", 3128] = Ends()
    errors: list[Failure] = []
    request = requests.start("http://target.test/")
    request.addErrback(errors.append)
    request.cancel()
    assert errors[0].value is not None
    assert explain(errors[0].value) == "no complete answer: no answer in time"
    assert not errors[0].check(CancelledError)


def test_what_no_agent_speaks() -> None:
    assert "Unsupported scheme" in Requests(BOTH).error("ftp://target.test/")


def test_no_password_is_logged(log: Log) -> None:
    requests = Requests(BOTH)
    assert requests.get("http://target.test/") == b"ok"
    assert requests.get("https://target.test/") == b"ok"
    requests.network.servers = {}
    errors = [requests.error(f"{scheme}://target.test/") for scheme in ("http", "https")]
    everything = f"{errors} {list(log)!r} {requests.agent!r} {vars(requests.agent)!r}"
    assert "proxy.test" in everything
    assert not log.lines  # also nothing about each connection
    for secret in (PASSWORD, ENCODED, BASIC.decode()):
        assert secret not in everything
