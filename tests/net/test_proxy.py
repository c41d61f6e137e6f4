"""Which requests go through a proxy, and how."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import trustme
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, NoProtocol
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from telemeter.net.body import BytesBody, read_body
from telemeter.net.client import make_agent, make_pool
from telemeter.net.errors import ProxyError, explain
from telemeter.net.proxy import Proxies, Proxy
from telemeter.net.tls import ClientPolicy, server_options
from telemeter.net.tunnel import HEAD_LIMIT, ProxyEndpoint, TunnelEndpoint
from tests.fakes import FakeTransport, Log, result_of
from tests.net.network import End, Ends, Network

PASSWORD = "pass/word@secret"
ENCODED = "pass%2Fword%40secret"
BASIC = b"Basic " + base64.b64encode(b"user:pass/word@secret")

# --- The environment ------------------------------------------------------------------------------


def chosen(environ: dict[str, str], url: str = "http://example.com/") -> str | None:
    """The URL of the proxy that is chosen, without its password."""
    proxy = Proxies.from_environment(environ).proxy_for(url)
    if proxy is None:
        return None
    return f"{'https' if proxy.secure else 'http'}://{proxy}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("cache.example.com:1234", "http://cache.example.com:1234"),
        ("cache.example.com", "http://cache.example.com:80"),
        ("Cache.Example.COM:1234", "http://cache.example.com:1234"),
        ("localhost", "http://localhost:80"),
        ("proxy_1.cluster.local.:3128", "http://proxy_1.cluster.local.:3128"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://proxy:8080/", "http://proxy:8080"),
        ("HTTP://proxy:8080", "http://proxy:8080"),
        ("https://cache.example.com", "https://cache.example.com:443"),
        ("https://127.0.0.1:8080", "https://127.0.0.1:8080"),
        ("[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("http://[2001:db8::1]", "http://[2001:db8::1]:80"),
        ("user@proxy:3128", "http://proxy:3128"),
        ("user:password@proxy:3128", "http://proxy:3128"),
        ("http://prøxy.test:1", "http://xn--prxy-hra.test:1"),
        ("  proxy:3128 ", "http://proxy:3128"),
        ("", None),
        ("  ", None),
    ],
)
def test_a_proxy(value: str, expected: str | None) -> None:
    assert chosen({"HTTP_PROXY": value}) == expected


MALFORMED = [
    "socks5://user:secret@proxy",
    "foo://secret@proxy",
    "http://",
    "http://user:secret@",
    "http://user:secret@:3128",
    "proxy:secret",
    "proxy:99999",
    "proxy:0",
    "proxy:-1",
    "user:sec/ret@proxy:3128",
    "user:12/secret@proxy:3128",
    "user:12#secret@proxy:3128",
    "user:12?secret@proxy:3128",
    "user:secret@proxy:3128/path",
    "user:secret@pro xy:3128",
    "user:sec\nret@proxy:3128",
    "http://[::1",
    "http://[secret]:3128",
    "http://user:secret@pro|xy:3128",
    "http://user:secret@-proxy",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy"])
def test_a_malformed_proxy_is_named_and_not_shown(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{variable}: expected HOST:PORT, or a URL") as caught:
        Proxies.from_environment({variable: value})
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("proxy", None),
        ("user@proxy", b"user:"),
        ("user:@proxy", b"user:"),
        (f"user:{ENCODED}@proxy", b"user:pass/word@secret"),
        (f"user:{PASSWORD.replace('/', '%2f')}@proxy", b"user:pass/word@secret"),
        ("us%3Aer:a:b@proxy", b"us:er:a:b"),
        ("us%C3%A9r:p%20+w@proxy", "usér:p +w".encode()),
    ],
)
def test_user_and_password(value: str, expected: bytes | None) -> None:
    proxy = Proxies.from_environment({"HTTPS_PROXY": value}).https
    assert proxy is not None
    if expected is None:
        assert proxy.authorization is None
    else:
        assert proxy.authorization == b"Basic " + base64.b64encode(expected)


def test_nothing_shows_a_password() -> None:
    url = f"https://user:{ENCODED}@proxy:3128"
    proxies = Proxies.from_environment({"HTTP_PROXY": url, "HTTPS_PROXY": url})
    for thing in (proxies, proxies.http, proxies.https):
        shown = f"{thing} {thing!r}"
        assert "proxy:3128" in shown or "port=3128" in shown
        for secret in (PASSWORD, ENCODED, BASIC.decode().split()[1]):
            assert secret not in shown


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "http://x.test/", "http://a:80"),
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "https://x.test/", "http://b:80"),
        ({"HTTP_PROXY": "a"}, "https://x.test/", None),
        ({"HTTPS_PROXY": "a"}, "http://x.test/", None),
        ({"HTTP_PROXY": "a", "HTTPS_PROXY": "b"}, "ftp://x.test/", None),
        ({"HTTP_PROXY": "a"}, "http:///path", None),
        ({"ALL_PROXY": "a"}, "http://x.test/", None),
        ({"http_proxy": "a"}, "http://x.test/", "http://a:80"),
        ({"https_proxy": "a"}, "https://x.test/", "http://a:80"),
        ({"http_proxy": "a", "HTTP_PROXY": "b"}, "http://x.test/", "http://a:80"),
        ({"http_proxy": "", "HTTP_PROXY": "b"}, "http://x.test/", "http://b:80"),
        ({"HTTP_PROXY": "a", "no_proxy": "x.test"}, "http://x.test/", None),
        ({"HTTP_PROXY": "a", "NO_PROXY": "x.test"}, "http://x.test/", None),
        (
            {"HTTP_PROXY": "a", "no_proxy": "y.test", "NO_PROXY": "*"},
            "http://x.test/",
            "http://a:80",
        ),
        # Where web servers set it from a request's header, as for CGI, it still counts.
        ({"HTTP_PROXY": "a", "REQUEST_METHOD": "GET"}, "http://x.test/", "http://a:80"),
        ({}, "http://x.test/", None),
    ],
)
def test_variables(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert chosen(environ, url) == expected


def test_the_variable_is_known_for_messages() -> None:
    proxies = Proxies.from_environment({"http_proxy": "a", "HTTPS_PROXY": "b"})
    assert proxies.http is not None
    assert proxies.https is not None
    assert (proxies.http.variable, proxies.https.variable) == ("http_proxy", "HTTPS_PROXY")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"NO_PROXY": "x"}, False),
        ({"HTTP_PROXY": "a"}, True),
        ({"HTTPS_PROXY": "a"}, True),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "x, *"}, False),
    ],
)
def test_whether_there_is_any_proxy(environ: dict[str, str], expected: bool) -> None:
    assert bool(Proxies.from_environment(environ)) is expected


# As in the tests of golang.org/x/net/http/httpproxy, which this has to agree with; and more.
NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, "
    "10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, "
    "2002:db8:a::45/64, ported.com:8080, .below.com:8080, UPPER.com, ends.com., 示例.com, single"
)


@pytest.mark.parametrize(
    ("target", "proxied"),
    [
        # Never proxied.
        ("localhost", False),
        ("LOCALHOST", False),
        ("localhost:81", False),
        ("localhost.", False),
        ("127.0.0.1", False),
        ("127.0.0.2:9090", False),
        ("[::1]", False),
        ("[::ffff:127.0.0.1]", False),
        # These only look like it.
        ("[::2]", True),
        ("localhost.net", True),
        ("local.localhost", True),
        ("0.0.0.0", True),
        # Addresses, with and without ports.
        ("192.168.1.1", False),
        ("192.168.1.1:8080", False),
        ("[::ffff:192.168.1.1]", False),
        ("192.168.1.2", True),
        ("192.168.1.2:81", False),
        ("192.168.1.3", False),
        ("192.168.1.3:81", True),
        ("192.168.1.4", True),
        ("[2001:db8::52:0:1]", False),
        ("[2001:db8:0:0::52:0:1]", False),
        ("[2001:db8::52:0:2]", True),
        ("[2001:db8::52:0:2]:443", False),
        ("[2001:db8::52:0:3]", False),
        # Networks.
        ("10.0.0.2", False),
        ("10.0.0.2:8080", False),
        ("10.0.0.4", True),
        ("[::ffff:10.0.0.2]", False),
        ("[2002:db8:a::123]", False),
        ("[2002:db8:b::123]", True),
        ("[fe80::424b:c8be:1643:a1b6]", True),
        # Domains.
        ("foobar.com", False),
        ("FooBar.COM", False),
        ("foobar.com.", False),
        ("foobar.com:8080", False),
        ("www.foobar.com", False),
        ("a.b.foobar.com", False),
        ("foofoobar.com", True),
        ("foobar.com.net", True),
        ("baz.com", True),
        ("barbaz.net", True),
        ("www.barbaz.net", False),
        ("barbarbaz.net", True),
        ("wildcard.io", True),
        ("nested.wildcard.io", False),
        ("awildcard.io", True),
        ("ported.com", True),
        ("ported.com:8080", False),
        ("www.ported.com:8080", False),
        ("below.com:8080", True),
        ("www.below.com:8080", False),
        ("www.below.com", True),
        ("upper.com", False),
        ("ends.com", False),
        ("www.ends.com", False),
        ("single", False),
        ("www.single", False),
        ("singles", True),
        ("www.示例.com", False),
        ("xn--fsq092h.com", False),
        # A zone is no domain.
        ("[1000::%25.foobar.com]:123", True),
    ],
)
def test_no_proxy(target: str, proxied: bool) -> None:
    environ = {"HTTP_PROXY": "proxy", "NO_PROXY": NO_PROXY}
    assert (chosen(environ, f"http://{target}/path") is not None) is proxied
    assert chosen({**environ, "NO_PROXY": "x, *,"}, f"http://{target}/path") is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("x.test:80", "http://x.test/", False),
        ("x.test:443", "http://x.test/", True),
        ("x.test:80", "https://x.test/", True),
        ("x.test:443", "https://x.test/", False),
        ("a.test,b.test", "https://b.test/", False),
        ("a.test, b.test", "https://b.test/", False),
        ("a.test b.test", "https://b.test/", False),
        (",, a.test,,", "https://a.test/", False),
        ("ample.com", "https://example.com/", True),
        (" ", "https://example.com/", True),
        ("0.0.0.0/0", "https://192.0.2.1/", False),
        ("0.0.0.0/0", "https://x.test/", True),
        ("::/0", "https://192.0.2.1/", True),
        ("192.0.2.1", "https://x192.0.2.1/", True),
    ],
)
def test_more_of_no_proxy(no_proxy: str, url: str, proxied: bool) -> None:
    environ = {"HTTP_PROXY": "p", "HTTPS_PROXY": "p", "NO_PROXY": no_proxy}
    assert (chosen(environ, url) is not None) is proxied


@pytest.mark.parametrize(
    "entry",
    [
        *(":1", ":80", ".", "*.", "a:b:c", "[::1", "[]:80", "[x.test]:80"),
        *("x.test:", "x.test:http", "x.test:0", "x.test:65536"),
        *("10.0.0.0/33", "10.0.0.0/x", "x.test/8", "http://x.test"),
    ],
)
def test_a_malformed_no_proxy(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^NO_PROXY: expected hosts, domains") as caught:
        Proxies.from_environment({"HTTPS_PROXY": "p", "NO_PROXY": f"y.test,{entry}"})
    assert repr(entry) in str(caught.value)
    # Where there is no proxy, nobody looks at it.
    assert not Proxies.from_environment({"NO_PROXY": entry})


# --- CONNECT --------------------------------------------------------------------------------------

SECONDS = 7.0


@implementer(IStreamClientEndpoint)
class Line:
    """A connection to a proxy, and what is connected through it."""

    def __init__(
        self, proxy: Proxy | None = None, host: str = "target.test", inner: Factory | None = None
    ) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.inner = Ends()
        self.protocol: Any = None
        proxy = proxy or Proxy("proxy.test", 3128)
        tunnel = TunnelEndpoint(ProxyEndpoint(proxy, self), host, 443, self.clock, SECONDS)
        self.opened: Deferred[Any] = tunnel.connect(inner or self.inner)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Be the endpoint of the proxy."""
        self.protocol = protocolFactory.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)
        done: Deferred[Any] = Deferred()
        done.callback(self.protocol)
        return done

    def answer(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.transport.disconnected:
                self.protocol.dataReceived(piece)

    def end(self) -> End:
        """This end of the open tunnel."""
        end: Any = result_of(self.opened)
        assert self.inner.made == [end]
        assert end.transport is self.transport
        assert not self.clock.getDelayedCalls()
        assert isinstance(end, End)
        return end

    def refusal(self) -> str:
        """Why there is no tunnel; the connection is closed then."""
        with pytest.raises(ProxyError) as caught:
            result_of(self.opened)
        assert self.transport.disconnected
        assert not self.clock.getDelayedCalls()
        assert not self.inner.made
        return explain(caught.value)


OK = b"HTTP/1.1 200 Connection established\r\n\r\n"
NO_TUNNEL = "the proxy proxy.test:3128 did not open a tunnel to target.test:443: "


@pytest.mark.parametrize(
    ("host", "shown"), [("target.test", b"target.test:443"), ("2001:db8::1", b"[2001:db8::1]:443")]
)
def test_what_is_asked(host: str, shown: bytes) -> None:
    line = Line(host=host)
    head = line.transport.value()
    assert re.fullmatch(
        rb"CONNECT %b HTTP/1\.1\r\nHost: %b\r\nUser-Agent: telemeter/[0-9.]+\r\n\r\n"
        % (re.escape(shown), re.escape(shown)),
        head,
    ), head
    line.answer(OK)
    line.end()


def test_user_and_password_are_shown_to_the_proxy() -> None:
    line = Line(Proxy("proxy.test", 3128, authorization=BASIC))
    assert b"\r\nProxy-Authorization: " + BASIC + b"\r\n" in line.transport.value()
    line.transport.clear()
    line.answer(OK)
    line.end().send(b"through the tunnel")
    assert line.transport.value() == b"through the tunnel"


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 204 Fine\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_LIMIT - 24) + b"\r\n\r\n",
    ],
)
def test_an_open_tunnel(head: bytes) -> None:
    for pieces in ([head], [head[i : i + 1] for i in range(len(head))][-300:]):
        line = Line()
        line.answer(head[: len(head) - sum(map(len, pieces))], *pieces)
        end = line.end()
        assert end.received == b""
        line.answer(b"through ", b"the tunnel")
        assert end.received == b"through the tunnel"


def test_what_comes_behind_the_head_comes_through_the_tunnel() -> None:
    line = Line()
    line.answer(OK + b"early, ", b"late")
    assert line.end().received == b"early, late"


def test_the_end_of_a_tunnel() -> None:
    line = Line()
    line.answer(OK)
    end = line.end()
    line.protocol.connectionLost(Failure(ConnectionDone()))
    assert isinstance(end.lost, ConnectionDone)
    line.answer(b"too late")
    assert end.received == b""


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, ": check the user and password in https_proxy"),
        (407, ": check the user and password in https_proxy"),
        (403, ": its rules do not allow this"),
        (500, ": perhaps it cannot connect there"),
        (502, ": perhaps it cannot connect there"),
        (101, ""),
        (301, ""),
        (400, ""),
        (404, ""),
        (599, ""),
    ],
)
def test_a_refusal(status: int, hint: str) -> None:
    line = Line(Proxy("proxy.test", 3128, variable="https_proxy", authorization=BASIC))
    line.answer(b"HTTP/1.1 %d No secret\r\nContent-Length: 3\r\n\r\nwhy" % status, b"more")
    assert line.refusal() == (
        f"the proxy proxy.test:3128 refused CONNECT to target.test:443 with status {status}{hint}"
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"H2TP/1.1 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\r\n\r\n" + OK,
        b" " + OK,
        b"x",
    ],
)
def test_garbage(answer: bytes) -> None:
    line = Line()
    line.answer(*(answer[i : i + 1] for i in range(len(answer))))
    assert line.refusal() == NO_TUNNEL + "its answer is not HTTP/1"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 \r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 200\nOK\r\n\r\n",
        b"HTTP/1.1\r\n200 OK\r\n\r\n",
    ],
)
def test_a_malformed_status_line(answer: bytes) -> None:
    line = Line()
    line.answer(answer)
    assert line.refusal() == NO_TUNNEL + "its answer has a malformed status line"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_LIMIT],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_LIMIT - 23) + b"\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n"] * HEAD_LIMIT,
        # Interim answers do not begin it anew.
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * HEAD_LIMIT,
    ],
)
def test_an_answer_that_is_too_long(pieces: list[bytes]) -> None:
    line = Line()
    line.answer(*pieces)
    assert line.refusal() == NO_TUNNEL + "the head of its answer is over 16384 bytes"


def test_a_proxy_that_is_too_slow() -> None:
    line = Line()
    line.clock.advance(SECONDS - 0.1)
    line.answer(OK[:-1])
    assert not line.transport.disconnected
    line.clock.advance(0.1)
    assert line.refusal() == NO_TUNNEL + "no answer in 7 seconds"
    line.protocol.dataReceived(OK[-1:])
    line.protocol.connectionLost(Failure(ConnectionDone()))


def test_somebody_does_not_wait_so_long() -> None:
    line = Line()
    line.opened.addTimeout(5, line.clock)
    line.clock.advance(5)
    assert line.refusal() == NO_TUNNEL + "no answer in time"


@pytest.mark.parametrize("pieces", [[], [OK[:-1]]])
def test_a_proxy_that_hangs_up(pieces: list[bytes]) -> None:
    line = Line()
    line.answer(*pieces)
    line.protocol.connectionLost(Failure(ConnectionDone()))
    line.transport.abortConnection()
    assert line.refusal() == NO_TUNNEL + "it closed the connection instead of an answer"


def test_nothing_for_the_tunnel() -> None:
    class Nothing(Factory):
        def buildProtocol(self, addr: object) -> None:
            return None

    line = Line(inner=Nothing())
    line.answer(OK)
    with pytest.raises(NoProtocol):
        result_of(line.opened)
    assert line.transport.disconnected


# --- Agents ---------------------------------------------------------------------------------------

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
        end.send(OK)


class Requests:
    """An agent in a network in memory, with a proxy for http and one for https."""

    def __init__(self, environ: dict[str, str], *, pool: bool = False) -> None:
        self.network = Network()
        self.pool: HTTPConnectionPool | None = make_pool(self.network) if pool else None
        self.agent: IAgent = make_agent(
            self.network,
            "test",
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
        b"X: y",
    ]


def test_a_proxy_without_password() -> None:
    requests = Requests({"HTTP_PROXY": "http-proxy.test:3128"})
    assert requests.get("http://target.test:8080/") == b"ok"
    (end,) = requests.http_proxy.made
    assert b"Proxy-Authorization" not in end.received
    assert b"\r\nHost: target.test:8080\r\n" in end.received


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
    (end,) = requests.secure.made
    lines = end.received.split(b"\r\n")
    assert lines[0] == b"GET /a?b=c HTTP/1.1"
    assert sorted(lines[1:-2]) == [b"Connection: close", b"Host: target.test", b"X: y"]


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
