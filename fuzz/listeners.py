"""Targets of what comes over connections to us: HTTP, and what requests ask for."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote_from_bytes, urlsplit

from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest

from fuzz.target import Target, head_and_rest
from telemeter.fleet.record import FleetRecord
from telemeter.samples.family import decode_families
from telemeter.samples.whitelist import Whitelist
from telemeter.store.store import Store
from telemeter.web.federate import federate_route
from telemeter.web.fleet_api import CLUSTERS, FleetApi
from telemeter.web.settings import OperatorSettings
from telemeter.web.site.admission import admit
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.guard import Guard
from telemeter.web.site.paths import clean, moved
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from tests.fakes import NOW_MS, FakeWall, Wire, clock_at, moment_at, parse_answers, take_turns
from tests.fleet.test_record import attempt
from tests.store.stored import labels_of, settle, written

#: What may be in a query as it is; the rest would end the line, which is another target's matter.
_IN_QUERY: Final = "".join(chr(each) for each in range(0x21, 0x7F) if chr(each) not in "#")


# --- Requests -------------------------------------------------------------------------------------


class _Body(BoundedBody):
    """A body that is bounded."""

    def too_large(self, size: int) -> Refused:
        return Refused(413, "too large")


def _gate(request: IRequest, length: int | None) -> _Body:
    body = _Body(1000)
    body.expect(length)
    return body


async def _take(request: IRequest) -> bytes:
    return b"%d bytes" % len(admit(request, _gate).take_body())


def _echo(request: IRequest) -> bytes:
    query: bytes = request.uri.partition(b"?")[2]
    return b"<" + query + b">"


def run_site(data: bytes) -> None:
    """Whatever bytes come, cut anywhere, no fault is ours, and nothing is left behind."""
    size, sent = head_and_rest(data)
    clock = clock_at()
    routes = [
        Route("/echo", _echo, ("GET", "HEAD", "POST")),
        Route("/body", _take, ("POST",), "body", _gate),
    ]
    site = make_site(routes, clock)
    wire = Wire(site)
    piece = size % 64 + 1 if size & 64 else len(sent) + 1
    for at in range(0, len(sent), piece):
        wire.deliver(sent[at : at + piece])
        if size & 128:
            take_turns(clock)
    take_turns(clock)
    out = wire.written
    statuses = [int(each) for each in re.findall(rb"(?:^|\n)HTTP/1\.1 (\d+) ", out)]
    assert all(status < 500 for status in statuses)
    assert len(out) < 4000 + 2 * len(sent) + 500 * len(sent) / 16
    if b"HEAD" not in sent and b"100-continue" not in sent.lower():
        parse_answers(out)
    if not size & 32:
        clock.advance(200)
    wire.close()
    take_turns(clock)
    clock.advance(200)
    take_turns(clock)
    assert (site.active, site.channels, len(site.connections)) == (set(), set(), 0)
    assert clock.getDelayedCalls() == []


def run_path(data: bytes) -> None:
    """A path is clean after one time, and its redirect stays on this server."""
    path, _, query = data.partition(b"\0")
    cleaned = clean(b"/" + path)
    assert clean(cleaned) == cleaned
    assert cleaned.startswith(b"/") and not cleaned.startswith(b"//")
    assert not {b"", b".", b".."} & set(cleaned.strip(b"/").split(b"/")) or cleaned == b"/"
    location = moved(cleaned, b"/" + path + b"?" + query).headers["Location"]
    assert location.isascii() and location.isprintable() and " " not in location
    parts = urlsplit(location)
    assert not parts.scheme and not parts.netloc and not location.startswith(("//", "/\\"))


class _Asked:
    """As much of a request as the guard looks at."""

    def __init__(self, method: bytes, host: bytes, origin: bytes, token: bytes) -> None:
        self.method = method
        self.requestHeaders = Headers({b"Host": [host], b"Authorization": [token]})
        if origin:
            self.requestHeaders.setRawHeaders(b"Origin", [origin])


_TOKEN: Final = "token"
_GUARD: Final = Guard(OperatorSettings(frozenset(("given",)), _TOKEN), lambda: ("machine",))
_GUARDED: Final = Route("/figures", _echo)


def run_guard(data: bytes) -> None:
    """Only who is let in gets in: by the name that a browser would show, and by the token."""
    kind, rest = head_and_rest(data)
    host, origin, token = [*rest.split(b"\0", 2), b"", b""][:3]
    asked: Any = _Asked(b"POST" if kind & 1 else b"GET", host, origin, token)
    try:
        _GUARD.check(asked, _GUARDED)
    except Refused as error:
        assert error.status in (401, 403)
        return
    assert token[:6].lower() == b"bearer" and token.split()[-1] == _TOKEN.encode()
    try:
        name = urlsplit(f"http://{host.decode('latin-1').strip()}").hostname or ""
    except ValueError:
        return  # no browser goes there
    assert name.rstrip(".") in ("", "localhost", "given", "machine") or _is_address(
        name.rstrip(".")
    )


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


# --- Queries --------------------------------------------------------------------------------------


class _Asking:
    """A site that is asked for paths."""

    def __init__(self, site: Site, clock: Clock) -> None:
        self._site = site
        self._clock = clock

    def ask(self, target: str, accept: str = "") -> tuple[int, bytes]:
        """Return the status and the body."""
        wire = Wire(self._site)
        head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        wire.send(head.encode() + (f"Accept: {accept}\r\n" if accept else "").encode() + b"\r\n")
        (answer,) = wire.answers
        wire.close()
        take_turns(self._clock)
        return answer.status, answer.body


def _fleet() -> _Asking:
    clock = clock_at()
    record = FleetRecord(100, moment_at())
    for at, name in enumerate(("a", "b/c", "é", "<x>", "", "d" * 100)):
        record.record(attempt(name, at, (200, 400, 502)[at % 3]))
    api = FleetApi(record, clock, FakeWall(clock), Whitelist)
    return _Asking(make_site(api.routes(), clock), clock)


def _store() -> _Asking:
    clock = Clock()
    clock.advance(clock_at().seconds())
    store = Store(clock, 1e12, 1000)
    for cluster in ("c", "d"):
        names = ("up", "go.x", "go_x", "go-x", "é", "h_bucket")
        samples = {
            labels_of(name, **{"_id": cluster, "a.b": "x", "job": '\n"'}): (1.5, NOW_MS)
            for name in names
        }
        settle(store.forward(cluster, written(samples), len(samples)), clock)
    return _Asking(make_site([federate_route(store, clock)], clock), clock)


_FLEET: Final = _fleet()
_STORE: Final = _store()


def run_fleet_query(data: bytes) -> None:
    """The API of the fleet answers in JSON, or says what is wrong with the question."""
    kind, rest = head_and_rest(data)
    query = quote_from_bytes(rest, safe=_IN_QUERY)
    if kind & 1:
        status, body = _FLEET.ask(f"{CLUSTERS}/{query}")
        # A path that is not clean is another one, and one without a cluster is no path.
        assert status in (200, 307, 400, 404, 414)
    else:
        status, body = _FLEET.ask(f"{CLUSTERS}?{query}")
        assert status in (200, 400, 414)
    assert len(body) < 20_000
    if status == 200:
        assert body.isascii()
        json.loads(body, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def run_federate_query(data: bytes) -> None:
    """What is federated can be read by who asked for it; what is not understood is refused."""
    rest, _, accept = data.partition(b"\0")
    query = quote_from_bytes(rest, safe=_IN_QUERY)
    plain = "".join(each for each in accept.decode("latin-1") if "\x20" <= each < "\x7f")
    status, body = _STORE.ask(f"/federate?{query}", plain.strip())
    assert status in (200, 400, 414)
    assert len(body) < 20_000
    if status == 200 and plain.startswith("application/vnd.google.protobuf;") and "," not in plain:
        try:
            body.decode()
        except UnicodeDecodeError:
            decode_families(body)
    elif status == 200 and not plain:
        text = body.decode()
        assert not text or text.startswith("# TYPE ")


TARGETS: Final = (
    Target(
        "site",
        run_site,
        lambda: [
            b"\0GET /echo?a HTTP/1.1\r\nHost: x\r\n\r\nGET /echo?b HTTP/1.0\r\n\r\n",
            b"\xc3POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x45POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n",
            b"\x20POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\n\r\n",
            b"\x80HEAD //echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
        (
            *(b"GET ", b"POST ", b"/body", b"/echo?", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n"),
            *(b"Host: x\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n"),
            *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n"),
            *(
                b"http://x/echo",
                b"%2f",
                b"\0",
                b"\n",
                b" folded",
                b"1\r\na\r\n" * 20,
                b"X: y\r\n" * 60,
            ),
        ),
    ),
    Target(
        "path",
        run_path,
        lambda: [b"a//b/../c/./\0x=y", b"/upload", b"..", b"\\evil\0\r\n"],
        (b"/", b"..", b".", b"//", b"\\", b"%2f", b"\0", b"@", b"http:"),
        1024,
    ),
    Target(
        "guard",
        run_guard,
        lambda: [
            b"\0localhost:9003\0\0Bearer token",
            b"\1[::1]:80\0http://[::1]:80\0bearer token",
            b"\1given\0https://given\0Bearer  token ",
            b"\0127.0.0.1\0\0Bearer token",
            b"\0evil.example\0\0Bearer token",
        ],
        (b"localhost", b"given", b"machine", b"127.0.0.1", b"[::1]", b":", b"@", b".", b"\0", b"%"),
        512,
    ),
    Target(
        "fleet-query",
        run_fleet_query,
        lambda: [
            b"\0page=1&limit=50&sort=state&order=desc&q=a&state=ok,failing",
            b"\0q=%C3%A9&state=&sort=cluster",
            b"\1a?series=10",
            b"\1?id=%FF",
            b"\1b%2Fc",
        ],
        (
            *(b"page=", b"limit=", b"sort=", b"order=", b"q=", b"state=", b"series=", b"id=", b"&"),
            *(b"%FF", b"%00", b"+", b";", b"cluster", b"asc", b"999999999", b"active", b"silent"),
        ),
        5000,
    ),
    Target(
        "federate-query",
        run_federate_query,
        lambda: [
            b'match[]=up&match[]={__name__=~"go.*"}',
            b"match%5B%5D=%7B__name__=~%22.%2B%22%7D\0application/openmetrics-text;version=1.0.0",
            b'match[]={"a.b"="x"}\0application/vnd.google.protobuf;'
            b"proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=values",
            b"match[]=up[1m]\0text/plain;version=1.0.0;escaping=dots",
        ],
        (
            *(
                b"match[]=",
                b"&",
                b"%22",
                b"%FF",
                b'{__name__=~".+"}',
                b"escaping=",
                b"dots",
                b"values",
            ),
            *(b"\0", b"application/openmetrics-text", b"text/plain;version=1.0.0;", b"allow-utf-8"),
        ),
        5000,
    ),
)
