"""Getting a token, and keeping it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from twisted.internet import error as errors
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent

from telemeter.agent.authorize import AuthorizeError, Token, TokenExchange
from telemeter.loop.clocks import Elapsed
from tests.agent.world import AUTHORIZE_URL, TOKEN, token_reply
from tests.fakes import (
    SILENCE,
    UPTIME,
    Broken,
    FakeWall,
    Peer,
    Reply,
    has_fired,
    json_reply,
    result_of,
    run,
    start,
)


@pytest.fixture
def peer() -> Peer:
    return Peer([token_reply("first", _id="c", tier="gold"), token_reply("second", _id="c")])


def make(agent: IAgent, clock: Clock, url: str = AUTHORIZE_URL) -> TokenExchange:
    return TokenExchange(agent, clock, FakeWall(clock), url, TOKEN)


@pytest.fixture
def store(peer: Peer, clock: Clock) -> TokenExchange:
    return make(peer.agent, clock)


def value_of(store: TokenExchange) -> str:
    token: Token = run(store.get())
    return token.value


def error_of(store: TokenExchange) -> AuthorizeError:
    with pytest.raises(AuthorizeError) as caught:
        run(store.get())
    assert TOKEN not in str(caught.value)
    return caught.value


# --- Asking ---------------------------------------------------------------------------------------


def test_what_is_asked(store: TokenExchange, peer: Peer) -> None:
    run(store.get())
    asked = peer.only
    assert (asked.method, asked.target) == ("POST", "/authorize?id=cluster")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers.get("content-length", "0") == "0"
    assert asked.body == b""


def test_the_token(store: TokenExchange) -> None:
    assert run(store.get()) == Token(
        "first", {"_id": "c", "tier": "gold"}, Elapsed(UPTIME + 86400 - 15)
    )


def test_201_is_fine_too(store: TokenExchange, peer: Peer) -> None:
    peer.reply = json_reply({"token": "t", "expiresInSeconds": 60}, 201)
    assert value_of(store) == "t"


def test_the_bearer_token_goes_before_credentials_in_the_url(peer: Peer, clock: Clock) -> None:
    run(make(peer.agent, clock, "http://user:pass@telemeter.test/authorize").get())
    assert peer.only.headers["authorization"] == f"Bearer {TOKEN}"
    assert peer.only.headers["host"] == "telemeter.test"


@pytest.mark.parametrize("labels", [None, {}])
def test_there_may_be_no_labels(store: TokenExchange, peer: Peer, labels: object) -> None:
    peer.reply = json_reply({"token": "t", "expiresInSeconds": 60, "labels": labels})
    assert run(store.get()).labels == {}


# --- Keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", [60, 61, 86400])
def test_a_token_is_kept_until_15_seconds_before_it_expires(
    peer: Peer, clock: Clock, lifetime: int
) -> None:
    peer.reply = [token_reply("first", lifetime), token_reply("second", lifetime)]
    store = make(peer.agent, clock)
    assert value_of(store) == "first"
    clock.advance(lifetime - 15.1)
    assert value_of(store) == "first"
    clock.advance(0.1)
    assert value_of(store) == "second"
    assert len(peer.received) == 2


@pytest.mark.parametrize("lifetime", [59, 1, 0, -1, None, False])
def test_a_short_lived_token_is_kept_until_it_is_refused(
    peer: Peer, clock: Clock, lifetime: object
) -> None:
    peer.reply = [token_reply("first", lifetime), token_reply("second", lifetime)]
    store = make(peer.agent, clock)
    assert value_of(store) == "first"
    clock.advance(1_000_000)
    token = run(store.get())
    assert token.value == "first"
    store.drop(token)
    assert value_of(store) == "second"


def test_a_token_without_a_lifetime_is_kept(store: TokenExchange, peer: Peer, clock: Clock) -> None:
    peer.reply = [json_reply({"token": "t"}), Reply(500)]
    assert value_of(store) == "t"
    clock.advance(1_000_000)
    assert value_of(store) == "t"


def test_a_refused_token_is_dropped(store: TokenExchange) -> None:
    token = run(store.get())
    store.drop(token)
    assert value_of(store) == "second"


def test_an_old_token_that_is_refused_late_drops_nothing(store: TokenExchange, peer: Peer) -> None:
    first = run(store.get())
    store.drop(first)
    run(store.get())
    store.drop(first)
    assert value_of(store) == "second"
    assert len(peer.received) == 2


def test_a_failure_is_not_kept(store: TokenExchange, peer: Peer) -> None:
    peer.reply = [Reply(503), token_reply("later")]
    error_of(store)
    assert value_of(store) == "later"


def test_whom_a_store_serves(store: TokenExchange) -> None:
    assert store.serves(AUTHORIZE_URL, TOKEN)
    assert not store.serves(AUTHORIZE_URL, "other")
    assert not store.serves(AUTHORIZE_URL + "2", TOKEN)


def test_another_agent_may_be_used_later(store: TokenExchange, peer: Peer) -> None:
    token = run(store.get())
    other = Peer(token_reply("other"))
    store.use(other.agent)
    assert value_of(store) == "first"
    store.drop(token)
    assert value_of(store) == "other"
    assert other.only.headers["authorization"] == f"Bearer {TOKEN}"
    assert len(peer.received) == 1


# --- Refusals -------------------------------------------------------------------------------------


def test_401_names_the_flags(store: TokenExchange, peer: Peer) -> None:
    peer.reply = Reply(401, b"anything")
    text = str(error_of(store))
    assert "401" in text
    assert "--to-token" in text
    assert "--to-token-file" in text


@pytest.mark.parametrize("status", [202, 204, 300, 302, 400, 403, 404, 409, 429, 500, 503])
def test_another_status_is_told_with_its_text(
    store: TokenExchange, peer: Peer, status: int
) -> None:
    body = b"" if status == 204 else b" the reason\n"
    peer.reply = Reply(status, body)
    text = str(error_of(store))
    assert str(status) in text
    assert text.endswith("the reason" if body else ": ")
    assert len(peer.received) == 1


def test_a_long_text_is_cut_off(store: TokenExchange, peer: Peer) -> None:
    peer.reply = Reply(500, b"\xff" + b"x" * 100_000)
    text = str(error_of(store))
    assert len(text) < 600
    assert "\ufffd" in text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("300", 300.0),
        ("999999", 999999.0),
        ("1000000", 1000000.0),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("\u0663", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:13:19 GMT", 0.0),
    ],
)
def test_retry_after(value: str, seconds: float | None, store: TokenExchange, peer: Peer) -> None:
    date = "Tue, 14 Nov 2023 22:13:20 GMT"
    peer.reply = Reply(429, headers={"Retry-After": value, "Date": date})
    assert error_of(store).retry_after == seconds


def test_a_date_to_retry_at_counts_by_the_wall_clock(store: TokenExchange, peer: Peer) -> None:
    # If the answer does not say by which clock.
    peer.reply = Reply(
        429, headers={"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT", "Date": "today"}
    )
    assert error_of(store).retry_after == 60.0


def test_no_retry_after(store: TokenExchange, peer: Peer) -> None:
    peer.reply = Reply(503)
    assert error_of(store).retry_after is None


# --- Answers that are not whole, and redirects ----------------------------------------------------


def test_a_damaged_answer_is_no_token(store: TokenExchange, peer: Peer) -> None:
    packed = gzip.compress(token_reply("t").body)
    peer.reply = Reply(200, packed, {"Content-Encoding": "gzip"})
    assert value_of(store) == "t"
    store.drop(run(store.get()))
    peer.reply = Reply(200, packed[:-8], {"Content-Encoding": "gzip"})
    assert "cut off" in str(error_of(store))


def test_a_long_answer_is_no_token(store: TokenExchange, peer: Peer) -> None:
    reply = token_reply("t", padding="x" * 16_384)
    peer.reply = reply
    assert "over the limit of 16384 bytes" in str(error_of(store))


def test_a_redirect(store: TokenExchange, peer: Peer) -> None:
    peer.reply = [Reply(307, headers={"Location": "/other?id=cluster"}), token_reply("t")]
    assert value_of(store) == "t"
    _, second = peer.received
    assert (second.method, second.target) == ("POST", "/other?id=cluster")
    assert second.headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://elsewhere.test/authorize"),
        (308, "https://telemeter.test/authorize"),
        (302, "http://telemeter.test/other"),
    ],
)
def test_a_redirect_that_is_not_followed(
    store: TokenExchange, peer: Peer, status: int, location: str
) -> None:
    peer.reply = Reply(status, headers={"Location": location})
    text = str(error_of(store))
    assert text.startswith(f"the server answered with status {status}, which points to {location}")
    assert len(peer.received) == 1


# --- Malformed answers ----------------------------------------------------------------------------

GOOD: dict[str, Any] = {"version": 1, "token": "t", "expiresInSeconds": 60, "labels": {"a": "b"}}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b"7",
        b'"token"',
        b"[]",
        b'["token"]',
        b"{}",
        {**GOOD, "token": None},
        {**GOOD, "token": ""},
        {**GOOD, "token": 7},
        {**GOOD, "token": ["t"]},
        {**GOOD, "token": "t\r\nX-Injected: y"},
        {**GOOD, "token": "t\x00"},
        {**GOOD, "expiresInSeconds": "soon"},
        {**GOOD, "expiresInSeconds": [60]},
        {**GOOD, "expiresInSeconds": {"a": 1}},
        {**GOOD, "expiresInSeconds": 10**400},
        {**GOOD, "labels": "text"},
        {**GOOD, "labels": ["a"]},
        {**GOOD, "labels": 7},
        {**GOOD, "labels": {"a": 1}},
        {**GOOD, "labels": {"a": None}},
        {**GOOD, "labels": {"a": {"b": "c"}}},
        {**GOOD, "token": " "},
        {**GOOD, "token": "caf\u00e9"},
        {**GOOD, "token": "\ud800"},
        {**GOOD, "labels": {"_id": "\ud800"}},
        {**GOOD, "labels": {"\udfff": "c"}},
        {**GOOD, "labels": {"_id": "x" * 256}},
        {**GOOD, "labels": {"_id": "\u00e9" * 128}},
        {**GOOD, "labels": {"x" * 256: "c"}},
        {**GOOD, "labels": {"__name__": "up"}},
        {**GOOD, "labels": {"": "c"}},
        {**GOOD, "padding": "x" * 20_000},
    ],
    ids=lambda answer: repr(answer)[-40:],
)
def test_a_malformed_answer(store: TokenExchange, peer: Peer, answer: object) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    peer.reply = [Reply(200, body), token_reply("later")]
    assert str(error_of(store))
    assert value_of(store) == "later"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("_id", "\ud800", "the value of a label must be UTF-8"),
        ("_id", "x" * 256, "the value of a label may have 255 bytes, this one has 256"),
        ("__name__", "up", "other than __name__"),
    ],
)
def test_what_no_sample_can_carry_is_named(
    store: TokenExchange, peer: Peer, name: str, value: str, reason: str
) -> None:
    peer.reply = json_reply({**GOOD, "labels": {name: value}})
    assert reason in str(error_of(store))


@pytest.mark.parametrize("value", ["", "\x00", "x" * 255, "\ufffd", "\n"])
def test_labels_that_samples_can_carry(store: TokenExchange, peer: Peer, value: str) -> None:
    peer.reply = json_reply({**GOOD, "labels": {"_id": value}})
    assert run(store.get()).labels == {"_id": value}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_lifetime_that_is_no_number_of_seconds(
    store: TokenExchange, peer: Peer, number: str, clock: Clock
) -> None:
    peer.reply = Reply(200, b'{"token": "t", "expiresInSeconds": ' + number.encode() + b"}")
    assert value_of(store) == "t"
    clock.advance(1_000_000)
    assert value_of(store) == "t"
    assert len(peer.received) == 1


# --- Nobody is there ------------------------------------------------------------------------------


def test_no_answer_in_30_seconds(store: TokenExchange, peer: Peer, clock: Clock) -> None:
    peer.reply = SILENCE
    asking = start(store.get())
    clock.advance(29.9)
    assert not has_fired(asking)
    clock.advance(0.1)
    with pytest.raises(AuthorizeError, match="no answer in time"):
        result_of(asking)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (errors.ConnectionRefusedError(), "cannot connect"),
        (errors.DNSLookupError("telemeter.test"), "not known"),
        (errors.ConnectionLost(), "lost"),
    ],
)
def test_nobody_is_there(clock: Clock, error: Exception, word: str) -> None:
    assert word in str(error_of(make(Broken(error), clock)))
