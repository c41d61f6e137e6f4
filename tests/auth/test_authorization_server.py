"""Asking the authorization server."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from telemeter.auth.authorization_server import (
    AcceptEveryone,
    AuthorizationServer,
    RefusedError,
    UnavailableError,
)
from telemeter.auth.fnv import fnv1a_base32
from tests.fakes import SILENCE, Broken, Peer, Reply, json_reply, result_of, run, start

URL = "http://tollbooth.test/tb"
LIMIT = 32 * 1024


@pytest.fixture
def peer() -> Peer:
    return Peer(json_reply({"account_id": "account"}))


@pytest.fixture
def server(peer: Peer, clock: Clock) -> AuthorizationServer:
    return AuthorizationServer(peer.agent, clock, URL)


@pytest.mark.parametrize("status", [200, 201])
def test_a_yes(server: AuthorizationServer, peer: Peer, status: int) -> None:
    peer.reply = json_reply({"account_id": "account", "cluster_id": "x"}, status)
    assert run(server.authorize("token", "cluster")) == "account"
    question = peer.only
    assert (question.method, question.target) == ("POST", "/tb")
    assert question.json == {"cluster_id": "cluster", "authorization_token": "token"}
    assert question.headers["content-type"] == "application/json"
    assert question.headers["accept"] == "application/json"
    assert question.headers["content-length"] == str(len(question.body))
    assert "authorization" not in question.headers


@pytest.mark.parametrize(
    ("token", "cluster"), [('"', "\n"), ("\u00fc", "\U0001f600"), ("", ""), ("\\", "\x00")]
)
def test_texts_survive(server: AuthorizationServer, peer: Peer, token: str, cluster: str) -> None:
    run(server.authorize(token, cluster))
    assert peer.only.json == {"cluster_id": cluster, "authorization_token": token}


def test_credentials_in_the_url_become_a_header(peer: Peer, clock: Clock) -> None:
    url = "http://us%65r:p%40ss@tollbooth.test:8080/tb?x=y"
    run(AuthorizationServer(peer.agent, clock, url).authorize("token", "cluster"))
    assert peer.only.headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert peer.only.headers["host"] == "tollbooth.test:8080"
    assert peer.only.target == "/tb?x=y"


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 413, 418, 429, 451, 499])
@pytest.mark.parametrize("content_type", ["application/json", "text/html", ""])
def test_a_no(server: AuthorizationServer, peer: Peer, status: int, content_type: str) -> None:
    peer.reply = Reply(status, b"secret", {"Content-Type": content_type})
    with pytest.raises(RefusedError) as caught:
        run(server.authorize("token", "cluster"))
    assert caught.value.status == status
    assert caught.value.reason == str(caught.value)
    assert caught.value.reason
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize(
    "status", [202, 204, 206, 299, 300, 301, 302, 304, 307, 500, 502, 503, 599]
)
def test_neither_yes_nor_no(server: AuthorizationServer, peer: Peer, status: int) -> None:
    headers = {"Content-Type": "application/json", "Location": "http://elsewhere.test/"}
    peer.reply = Reply(status, b'{"account_id": "account"}', headers)
    with pytest.raises(UnavailableError, match=str(status)):
        run(server.authorize("token", "cluster"))
    assert len(peer.received) == 1


@pytest.mark.parametrize(
    ("content_type", "fine"),
    [
        ("application/json", True),
        ("Application/JSON", True),
        ("application/json; charset=utf-8", True),
        ("application/json ;x=y", True),
        (" application/json", True),
        ("application/jsonp", False),
        ("text/json", False),
        ("text/html; application/json", False),
        ("", False),
    ],
)
def test_the_content_type_of_a_yes(
    server: AuthorizationServer, peer: Peer, content_type: str, fine: bool
) -> None:
    peer.reply = json_reply({"account_id": "account"}, content_type=content_type)
    if fine:
        assert run(server.authorize("token", "cluster")) == "account"
    else:
        with pytest.raises(UnavailableError, match="application/json"):
            run(server.authorize("token", "cluster"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"null",
        b"[]",
        b"1",
        b'"account"',
        b"{}",
        b'{"account_id": ""}',
        b'{"account_id": null}',
        b'{"account_id": 1}',
        b'{"account_id": {}}',
        b'{"Account_Id": "a"}',
        b'{"account_id": "\\ud800"}',
        b'{"account_id": "%s"}' % (b"x" * 1025),
    ],
    ids=lambda body: repr(body)[:30],
)
def test_a_yes_without_an_account(server: AuthorizationServer, peer: Peer, body: bytes) -> None:
    peer.reply = Reply(200, body, {"Content-Type": "application/json"})
    with pytest.raises(UnavailableError):
        run(server.authorize("token", "cluster"))


def of_size(size: int) -> dict[str, Any]:
    answer = {"account_id": "account", "x": ""}
    return {**answer, "x": "y" * (size - len(json.dumps(answer)))}


def test_an_answer_is_read_up_to_32_kib(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = json_reply(of_size(LIMIT))
    assert len(json_reply(of_size(LIMIT)).body) == LIMIT
    assert run(server.authorize("token", "cluster")) == "account"
    peer.reply = json_reply(of_size(LIMIT + 1))
    with pytest.raises(UnavailableError, match="malformed"):
        run(server.authorize("token", "cluster"))


def test_a_long_answer_is_cut_off(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = Reply(200, b"x" * 1_000_000, {"Content-Type": "text/plain; charset=utf-8"})
    answer = run(server.ask(b"{}"))
    assert (answer.status, answer.content_type) == (200, "text/plain")
    assert answer.body == b"x" * LIMIT


def test_a_long_no_is_a_no(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = Reply(403, b"x" * 1_000_000)
    with pytest.raises(RefusedError):
        run(server.ask(b"{}"))


def test_a_question_goes_out_as_it_is(server: AuthorizationServer, peer: Peer) -> None:
    run(server.ask(b'{"any": "thing"}'))
    assert peer.only.body == b'{"any": "thing"}'


def test_no_answer_in_20_seconds(server: AuthorizationServer, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    asked = start(server.authorize("token", "cluster"))
    clock.advance(19.9)
    assert not asked.called
    clock.advance(0.1)
    with pytest.raises(UnavailableError, match="no answer in time"):
        result_of(asked)


def test_a_late_answer_does_no_harm(server: AuthorizationServer, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    asked = start(server.authorize("token", "cluster"))
    clock.advance(20)
    peer.only.answer(json_reply({"account_id": "account"}))
    with pytest.raises(UnavailableError):
        result_of(asked)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.ConnectionRefusedError(), "cannot connect"),
        (errors.TCPTimedOutError(), "cannot connect"),
        (errors.DNSLookupError("tollbooth.test"), "not known"),
        (errors.ConnectionLost(), "lost"),
        (OSError("no route"), "no route"),
    ],
)
def test_nobody_is_there(clock: Clock, error: Exception, word: str) -> None:
    server = AuthorizationServer(Broken(error), clock, URL)
    with pytest.raises(UnavailableError, match=word) as caught:
        run(server.authorize("secret-token", "cluster"))
    assert "secret" not in str(caught.value)


def test_it_can_be_given_up(server: AuthorizationServer, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    asked = start(server.authorize("token", "cluster"))
    asked.cancel()
    with pytest.raises((UnavailableError, CancelledError)):
        result_of(asked)
    assert clock.getDelayedCalls() == []


def test_without_a_server_everyone_is_accepted() -> None:
    assert run(AcceptEveryone().authorize("token", "cluster")) == fnv1a_base32("token")
    assert run(AcceptEveryone().authorize("other", "cluster")) == fnv1a_base32("other")


def test_a_damaged_yes_is_none(server: AuthorizationServer, peer: Peer) -> None:
    body = gzip.compress(json_reply({"account_id": "account"}).body)
    coded = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    peer.reply = Reply(200, body, coded)
    assert run(server.authorize("token", "cluster")) == "account"
    peer.reply = Reply(200, body[:-1], coded)
    with pytest.raises(UnavailableError, match="cut off"):
        run(server.authorize("token", "cluster"))
    with pytest.raises(UnavailableError, match="cut off"):
        run(server.ask(b"{}"))


def test_a_damaged_no_is_a_no(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = Reply(403, b"damaged", {"Content-Encoding": "gzip"})
    with pytest.raises(RefusedError):
        run(server.ask(b"{}"))


def test_a_redirect(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = [Reply(307, headers={"Location": "/v2"}), json_reply({"account_id": "account"})]
    assert run(server.authorize("token", "cluster")) == "account"
    assert peer.received[1].target == "/v2"
    assert peer.received[1].body == peer.received[0].body


def test_a_question_goes_to_no_other_server(server: AuthorizationServer, peer: Peer) -> None:
    peer.reply = Reply(307, headers={"Location": "http://elsewhere.test/"})
    with pytest.raises(UnavailableError, match=r"points to http://elsewhere\.test/ and is not"):
        run(server.authorize("token", "cluster"))
    assert len(peer.received) == 1
