"""A site that stops: what is under way is finished and sent, and nothing new is begun."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.web.iweb import IRequest

from telemeter.web.site.routing import Route, make_site
from tests.fakes import (
    SILENCE,
    Reply,
    Wire,
    chunk,
    has_fired,
    head_of,
    parse_answers,
    request_of,
    result_of,
)
from tests.web.server import Server, agent_headers, up
from tests.web.site.test_guard import BODY, CHUNKED


class Slow:
    """A site with a path whose answers wait."""

    def __init__(self, clock: Clock) -> None:
        self.waiting: list[Deferred[bytes]] = []
        self.site = make_site(
            [Route("/slow", self.wait, ("GET", "POST")), Route("/quick", lambda _: b"quick")], clock
        )

    def wait(self, request: IRequest) -> Deferred[bytes]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


@pytest.fixture
def slow(clock: Clock) -> Slow:
    return Slow(clock)


def test_a_site_without_connections_is_drained_at_once(slow: Slow) -> None:
    assert has_fired(slow.site.drain())


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /qu", b"GET /quick HTTP/1.1\r\nHost: x\r\n", request_of("GET", "/quick")],
    ids=["nothing", "half a line", "half a head", "a request"],
)
def test_idle_connections_are_closed(slow: Slow, sent: bytes) -> None:
    wire = Wire(slow.site)
    wire.send(sent)
    drained = slow.site.drain()
    assert wire.is_closed()
    assert not wire.is_aborted()
    wire.close()
    assert has_fired(drained)


def test_a_request_under_way_is_finished(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/slow"))
    drained = slow.site.drain()
    assert not wire.is_closed()
    slow.waiting[0].callback(b"done")
    assert wire.answer.body == b"done"
    assert wire.is_closed()
    # Not before the answer has left.
    assert not has_fired(drained)
    wire.close()
    assert has_fired(drained)


def test_all_requests_under_way_are_finished(slow: Slow) -> None:
    wires = [Wire(slow.site) for _ in range(3)]
    for wire in wires:
        wire.send(request_of("GET", "/slow"))
    drained = slow.site.drain()
    for wire, waiting in zip(wires, slow.waiting, strict=True):
        assert not has_fired(drained)
        waiting.callback(b"done")
        wire.close()
    assert has_fired(drained)
    assert [wire.answer.status for wire in wires] == [200] * 3


def test_a_body_that_is_still_coming_is_under_way(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(head_of("POST", "/slow", CHUNKED), chunk(b"abc"))
    drained = slow.site.drain()
    assert not wire.is_closed()
    wire.send(chunk(b""))
    slow.waiting[0].callback(b"done")
    assert wire.answer.headers["connection"] == "close"
    assert wire.is_closed()
    wire.close()
    assert has_fired(drained)


def test_a_client_that_gives_up_is_under_way_no_more(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/slow"))
    drained = slow.site.drain()
    wire.vanish()
    assert has_fired(drained)


def test_a_pipelined_request_behind_the_last_one_is_not_answered(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/slow") + request_of("GET", "/quick"))
    slow.site.drain()
    slow.waiting[0].callback(b"done")
    assert wire.answer.body == b"done"
    assert wire.is_closed()


def test_a_request_on_a_new_connection_is_answered_and_told_to_close(slow: Slow) -> None:
    slow.site.drain()
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/quick"))
    assert wire.answer.headers["connection"] == "close"


@pytest.mark.parametrize("answered", [True, False])
def test_a_refused_body_that_is_being_read_does_not_hold_the_site(
    slow: Slow, answered: bool
) -> None:
    wire = Wire(slow.site)
    wire.send(head_of("POST", "/nowhere", CHUNKED), chunk(b"abc"))
    if answered:
        wire.send(chunk(b""))
    drained = slow.site.drain()
    assert wire.is_closed()
    wire.close()
    assert has_fired(drained)
    assert [answer.status for answer in parse_answers(wire.written)] == [404]


def test_draining_may_be_given_up(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/slow"))
    drained = slow.site.drain()
    drained.cancel()
    with pytest.raises(CancelledError):
        result_of(drained)
    slow.waiting[0].callback(b"done")
    assert wire.answer.body == b"done"
    wire.close()


def test_several_may_wait(slow: Slow) -> None:
    wire = Wire(slow.site)
    wire.send(request_of("GET", "/slow"))
    both = slow.site.drain(), slow.site.drain()
    slow.waiting[0].callback(b"done")
    assert [has_fired(drained) for drained in both] == [False, False]
    wire.close()
    assert [has_fired(drained) for drained in both] == [True, True]


def test_abort_ends_all_connections(slow: Slow) -> None:
    wires = [Wire(slow.site) for _ in range(3)]
    wires[0].send(request_of("GET", "/slow"))
    wires[1].send(b"GET /qu")
    slow.site.abort()
    assert all(wire.is_aborted() for wire in wires)


def test_an_upload_under_way_is_forwarded() -> None:
    server = Server()
    server.upstream.reply = SILENCE
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**agent_headers(server.token()), **CHUNKED}))
    wire.send(chunk(BODY))
    drained = server.site.drain()
    wire.send(chunk(b""))
    server.upstream.only.answer(Reply(200))
    assert wire.answer.status == 200
    wire.close()
    assert has_fired(drained)


def test_readiness_ends_first_and_liveness_stays() -> None:
    server = Server()
    assert server.ask("GET", "/healthz/ready").status == 200
    server.health.stop()
    answer = server.ask("GET", "/healthz/ready")
    assert (answer.status, answer.text) == (503, "shutting down\n")
    assert server.ask("GET", "/healthz").status == 200
    assert server.upload(up()).status == 200
