"""What an issuer may answer: to discovery, and to a request for a token."""

from __future__ import annotations

import gzip

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError  # noqa: A004
from twisted.internet.task import Clock

from telemeter.auth.oidc import TokenSource, check_issuer
from tests.auth.oidc.world import (
    ENDPOINT,
    ISSUER,
    SECRET,
    THREE_TRIES,
    WELL_KNOWN,
    Issuer,
    basic,
    form_of,
    make_source,
    take_time,
    token_reply,
    unavailable,
)
from tests.fakes import SILENCE, Log, Reply, json_reply, result_of, run, start

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
    (Reply(302), "expected status 200, saw 302"),
    (Reply(302, headers={"Location": "ftp://elsewhere.test/"}), "points to ftp://elsewhere.test/"),
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


def test_scopes_are_sent_whichever_way_the_credentials_go(issuer: Issuer, clock: Clock) -> None:
    issuer.endpoint.reply = [Reply(401), token_reply("token")]
    run(make_source(issuer, clock, scopes=["https://x/.default", "write"]).token())
    for asked in issuer.asked:
        assert form_of(asked)["scope"] == "https://x/.default write"
    assert len(issuer.asked) == 2


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


# --- Answers that are not whole, and redirects ----------------------------------------------------


def damaged(reply: Reply) -> Reply:
    """The reply as gzip that is cut off."""
    return Reply(
        reply.status,
        gzip.compress(reply.body)[:-1],
        {**reply.headers, "Content-Encoding": "gzip"},
    )


def test_a_damaged_discovery_is_tried_again(
    issuer: Issuer, source: TokenSource, clock: Clock
) -> None:
    sound = issuer.discovery.reply
    assert isinstance(sound, Reply)
    issuer.discovery.reply = [damaged(sound), sound]
    asking = start(source.token())
    take_time(clock, 1)
    assert result_of(asking) == "token-1"


def test_a_damaged_token_is_tried_again(issuer: Issuer, source: TokenSource, clock: Clock) -> None:
    issuer.endpoint.reply = [damaged(token_reply("token-1")), token_reply("token-2")]
    asking = start(source.token())
    take_time(clock, 1)
    assert result_of(asking) == "token-2"


def test_a_discovery_that_is_redirected(issuer: Issuer, source: TokenSource) -> None:
    sound = issuer.discovery.reply
    assert isinstance(sound, Reply)
    there = f"https://other.test/{WELL_KNOWN}"
    issuer.discovery.reply = [Reply(302, headers={"Location": there}), sound]
    assert run(source.token()) == "token-1"
    assert issuer.uris[1] == there.encode()


def test_a_discovery_is_not_trusted_without_tls(issuer: Issuer, source: TokenSource) -> None:
    sound = issuer.discovery.reply
    assert isinstance(sound, Reply)
    there = f"http://issuer.test/{WELL_KNOWN}"
    issuer.discovery.reply = [Reply(302, headers={"Location": there}), sound]
    with unavailable("redirected from https to http://issuer.test/"):
        run(source.token())
    assert not issuer.asked


def test_credentials_go_to_no_other_server(issuer: Issuer, source: TokenSource) -> None:
    issuer.endpoint.reply = Reply(307, headers={"Location": "https://other.test/token"})
    with unavailable("status 307, which points to https://other.test/token and is not followed"):
        run(source.token())
    assert len(issuer.asked) == 1
