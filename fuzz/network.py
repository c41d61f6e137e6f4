"""Targets of what other servers answer, and of what stands in front of a connection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from fuzz.target import Target, head_and_rest
from telemeter.auth.memcached import _Connection
from telemeter.loop.clocks import Wall
from telemeter.net.errors import ProxyError
from telemeter.net.proxy import Proxy
from telemeter.net.quoted import quote_answer
from telemeter.net.redirect import RedirectError, redirect_target
from telemeter.net.retry_after import retry_after, retry_after_seconds
from telemeter.net.tunnel import HEAD_LIMIT, _Tunnel
from telemeter.net.url import (
    DEFAULT_PORTS,
    add_query,
    check_http_url,
    default_path,
    extend_path,
    replace_path,
    shown,
    split_credentials,
    to_request,
)
from telemeter.web.site.proxied import MalformedHeaderError, parse_header
from tests.fakes import NOW, FakeTransport, clock_at

_CLOSED: Final = Failure(ConnectionDone())


# --- Headers of answers ---------------------------------------------------------------------------


def run_retry_after(data: bytes) -> None:
    """Whatever a server says, the next try is at a time that comes, or left to us."""
    value, _, date = data.partition(b"\0")
    headers = Headers({b"Retry-After": [value], b"Date": [date]})
    text, seconds = retry_after(headers), retry_after_seconds(headers, Wall(float(NOW)))
    assert (text is None) == (seconds is None)
    if text is not None and seconds is not None:
        assert text.isascii() and text.isprintable()
        assert math.isfinite(seconds) and seconds >= 0


@dataclass(frozen=True)
class _Request:
    headers: Headers


@dataclass(frozen=True)
class _Response:
    request: _Request


def run_quoted(data: bytes) -> None:
    """What is quoted of an answer is short, and holds nothing of what was sent as a secret."""
    secret, _, body = data.partition(b"\0")
    if not secret.isascii():
        return  # no such secret is sent
    name = b"Proxy-Authorization" if secret[:1] == b"P" else b"Authorization"
    headers = Headers({name: [secret]})
    response = cast(IResponse, _Response(_Request(headers)))
    quoted = quote_answer(response, body)
    assert len(quoted) <= 500
    # What stands for a secret may be a part of another one.
    (sent,) = headers.getRawHeaders(name.decode(), [""])
    credentials = sent.partition(" ")[2]
    assert not credentials or "." in credentials or credentials not in quoted


# --- URLs -----------------------------------------------------------------------------------------

_BASES: Final = (
    "https://upstream.example/write",
    "http://user:password@10.0.0.1:9009/api/v1/push?tenant=1",
    "https://[::1]:8443",
)


def run_redirect(data: bytes) -> None:
    """What is followed is a URL, and where secrets go to is where they were meant for."""
    kind, rest = head_and_rest(data)
    base = _BASES[kind % 3]
    status = (301, 302, 303, 307, 308)[kind // 3 % 5]
    confidential, method = bool(kind & 128), "GET" if kind & 64 else "POST"
    locations = rest.split(b"\0")
    try:
        target = redirect_target(method, base, status, locations, confidential=confidential)
    except RedirectError as error:
        text = str(error)
        assert text.isascii() and text.isprintable() and len(text) < 1000
        assert "password" not in text or b"password" in rest
        return
    assert check_http_url(target) == target
    assert "@" not in urlsplit(target).netloc
    assert not confidential or _asked(target) == _asked(to_request(base))


def run_url(data: bytes) -> None:
    """A URL that is taken can be asked for, where it says, and is shown without its secrets."""
    text = data.decode("latin-1")
    try:
        url = check_http_url(text)
    except ValueError:
        return
    asked, authorization = split_credentials(url)
    assert asked == to_request(url) == to_request(asked)
    assert check_http_url(asked) == asked
    parts = urlsplit(url)
    scheme, host, port = _asked(asked)
    assert scheme == parts.scheme
    assert host == parts.hostname
    assert port == (parts.port or DEFAULT_PORTS[parts.scheme])
    assert (authorization is None) == ("@" not in parts.netloc)
    assert authorization is None or (authorization.isascii() and authorization.isprintable())
    assert "@" not in urlsplit(shown(url)).netloc
    assert not urlsplit(shown(url)).query
    for other in (
        extend_path(url, "x"),
        default_path(url, "/x"),
        replace_path(url, "/x"),
        add_query(url, [("match[]", '{a="é"}')]),
    ):
        assert check_http_url(other) == other
        assert _asked(to_request(other)) == _asked(asked)


def _asked(url: str) -> tuple[str, str, int]:
    """Return what Twisted connects to."""
    uri = URI.fromBytes(url.encode("ascii"))
    return uri.scheme.decode(), uri.host.decode().lower(), uri.port


# --- Connections ----------------------------------------------------------------------------------


def run_proxy_header(data: bytes) -> None:
    """A header says the same as soon as it is there, and nothing else before."""
    try:
        header = parse_header(data)
    except MalformedHeaderError as error:
        text = str(error)
        assert text.isascii() and text.isprintable() and len(text) < 1000
        return
    if header is None:
        assert len(data) < 65536 + 16
        return
    assert 0 < header.size <= len(data)
    assert parse_header(data[: header.size]) == header
    assert parse_header(data[: header.size - 1]) is None


class _Inner(Protocol):
    """What is at this end of a tunnel."""

    def __init__(self) -> None:
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


def run_tunnel(data: bytes) -> None:
    """A proxy opens a tunnel, or is hung up on; what is behind its head comes through."""
    size, answer = head_and_rest(data)
    opened = [_through_tunnel(answer, each) for each in (size % 32 + 1, len(answer) + 1)]
    assert opened[0] == opened[1]
    assert opened[0] is None or answer.endswith(opened[0])


def _through_tunnel(answer: bytes, size: int) -> bytes | None:
    """Return what comes through a tunnel; None: it is not opened."""
    clock, inner, transport = clock_at(), _Inner(), FakeTransport()
    tunnel = _Tunnel(
        Proxy("proxy", 3128), "h:443", Factory.forProtocol(lambda: inner), clock, "", 5
    )
    results: list[Any] = []
    tunnel.opened.addBoth(results.append)
    tunnel.makeConnection(transport)
    for at in range(0, len(answer), size):
        if transport.disconnected:
            break
        tunnel.dataReceived(answer[at : at + size])
        assert len(tunnel._head) <= HEAD_LIMIT + size
    tunnel.connectionLost(_CLOSED)
    (result,) = results
    assert clock.getDelayedCalls() == []
    if isinstance(result, _Inner):
        return result.received
    result.trap(ProxyError)
    return None


_KEY: Final = b"k" * 8


def run_memcached(data: bytes) -> None:
    """Every question has its end, whatever a memcached says, and no value is too large."""
    size, answers = head_and_rest(data)
    clock, transport = clock_at(), FakeTransport()
    connection: Any = _Connection(timeOut=3)
    connection.callLater = clock.callLater
    connection.makeConnection(transport)
    results: list[Any] = []
    asked: list[Deferred[Any]] = [
        connection.get(_KEY),
        connection.set(_KEY, b"value", 0, 100),
        connection.get(_KEY, True),
        connection.add(_KEY, b"value", 1, 100),
        connection.checkAndSet(_KEY, b"value", b"7", 1, 100),
        connection.get(_KEY),
    ]
    for deferred in asked:
        deferred.addBoth(results.append)
    piece = size % 64 + 1 if size else len(answers) + 1
    for at in range(0, len(answers), piece):
        if transport.disconnected:
            break
        connection.dataReceived(answers[at : at + piece])
    connection.connectionLost(_CLOSED)
    assert len(results) == len(asked)
    assert clock.getDelayedCalls() == []
    for result in results:
        if isinstance(result, tuple):
            value = result[-1]
            assert value is None or len(value) <= 64 * 1024


TARGETS: Final = (
    Target(
        "retry-after",
        run_retry_after,
        lambda: [
            b"120",
            b" 7\t\0Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 08:49:37 GMT\0Sun, 06 Nov 1994 08:49:00 GMT",
            b"Sunday, 06-Nov-94 08:49:60 GMT\0Sun Nov  6 08:49:37 1994",
        ],
        (b"0", b"9", b" GMT", b"Feb", b"23:59:60", b"0000", b"9999", b"Sunday, ", b"\0"),
        256,
    ),
    Target(
        "quoted",
        run_quoted,
        lambda: [
            b"Bearer secret\0no: Bearer secret is not known, secre",
            b"Basic dXNlcjpwYXNz\0pass user dXNlcjpwYXNz",
            b"P x\0\xff\xfe",
        ],
        (b"Bearer ", b"Basic ", b"secret", b"dXNlcjpwYXNz", b"pass", b"\0"),
        4096,
    ),
    Target(
        "redirect",
        run_redirect,
        lambda: [
            *(bytes([kind]) + b"/other?a=b#c" for kind in (9, 73, 137, 201)),
            b"\x89https://upstream.example:443/x",
            b"\x8a//10.0.0.1:9009/../x",
            b"\xd1//[::1]:8443/\xc3\xa9",
            b"\x09/a\0/a\0/b",
            b"\xc9http:x",
        ],
        (
            b"//",
            b"http:",
            b"https://",
            b"@",
            b"\\",
            b":",
            b"%",
            b"[",
            b"]",
            b"..",
            b"#",
            b"?",
            b"\t",
        ),
        1024,
    ),
    Target(
        "url",
        run_url,
        lambda: [
            b"http://localhost:9090/path?query#fragment",
            b"https://us%20er:pass%40word@host.example/a/b/",
            b"http://[::1]:80",
            b"https://host:",
            b"HTTPS://HOST.EXAMPLE/%zz",
        ],
        (
            b"http://",
            b"https://",
            b"@",
            b"\\",
            b":",
            b"%",
            b"[::1]",
            b"..",
            b"#",
            b"?",
            b";",
            b"//",
        ),
        1024,
    ),
    Target(
        "proxy-header",
        run_proxy_header,
        lambda: [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\nGET",
            b"PROXY TCP6 2001:db8::1 ::1 1000 443\r\n",
            b"PROXY UNKNOWN something\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(range(12)),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x26" + bytes(range(38)),
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        ],
        (b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"::ffff:1.2.3.4", b"65535", b"%eth0"),
        512,
    ),
    Target(
        "tunnel",
        run_tunnel,
        lambda: [
            b"\x03HTTP/1.1 200 OK\r\n\r\nthrough",
            b"\x1fHTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 299\r\nX: y\r\n\r\n\x16\x03",
            b"\0HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            b"\0HTTP/1.1 101 x\r\n\r\n",
        ],
        (b"HTTP/1.1 ", b"HTTP/1.0 ", b"200", b"100", b"\r\n", b"\r\n\r\n", b"\n", b"HTTP/2 "),
        40_000,
    ),
    Target(
        "memcached",
        run_memcached,
        lambda: [
            b"\0VALUE kkkkkkkk 0 3\r\nabc\r\nEND\r\nSTORED\r\n"
            b"VALUE kkkkkkkk 1 2 77\r\nab\r\nEND\r\nNOT_STORED\r\nEXISTS\r\nEND\r\n",
            b"\x05END\r\nNOT_STORED\r\nEND\r\nSTORED\r\nNOT_FOUND\r\nEND\r\n",
            b"\x01ERROR\r\nCLIENT_ERROR x\r\nSERVER_ERROR out of memory\r\nVERSION 1\r\n",
            b"\x02STAT a b\r\nOK\r\nDELETED\r\n12\r\n",
        ],
        (
            *(b"VALUE kkkkkkkk 0 ", b"END\r\n", b"STORED\r\n", b"NOT_STORED\r\n", b"EXISTS\r\n"),
            *(
                b"NOT_FOUND\r\n",
                b"ERROR\r\n",
                b"CLIENT_ERROR ",
                b"SERVER_ERROR ",
                b"STAT ",
                b"OK\r\n",
            ),
            *(b"VERSION ", b"65536", b"65537", b"-1", b"99999999999999999999", b"\r\n"),
        ),
    ),
)
