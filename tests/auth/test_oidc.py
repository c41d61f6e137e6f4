"""Access tokens from an issuer: what it may answer, and when it is asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus

import pytest
from oauthlib.oauth2 import BackendApplicationClient
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError  # noqa: A004
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.auth.authorizer import AuthorizationServer, RefusedError, UnavailableError
from telemeter.auth.oidc import OIDCAgent, TokenSource, TokenUnavailableError, check_issuer
from telemeter.net.body import BytesBody, read_body
from telemeter.upstream.forwarder import Forwarder
from telemeter.upstream.upstream import ForwardError
from tests.fakes import (
    NOW,
    SILENCE,
    Broken,
    Log,
    Peer,
    Received,
    Reply,
    clock_at,
    json_reply,
    result_of,
    run,
    start,
)
from tests.web.server import Server, up

ISSUER: Final = "https://issuer.test/realm"
ENDPOINT: Final = "https://issuer.test/realm/token"
SECRET: Final = "s3cret/?&=+ %ü'\"\\"
WELL_KNOWN: Final = ".well-known/openid-configuration"

#: How long three tries without an answer take.
THREE_TRIES: Final = 10 + 0.5 + 10 + 1 + 10


@implementer(IAgent)
class Issuer:
    """An issuer in memory: discovery, and the endpoint that gives `token-1`, `token-2` and so on.

    Attributes:
        discovery: answers at the well-known URL.
        endpoint: answers at every other.
        errors: what befalls the next requests.
    """

    def __init__(self, issuer: str = ISSUER, endpoint: Any = ENDPOINT) -> None:
        self.discovery = Peer(json_reply({"issuer": issuer, "token_endpoint": endpoint}))
        self.endpoint = Peer([token_reply(f"token-{number}") for number in range(1, 9)])
        self.errors: list[Exception] = []
        self.uris: list[bytes] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        self.uris.append(uri)
        if self.errors:
            return fail(self.errors.pop(0))
        peer = self.discovery if uri.endswith(WELL_KNOWN.encode()) else self.endpoint
        return peer.agent.request(method, uri, headers, bodyProducer)

    @property
    def asked(self) -> list[Received]:
        """The requests for a token."""
        return self.endpoint.received


def token_reply(token: object, expires_in: object = 1000, **others: object) -> Reply:
    return json_reply(
        {"access_token": token, "token_type": "Bearer", "expires_in": expires_in, **others}
    )


def make_source(issuer: Issuer, clock: Clock, **others: Any) -> TokenSource:
    return TokenSource(issuer, clock, ISSUER, "client", SECRET, **others)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def source(issuer: Issuer, clock: Clock) -> TokenSource:
    return make_source(issuer, clock)


def take_time(clock: Clock, seconds: float) -> None:
    """Let time pass in small steps, so that what is due makes its own plans in time."""
    clock.pump([0.25] * int(seconds * 4))


def form_of(received: Received) -> dict[str, str]:
    return dict(parse_qsl(received.body.decode(), strict_parsing=True))


def basic(client: str, secret: str) -> str:
    pair = f"{quote_plus(client)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@contextmanager
def unavailable(*words: str) -> Iterator[None]:
    """Expect that there is no token, for this reason, told without a secret."""
    with pytest.raises(TokenUnavailableError) as caught:
        yield
    for word in words:
        assert word in str(caught.value)
    # All that a traceback would tell.
    told = []
    error: BaseException | None = caught.value
    while error is not None:
        told.append(f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for secret in (SECRET, quote_plus(SECRET), basic("client", SECRET)[6:], "token-"):
        assert secret not in " ".join(told)


# --- Discovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://issuer.test", f"https://issuer.test/{WELL_KNOWN}"),
        ("https://issuer.test/", f"https://issuer.test/{WELL_KNOWN}"),
        ("https://issuer.test/a/b", f"https://issuer.test/a/b/{WELL_KNOWN}"),
        ("https://issuer.test:8443/a/", f"https://issuer.test:8443/a/{WELL_KNOWN}"),
        ("http://issuer.test", f"http://issuer.test/{WELL_KNOWN}"),
    ],
)
def test_where_an_issuer_is_asked(url: str, asked: str, clock: Clock) -> None:
    issuer = Issuer(url)
    run(TokenSource(issuer, clock, url, "client", SECRET).discover())
    assert issuer.uris == [asked.encode()]
    assert issuer.discovery.only.method == "GET"
    assert "authorization" not in issuer.discovery.only.headers


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.test",
        "ftp://issuer.test",
        "https://",
        "https://user:password@issuer.test",
        "https://issuer.test/?",
        "https://issuer.test/?a=b",
        "https://issuer.test/#",
        "https://issuer.test/#a",
        "https://issuer.test:port",
        "https://issuer.test/ü",
    ],
)
def test_what_is_no_issuer(url: str, issuer: Issuer, clock: Clock) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        check_issuer(url)
    with pytest.raises(ValueError, match=r"^expected "):
        TokenSource(issuer, clock, url, "client", SECRET)


def test_what_is_an_issuer() -> None:
    assert check_issuer("https://issuer.test:1/a/") == "https://issuer.test:1/a/"


UNUSABLE = [
    (Reply(404), "expected status 200, saw 404"),
    (Reply(302, headers={"Location": "https://elsewhere.test/"}), "expected status 200, saw 302"),
    (Reply(204), "expected status 200, saw 204"),
    (Reply(200, b"<html>"), "expected a JSON object"),
    (Reply(200, b""), "expected a JSON object"),
    (Reply(200, b"\xff\xfe\xfd"), "expected a JSON object"),
    (Reply(200, b"[" * 50_000), "expected a JSON object"),
    (Reply(200, b'{"a": ' + b"9" * 10_000 + b"}"), "expected a JSON object"),
    (json_reply([ISSUER, ENDPOINT]), "expected a JSON object"),
    (Reply(200, b" " * 70_000), "over the limit of 65536 bytes"),
    (json_reply({"token_endpoint": ENDPOINT}), "saw None"),
    (json_reply({"issuer": f"{ISSUER}/", "token_endpoint": ENDPOINT}), f"saw '{ISSUER}/'"),
    (json_reply({"issuer": "https://evil.test", "token_endpoint": ENDPOINT}), "evil.test"),
    (json_reply({"issuer": [ISSUER], "token_endpoint": ENDPOINT}), "saw ['https"),
    (json_reply({"issuer": ISSUER}), "token_endpoint"),
    (json_reply({"issuer": ISSUER, "token_endpoint": 7}), "saw 7"),
    (json_reply({"issuer": ISSUER, "token_endpoint": "/token"}), "saw '/token'"),
    (json_reply({"issuer": ISSUER, "token_endpoint": "file:///token"}), "file:"),
    (json_reply({"issuer": ISSUER, "token_endpoint": "https://a:b@x.test/"}), "a:b@"),
    (json_reply({"issuer": ISSUER, "token_endpoint": "http://issuer.test/"}), "https token_end"),
    (json_reply({"issuer": ISSUER, "token_endpoint": "https://x.test/\r\nA: b"}), "saw 'https"),
]


@pytest.mark.parametrize(("reply", "words"), UNUSABLE)
def test_a_discovery_that_is_of_no_use(
    reply: Reply, words: str, issuer: Issuer, source: TokenSource
) -> None:
    issuer.discovery.reply = reply
    with unavailable(f"discovery at {ISSUER}/{WELL_KNOWN}", words):
        run(source.discover())
    assert len(issuer.discovery.received) == 1
    with unavailable(f"discovery at {ISSUER}/{WELL_KNOWN}", words):
        run(source.token())
    assert issuer.asked == []


def test_an_issuer_without_tls_may_have_either_endpoint(clock: Clock) -> None:
    url = "http://issuer.test"
    for endpoint in ("http://issuer.test/token", "https://issuer.test/token"):
        issuer = Issuer(url, endpoint)
        run(TokenSource(issuer, clock, url, "client", SECRET).discover())


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_discovery_is_tried_three_times(
    status: int, issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.discovery.reply = Reply(status)
    discovering = start(source.discover())
    counts = []
    for seconds in (0, 0.49, 0.01, 0.99, 0.01):
        clock.advance(seconds)
        counts.append(len(issuer.discovery.received))
    assert counts == [1, 1, 2, 2, 3]
    with unavailable(f"saw {status}"):
        result_of(discovering)
    assert clock.getDelayedCalls() == []


def test_a_slow_discovery_ends(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    issuer.discovery.reply = SILENCE
    discovering = start(source.discover())
    take_time(clock, THREE_TRIES - 0.25)
    assert not discovering.called
    assert len(issuer.discovery.received) == 3
    take_time(clock, 0.25)
    with unavailable(ISSUER, "no complete answer within 10 seconds"):
        result_of(discovering)
    assert clock.getDelayedCalls() == []


def test_an_issuer_that_cannot_be_reached(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.errors = [ConnectionRefusedError() for _ in range(3)]
    discovering = start(source.discover())
    take_time(clock, 2)
    with unavailable("cannot connect"):
        result_of(discovering)


def test_a_discovery_that_is_cancelled_stops(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    for reply in (SILENCE, Reply(500)):
        issuer.discovery.reply = reply
        issuer.discovery.received.clear()
        discovering = start(source.discover())
        discovering.cancel()
        with pytest.raises(CancelledError):
            result_of(discovering)
        take_time(clock, THREE_TRIES)
        assert len(issuer.discovery.received) == 1
        assert clock.getDelayedCalls() == []


def test_what_was_discovered_is_kept(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    run(source.discover())
    run(source.token())
    clock.advance(1001)
    run(source.token())
    assert len(issuer.discovery.received) == 1


def test_after_a_failure_it_is_discovered_anew(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    run(source.discover())
    issuer.endpoint.reply = Reply(404)
    with unavailable(ENDPOINT, "404"):
        run(source.token())
    issuer.endpoint.reply = token_reply("moved")
    moved = "https://new.test/token"
    issuer.discovery.reply = json_reply({"issuer": ISSUER, "token_endpoint": moved})
    clock.advance(2)
    assert run(source.token()) == "moved"
    assert issuer.uris[-1] == moved.encode()


# --- The grant ------------------------------------------------------------------------------------


def test_what_the_endpoint_is_sent(issuer: Issuer, source: TokenSource) -> None:
    assert run(source.token()) == "token-1"
    (asked,) = issuer.asked
    assert issuer.uris[-1] == ENDPOINT.encode()
    assert asked.method == "POST"
    assert asked.headers["authorization"] == basic("client", SECRET)
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.headers["accept"] == "application/json"
    assert asked.headers["content-length"] == str(len(asked.body))
    assert form_of(asked) == {"grant_type": "client_credentials"}


def test_an_audience_is_sent(issuer: Issuer, clock: Clock) -> None:
    source = make_source(issuer, clock, audience="https://metrics.test/?a=b&c")
    run(source.token())
    assert form_of(issuer.asked[0]) == {
        "grant_type": "client_credentials",
        "audience": "https://metrics.test/?a=b&c",
    }


@pytest.mark.parametrize("status", [400, 401, 403])
def test_where_basic_is_refused_the_form_is_used(
    status: int, issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    refusal = json_reply({"error": "invalid_client"}, status)
    issuer.endpoint.reply = [refusal, token_reply("a"), token_reply("b")]
    assert run(source.token()) == "a"
    first, second = issuer.asked
    assert "authorization" in first.headers
    assert "client_id" not in form_of(first)
    assert "authorization" not in second.headers
    form = {"grant_type": "client_credentials", "client_id": "client", "client_secret": SECRET}
    assert form_of(second) == form
    # And the next time it is used at once.
    clock.advance(1001)
    assert run(source.token()) == "b"
    assert form_of(issuer.asked[2]) == form
    assert len(issuer.asked) == 3


def test_where_basic_works_the_form_is_not_tried_later(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    run(source.token())
    clock.advance(1001)
    issuer.endpoint.reply = Reply(401)
    with unavailable("refused", "by HTTP Basic: status 401"):
        run(source.token())
    assert len(issuer.asked) == 2
    # It works no longer, so the next time both are tried.
    clock.advance(2)
    with unavailable():
        run(source.token())
    assert ["authorization" in each.headers for each in issuer.asked] == [True, True, True, False]


def test_when_both_are_refused_both_reasons_are_told(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = [
        json_reply({"error": "invalid_client", "error_description": "it expired"}, 401),
        Reply(400, b"<html>"),
    ]
    with unavailable(
        f"{ENDPOINT} refused",
        "by HTTP Basic: status 401 (invalid_client: it expired)",
        "in the form: status 400",
    ):
        run(source.token())
    assert len(issuer.asked) == 2


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (503, 3), (429, 3), (302, 1)])
def test_what_says_nothing_about_the_credentials(
    status: int, tries: int, issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = Reply(status)
    asking = start(source.token())
    take_time(clock, 2)
    with unavailable(f"{ENDPOINT} answered with status {status}"):
        result_of(asking)
    assert ["authorization" in each.headers for each in issuer.asked] == [True] * tries


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(200, b"access_token=token-x&token_type=Bearer"), "expected a JSON object"),
        (json_reply(["token-x"]), "expected a JSON object"),
        (Reply(200, b"{" * 50_000), "expected a JSON object"),
        (Reply(200, b" " * 70_000), "over the limit of 65536 bytes"),
        (json_reply({}), "missing_token"),
        (token_reply(None), "missing_token"),
        (token_reply(["token-x"]), "missing_token"),
        (token_reply(""), "malformed"),
        (token_reply("token-x y"), "malformed"),
        (token_reply("token-x\r\nX-Evil:1"), "malformed"),
        (token_reply("token-ü"), "malformed"),
        (token_reply("token-" + "x" * 16_384), "over the limit of 16384 characters"),
        (token_reply("token-x", token_type="mac"), "saw 'mac'"),
        (json_reply({"error": "invalid_scope", "error_description": "no"}), "invalid_scope: no"),
        (json_reply({"error": "made_up", "access_token": "token-x"}), "made_up"),
    ],
)
def test_an_answer_without_a_token(
    reply: Reply, words: str, issuer: Issuer, source: TokenSource, log: Log
) -> None:
    issuer.endpoint.reply = reply
    with unavailable(ENDPOINT, words):
        run(source.token())
    assert len(issuer.asked) == 1
    (event,) = log.of("no new access token")
    assert words in event["reason"]
    assert "token-" not in "".join(log.lines)


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER", None])
def test_token_types(token_type: str | None, issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = token_reply("a", token_type=token_type)
    assert run(source.token()) == "a"


def test_fields_that_nobody_needs_may_be_malformed(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = token_reply(
        "a", scope={"no": 1}, expires_at=[], refresh_token=7, mac_key=None
    )
    assert run(source.token()) == "a"


DAY = 24 * 3600


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (3600, 3600),
        (3600.0, 3600),
        ("3600", 3600),
        (8, 8),
        (0.5, 0.5),
        (DAY, DAY),
        (DAY + 1, DAY),
        (10**18, DAY),
        ("9" * 15, DAY),
        ("9" * 5000, 300),
        (float("inf"), DAY),
        (None, 300),
        (0, 300),
        (-5, 300),
        (float("nan"), 300),
        (True, 300),
        ("soon", 300),
        ("", 300),
        ("-5", 300),
        ("1e3", 300),
        ("٣٦٠٠", 300),
        ([3600], 300),
        ({}, 300),
    ],
)
def test_how_long_a_token_is_used(
    expires_in: object, lifetime: float, issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = [token_reply("a", expires_in), Reply(500)]
    run(source.token())
    margin, rounding = min(60, lifetime / 4), min(1, lifetime / 4)
    clock.advance(lifetime - rounding - margin - 0.01)
    assert run(source.token()) == "a"
    assert len(issuer.asked) == 1
    clock.advance(0.02)
    assert run(source.token()) == "a"
    assert len(issuer.asked) == 2
    clock.advance(margin - 0.02)
    assert run(source.token()) == "a"
    clock.advance(0.02)
    assert not start(source.token()).addErrback(lambda _: None).called


def test_a_missing_lifetime(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    issuer.endpoint.reply = [json_reply({"access_token": "a"}), token_reply("b")]
    assert run(source.token()) == "a"
    clock.advance(298)
    assert run(source.token()) == "a"
    assert run(source.token()) == "b"


def test_a_lifetime_counts_from_the_question(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = [SILENCE, token_reply("b")]
    asking = start(source.token())
    clock.advance(3)
    issuer.asked[0].answer(token_reply("a", expires_in=8))
    assert result_of(asking) == "a"
    clock.advance(1.9)
    assert run(source.token()) == "a"
    assert len(issuer.asked) == 1
    clock.advance(0.2)
    assert run(source.token()) == "a"
    assert run(source.token()) == "b"


# --- One request for all --------------------------------------------------------------------------


def test_however_many_wait_there_is_one_request(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = SILENCE
    waiting = [start(source.token()) for _ in range(100)]
    assert len(issuer.uris) == 2
    issuer.asked[0].answer(token_reply("a"))
    assert [result_of(each) for each in waiting] == ["a"] * 100
    assert run(source.token()) == "a"
    assert len(issuer.uris) == 2


def test_all_are_told_of_a_failure(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = SILENCE
    waiting = [start(source.token()) for _ in range(3)]
    issuer.asked[0].answer(Reply(404))
    issuer.asked[1].answer(Reply(404))
    for each in waiting:
        with unavailable("404"):
            result_of(each)


@pytest.mark.parametrize("gone", [[0], [1], [0, 1], [2, 0], [0, 1, 2]])
def test_who_waits_no_longer_leaves_the_request_to_the_others(
    gone: list[int], issuer: Issuer, source: TokenSource
) -> None:
    issuer.endpoint.reply = SILENCE
    waiting = [start(source.token()) for _ in range(3)]
    for number in gone:
        waiting[number].cancel()
        with pytest.raises(CancelledError):
            result_of(waiting[number])
    issuer.asked[0].answer(token_reply("a"))
    assert [result_of(waiting[each]) for each in range(3) if each not in gone] == ["a"] * (
        3 - len(gone)
    )
    # Even if nobody waited for it.
    assert run(source.token()) == "a"
    assert len(issuer.asked) == 1


def test_one_may_be_cancelled_by_what_another_does(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = SILENCE
    first, second, third = (start(source.token()) for _ in range(3))
    first.addCallback(lambda token: second.cancel())
    issuer.asked[0].answer(token_reply("a"))
    with pytest.raises(CancelledError):
        result_of(second)
    assert result_of(third) == "a"


def test_nobody_waits_longer_than_four_seconds(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = SILENCE
    first = start(source.token())
    clock.advance(2)
    second = start(source.token())
    clock.advance(1.9)
    assert not first.called
    clock.advance(0.1)
    with unavailable(ISSUER, "no token within 4 seconds"):
        result_of(first)
    assert not second.called
    # The request goes on for the others.
    issuer.asked[0].answer(token_reply("a"))
    assert result_of(second) == "a"


def test_it_is_renewed_before_it_expires_while_the_old_one_is_used(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = [token_reply("a"), SILENCE]
    run(source.token())
    clock.advance(941)
    assert [run(source.token()) for _ in range(5)] == ["a"] * 5
    assert len(issuer.asked) == 2
    issuer.asked[1].answer(token_reply("b"))
    assert run(source.token()) == "b"
    assert len(issuer.asked) == 2


def test_nothing_is_asked_as_long_as_nobody_wants_a_token(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    run(source.token())
    assert clock.getDelayedCalls() == []


# --- An issuer that is down -----------------------------------------------------------------------


def test_a_valid_token_is_used_while_the_renewal_fails(
    issuer: Issuer, source: TokenSource, clock: Clock, log: Log
) -> None:
    run(source.token())
    issuer.endpoint.reply = Reply(500)
    clock.advance(941)
    for _ in range(58):
        assert run(source.token()) == "token-1"
        take_time(clock, 1)
    assert len(issuer.asked) > 3
    clock.advance(1001 - 999)
    asking = start(source.token())
    take_time(clock, 4)
    with unavailable("500"):
        result_of(asking)
    assert {event["reason"] for event in log.of("no new access token")} == {
        f"{ENDPOINT} answered with status 500"
    }


def test_an_issuer_that_is_down_is_left_alone_in_between(
    issuer: Issuer, source: TokenSource, clock: Clock, log: Log
) -> None:
    issuer.endpoint.reply = Reply(500)
    rounds = []
    for _ in range(4 * 200):
        before = len(issuer.asked)
        start(source.token()).addErrback(lambda failure: failure.trap(TokenUnavailableError))
        if len(issuer.asked) > before:
            rounds.append(clock.seconds() - NOW)
        clock.advance(0.25)
    # Each time three tries within a second and a half, then a pause.
    assert rounds == [0, 3.5, 9, 18.5, 36, 67.5, 99, 130.5, 162, 193.5]
    assert len(issuer.asked) == 3 * len(rounds)
    rests = [event["rest_seconds"] for event in log.of("no new access token")]
    assert rests == [2, 4, 8, 16, 30, 30, 30, 30, 30, 30]


def test_a_very_long_outage(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    issuer.endpoint.reply = Reply(404)
    for _ in range(40):
        with unavailable("404"):
            run(source.token())
        clock.advance(31)
    issuer.endpoint.reply = token_reply("a")
    assert run(source.token()) == "a"


def test_who_comes_in_a_pause_is_told_why(issuer: Issuer, source: TokenSource) -> None:
    issuer.discovery.reply = Reply(404)
    with unavailable("saw 404"):
        run(source.token())
    with unavailable("saw 404"):
        run(source.token())
    assert len(issuer.uris) == 1


def test_a_short_outage_is_not_noticed(
    issuer: Issuer, source: TokenSource, clock: Clock, log: Log
) -> None:
    issuer.errors = [ConnectionRefusedError(), ConnectionRefusedError()]
    waiting = [start(source.token()) for _ in range(3)]
    take_time(clock, 1.5)
    assert [result_of(each) for each in waiting] == ["token-1"] * 3
    assert len(issuer.uris) == 4
    assert list(log) == []


def test_a_slow_endpoint(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    issuer.endpoint.reply = SILENCE
    asking = start(source.token()).addErrback(lambda failure: failure.trap(TokenUnavailableError))
    take_time(clock, THREE_TRIES)
    assert asking.called
    assert len(issuer.asked) == 3
    with unavailable("no complete answer within 10 seconds"):
        run(source.token())
    assert clock.getDelayedCalls() == []


def test_it_recovers_by_itself(issuer: Issuer, source: TokenSource, clock: Clock, log: Log) -> None:
    issuer.errors = [ConnectionRefusedError() for _ in range(3)]
    asking = start(source.token())
    take_time(clock, 2)
    with unavailable("cannot connect"):
        result_of(asking)
    clock.advance(2)
    assert run(source.token()) == "token-1"
    assert len(log.of("the issuer gives access tokens again")) == 1
    # And the next pauses are short again.
    clock.advance(1001)
    issuer.endpoint.reply = Reply(404)
    with unavailable("404"):
        run(source.token())
    assert [event["rest_seconds"] for event in log.of("no new access token")] == [2, 2]


def test_a_clock_that_is_set_back_does_not_make_a_pause_long(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    issuer.endpoint.reply = [Reply(404), Reply(404), token_reply("a")]
    with unavailable("404"):
        run(source.token())
    clock.rightNow -= 3600
    assert run(source.token()) == "a"


def test_a_mistake_of_ours_is_told_and_does_not_last(
    issuer: Issuer,
    source: TokenSource,
    clock: Clock,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError

    log.errors_are_fine = True
    with monkeypatch.context() as patch:
        patch.setattr(BackendApplicationClient, "prepare_request_body", broken)
        with unavailable("internal error"):
            run(source.token())
    assert len(log.of("cannot ask for an access token")) == 1
    clock.advance(2)
    assert run(source.token()) == "token-1"


# --- A token that is refused before its time ------------------------------------------------------


def test_a_refused_token_is_replaced(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = [token_reply("a"), SILENCE]
    run(source.token())
    assert source.invalidate("a")
    another = start(source.token(other_than="a"))
    # For the others it may still be good.
    assert run(source.token()) == "a"
    assert source.invalidate("a")
    third = start(source.token(other_than="a"))
    assert len(issuer.asked) == 2
    issuer.asked[1].answer(token_reply("b"))
    assert (result_of(another), result_of(third)) == ("b", "b")
    assert run(source.token()) == "b"


def test_a_refused_token_is_replaced_also_when_nobody_waits(
    issuer: Issuer, source: TokenSource
) -> None:
    run(source.token())
    assert source.invalidate("token-1")
    assert run(source.token()) == "token-1"
    assert run(source.token()) == "token-2"


def test_what_is_no_longer_current_is_replaced_already(issuer: Issuer, source: TokenSource) -> None:
    assert source.invalidate("never")
    assert run(source.token()) == "token-1"
    assert source.invalidate("never")
    assert run(source.token(other_than="never")) == "token-1"
    assert len(issuer.asked) == 1


def test_tokens_are_replaced_every_ten_seconds_at_most(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    run(source.token())
    assert source.invalidate("token-1")
    assert run(source.token(other_than="token-1")) == "token-2"
    assert not source.invalidate("token-2")
    clock.advance(9.9)
    assert not source.invalidate("token-2")
    assert run(source.token()) == "token-2"
    assert len(issuer.asked) == 2
    clock.advance(0.1)
    assert source.invalidate("token-2")
    assert run(source.token(other_than="token-2")) == "token-3"


def test_a_clock_that_is_set_back_does_not_keep_a_refused_token(
    source: TokenSource, clock: Clock
) -> None:
    run(source.token())
    assert source.invalidate("token-1")
    assert run(source.token(other_than="token-1")) == "token-2"
    clock.rightNow -= 3600
    assert source.invalidate("token-2")


def test_a_refused_token_that_cannot_be_replaced(issuer: Issuer, source: TokenSource) -> None:
    run(source.token())
    issuer.endpoint.reply = Reply(404)
    assert source.invalidate("token-1")
    with unavailable("404"):
        run(source.token(other_than="token-1"))
    with unavailable("404"):
        run(source.token(other_than="token-1"))
    # Others use it as long as it holds.
    assert run(source.token()) == "token-1"


# --- Secrets --------------------------------------------------------------------------------------


def test_another_secret(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    run(source.token())
    source.use_secret("other")
    assert run(source.token()) == "token-1"
    clock.advance(1001)
    assert run(source.token()) == "token-2"
    assert issuer.asked[1].headers["authorization"] == basic("client", "other")


def test_another_secret_is_tried_at_once(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = [Reply(401), Reply(401), token_reply("a")]
    with unavailable("401"):
        run(source.token())
    source.use_secret("other")
    assert run(source.token()) == "a"


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("secret", [SECRET, quote_plus(SECRET), basic("client", SECRET)])
def test_an_issuer_that_repeats_the_secret(
    secret: str, status: int, issuer: Issuer, source: TokenSource, clock: Clock, log: Log
) -> None:
    # Wherever the reason is cut.
    for length in range(300, 500, 4):
        said = {"error": "invalid_client", "error_description": f"{'x' * length}{secret}!"}
        issuer.endpoint.reply = json_reply(said, status)
        with unavailable("invalid_client"):
            run(source.token())
        clock.advance(31)
    written = "".join(log.lines)
    assert "invalid_client: xxx" in written
    for form in (secret, secret[:8], json.dumps(secret)[1:-1]):
        assert form not in written


def test_a_long_reason_is_cut(issuer: Issuer, source: TokenSource, log: Log) -> None:
    issuer.endpoint.reply = json_reply({"error": "x" * 60_000}, 401)
    with unavailable("xxx"):
        run(source.token())
    assert len(log[-1]["reason"]) == 500


def test_an_empty_secret(issuer: Issuer, clock: Clock) -> None:
    source = TokenSource(issuer, clock, ISSUER, "client", "")
    issuer.endpoint.reply = json_reply({"error": "invalid_client"}, 401)
    with pytest.raises(TokenUnavailableError, match="invalid_client"):
        run(source.token())


# --- The agent ------------------------------------------------------------------------------------


def ask(agent: IAgent, body: IBodyProducer | None = None, **headers: str) -> Any:
    fields = Headers({name: [value] for name, value in headers.items()})
    before = list(fields.getAllRawHeaders())
    answer = agent.request(b"POST", b"http://peer.test/path", fields, body)
    # What was given is not touched, now or later.
    return answer.addBoth(
        lambda result: result if list(fields.getAllRawHeaders()) == before else None
    )


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def agent(peer: Peer, source: TokenSource) -> OIDCAgent:
    return OIDCAgent(peer.agent, source)


def tokens_of(peer: Peer) -> list[str]:
    return [each.headers["authorization"].removeprefix("Bearer ") for each in peer.received]


def test_every_request_shows_the_token(agent: OIDCAgent, peer: Peer) -> None:
    response = result_of(ask(agent, BytesBody(b"body"), Accept="x", Authorization="Basic old"))
    assert response.code == 200
    assert (peer.only.method, peer.only.target, peer.only.body) == ("POST", "/path", b"body")
    assert peer.only.headers["accept"] == "x"
    assert tokens_of(peer) == ["token-1"]


def test_a_request_without_headers_and_body(agent: OIDCAgent, peer: Peer) -> None:
    result_of(agent.request(b"GET", b"http://peer.test/"))
    assert tokens_of(peer) == ["token-1"]


def test_a_401_is_asked_again_with_another_token(agent: OIDCAgent, peer: Peer) -> None:
    peer.reply = [Reply(401, b"no"), Reply(200, b"yes")]
    response = result_of(ask(agent, BytesBody(b"body"), Accept="x"))
    assert response.code == 200
    assert result_of(read_body(response, 100)) == b"yes"
    assert tokens_of(peer) == ["token-1", "token-2"]
    assert [each.body for each in peer.received] == [b"body", b"body"]
    assert [each.headers["accept"] for each in peer.received] == ["x", "x"]
    # The new one is for all.
    result_of(ask(agent))
    assert tokens_of(peer)[-1] == "token-2"


@pytest.mark.parametrize("status", [200, 204, 400, 403, 407, 429, 500])
def test_other_answers_are_final(status: int, agent: OIDCAgent, peer: Peer) -> None:
    peer.reply = Reply(status)
    assert result_of(ask(agent, BytesBody(b"body"))).code == status
    assert len(peer.received) == 1


def test_a_second_401_is_final(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = Reply(401, b"no")
    for _ in range(3):
        response = result_of(ask(agent, BytesBody(b"body")))
        assert response.code == 401
        assert result_of(read_body(response, 100)) == b"no"
    # The token is new: another would be no better, so neither server is bothered.
    assert tokens_of(peer) == ["token-1", "token-2", "token-2", "token-2"]
    assert len(issuer.asked) == 2


def test_a_burst_of_401s_is_one_renewal(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = SILENCE
    waiting = [ask(agent, BytesBody(b"body")) for _ in range(10)]
    peer.reply = Reply(200)
    for each in list(peer.received):
        each.answer(Reply(401))
    assert [result_of(each).code for each in waiting] == [200] * 10
    assert tokens_of(peer) == ["token-1"] * 10 + ["token-2"] * 10
    assert len(issuer.asked) == 2


def test_an_issuer_that_gives_the_same_token_again(
    agent: OIDCAgent, peer: Peer, issuer: Issuer
) -> None:
    issuer.endpoint.reply = token_reply("same")
    peer.reply = Reply(401, b"no")
    response = result_of(ask(agent, BytesBody(b"body")))
    assert (response.code, result_of(read_body(response, 100))) == (401, b"no")
    assert len(issuer.asked) == 2
    assert len(peer.received) == 1


@implementer(IBodyProducer)
class Once:
    """A body that is gone when it has been sent."""

    def __init__(self, data: bytes) -> None:
        self._body = BytesBody(data)
        self.length = len(data)
        self.sent = 0

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.sent += 1
        return self._body.startProducing(consumer)

    def stopProducing(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def test_a_body_that_cannot_be_sent_twice(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    peer.reply = [Reply(401, b"no"), Reply(200)]
    body = Once(b"body")
    response = result_of(ask(agent, body))
    assert (response.code, result_of(read_body(response, 100))) == (401, b"no")
    assert body.sent == 1
    # But the token is replaced for the next.
    result_of(ask(agent))
    result_of(ask(agent))
    assert tokens_of(peer) == ["token-1", "token-1", "token-2"]


def test_no_request_without_a_token(agent: OIDCAgent, peer: Peer, issuer: Issuer) -> None:
    issuer.discovery.reply = Reply(404)
    with unavailable("404"):
        result_of(ask(agent))
    assert peer.received == []


def test_no_second_request_without_another_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    issuer.endpoint.reply = [token_reply("a"), Reply(500)]
    peer.reply = Reply(401)
    asking = ask(agent, BytesBody(b"body"))
    take_time(clock, 2)
    with unavailable("500"):
        result_of(asking)
    assert len(peer.received) == 1


def test_a_request_that_fails(source: TokenSource) -> None:
    agent = OIDCAgent(Broken(ConnectionRefusedError()), source)
    with pytest.raises(ConnectionRefusedError):
        result_of(ask(agent))


def test_a_request_that_is_cancelled_while_it_waits_for_a_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer
) -> None:
    issuer.endpoint.reply = SILENCE
    cancelled, kept = ask(agent), ask(agent)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        result_of(cancelled)
    issuer.asked[0].answer(token_reply("a"))
    assert result_of(kept).code == 200
    assert len(peer.received) == 1


class Refusal:
    """A 401 whose body arrives when it is told to.

    Attributes:
        closed: whether its connection was closed.
        read: whether its body was asked for.
    """

    code = 401

    def __init__(self, body: bytes | None = None) -> None:
        self.closed = False
        self.read = False
        self._body = body

    def deliverBody(self, protocol: Protocol) -> None:
        self.read = True
        protocol.makeConnection(self)
        if self._body is not None:
            protocol.dataReceived(self._body)
            protocol.connectionLost(Failure(ResponseDone()))

    def loseConnection(self) -> None:
        self.closed = True


@implementer(IAgent)
class Refusing:
    """An agent that answers with what it was given, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        return succeed(self._answers.pop(0))


@pytest.mark.parametrize(("body", "closed"), [(b"", False), (b"no", False), (None, True)])
def test_the_first_answer_does_not_keep_its_connection(
    body: bytes | None, closed: bool, source: TokenSource
) -> None:
    first, second = Refusal(body), Refusal()
    assert result_of(ask(OIDCAgent(Refusing(first, second), source))) is second
    assert (first.read, first.closed) == (True, closed)
    assert not second.read


@pytest.mark.parametrize(("body", "closed"), [(b"no", False), (None, True)])
def test_an_answer_that_is_not_handed_out_does_not_keep_its_connection(
    body: bytes | None, closed: bool, issuer: Issuer, source: TokenSource
) -> None:
    issuer.endpoint.reply = [token_reply("a"), SILENCE]
    first = Refusal(body)
    asking = ask(OIDCAgent(Refusing(first), source))
    assert not first.read
    asking.cancel()
    with pytest.raises(CancelledError):
        result_of(asking)
    assert (first.read, first.closed) == (True, closed)


# --- What uses it ---------------------------------------------------------------------------------


def test_a_forward_without_a_token(agent: OIDCAgent, issuer: Issuer, clock: Clock) -> None:
    forwarder = Forwarder(agent, clock, "http://peer.test/write", "tenant")
    run(forwarder.forward("c", b"", 1))
    clock.advance(1001)
    issuer.endpoint.reply = Reply(404)
    with pytest.raises(ForwardError) as caught:
        run(forwarder.forward("c", b"", 1))
    error = caught.value
    assert (error.status, error.retry_after, error.answered) == (502, "30", False)
    assert "404" not in str(error)


def test_a_forward_while_the_issuer_is_slow(agent: OIDCAgent, issuer: Issuer, clock: Clock) -> None:
    issuer.endpoint.reply = SILENCE
    forwarder = Forwarder(agent, clock, "http://peer.test/write", "tenant")
    forwarding = start(forwarder.forward("c", b"", 1))
    take_time(clock, 4)
    with pytest.raises(ForwardError) as caught:
        result_of(forwarding)
    assert (caught.value.status, caught.value.retry_after) == (502, "30")


def test_an_upload_without_a_token(issuer: Issuer, log: Log) -> None:
    clock = clock_at()
    upstream = Peer()
    agent = OIDCAgent(upstream.agent, make_source(issuer, clock))
    server = Server(clock=clock, forward_agent=agent)
    issuer.discovery.reply = Reply(404)
    answer = server.upload(up())
    assert (answer.status, answer.headers["retry-after"]) == (502, "30")
    assert "issuer" not in answer.text
    (event,) = log.of("no access token for the upstream")
    assert "404" in event["reason"]
    # The failure did not use up the cluster's turn.
    issuer.discovery.reply = json_reply({"issuer": ISSUER, "token_endpoint": ENDPOINT})
    clock.advance(2)
    assert server.upload(up()).status == 200
    assert tokens_of(upstream) == ["token-1"]


def test_the_authorization_server_is_shown_the_token(
    agent: OIDCAgent, peer: Peer, clock: Clock
) -> None:
    peer.reply = [Reply(401), json_reply({"account_id": "account-1"})]
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    assert run(server.authorize("cluster-token", "cluster-1")) == "account-1"
    assert tokens_of(peer) == ["token-1", "token-2"]
    question = {"cluster_id": "cluster-1", "authorization_token": "cluster-token"}
    assert [each.json for each in peer.received] == [question, question]


def test_an_authorization_without_a_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    issuer.discovery.reply = Reply(404)
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    with pytest.raises(UnavailableError, match=r"no access token .* saw 404"):
        run(server.authorize("cluster-token", "cluster-1"))
    assert peer.received == []


def test_who_is_refused_does_not_cost_the_others_their_token(
    agent: OIDCAgent, peer: Peer, issuer: Issuer, clock: Clock
) -> None:
    # The authorization server says 401 to a cluster's bad token, too.
    server = AuthorizationServer(agent, clock, "http://peer.test/tb")
    peer.reply = Reply(401)
    for _ in range(20):
        with pytest.raises(RefusedError, match="unauthorized"):
            run(server.authorize("bad", "cluster-1"))
    assert len(issuer.asked) == 2
    clock.advance(10)
    issuer.endpoint.reply = Reply(404)
    with pytest.raises(UnavailableError):
        run(server.authorize("bad", "cluster-1"))
    peer.reply = json_reply({"account_id": "account-1"})
    assert run(server.authorize("good", "cluster-1")) == "account-1"
