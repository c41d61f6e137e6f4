"""The agent's cycle, with a clock."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet import error as errors
from twisted.internet.task import Clock

from telemeter.agent.collect import FederationSource
from telemeter.agent.cycle import Agent, CycleError, CyclePlan, collect
from telemeter.agent.upload import Destination
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import KIND
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, TEXT_CONTENT_TYPE
from tests.agent.world import FROM_URL, INTERVAL, World, families_reply, token_reply, up, uploaded
from tests.fakes import (
    NOW,
    NOW_MS,
    SILENCE,
    Broken,
    Growth,
    Log,
    Peer,
    Reply,
    has_fired,
    run,
    value_of,
)

#: How long the first failure is waited out, with luck of a half.
FIRST = 3.0


@pytest.fixture
def world(clock: Clock) -> World:
    world = World(clock)
    # Prometheus has a fresh sample whenever it is asked, at least for a day.
    world.prometheus.reply = families_reply(up(at=NOW_MS + 12 * 3600 * 1000))
    return world


def started(world: World) -> World:
    world.agent.startService()
    return world


# --- What is done ---------------------------------------------------------------------------------


def test_a_cycle(clock: Clock, log: Log) -> None:
    world = started(World(clock))
    assert len(world.prometheus.received) == 1
    assert len(world.authorize.received) == 1
    assert world.server.only.headers["authorization"] == "Bearer jwt-1"
    sample = ("up", {"job": "j", "_id": "cluster"}, 1.0, NOW_MS)
    assert uploaded(world.server.only) == [sample]
    (event,) = log.of("metrics uploaded")
    told = {name: event[name] for name in ("samples", "filtered", "families", "bytes")}
    assert told == {
        "samples": 1,
        "filtered": 0,
        "families": 1,
        "bytes": len(world.server.only.body),
    }


def test_the_transforms_and_then_the_labels_of_the_server(clock: Clock) -> None:
    transforms = Transforms({"region": "eu"}, {"up": "upp"}, frozenset(["instance"]), b"salt")
    world = World(clock, transforms=transforms)
    world.prometheus.reply = families_reply(
        up(instance="127.0.0.1:9391", _id="mine"), up(at=NOW_MS - 25 * 3600 * 1000)
    )
    started(world)
    ((name, labels, _, _),) = uploaded(world.server.only)
    assert name == "upp"
    assert labels.pop("instance") not in ("", "127.0.0.1:9391")
    assert labels == {"job": "j", "region": "eu", "_id": "cluster"}


def test_the_worked_example_of_anonymization(clock: Clock) -> None:
    transforms = Transforms(anonymized=frozenset(["instance"]), salt=b"a-unique-value")
    world = World(clock, transforms=transforms)
    world.prometheus.reply = families_reply(up(instance="127.0.0.1:9391"))
    started(world)
    ((_, labels, _, _),) = uploaded(world.server.only)
    assert labels["instance"] == "c4XWQGV_rFgb"


def test_samples_are_counted(clock: Clock) -> None:
    world = World(clock)
    old = up(at=NOW_MS - 25 * 3600 * 1000)
    world.prometheus.reply = families_reply(up(), old, up(job="k"))
    growth = Growth()
    started(world)
    assert value_of("federate_samples") == 3
    assert value_of("federate_filtered_samples") == 1
    assert value_of("federate_last_success_timestamp_seconds") == NOW
    assert growth.of("federate_requests_total") == 1
    assert growth.of("federate_requests_failed_total") == 0


def test_nothing_to_send(clock: Clock, log: Log) -> None:
    world = World(clock)
    world.prometheus.reply = families_reply()
    started(world)
    assert world.authorize.received == []
    assert world.uploads == 0
    assert len(log.of("no metrics to send: nothing that was collected is left")) == 1
    clock.advance(INTERVAL)
    assert len(world.prometheus.received) == 2


def test_what_was_sent_last(clock: Clock) -> None:
    world = World(clock)
    assert world.agent.last == []
    world.prometheus.reply = [families_reply(up(1.0)), families_reply(up(2.0))]
    started(world)
    (family,) = world.agent.last
    assert family.metric[0].untyped.value == 1.0
    assert {pair.name for pair in family.metric[0].label} == {"job", "_id"}
    clock.advance(INTERVAL)
    assert world.agent.last[0].metric[0].untyped.value == 2.0


def test_what_transforms_is_told() -> None:
    assert value_of("federate_transformer_info", kind=KIND) == 1


def test_one_token_serves_many_uploads(world: World, clock: Clock) -> None:
    started(world)
    for _ in range(10):
        clock.advance(INTERVAL)
    assert world.uploads == 11
    assert len(world.authorize.received) == 1


# --- The rhythm -----------------------------------------------------------------------------------


def times_of_uploads(world: World, seconds: int, step: float = 1.0) -> list[float]:
    """When uploads arrive, as the clock goes on."""
    began = world.clock.seconds()
    seen, times = world.uploads, []
    for _ in range(int(seconds / step)):
        world.clock.advance(step)
        if world.uploads > seen:
            seen = world.uploads
            times.append(world.clock.seconds() - began)
    return times


def test_one_cycle_at_once_and_one_every_interval(world: World) -> None:
    started(world)
    assert world.uploads == 1
    assert times_of_uploads(world, 1000) == [270, 540, 810]


def test_a_slow_upload_is_never_overlapped(world: World, clock: Clock) -> None:
    world = World(clock, interval=10, timeout=1000)
    world.server.reply = SILENCE
    started(world)
    clock.advance(35)
    assert (len(world.prometheus.received), world.uploads) == (1, 1)
    world.server.only.answer(Reply(200))
    assert world.uploads == 1
    # What was missed is not made up for.
    assert times_of_uploads(world, 15) == [10]


@pytest.mark.parametrize("slow", ["prometheus", "authorize", "server"])
def test_no_upload_comes_sooner_than_an_interval_after_the_last(
    world: World, clock: Clock, slow: str
) -> None:
    # As a server with --ratelimit 4m30s, the default of both, sees it.
    peer: Peer = getattr(world, slow)
    reply = peer.reply
    assert isinstance(reply, Reply)
    peer.reply = SILENCE
    started(world)
    clock.advance(3)
    peer.reply = reply
    peer.only.answer(reply)
    assert world.uploads == 1
    assert times_of_uploads(world, 600) == [270, 540]


def test_a_slow_source_is_never_overlapped(clock: Clock) -> None:
    world = World(clock, interval=10, timeout=1000)
    world.prometheus.reply = SILENCE
    started(world)
    clock.advance(95)
    assert len(world.prometheus.received) == 1
    world.prometheus.only.answer(families_reply(up()))
    assert world.uploads == 1


# --- Failures -------------------------------------------------------------------------------------


def break_collect(world: World) -> None:
    world.prometheus.reply = Reply(503)


def break_authorize(world: World) -> None:
    world.authorize.reply = Reply(403)


def break_upload(world: World) -> None:
    world.server.reply = Reply(500)


BREAKS = {"collect": break_collect, "authorize": break_authorize, "upload": break_upload}


@pytest.mark.parametrize("stage", BREAKS)
def test_a_failure_is_counted_by_its_stage_and_told(world: World, stage: str, log: Log) -> None:
    BREAKS[stage](world)
    growth = Growth()
    started(world)
    assert growth.of("federate_requests_total") == 1
    assert growth.of("federate_requests_failed_total") == 1
    assert growth.all_of("federate_failures_total") == {frozenset({("stage", stage)}): 1}
    (event,) = log.of("cycle failed")
    assert event["log_level"].name == "error"
    assert event["stage"] == stage
    assert "answered with status" in event["reason"]
    assert event["retry_seconds"] == FIRST


@pytest.mark.parametrize("stage", BREAKS)
def test_a_failure_is_tried_again_soon_and_then_in_the_rhythm(world: World, stage: str) -> None:
    BREAKS[stage](world)
    started(world)
    world.prometheus.reply = families_reply(up(at=NOW_MS + 12 * 3600 * 1000))
    world.authorize.reply = token_reply()
    world.server.reply = Reply(200)
    assert times_of_uploads(world, 700) == [FIRST, FIRST + 270, FIRST + 540]


def test_failures_are_tried_again_later_and_later(world: World) -> None:
    break_upload(world)
    started(world)
    assert times_of_uploads(world, 40, step=0.5) == [3, 8.5, 19, 39.5]
    assert world.jitters == [(1, window) for window in (5, 10, 20, 40, 80)]


def test_the_longest_window_is_five_minutes(world: World) -> None:
    break_upload(world)
    started(world)
    for _ in range(10):
        world.clock.advance(300)
    assert world.jitters[-1] == (1, 300)


def test_a_success_ends_the_waits(world: World) -> None:
    world.server.reply = [Reply(500), Reply(500), Reply(200), Reply(500), Reply(200)]
    started(world)
    assert times_of_uploads(world, 300, step=0.5) == [3, 8.5, 278.5, 281.5]


@pytest.mark.parametrize(("luck", "wait"), [(0.0, 1), (0.5, 3), (1.0, 5)])
def test_the_first_wait_is_up_to_five_seconds(world: World, luck: float, wait: float) -> None:
    world.luck = luck
    break_upload(world)
    started(world)
    assert times_of_uploads(world, 6)[0] == wait
    assert world.jitters[0] == (1, 5)


def test_the_first_window_is_the_interval_if_that_is_shorter(clock: Clock) -> None:
    world = World(clock, interval=2)
    break_upload(world)
    started(world)
    assert world.jitters == [(1, 2)]
    assert times_of_uploads(world, 3, step=0.5)[0] == 1.5


def test_the_jitter_is_random() -> None:
    default = Agent.__init__.__defaults__
    assert default is not None
    assert random.uniform in default


@pytest.mark.parametrize(
    ("value", "luck", "wait"),
    [
        ("300", 0.0, 301),
        ("300", 1.0, 305),
        ("10", 0.5, 13),
        ("0", 0.5, 3),
        ("100000", 0.0, 3601),
        ("soon", 0.5, 3),
    ],
)
@pytest.mark.parametrize("stage", ["authorize", "upload"])
def test_retry_after_is_honoured(
    world: World, stage: str, value: str, luck: float, wait: float, log: Log
) -> None:
    world.luck = luck
    peer = world.authorize if stage == "authorize" else world.server
    peer.reply = Reply(429, headers={"Retry-After": value})
    started(world)
    asked = len(world.prometheus.received)
    world.clock.advance(wait - 0.01)
    assert len(world.prometheus.received) == asked
    world.clock.advance(0.01)
    assert len(world.prometheus.received) == asked + 1
    assert log.of("cycle failed")[0]["retry_seconds"] == round(wait, 1)


def test_a_401_on_upload_is_followed_by_another_token_and_upload_at_once(world: World) -> None:
    world.authorize.reply = [token_reply("old"), token_reply("new")]
    world.server.reply = [Reply(401), Reply(200)]
    growth = Growth()
    started(world)
    tokens = [received.headers["authorization"] for received in world.server.received]
    assert tokens == ["Bearer old", "Bearer new"]
    first, second = world.server.received
    assert first.body == second.body
    assert growth.of("federate_requests_total") == 1
    assert growth.of("federate_requests_failed_total") == 0
    assert len(world.prometheus.received) == 1


def test_the_second_upload_has_the_labels_of_the_new_token(world: World) -> None:
    world.authorize.reply = [token_reply("old", _id="cluster"), token_reply("new", _id="renamed")]
    world.server.reply = [Reply(401), Reply(200)]
    started(world)
    ids = [uploaded(received)[0][1]["_id"] for received in world.server.received]
    assert ids == ["cluster", "renamed"]
    (family,) = world.agent.last
    assert {pair.value for pair in family.metric[0].label} >= {"renamed"}


def test_a_second_401_fails_the_cycle(world: World, log: Log) -> None:
    world.authorize.reply = [token_reply("old"), token_reply("new"), token_reply("newest")]
    world.server.reply = [Reply(401), Reply(401), Reply(200)]
    started(world)
    assert world.uploads == 2
    (event,) = log.of("cycle failed")
    assert event["stage"] == "upload"
    # Neither of the two tokens is used again.
    assert times_of_uploads(world, 4) == [FIRST]
    assert world.server.received[-1].headers["authorization"] == "Bearer newest"


def test_no_other_token_after_a_401(world: World, log: Log) -> None:
    world.authorize.reply = [token_reply("old"), Reply(503, b"down", {"Retry-After": "90"})]
    world.server.reply = Reply(401)
    world.luck = 0.0
    started(world)
    assert world.uploads == 1
    (event,) = log.of("cycle failed")
    assert (event["stage"], event["retry_seconds"]) == ("authorize", 91)


def test_another_failure_of_the_second_upload_keeps_the_new_token(world: World, log: Log) -> None:
    world.authorize.reply = [token_reply("old"), token_reply("new")]
    world.server.reply = [Reply(401), Reply(500), Reply(200)]
    started(world)
    (event,) = log.of("cycle failed")
    assert "status 500" in event["reason"]
    assert times_of_uploads(world, 4) == [FIRST]
    assert len(world.authorize.received) == 2


@pytest.mark.parametrize("status", [400, 403, 413, 429, 500, 503])
def test_another_refusal_keeps_the_token(world: World, status: int) -> None:
    world.server.reply = [Reply(status), Reply(200)]
    started(world)
    assert times_of_uploads(world, 4) == [FIRST]
    assert len(world.authorize.received) == 1


def test_a_server_that_does_not_answer(world: World, clock: Clock, log: Log) -> None:
    world.server.reply = SILENCE
    started(world)
    clock.advance(INTERVAL)
    (event,) = log.of("cycle failed")
    assert event["stage"] == "upload"
    assert "no answer in time" in event["reason"]
    world.server.reply = Reply(200)
    clock.advance(FIRST)
    assert world.uploads == 2


def test_a_server_that_is_not_there(clock: Clock, log: Log) -> None:
    world = World(clock)
    agent = Broken(errors.ConnectionRefusedError(), then=world.server.agent)
    destination = Destination(agent, clock, world.wall, "http://telemeter.test/upload", 10)
    plan = world.plan
    world.agent = Agent(
        CyclePlan(plan.source, plan.transformer, plan.tokens, destination, plan.interval),
        clock,
        world.wall,
        lambda low, high: (low + high) / 2,
    )
    started(world)
    (event,) = log.of("cycle failed")
    assert event["reason"].startswith("cannot connect")
    clock.advance(FIRST)
    assert world.uploads == 1


def test_an_error_of_ours_is_logged_and_tried_again(
    world: World, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise KeyError("ours")

    growth = Growth()
    with monkeypatch.context() as patched:
        patched.setattr("telemeter.agent.cycle.compress_framed", broken)
        started(world)
    (event,) = log.of("cycle failed")
    assert event["stage"] == "internal"
    assert "KeyError: 'ours'" in "".join(log.lines)
    assert growth.of("federate_requests_failed_total") == 1
    assert times_of_uploads(world, 4) == [FIRST]
    log.errors_are_fine = True


def test_no_secret_is_in_the_log(world: World, log: Log) -> None:
    started(world)
    for stage in BREAKS.values():
        stage(world)
        world.clock.advance(400)
    text = "".join(log.lines)
    assert "cycle failed" in text
    assert "metrics uploaded" in text
    assert "the-cluster-token" not in text
    assert "jwt-1" not in text


# --- Reloading ------------------------------------------------------------------------------------


def other_plan(world: World, interval: float = 100.0) -> CyclePlan:
    """A plan that uploads somewhere else."""
    tokens = world.plan.tokens
    return world.make_cycle_plan(
        interval=interval, tokens=tokens, upload_url="http://other.test/other"
    )


def targets(world: World) -> list[str]:
    return [received.target for received in world.server.received]


def test_a_reload_between_cycles_begins_one_at_once(world: World, clock: Clock) -> None:
    started(world)
    clock.advance(50)
    world.agent.reload(other_plan(world))
    assert targets(world) == ["/upload", "/other"]
    assert times_of_uploads(world, 350) == [100, 200, 300]
    assert len(world.authorize.received) == 1


def test_a_reload_during_a_cycle_lets_it_end_as_it_began(world: World, clock: Clock) -> None:
    world.server.reply = [SILENCE, Reply(200)]
    started(world)
    clock.advance(50)
    world.agent.reload(other_plan(world))
    world.agent.reload(other_plan(world))
    assert targets(world) == ["/upload"]
    world.server.only.answer(Reply(200))
    assert targets(world) == ["/upload", "/other"]
    assert times_of_uploads(world, 250) == [100, 200]


def test_a_reload_during_a_cycle_that_fails(world: World, clock: Clock) -> None:
    world.server.reply = [SILENCE, Reply(200)]
    started(world)
    world.agent.reload(other_plan(world))
    world.server.only.answer(Reply(500))
    assert targets(world) == ["/upload", "/other"]
    # Not a minute after the failure as well.
    assert times_of_uploads(world, 250) == [100, 200]


def test_a_reload_while_a_failure_is_waited_out(world: World, clock: Clock) -> None:
    world.server.reply = [Reply(500), Reply(200)]
    started(world)
    clock.advance(2)
    world.agent.reload(other_plan(world))
    assert targets(world) == ["/upload", "/other"]
    assert times_of_uploads(world, 250) == [100, 200]


def test_a_reload_before_the_start_counts_from_the_start(world: World) -> None:
    world.agent.reload(other_plan(world))
    assert targets(world) == []
    started(world)
    assert targets(world) == ["/other"]


def test_a_plan_may_be_refreshed_before_every_cycle(clock: Clock) -> None:
    plans: list[CyclePlan] = []

    async def refresh() -> CyclePlan:
        return plans[-1]

    world = World(clock, refresh=refresh)
    plans.append(world.plan)
    started(world)
    plans.append(other_plan(world))
    clock.advance(INTERVAL)
    assert targets(world) == ["/upload", "/other"]


def test_a_refresh_that_breaks_does_not_end_the_agent(clock: Clock, log: Log) -> None:
    answers: list[CyclePlan] = []

    async def refresh() -> CyclePlan:
        return answers[0]

    world = World(clock, refresh=refresh)
    started(world)
    assert world.uploads == 0
    assert log.of("cycle failed")[0]["stage"] == "internal"
    answers.append(world.plan)
    clock.advance(FIRST)
    assert world.uploads == 1
    log.errors_are_fine = True


# --- Stopping -------------------------------------------------------------------------------------


def test_a_stop_between_cycles(world: World, clock: Clock) -> None:
    started(world)
    assert world.agent.stopService() is None
    assert clock.getDelayedCalls() == []
    assert times_of_uploads(world, 1000) == []


def test_a_stop_while_a_failure_is_waited_out(world: World, clock: Clock) -> None:
    break_upload(world)
    started(world)
    assert world.agent.stopService() is None
    assert clock.getDelayedCalls() == []


def silence(world: World, stage: str) -> None:
    """Have one peer give no answer."""
    peers = {"collect": world.prometheus, "authorize": world.authorize, "upload": world.server}
    peers[stage].reply = SILENCE


@pytest.mark.parametrize("stage", BREAKS)
def test_a_stop_during_a_cycle_cancels_it_after_nine_seconds(
    world: World, stage: str, clock: Clock, log: Log
) -> None:
    silence(world, stage)
    growth = Growth()
    started(world)
    stopped = world.agent.stopService()
    assert stopped is not None
    clock.advance(8.9)
    assert not has_fired(stopped)
    clock.advance(0.1)
    assert has_fired(stopped)
    assert clock.getDelayedCalls() == []
    # It is no failure, and nothing to tell an operator of.
    assert growth.of("federate_requests_failed_total") == 0
    assert growth.all_of("federate_failures_total") == {}
    assert log.of("cycle failed") == []


def test_a_stop_during_a_cycle_lets_it_end(world: World, clock: Clock, log: Log) -> None:
    silence(world, "collect")
    started(world)
    stopped = world.agent.stopService()
    assert stopped is not None
    clock.advance(5)
    world.prometheus.only.answer(families_reply(up()))
    assert has_fired(stopped)
    assert world.uploads == 1
    assert len(log.of("metrics uploaded")) == 1
    assert clock.getDelayedCalls() == []


def test_it_can_be_started_again(world: World, clock: Clock) -> None:
    started(world)
    world.agent.stopService()
    started(world)
    assert world.uploads == 2
    assert times_of_uploads(world, 300) == [270]


def test_a_reload_during_a_cycle_that_is_stopped(world: World, clock: Clock) -> None:
    world.server.reply = [SILENCE, Reply(200)]
    started(world)
    world.agent.reload(other_plan(world))
    world.agent.stopService()
    world.server.only.answer(Reply(200))
    assert targets(world) == ["/upload"]
    assert clock.getDelayedCalls() == []


# --- Collecting once ------------------------------------------------------------------------------


def test_collect_alone(world: World) -> None:
    old = up(at=NOW_MS - 25 * 3600 * 1000)
    world.prometheus.reply = families_reply(up(), old)
    transformed = run(collect(world.plan, world.wall))
    assert (transformed.decoded(), transformed.samples, transformed.received) == ([up()], 1, 2)
    assert world.authorize.received == []
    assert world.uploads == 0


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        (PROTOBUF_CONTENT_TYPE, b"\x05abc", "a message says it is 5 bytes long, 3 bytes are left"),
        (PROTOBUF_CONTENT_TYPE, b"\x02\x0a\x05", "metric family 1 is not a valid message"),
        (TEXT_CONTENT_TYPE, b"<html>", "text format, line 1: expected a metric name, saw '<html>'"),
        (TEXT_CONTENT_TYPE, b"\xff", "the text is not UTF-8"),
    ],
)
def test_a_body_that_cannot_be_decoded(
    world: World, content_type: str, body: bytes, reason: str, log: Log
) -> None:
    world.prometheus.reply = Reply(200, body, {"Content-Type": content_type})
    started(world)
    (event,) = log.of("cycle failed")
    assert event["stage"] == "collect"
    assert event["reason"].startswith(reason)
    assert world.authorize.received == []


def test_collect_alone_fails(world: World, clock: Clock) -> None:
    source = FederationSource(
        Broken(errors.ConnectionLost()), clock, FROM_URL, token="", limit=1000, timeout=1
    )
    plan = world.plan
    broken = CyclePlan(source, plan.transformer, plan.tokens, plan.destination, plan.interval)
    with pytest.raises(CycleError) as caught:
        run(collect(broken, world.wall))
    assert (caught.value.stage, str(caught.value)) == ("collect", "the connection was lost")


# --- The wall clock is set ------------------------------------------------------------------------


@pytest.mark.parametrize("step", [-3600, 3600])
def test_setting_the_wall_clock_moves_no_cycle(world: World, step: int) -> None:
    started(world)
    world.clock.advance(100)
    world.wall.step(step)
    assert times_of_uploads(world, 500) == [170, 440]
    success = value_of("federate_last_success_timestamp_seconds")
    assert success == NOW + step + 540
    assert len(world.authorize.received) == 1


@pytest.mark.parametrize("step", [-3600, 3600])
@pytest.mark.parametrize("stage", BREAKS)
def test_setting_the_wall_clock_moves_no_retry(world: World, stage: str, step: int) -> None:
    BREAKS[stage](world)
    started(world)
    world.prometheus.reply = families_reply(up(at=NOW_MS))
    world.authorize.reply = token_reply()
    world.server.reply = Reply(200)
    world.wall.step(step)
    assert times_of_uploads(world, 200) == [FIRST]


@pytest.mark.parametrize("step", [-3600, 3600])
def test_setting_the_wall_clock_renews_no_token(clock: Clock, step: int) -> None:
    world = World(clock)
    world.authorize.reply = token_reply(lifetime=3600)
    world.prometheus.reply = families_reply(up(at=NOW_MS))
    started(world)
    world.wall.step(step)
    clock.pump([270] * 13)  # 3510 seconds
    assert len(world.authorize.received) == 1
    clock.advance(270)
    assert len(world.authorize.received) == 2


def test_samples_are_too_old_by_the_wall_clock(clock: Clock) -> None:
    world = World(clock)
    world.wall.step(25 * 3600)
    started(world)
    assert world.uploads == 0
    assert value_of("federate_filtered_samples") == 1
