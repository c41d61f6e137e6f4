"""Whatever bytes come over connections: no fault of ours, nothing left behind, nothing mixed up."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.web.iweb import IRequest

from telemeter.web.site.admission import admit
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from tests.fakes import Wire, take_turns

TARGETS = [
    *(b"/echo?%s", b"/body", b"/body?x", b"//echo", b"/%65cho?%s", b"http://x/echo?%s", b"*", b"/"),
    *(b"/\xff", b"/nothing", b"", b"/a b"),
]
HEADERS = [
    *(b"Host: x", b"Host: y", b"host : x", b"Content-Length: 3", b"Content-Length: 0"),
    *(b"Content-Length: 4, 3", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Content-Length:3", b"Content-Length: +3", b"Content-Length: 0x3", b"Content-Length: "),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip"),
    *(b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: \tCHUNKED", b"TE: trailers"),
    *(
        b" folded",
        b"\tfolded",
        b"X: a\x00b",
        b"X: \xff",
        b"no colon",
        b": empty",
        b"X" * 300 + b":",
    ),
    *(b"Expect: 100-continue", b"Connection: close", b"Connection: keep-alive", b"Upgrade: h2c"),
]
BODIES = [
    *(b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"),
    *(b"3\nabc\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"3\r\nabcX\r\n", b"\x00", b"a" * 5000),
]
ENDS = [b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""]
VERSIONS = [b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b" http/1.1", b""]
METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"get", b"PRI", b"G\x00T", b""]

#: Method, target, version, headers with their ends, what ends them, and what comes behind.
Head: TypeAlias = tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes, list[bytes]]
#: Requests, where they are cut, and whether the sender vanishes.
Sent: TypeAlias = tuple[list[Head], list[float], bool]

lines = st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(ENDS)), max_size=6)
heads = st.tuples(
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS),
    st.sampled_from(VERSIONS),
    lines,
    st.sampled_from(ENDS),
    st.lists(st.sampled_from(BODIES), max_size=3),
)
cuts = st.lists(st.floats(0, 1), max_size=6)
connections = st.tuples(st.lists(heads, min_size=1, max_size=4), cuts, st.booleans())


class Body(BoundedBody):
    """Takes a little."""

    def too_large(self, size: int) -> Refused:
        return Refused(413, "too large")


def gate(request: IRequest, length: int | None) -> Body:
    body = Body(1000)
    body.expect(length)
    return body


async def take(request: IRequest) -> bytes:
    return b"%d bytes" % len(admit(request, gate).take_body())


def echo(request: IRequest) -> bytes:
    query: bytes = request.uri.partition(b"?")[2]
    return b"<" + query + b">"


def make(clock: Clock) -> Site:
    routes = [Route("/echo", echo, ("GET", "HEAD", "POST"))]
    return make_site([*routes, Route("/body", take, ("POST",), "body", gate)], clock)


def written(
    requests: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes, list[bytes]]],
    mark: bytes,
) -> bytes:
    data = b""
    for method, target, version, headers, end, bodies in requests:
        where = target.replace(b"%s", mark)
        head = b"".join(line + stop for line, stop in headers)
        data += method + b" " + where + version + b"\r\n" + head + end + b"".join(bodies)
    return data


@settings(max_examples=300)
@given(st.lists(connections, min_size=1, max_size=3))
def test_whatever_comes(sent: list[Sent]) -> None:
    clock = Clock()
    site = make(clock)
    wires = [Wire(site) for _ in sent]
    for number, (wire, (requests, where, _)) in enumerate(zip(wires, sent, strict=True)):
        data = written(requests, b"mark%d" % number)
        at = sorted({0, len(data), *(int(each * len(data)) for each in where)})
        for start, end in pairwise(at):
            wire.deliver(data[start:end])
        take_turns(clock)
    for number, (wire, (_, _, vanishes)) in enumerate(zip(wires, sent, strict=True)):
        out = wire.written
        statuses = [
            int(line.split()[1])
            for line in out.replace(b"\r\n", b"\n").split(b"\n")
            if line.startswith(b"HTTP/1.1 ")
        ]
        assert all(status < 500 for status in statuses)
        marks = [b"<mark%d" % other for other in range(len(sent)) if other != number]
        assert not any(mark in out for mark in marks)
        if vanishes:
            wire.vanish()
    clock.advance(200)  # what was left open has had its time
    for wire, (_, _, vanishes) in zip(wires, sent, strict=True):
        if not vanishes:
            wire.close()
    take_turns(clock)
    assert (site.active, site.channels, len(site.connections)) == (set(), set(), 0)
    assert clock.getDelayedCalls() == []
