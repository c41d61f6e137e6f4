"""The site, driven byte by byte: what a request line means, and connections that live on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from zope.interface import alsoProvides

from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.net.tls import server_options
from telemeter.observe.log import logfmt
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from tests.fakes import (
    FakeTransport,
    Growth,
    Log,
    Reply,
    Wire,
    ask,
    chunk,
    head_of,
    parse_answers,
    request_of,
    take_turns,
    untyped,
)
from tests.net.network import Ends, Pipe
from tests.web.server import Server, agent_headers, up


class Toy:
    """A site with some paths that show what they see.

    Attributes:
        seen: method, path and URI of the requests that were handled.
        slow: what the answers of /slow wait for.
        takes: how many seconds it takes to answer /plain.
    """

    def __init__(self, clock: Clock, **more: Any) -> None:
        self.takes = 0.0
        self._clock = clock
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self.slow: list[Deferred[bytes]] = []
        self.site: Site = make_site(
            [
                Route("/", self.index),
                Route("/plain", self.plain, ("GET", "HEAD", "POST"), "plain"),
                Route("/slow", self.wait, ("GET", "POST"), "slow", timed=False),
                Route("/broken", self.breaks, name="broken"),
                Route("/refused", self.refuses, name="refused"),
                Route("/a/b", self.plain),
                Route("/branch", self.plain, branch=True),
            ],
            clock,
            **more,
        )

    def index(self, request: IRequest) -> bytes:
        return b"index"

    def plain(self, request: IRequest) -> bytes:
        self.seen.append((request.method, request.path, request.uri))
        self._clock.rightNow += self.takes
        return b"plain"

    def wait(self, request: IRequest) -> Deferred[bytes]:
        self.slow.append(Deferred())
        return self.slow[-1]

    def breaks(self, request: IRequest) -> bytes:
        raise KeyError("secret details")

    def refuses(self, request: IRequest) -> bytes:
        raise Refused(418, "short and stout", {"X-Pot": "tea"})


@pytest.fixture
def toy(clock: Clock) -> Toy:
    return Toy(clock)


@pytest.fixture
def expect_errors(log: Log) -> Log:
    log.errors_are_fine = True
    return log


def test_http_2_is_not_offered(toy: Toy, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted offers it wherever `h2` is installed, but these channels do not speak it."""
    monkeypatch.setattr("twisted.web.http.H2_ENABLED", True)
    ca = trustme.CA()
    own = ca.issue_cert("x.test").private_key_and_cert_chain_pem.bytes()
    trust = trustRootFromCertificates([Certificate.loadPEM(ca.cert_pem.bytes())])
    offer = optionsForClientTLS("x.test", trust, acceptableProtocols=[b"h2", b"http/1.1"])
    ends = Ends()
    pipe = Pipe(
        TLSMemoryBIOFactory(offer, True, ends, clock=clock).buildProtocol(None),
        TLSMemoryBIOFactory(server_options(own, own), False, toy.site, clock).buildProtocol(None),
    )
    ends.made[0].send(b"GET /plain HTTP/1.1\r\nHost: x.test\r\n\r\n")
    moved = True
    while moved:
        clock.advance(0)
        moved = pipe.carry()
    tls: Any = ends.made[0].transport
    assert tls.negotiatedProtocol == b"http/1.1"
    assert ends.made[0].received.startswith(b"HTTP/1.1 200 ")
    ends.made[0].hang_up()
    while pipe.carry():
        clock.advance(0)
    assert not toy.site.channels


# --- Paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/plain", 200),
        ("/plain?x=y&x=%ff", 200),
        ("/plain?", 200),
        ("/pl%61in", 200),
        ("/%70%6c%61%69%6e", 200),
        ("/a/b", 200),
        ("/a%2Fb", 200),
        ("http://elsewhere.test/plain", 200),
        ("http://elsewhere.test:1/plain?x=http://y/", 200),
        ("https://user@elsewhere.test/plain", 200),
        ("/", 200),
        ("http://elsewhere.test", 200),
        ("http://elsewhere.test/", 200),
        ("/?x", 200),
        ("/plain/", 404),
        ("/plain//", 404),
        ("/PLAIN", 404),
        ("/plain%00", 404),
        ("/plain%3Fx=y", 404),
        ("/plain;x=y", 404),
        ("/plain%20", 404),
        ("/%ff", 404),
        ("/%", 404),
        ("/%zz", 404),
        ("plain", 404),
        ("*", 404),
        ("http:/plain", 404),
        ("../plain", 404),
        ("x/../plain", 404),
        ("//nowhere", 404),
        ("//plain/", 404),
        ("/plain/./", 404),
        ("/x/../plain/x", 404),
        ("//plain;x=y", 404),
        ("http://elsewhere.test//nowhere", 404),
        ("/http://elsewhere.test/plain", 404),
        ("/a", 404),
        ("/a/b/c", 404),
        ("/favicon.ico", 404),
        ("/" + "x" * 8000, 404),
    ],
)
@pytest.mark.parametrize("with_body", [False, True])
def test_what_a_path_leads_to(
    toy: Toy, target: str, status: int, with_body: bool, log: Log
) -> None:
    answer = ask(toy.site, "GET", target, body=b"body" if with_body else None)
    assert answer.status == status
    if status == 404:
        assert answer.text == "not found\n"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert [event["status"] for event in log.requests()] == [status]


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//plain", "/plain"),
        ("///plain", "/plain"),
        ("/./plain", "/plain"),
        ("/plain/.", "/plain"),
        ("/x/../plain", "/plain"),
        ("/../../plain", "/plain"),
        ("/plain/../x/..//plain", "/plain"),
        ("//a//b", "/a/b"),
        ("//", "/"),
        ("/.", "/"),
        ("/plain/..", "/"),
        ("//?x", "/?x"),
        ("//plain?", "/plain?"),
        ("//plain?id=a%20b&x=//y?z", "/plain?id=a%20b&x=//y?z"),
        ("//pl%61in", "/plain"),
        ("/%2Fplain", "/plain"),
        ("/%2e%2E/plain", "/plain"),
        ("/x%2f%2e./plain", "/plain"),
        ("//evil.test/..//plain", "/plain"),
        ("/\\evil.test/../plain", "/plain"),
        ("//evil.test%0d%0aX:y/../plain", "/plain"),
        ("http://elsewhere.test//plain?x", "/plain?x"),
        ("https://user@elsewhere.test/x/../plain", "/plain"),
        ("//branch/a%20%0D%0Ab%2fc//d", "/branch/a%20%0D%0Ab/c/d"),
        ("/x/..//branch/\\evil.test", "/branch/%5Cevil.test"),
        ("//branch//evil.test", "/branch/evil.test"),
    ],
)
@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("HEAD", None), ("POST", b"body"), ("DELETE", b"")]
)
def test_a_path_that_is_known_once_it_is_clean(
    toy: Toy, target: str, location: str, method: str, body: bytes | None
) -> None:
    """The method is not looked at yet, and nothing is handled."""
    answer = ask(toy.site, method, target, body=body)
    assert (answer.status, answer.headers["location"]) == (307, location)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    if method != "HEAD":
        assert answer.text == f"the path is {location.partition('?')[0]}\n"
    assert toy.seen == []


def test_what_below_a_branch_is_not_clean_is_the_branchs(toy: Toy) -> None:
    for target in ("/branch//x", "/branch/../plain", "/branch/%2e%2e"):
        assert ask(toy.site, "GET", target).status == 200


def test_a_redirect_is_counted_where_it_leads_and_goes_out_before_the_body(toy: Toy) -> None:
    growth = Growth()
    wire = Wire(toy.site)
    wire.send(head_of("POST", "//plain", {"Content-Length": "100000000"}))
    assert wire.answer.headers["location"] == "/plain"
    assert wire.answer.headers["connection"] == "close"
    assert not wire.is_closed()  # the sender is still writing
    wire.send(bytes(17 << 20))
    assert wire.is_aborted()
    assert ask(toy.site, "GET", "//nowhere").status == 404
    assert growth.all_of("http_requests_total") == {
        frozenset({"code": "307", "handler": "plain", "method": "post"}.items()): 1
    }


def assert_rejected(wire: Wire, log: Log, status: int) -> None:
    """The last answer says why, in the log too, and the connection ends behind it."""
    answer = wire.answers[-1]
    assert answer.status == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["connection"] == "close"
    (event,) = [each for each in log if each.get("status") == status]
    assert answer.text == event["reason"] + "\n"
    assert event["peer"] == "192.0.2.7"
    assert wire.is_closed()
    # With a producer, TLS would keep the connection for as long as the other side likes.
    assert wire.transport.producer is None


@pytest.mark.parametrize(
    ("sent", "status", "limit"),
    [
        (b"GET /" + b"x" * 20_000, b"414 ", b"16384 bytes: this limit is fixed"),
        (
            b"GET /plain HTTP/1.1\r\nX: " + b"x" * 20_000,
            b"431 Request Header Fields Too Large",
            b"16384 bytes, and be 500: these limits are fixed",
        ),
        (b"GET /plain HTTP/1.1\r\nX: y\r\n\r\nGET /" + b"x" * 20_000, b"414 ", b"16384 bytes"),
    ],
)
def test_a_line_that_is_too_long_is_answered(
    toy: Toy, sent: bytes, status: bytes, limit: bytes, log: Log
) -> None:
    wire = Wire(toy.site)
    wire.send(sent)
    answer = wire.written.rpartition(b"HTTP/1.1 ")[2]
    assert answer.startswith(status)
    assert limit in answer
    assert_rejected(wire, log, int(status[:3]))
    wire.vanish()
    assert toy.site.active == set()


def test_a_status_has_its_words(toy: Toy) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/refused"))
    assert wire.written.startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")


def test_a_handler_sees_the_path_as_it_was_sent(toy: Toy) -> None:
    ask(toy.site, "GET", "http://elsewhere.test/pl%61in?x=%2F")
    assert toy.seen == [(b"GET", b"/pl%61in", b"http://elsewhere.test/pl%61in?x=%2F")]


@pytest.mark.parametrize(
    "host", ["", "x", "a.b:1", "[::1]:9003", "\u00fc", "a\tb", "x" * 4000, "http://x/", "..", "-"]
)
def test_any_host_header_does(toy: Toy, host: str) -> None:
    wire = Wire(toy.site)
    wire.send(b"GET /plain HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
    assert wire.answer.status == 200


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        (b"1.1", 0, 400),
        (b"1.1", 1, 200),
        (b"1.1", 2, 400),
        (b"1.0", 0, 200),  # as load balancers check the health of servers
        (b"1.0", 1, 200),
        (b"1.0", 2, 400),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_has_one_host(
    toy: Toy, version: bytes, hosts: int, status: int, method: bytes
) -> None:
    wire = Wire(toy.site)
    length = b"Content-Length: 1\r\n" if method == b"POST" else b""
    head = method + b" /plain HTTP/" + version + b"\r\n" + b"Host: x\r\n" * hosts + length
    wire.send(head + b"\r\n" + b"x" * len(length[:1]))
    assert wire.answer.status == status
    if status == 400:
        assert wire.answer.text == f"expected one Host header, saw {hosts}\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Transfer-Encoding": "identity"}, 400),
        ({"Transfer-Encoding": "Identity"}, 400),
        ({"Transfer-Encoding": "identity", "Content-Length": "3"}, 200),
        ({"Transfer-Encoding": "identity", "Content-Length": "0"}, 200),
    ],
)
def test_a_body_of_unknown_length_is_400(toy: Toy, headers: dict[str, str], status: int) -> None:
    """Where would it end?"""
    wire = Wire(toy.site)
    wire.send(head_of("POST", "/plain", headers) + b"abc"[: int(headers.get("Content-Length", 0))])
    assert wire.answer.status == status


# --- Methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "FOO", "get"])
@pytest.mark.parametrize("body", [None, b"body"])
def test_methods_that_a_path_does_not_take(toy: Toy, method: str, body: bytes | None) -> None:
    answer = ask(toy.site, method, "/plain", body=body)
    assert answer.status == 405
    assert sorted(answer.headers["allow"].split(", ")) == ["GET", "HEAD", "POST"]


def test_head_is_answered_without_a_body(toy: Toy) -> None:
    answer = ask(toy.site, "HEAD", "/plain")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")


@pytest.mark.parametrize("target", ["/nowhere", "/refused", "/slow"])
def test_head_is_refused_without_a_body(toy: Toy, target: str) -> None:
    answer = ask(toy.site, "HEAD", target)
    assert answer.status in (404, 405, 418)
    assert int(answer.headers["content-length"]) > 0
    assert answer.body == b""


def test_get_of_unknown_method_is_counted_as_such(toy: Toy) -> None:
    growth = Growth()
    ask(toy.site, "FOO", "/plain")
    ask(toy.site, "get", "/plain")
    assert growth.of("http_requests_total", code="405", handler="plain", method="unknown") == 2


# --- Answers --------------------------------------------------------------------------------------


def test_every_answer_has_these_headers(toy: Toy, expect_errors: Log) -> None:
    for target in ("/plain", "/nowhere", "/broken", "/refused"):
        for body in (None, b"body"):
            headers = ask(toy.site, "GET", target, body=body).headers
            assert headers["server"] == "telemeter"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-type"] == "text/plain; charset=utf-8"
            assert headers["date"].endswith(" GMT")
            assert "content-length" in headers
            assert "transfer-encoding" not in headers


def test_what_breaks_is_500_and_a_number(toy: Toy, expect_errors: Log) -> None:
    answer = ask(toy.site, "GET", "/broken")
    assert answer.status == 500
    assert "secret" not in answer.text
    (event,) = expect_errors.of("internal server error")
    assert answer.text == f"Internal server error, requestid={event['requestid']}\n"
    assert "secret details" in "".join(expect_errors.lines)


def test_a_gate_that_breaks_is_500_and_a_number(clock: Clock, expect_errors: Log) -> None:
    def gate(request: IRequest, length: int | None) -> Any:
        raise KeyError("secret details")

    site = make_site([Route("/", lambda _: b"", ("POST",), gate=gate)], clock)
    answer = ask(site, "POST", "/", body=b"body")
    assert answer.status == 500
    (event,) = expect_errors.of("internal server error")
    assert answer.text == f"Internal server error, requestid={event['requestid']}\n"


def test_a_refusal_has_its_status_reason_and_headers(toy: Toy, log: Log) -> None:
    answer = ask(toy.site, "GET", "/refused")
    assert (answer.status, answer.text) == (418, "short and stout\n")
    assert answer.headers["x-pot"] == "tea"
    (event,) = log.requests()
    assert event["reason"] == "short and stout"


# --- Connections ----------------------------------------------------------------------------------


def test_a_connection_is_kept(toy: Toy) -> None:
    wire = Wire(toy.site)
    for expected in range(1, 4):
        wire.send(request_of("GET", "/plain"))
        assert len(wire.answers) == expected
    assert not wire.is_closed()


def test_a_connection_is_kept_after_a_body_in_chunks(toy: Toy) -> None:
    wire = Wire(toy.site)
    for _ in range(2):
        wire.send(head_of("POST", "/plain", {"Transfer-Encoding": "chunked"}))
        wire.send(chunk(b"abc"), chunk(b"def"), chunk(b""))
    assert [answer.status for answer in wire.answers] == [200, 200]
    assert not wire.is_closed()


def test_a_connection_is_closed_on_request(toy: Toy) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/plain", {"Connection": "close"}))
    assert wire.answer.headers["connection"] == "close"
    assert wire.is_closed()


@pytest.mark.parametrize("target", ["/plain", "/nowhere"])
def test_http_1_0_is_answered_and_closed(toy: Toy, target: str) -> None:
    wire = Wire(toy.site)
    wire.send(b"GET " + target.encode() + b" HTTP/1.0\r\n\r\n")
    assert wire.written.startswith(b"HTTP/1.0 ")
    assert wire.answer.headers["content-length"]
    assert wire.is_closed()


def test_http_1_0_with_a_body(toy: Toy) -> None:
    wire = Wire(toy.site)
    wire.send(b"POST /plain HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody")
    assert wire.answer.status == 200
    assert wire.is_closed()


def test_pipelined_requests_are_answered_in_order(toy: Toy) -> None:
    wire = Wire(toy.site)
    wire.send(
        request_of("POST", "/plain", body=b"one")
        + request_of("GET", "/nowhere")
        + head_of("POST", "/plain", {"Transfer-Encoding": "chunked"})
        + chunk(b"two")
        + chunk(b"")
        + request_of("GET", "/")
    )
    assert [answer.status for answer in wire.answers] == [200, 404, 200, 200]
    assert wire.answers[-1].body == b"index"
    assert not wire.is_closed()


def test_pipelined_requests_wait_for_their_turn(toy: Toy, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/slow") + request_of("GET", "/slow"), request_of("GET", "/plain"))
    assert len(toy.slow) == 1
    toy.slow[0].callback(b"first")
    assert len(toy.slow) == 1
    assert wire.is_paused()
    take_turns(clock)
    assert len(toy.slow) == 2
    toy.slow[1].callback(b"second")
    take_turns(clock)
    assert [answer.body for answer in wire.answers] == [b"first", b"second", b"plain"]


def test_one_byte_at_a_time(toy: Toy) -> None:
    wire = Wire(toy.site)
    whole = head_of("POST", "/plain", {"Transfer-Encoding": "chunked"}) + chunk(b"abc") + chunk(b"")
    wire.send(*(bytes([byte]) for byte in whole + request_of("GET", "/plain")))
    assert [answer.status for answer in wire.answers] == [200, 200]


def seen_each_turn(clock: Clock, see: Callable[[], object]) -> list[object]:
    """Let the event loop go round until nothing is due, and look once in each turn."""
    seen: list[object] = []

    def look() -> None:
        if len(clock.getDelayedCalls()) > others:
            clock.callLater(0, look)
        seen.append(see())

    others = sum(each.getTime() > clock.seconds() for each in clock.getDelayedCalls())
    look()
    take_turns(clock)
    return seen


def test_a_connection_gets_one_request_in_a_turn_of_the_event_loop(toy: Toy, clock: Clock) -> None:
    first, second = Wire(toy.site), Wire(toy.site)
    for wire in (first, second):
        wire.deliver(REQUEST * 3)
    answered = seen_each_turn(clock, lambda: (len(first.answers), len(second.answers)))
    assert answered[:3] == [(1, 1), (2, 2), (3, 3)]
    assert not first.is_paused()
    assert not first.is_closed()


def test_who_does_not_wait_for_answers_cannot_make_us_hold_much(toy: Toy, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.deliver(REQUEST * 1000)
    paused = seen_each_turn(clock, wire.is_paused)
    assert paused[:999] == [True] * 999
    assert not wire.is_paused()
    assert len(wire.answers) == 1000


def test_many_who_do_not_wait_for_answers_are_not_all_held(toy: Toy, clock: Clock) -> None:
    wires = [Wire(toy.site) for _ in range(503)]
    for wire in wires:
        wire.deliver(REQUEST * 2)
    assert [len(wire.answers) for wire in wires] == [1] * 503
    assert [wire.is_closed() for wire in wires] == [False] * 500 + [True] * 3
    take_turns(clock)
    assert [len(wire.answers) for wire in wires] == [2] * 500 + [1] * 3


@pytest.mark.parametrize("end", [Wire.vanish, Wire.close])
def test_a_sender_that_is_gone_has_no_more_turns(
    toy: Toy, clock: Clock, end: Callable[[Wire], None]
) -> None:
    wire = Wire(toy.site)
    wire.deliver(REQUEST * 3)
    end(wire)
    take_turns(clock)
    assert len(toy.seen) == 1
    assert clock.getDelayedCalls() == []


def test_turns_of_many_go_on_after_some_milliseconds(toy: Toy, clock: Clock) -> None:
    """What else is due comes in between."""
    wires = [Wire(toy.site) for _ in range(3)]
    for wire in wires:
        wire.deliver(REQUEST * 2)
    toy.takes = 0.004
    answered = seen_each_turn(clock, lambda: sum(len(wire.answers) for wire in wires))
    assert answered[:3] == [3, 5, 6]


def test_who_sends_on_during_an_answer_is_paused(toy: Toy, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/slow"))
    for _ in range(3):
        wire.send(bytes(8000))
    assert wire.is_paused()
    toy.slow[0].callback(b"")
    take_turns(clock)
    assert not wire.is_paused()


REQUEST = request_of("GET", "/plain")
HALF_A_BODY = request_of("POST", "/plain", body=b"body")[:-1]
BEGUN = [b"POST /plain HTTP/1.1\r\nContent-Le", b"POST /plain HTTP/1.1\r\nH", HALF_A_BODY]


@pytest.mark.parametrize("before", [b"", REQUEST, REQUEST * 2, HALF_A_BODY + b"y"])
def test_an_idle_connection_is_closed_later_than_balancers_close_theirs(
    toy: Toy, clock: Clock, before: bytes
) -> None:
    wire = Wire(toy.site)
    clock.advance(40)
    if before:
        wire.send(before)
    clock.advance(74.9 if before else 34.9)
    assert not wire.is_closed()
    clock.advance(0.1)
    assert wire.is_closed()
    assert not wire.is_aborted()
    clock.advance(15)
    assert wire.is_aborted()


@pytest.mark.parametrize("seconds", [5.0, 1000.0])
@pytest.mark.parametrize("before", [REQUEST, HALF_A_BODY + b"y"])
def test_how_long_a_connection_may_be_idle_can_be_chosen(
    clock: Clock, before: bytes, seconds: float
) -> None:
    wire = Wire(Toy(clock, timeouts=Timeouts(idle=seconds)).site)
    wire.send(before)
    clock.advance(seconds - 0.1)
    assert not wire.is_closed()
    clock.advance(0.1)
    assert wire.is_closed()
    wire.close()


@pytest.mark.parametrize(("seconds", "bound"), [(5.0, 5.0), (1000.0, 75.0)])
def test_a_first_request_is_not_waited_for_longer_than_usual(
    clock: Clock, seconds: float, bound: float
) -> None:
    """Of a balancer's connections only those that were used wait for long."""
    wire = Wire(Toy(clock, timeouts=Timeouts(idle=seconds)).site)
    clock.advance(bound - 0.1)
    assert not wire.is_closed()
    clock.advance(0.1)
    assert wire.is_closed()
    wire.close()


@pytest.mark.parametrize("idle", [5.0, 1000.0])
@pytest.mark.parametrize("begun", [b"G", REQUEST[:-3], BEGUN[0]])
@pytest.mark.parametrize("before", [b"", REQUEST])
def test_headers_have_a_time_to_come_in(
    clock: Clock, before: bytes, begun: bytes, idle: float, log: Log
) -> None:
    """However long the connection may be idle, and in whatever small steps they come."""
    wire = Wire(Toy(clock, timeouts=Timeouts(idle=idle, headers=8)).site)
    if before:
        wire.send(before)
        clock.advance(4)
    wire.send(begun[:1])
    for at in range(7):
        clock.advance(1)
        wire.send(begun[1 + at : 2 + at])
    assert len(wire.answers) == bool(before)
    clock.advance(1)
    answer = wire.answers[-1]
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert answer.text == "the headers had not come whole after 8 seconds (--headers-timeout)\n"
    assert wire.is_closed()
    (event,) = log.of("malformed request")
    assert event["status"] == 408
    clock.advance(TIMEOUTS.drain)
    assert wire.is_aborted()
    wire.close()
    assert clock.getDelayedCalls() == []


class SecureTransport(FakeTransport):
    """A transport that says it is one of TLS."""

    def __init__(self) -> None:
        super().__init__()
        alsoProvides(self, ISSLTransport)

    def setTcpNoDelay(self, enabled: bool) -> None: ...


class Handshake:
    """A TLS connection to a site, without the TLS."""

    def __init__(self, site: Site) -> None:
        self.channel: Any = site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 54321))
        self.transport = SecureTransport()
        self.channel.makeConnection(self.transport)


def test_a_handshake_has_its_time(clock: Clock) -> None:
    for seconds, is_done in ((9.9, True), (10.1, False)):
        there = Handshake(Toy(clock).site)
        clock.advance(seconds)
        assert there.transport.disconnected is not is_done
        there.channel.handshakeCompleted()
        if is_done:
            clock.advance(74.9)
            assert not there.transport.disconnecting
            clock.advance(0.1)
            assert there.transport.disconnecting
        there.channel.connectionLost(Failure(ConnectionDone()))
        assert clock.getDelayedCalls() == []


def body_at_a_pace(wire: Wire, clock: Clock, size: int, seconds: int) -> None:
    for _ in range(seconds):
        if wire.is_closed():
            break
        wire.send(bytes(size))
        clock.advance(1)


@pytest.mark.parametrize(("pace", "is_fast_enough"), [(700, False), (1100, True)])
def test_a_body_has_to_keep_up_a_pace(clock: Clock, pace: int, is_fast_enough: bool) -> None:
    wire = Wire(Toy(clock).site)
    wire.send(head_of("POST", "/plain", {"Content-Length": "60000"}))
    clock.advance(9)
    body_at_a_pace(wire, clock, pace, 51)
    assert wire.is_closed() is not is_fast_enough
    if not is_fast_enough:
        assert wire.answer.status == 408
        assert "1000 bytes a second are the least" in wire.answer.text
    wire.close()
    assert clock.getDelayedCalls() == []


def test_a_body_that_has_stopped_is_given_up_when_its_pace_is_too_slow(clock: Clock) -> None:
    wire = Wire(Toy(clock).site)
    wire.send(head_of("POST", "/plain", {"Content-Length": "60000"}) + bytes(20_000))
    clock.advance(29.9)
    assert not wire.is_closed()
    clock.advance(0.2)
    assert wire.is_closed()
    wire.close()


def test_a_body_has_a_time_to_come_in(clock: Clock) -> None:
    wire = Wire(Toy(clock, timeouts=Timeouts(body=30)).site)
    wire.send(head_of("POST", "/plain", {"Content-Length": "60000"}))
    body_at_a_pace(wire, clock, 1500, 40)
    assert wire.answer.status == 408
    assert wire.answer.text == (
        "of the body 45000 bytes had come after 30 seconds: it must be whole after 30 "
        "(--body-timeout)\n"
    )
    wire.close()


def test_a_request_that_began_while_another_was_answered_has_its_time_from_then_on(
    clock: Clock,
) -> None:
    toy = Toy(clock, timeouts=Timeouts(idle=1000.0))
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/slow") + HALF_A_BODY)
    clock.advance(600)
    toy.slow[0].callback(b"at last")
    take_turns(clock)
    clock.advance(9.9)
    assert not wire.is_closed()
    clock.advance(0.2)
    assert wire.is_closed()
    wire.close()


def test_timers_of_usual_requests_are_never_moved_forward(toy: Toy, clock: Clock) -> None:
    """The reactor would look through the timers of all connections for that one."""
    wire = Wire(toy.site)
    moved: list[object] = []
    for _ in range(3):
        wire.send(REQUEST)
        for each in HALF_A_BODY + b"y":
            timers = {timer: timer.getTime() for timer in clock.getDelayedCalls()}
            wire.send(bytes([each]))
            moved += [timer for timer, due in timers.items() if timer.getTime() < due]
        (timer,) = clock.getDelayedCalls()
        assert timer.getTime() == clock.seconds() + 75
        clock.advance(1)
    assert moved == []


def test_an_answer_may_take_its_time(toy: Toy, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/slow"))
    clock.advance(600)
    assert not wire.is_closed()
    toy.slow[0].callback(b"at last")
    assert wire.answer.body == b"at last"
    clock.advance(75)
    assert wire.is_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        b"POST /plain HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        b"POST /plain HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /slow HTTP/1.1\r\n\r\n",
        b"GET /plain HTTP/1.1\r\n\r\n",
    ],
)
def test_a_sender_may_vanish_at_any_time(toy: Toy, sent: bytes, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.send(sent)
    wire.vanish()
    assert toy.site.active == set()
    assert toy.site.channels == set()
    assert clock.getDelayedCalls() == []


MALFORMED = [
    b"nonsense\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /plain HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nHost: x\r\n\r\n",
    b"GET /plain HTTP/1.1\r\nBad Name: x\r\nHost: x\r\n\r\n",
]
LONG_HEADS = [
    b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(501)) + b"\r\n",
    b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 400 + b"\r\n") * 41 + b"\r\n",
]


@pytest.mark.parametrize("eager", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("sent", MALFORMED + LONG_HEADS)
def test_malformed_heads_are_rejected(toy: Toy, sent: bytes, eager: bool, log: Log) -> None:
    wire = Wire(toy.site, eager=eager)
    wire.send(sent, request_of("GET", "/plain"))
    assert_rejected(wire, log, 431 if sent in LONG_HEADS else 400)
    assert len(wire.answers) == 1
    wire.vanish()
    assert toy.seen == []
    assert toy.site.active == set()


@pytest.mark.parametrize(
    "bad", [b"zz\r\n", b"-1\r\n", b"3\r\nabcXY", b"0x3\r\nabc\r\n", b"3" * 5000, b"\r\n"]
)
def test_a_malformed_chunk_is_400(toy: Toy, bad: bytes, log: Log) -> None:
    wire = Wire(toy.site)
    wire.send(head_of("POST", "/plain", {"Transfer-Encoding": "chunked"}), chunk(b"abc"), bad)
    assert_rejected(wire, log, 400)
    wire.vanish()
    assert toy.seen == []
    assert [event["status"] for event in log.requests()] == [400]


# --- Bodies that nobody parses --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=" + "x" * 1000,
    ],
)
def test_forms_are_not_parsed_on_upload(content_type: str) -> None:
    server = Server()
    body = b"--x\r\nContent-Disposition: form-data; name=id\r\n\r\n1\r\n--x--\r\n"
    answer = server.upload(up(), body=body, headers={"Content-Type": content_type})
    assert answer.status == 415


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_forms_are_not_parsed_where_no_body_is_expected(toy: Toy, content_type: str) -> None:
    body = b"a=b&" * 1000
    answer = ask(toy.site, "POST", "/plain", {"Content-Type": content_type}, body)
    assert answer.status == 200


# --- Hostile header values ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Content-Encoding", "Accept"])
@pytest.mark.parametrize(
    "value", [b"\xff\xfe", b"Bearer \xff", b"\xc3\xbc", b"%00", b"'\"<>", b"", b"\x7f", b"a\tb"]
)
@pytest.mark.parametrize("with_body", [False, True])
def test_header_values_may_hold_any_bytes(name: str, value: bytes, with_body: bool) -> None:
    server = Server()
    headers: dict[str, str | bytes] = {**agent_headers(server.token()), name: value}
    answer = server.ask("POST", "/upload", headers, b"body" if with_body else None)
    assert 200 <= answer.status < 500
    answer = server.ask("POST", "/authorize", headers, b"body" if with_body else None)
    assert answer.status == 400


# --- The access log -------------------------------------------------------------------------------


def test_a_request_is_logged_in_one_line(toy: Toy, log: Log, clock: Clock) -> None:
    wire = Wire(toy.site)
    wire.send(request_of("POST", "/slow?id=not-shown", body=b"12345"))
    clock.advance(1.5)
    toy.slow[0].callback(b"")
    (event,) = log.requests()
    line = logfmt(event)
    assert line is not None
    fields = (
        "level=debug component=telemeter.web.site msg=request method=POST path=/slow "
        "status=200 seconds=1.5000 bytes=5 peer=192.0.2.7\n"
    )
    assert line.endswith(fields)


@pytest.mark.parametrize(
    ("target", "level"),
    [("/plain", "debug"), ("/nowhere", "info"), ("/refused", "info"), ("/broken", "warn")],
)
def test_the_level_goes_with_the_status(
    toy: Toy, target: str, level: str, expect_errors: Log
) -> None:
    ask(toy.site, "GET", target)
    (event,) = expect_errors.requests()
    assert event["log_level"].name == level


def test_a_client_that_goes_away_is_logged_as_499(toy: Toy, log: Log) -> None:
    growth = Growth()
    wire = Wire(toy.site)
    wire.send(request_of("GET", "/slow"))
    wire.vanish()
    (event,) = log.requests()
    assert (event["status"], event["log_level"].name) == (499, "info")
    assert growth.of("http_requests_total", code="499", handler="slow", method="get") == 1


HOSTILE = [
    "x\nts=2026 level=error msg=forged",
    "x\r\nlevel=error",
    'x" level=error msg="forged',
    "x\u2028level=error",
    "x\x1b[31mred",
    "x level=error",
    "x=y",
    "\\",
    "\x00",
    "\u202eabc",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_cluster_id_can_forge_a_log_line(hostile: str, log: Log) -> None:
    server = Server()
    answer = server.upload(up(cluster=hostile), cluster=hostile)
    assert answer.status == 200
    assert server.upload(up(cluster=hostile), cluster=hostile).status == 429
    lines = [logfmt(event) or "" for event in log.requests()]
    assert len(lines) == 2
    for line in lines:
        assert line.count("\n") == 1
        assert line.removesuffix("\n").isprintable()
        assert fields_of(line)["cluster"] == hostile
        assert fields_of(line)["level"] in ("debug", "info")


def fields_of(line: str) -> dict[str, str]:
    """Read a line as a strict reader of logfmt does."""
    fields: dict[str, str] = {}
    rest = line.rstrip("\n")
    while rest:
        key, _, rest = rest.partition("=")
        assert key.isidentifier(), key
        assert key not in fields
        if rest.startswith('"'):
            fields[key], end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            value, separator, rest = rest.partition(" ")
            fields[key], rest = value, separator + rest
        assert not rest or rest.startswith(" ")
        rest = rest[1:]
    return fields


@pytest.mark.parametrize(
    "target", ["/%0Alevel=error", '/"level=error', "/a=b", "/\\", "/%E2%80%A8", "/\x80"]
)
def test_no_path_can_forge_a_log_line(toy: Toy, target: str, log: Log) -> None:
    wire = Wire(toy.site)
    wire.send(b"GET " + target.encode("latin-1") + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.answer.status == 404
    (event,) = log.requests()
    line = logfmt(event) or ""
    assert line.count("\n") == 1
    assert fields_of(line)["path"] == target
    assert fields_of(line)["level"] == "info"


def test_no_reason_can_forge_a_log_line(log: Log) -> None:
    server = Server()
    name = 'x"\nlevel=error msg="forged'
    answer = server.upload(untyped("up", ({"_id": "other", name: "a"}, 1.0)))
    assert answer.status == 400
    answer = server.upload(up(), headers={"Content-Type": 'x" level=error'}, cluster="2")
    assert answer.status == 415
    for event in log.requests():
        line = logfmt(event) or ""
        assert line.count("\n") == 1
        assert fields_of(line)["level"] == "info"
        assert fields_of(line)["reason"]


def test_no_token_is_ever_logged(log: Log) -> None:
    server = Server()
    token = server.token()
    assert server.upload(up(), token=token).status == 200
    assert server.upload(up(), token=token).status == 429
    assert server.upload(up(), token=token + "x").status == 401
    secret = "the-secret-of-the-cluster"
    bearer = {"Authorization": f"Bearer {secret}"}
    assert server.ask("POST", "/authorize?id=c", bearer).status == 200
    assert server.ask("POST", "/authorize", bearer).status == 400
    assert server.ask("POST", "/authorize?id=%ff", bearer).status == 400
    answer = server.ask("POST", f"/authorize?id=c&token={secret}", {"Authorization": secret})
    assert answer.status == 401
    text = "".join(log.lines)
    assert text.count("msg=request") == 7
    for part in (secret, token, *token.split(".")):
        assert part not in text


def test_what_a_request_notes_is_in_its_line(log: Log) -> None:
    server = Server()
    assert server.upload(up(a="1"), up(a="2")).status == 200
    (event,) = log.requests()
    noted = {key: event[key] for key in ("cluster", "received", "forwarded", "dropped")}
    assert noted == {"cluster": "cluster-1", "received": 2, "forwarded": 2, "dropped": 0}


@pytest.mark.parametrize("status", [400, 429, 503])
def test_a_failed_forward_has_forwarded_nothing(log: Log, status: int) -> None:
    server = Server()
    server.upstream.reply = Reply(status)
    assert server.upload(up(a="1"), up(a="2")).status == status
    (event,) = log.requests()
    assert (event["received"], event["forwarded"], event["dropped"]) == (2, 0, 0)


def test_answers_are_parsed_strictly() -> None:
    # What the tests above rely on.
    two = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert [answer.status for answer in parse_answers(two)] == [100, 200]
    with pytest.raises(AssertionError):
        parse_answers(two + b"x")
