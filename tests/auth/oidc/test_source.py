"""When an issuer is asked for a token, and who waits for it."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest
from oauthlib.oauth2 import BackendApplicationClient
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError  # noqa: A004
from twisted.internet.task import Clock

from telemeter.auth.oidc import TokenSource, TokenUnavailableError
from tests.auth.oidc.world import (
    ENDPOINT,
    ISSUER,
    SECRET,
    THREE_TRIES,
    Issuer,
    basic,
    take_time,
    token_reply,
    unavailable,
)
from tests.fakes import SILENCE, UPTIME, Log, Reply, json_reply, result_of, run, start

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
            rounds.append(clock.seconds() - UPTIME)
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
