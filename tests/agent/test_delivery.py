"""Delivery of what the spool keeps: a real spool on disk, a server in memory, and a clock."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.agent.authorize import TokenExchange
from telemeter.agent.cycle import Agent
from telemeter.agent.delivery import Delivery
from telemeter.agent.keeper import Keeper
from telemeter.agent.spool import Spool, SpoolInUseError, read_state
from telemeter.agent.upload import DeliveryPlan, Receiver
from telemeter.auth.composite import parse_composite
from telemeter.loop.services import StartError
from telemeter.loop.threads import Runner, run_here
from telemeter.samples.compression import decompress_block
from telemeter.samples.family import Family
from telemeter.samples.proto.remote_pb2 import WriteRequest
from tests.agent.world import AUTHORIZE_URL, INTERVAL, TOKEN, World, families_reply, token_reply, up
from tests.fakes import (
    NOW,
    NOW_MS,
    SILENCE,
    Growth,
    Log,
    Peer,
    Received,
    Reply,
    has_fired,
    untyped,
    value_of,
)
from tests.samples.build import STALE_NAN, bits

RECEIVE_URL = "http://telemeter.test/metrics/v1/receive"
Row = tuple[str, float, int]


def samples(received: Received) -> list[tuple[dict[str, str], float, int]]:
    """Labels, value and timestamp of all samples of a remote write."""
    request = WriteRequest.FromString(decompress_block(received.body, 1 << 24))
    return [
        ({label.name: label.value for label in series.labels}, sample.value, sample.timestamp)
        for series in request.timeseries
        for sample in series.samples
    ]


class Spooling(World):
    """An agent with a spool.

    Attributes:
        receiver: takes remote writes.
    """

    def __init__(
        self,
        clock: Clock,
        folder: Path,
        *,
        newest_first: bool = False,
        rate: float = 1.0,
        stale: bool = False,
        max_bytes: int = 1 << 20,
        run: Runner = run_here,
    ) -> None:
        super().__init__(clock)
        self.receiver = Peer()
        self.delivery_plan = DeliveryPlan(
            TokenExchange(self.authorize.agent, clock, self.wall, AUTHORIZE_URL, TOKEN),
            Receiver(
                self.receiver.agent,
                clock,
                self.wall,
                RECEIVE_URL,
                30,
                cluster="cluster",
                token=TOKEN,
            ),
            rate,
            newest_first,
        )
        self.spool = Spool(str(folder), max_bytes=max_bytes, max_age=24 * 3600)
        self.keeper = Keeper(self.spool, clock, self.wall, run, flag="--spool-dir 'x'")
        self.delivery = Delivery(
            self.keeper,
            lambda: self.delivery_plan,
            clock,
            self.wall,
            self._jitter,
            stale_on_stop=stale,
        )
        self.agent = Agent(
            self.plan, clock, self.wall, self._jitter, keep=self.delivery.take, stop_seconds=4.5
        )
        self.number = 0
        self.collect(up(1.0))

    def collect(self, *families: Family) -> None:
        """Have the source give these from now on."""
        self.prometheus.reply = families_reply(*families)

    def start(self) -> Spooling:
        self.keeper.startService()
        self.delivery.startService()
        self.agent.startService()
        return self

    def stop(self) -> Deferred[Any]:
        async def stop() -> None:
            for service in (self.agent, self.delivery, self.keeper):
                stopped = service.stopService()
                if stopped is not None:
                    await stopped

        return Deferred.fromCoroutine(stop())

    def cycles(self, count: int) -> None:
        """Go through intervals, of which each has its own value and time."""
        for _ in range(count):
            self.number += 1
            at = int(self.wall.now() + INTERVAL) * 1000
            self.collect(up(float(self.number), at=at))
            for _ in range(27):
                self.clock.advance(INTERVAL / 27)

    @property
    def values(self) -> list[float]:
        """The values that were received, one of each request."""
        return [samples(each)[0][1] for each in self.receiver.received]

    @property
    def statuses(self) -> int:
        return len(self.receiver.received)


@pytest.fixture
def world(clock: Clock, tmp_path: Path) -> Iterator[Spooling]:
    world = Spooling(clock, tmp_path)
    yield world
    world.spool.close()


def advance(clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds * 4)):
        clock.advance(0.25)


# --- What is sent ---------------------------------------------------------------------------------


def test_a_collection_is_delivered_by_remote_write(world: Spooling, log: Log) -> None:
    growth = Growth()
    world.start()
    assert world.uploads == 0
    received = world.receiver.only
    assert received.target == "/metrics/v1/receive"
    assert received.headers["content-type"] == "application/x-protobuf"
    assert received.headers["content-encoding"] == "snappy"
    assert received.headers["x-prometheus-remote-write-version"] == "0.1.0"
    token = parse_composite(received.headers["authorization"])
    assert token.cluster == "cluster"
    assert TOKEN.encode() in token.question
    labels = {"__name__": "up", "job": "j", "_id": "cluster"}
    assert samples(received) == [(labels, 1.0, NOW_MS)]
    assert world.spool.state().entries == 0
    assert growth.of("federate_spool_delivered_total") == 1
    assert value_of("federate_last_success_timestamp_seconds") == NOW
    (event,) = log.of("metrics delivered")
    assert (event["series"], event["age"]) == (1, "0")


def test_the_labels_of_the_server_are_added(world: Spooling) -> None:
    world.authorize.reply = token_reply(region="eu", _id="somebody else")
    world.start()
    ((labels, _, _),) = samples(world.receiver.only)
    assert labels == {"__name__": "up", "job": "j", "region": "eu", "_id": "cluster"}


def test_the_label_of_the_server_for_clusters(world: Spooling) -> None:
    world.authorize.reply = token_reply(cluster_name="cluster")
    world.start()
    ((labels, _, _),) = samples(world.receiver.only)
    assert labels == {"__name__": "up", "job": "j", "cluster_name": "cluster"}


def test_each_sample_has_its_own_time(world: Spooling) -> None:
    world.collect(up(1.0, at=NOW_MS - 4000), untyped("down", ({}, 2.0), at=NOW_MS - 9000))
    world.start()
    assert [stamp for _, _, stamp in samples(world.receiver.only)] == [NOW_MS - 4000, NOW_MS - 9000]


def test_what_was_collected_last(world: Spooling) -> None:
    world.receiver.reply = Reply(503)
    world.start()
    (family,) = world.agent.last
    assert family.metric[0].untyped.value == 1.0


def test_nothing_to_send(world: Spooling) -> None:
    world.collect()
    world.start()
    assert world.receiver.received == []
    assert world.spool.state().entries == 0


# --- An outage ------------------------------------------------------------------------------------


def test_after_an_outage_everything_is_delivered_in_order(world: Spooling, log: Log) -> None:
    world.receiver.reply = Reply(503)
    growth = Growth()
    world.start()
    world.cycles(10)
    assert world.spool.state().entries == 11
    assert value_of("federate_spool_entries") == 11
    assert value_of("federate_spool_oldest_timestamp_seconds") == NOW
    assert value_of("federate_spool_bytes") == world.spool.state().size
    assert "11 collections wait, the oldest is 2700 s old" in world.keeper.describe()
    tried = world.statuses
    assert tried < 25  # 2,700 seconds, and the waits grow
    assert growth.all_of("federate_failures_total") == {frozenset({("stage", "upload")}): tried}
    world.receiver.reply = Reply(200)
    advance(world.clock, 300)
    assert world.values[tried:][:11] == [float(number) for number in [1, *range(1, 11)]]
    assert world.spool.state().entries == 0
    assert world.keeper.describe() == "ok, nothing waits"
    (event,) = log.of("the backlog is delivered")
    assert event["collections"] >= 11
    assert log.of("delivery failed, collections wait")[-1]["waiting"] >= 10


def test_the_agent_collects_at_its_interval_whatever_the_server_does(world: Spooling) -> None:
    world.receiver.reply = SILENCE
    world.start()
    world.cycles(5)
    assert len(world.prometheus.received) == 6
    world.authorize.reply = SILENCE
    world.cycles(5)
    assert len(world.prometheus.received) == 11


def test_the_rate_of_catching_up(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, rate=0.5)
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(6)
    world.receiver.reply = Reply(200)
    before = world.statuses
    times = []
    for _ in range(1200):
        clock.advance(0.25)
        if world.statuses > before:
            before = world.statuses
            times.append(clock.seconds())
    assert len(times) >= 7
    assert all(later - earlier >= 2 for earlier, later in pairwise(times))
    world.spool.close()


def test_the_newest_first(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, newest_first=True)
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(4)
    tried = world.statuses
    world.receiver.reply = Reply(200)
    advance(clock, 240)
    assert world.values[tried:] == [4, 3, 2, 1, 1]
    world.spool.close()


def test_an_agent_that_is_started_again_goes_on(clock: Clock, tmp_path: Path) -> None:
    first = Spooling(clock, tmp_path)
    first.receiver.reply = Reply(503)
    first.start()
    first.cycles(3)
    assert has_fired(first.stop())
    second = Spooling(clock, tmp_path)
    second.collect(up(9.0, at=int(second.wall.now()) * 1000))
    second.start()
    advance(clock, 10)
    assert second.values == [1, 1, 2, 3, 9]
    second.spool.close()


def test_an_agent_that_was_never_authorized_keeps_what_it_collects(world: Spooling) -> None:
    world.authorize.reply = Reply(503)
    growth = Growth()
    world.start()
    world.cycles(3)
    assert world.receiver.received == []
    assert world.spool.state().entries == 4
    assert growth.all_of("federate_failures_total").keys() == {frozenset({("stage", "authorize")})}
    world.authorize.reply = token_reply(region="eu")
    advance(world.clock, 300)
    assert len(world.values) >= 4
    assert {samples(each)[0][0]["region"] for each in world.receiver.received} == {"eu"}


def test_retry_after_is_honoured(world: Spooling) -> None:
    world.receiver.reply = [Reply(429, headers={"Retry-After": "100"}), Reply(200)]
    world.luck = 0.0
    world.start()
    world.clock.advance(100.5)
    assert world.statuses == 1
    world.clock.advance(0.5)
    assert world.statuses == 2


def test_a_lost_answer_has_it_sent_again_as_it_was(world: Spooling) -> None:
    world.receiver.reply = [SILENCE, Reply(200)]
    world.start()
    advance(world.clock, 40)
    first, second = world.receiver.received
    assert first.body == second.body
    assert world.spool.state().entries == 0


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 429, 500, 502, 503, 302])
def test_what_keeps_a_collection(world: Spooling, status: int) -> None:
    world.receiver.reply = Reply(status)
    growth = Growth()
    world.start()
    world.cycles(2)
    assert world.spool.state().entries == 3
    assert growth.of("federate_spool_delivered_total") == 0
    assert growth.all_of("federate_spool_dropped_total") == {}


# --- Refusals -------------------------------------------------------------------------------------


Bad = Callable[[str], bool]


def refuse(world: Spooling, status: int, is_bad: Bad) -> None:
    """Have the receiver refuse whatever holds a bad series."""
    world.receiver.reply = lambda received: (
        Reply(status, b"no good") if any(map(is_bad, names(received))) else Reply(200)
    )


def names(received: Received) -> list[str]:
    return [labels["__name__"] for labels, *_ in samples(received)]


def accepted(world: Spooling, is_bad: Bad) -> list[str]:
    """The names of series in requests without a bad one."""
    return [
        name
        for received in world.receiver.received
        if not any(map(is_bad, names(received)))
        for name in names(received)
    ]


def many(count: int) -> list[Family]:
    return [untyped(f"m{number}", ({}, 1.0), at=NOW_MS + 3600_000) for number in range(count)]


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_only_what_is_refused_alone_is_dropped(world: Spooling, status: int, log: Log) -> None:
    world.collect(*many(10))
    refuse(world, status, lambda name: name == "m5")
    growth = Growth()
    world.start()
    advance(world.clock, 10)
    expected = sorted(f"m{number}" for number in range(10) if number != 5)
    assert sorted(accepted(world, lambda name: name == "m5")) == expected
    assert world.spool.state().entries == 0
    reason = frozenset({("reason", str(status))})
    assert growth.all_of("federate_spool_dropped_total") == {reason: 1}
    refused = growth.all_of("federate_spool_refused_series_total")
    assert refused == {frozenset({("status", str(status))}): 1}
    assert growth.of("federate_spool_delivered_total") == 1
    (event,) = log.of("the server refused series of a collection, they are dropped")
    assert (event["refused"], event["series"]) == (1, 9)
    assert "no good" in event["reason"]


def test_halves_that_were_delivered_are_not_sent_again_after_a_failure(world: Spooling) -> None:
    world.collect(*many(4))
    replies = [Reply(400), Reply(200), Reply(503), Reply(200)]
    world.receiver.reply = replies
    world.start()
    advance(world.clock, 10)
    assert [names(each) for each in world.receiver.received] == [
        ["m0", "m1", "m2", "m3"],
        ["m0", "m1"],
        ["m2", "m3"],
        ["m2", "m3"],
    ]


def test_a_receiver_that_refuses_everything_does_not_block_the_rest(world: Spooling) -> None:
    world.collect(*many(100))
    world.receiver.reply = Reply(400)
    growth = Growth()
    world.start()
    advance(world.clock, 60)
    assert world.statuses == 199
    assert world.spool.state().entries == 0
    assert growth.of("federate_spool_delivered_total") == 0
    # The next is tried by some of its series, and as a whole.
    advance(world.clock, 270)
    assert world.statuses == 199 + 17
    assert growth.all_of("federate_spool_refused_series_total") == {
        frozenset({("status", "400")}): 200
    }
    world.receiver.reply = Reply(200)
    advance(world.clock, 270)
    assert world.statuses == 199 + 17 + 1
    assert growth.of("federate_spool_delivered_total") == 1


def test_what_the_receiver_takes_at_once_is_learned(world: Spooling) -> None:
    world.collect(*many(40))
    world.receiver.reply = lambda received: Reply(413 if len(names(received)) > 10 else 200)
    world.start()
    advance(world.clock, 10)
    before = world.statuses
    advance(world.clock, 275)
    assert [len(names(each)) for each in world.receiver.received[before:]] == [10] * 4


def test_a_collection_that_fails_alone_lets_others_go_first(world: Spooling, log: Log) -> None:
    is_poison = True

    def reply(received: Received) -> Reply:
        bad = is_poison and samples(received)[0][1] == 2.0
        return Reply(500 if bad else 200)

    world.receiver.reply = reply
    world.start()
    world.cycles(8)
    assert [value for value in world.values if value != 2][:7] == [1, 1, 3, 4, 5, 6, 7]
    # Alone until the next came, with longer and longer waits; then once every five minutes.
    assert world.values.count(2) < 10 + 8
    (told,) = log.of("a collection cannot be delivered while others can; it lets them go first")[:1]
    assert told["retry_seconds"] == 300
    is_poison = False
    world.cycles(2)
    advance(world.clock, 100)
    assert world.spool.state().entries == 0


@pytest.mark.parametrize("status", [401, 404, 429, 500, 502, 503])
@pytest.mark.parametrize("cycles", range(4, 12))
def test_in_an_outage_the_order_is_kept(world: Spooling, status: int, cycles: int) -> None:
    world.receiver.reply = Reply(status)
    world.start()
    world.cycles(cycles)
    tried = world.statuses
    world.receiver.reply = Reply(200)
    advance(world.clock, 300)
    assert world.values[tried:][: cycles + 1] == [1, *range(1, cycles + 1)]


def test_a_server_that_comes_back_between_two_tries(world: Spooling) -> None:
    world.receiver.reply = [*[Reply(500)] * 3, Reply(200)]
    world.authorize.reply = [Reply(503)] * 5 + [token_reply()]  # until there are two
    world.start()
    world.cycles(3)
    assert world.spool.state().entries == 0
    assert sorted(world.values[3:]) == [1, 1, 2, 3]


def test_a_silence_that_is_of_one_collection_alone(world: Spooling) -> None:
    def reply(received: Received) -> Reply:
        return SILENCE if samples(received)[0][1] == 2.0 else Reply(200)

    world.receiver.reply = reply
    world.start()
    world.cycles(18)
    assert {3.0, 4.0, 5.0} <= set(world.values)


# --- The disk -------------------------------------------------------------------------------------


def test_a_disk_that_takes_nothing(world: Spooling, log: Log, tmp_path: Path) -> None:
    world.start()
    full = "database or disk is full"

    def broken(*_: object, **__: object) -> None:
        raise_full(full)

    real = world.spool.keep
    world.spool.keep = broken  # type: ignore[method-assign, assignment]
    growth = Growth()
    world.cycles(3)
    assert world.values == [1, 1, 2, 3]
    assert len(log.of("the spool cannot be used, what is collected is delivered without it")) == 1
    assert growth.of("federate_spool_errors_total") == 3
    assert full in world.keeper.describe()
    world.spool.keep = real  # type: ignore[method-assign]
    world.cycles(1)
    assert len(log.of("the spool can be used again")) == 1
    assert world.values == [1, 1, 2, 3, 4]
    log.errors_are_fine = True


def raise_full(text: str) -> None:
    from telemeter.agent.spool import SpoolError

    raise SpoolError(text)


def test_a_full_disk_is_read_on(world: Spooling, log: Log) -> None:
    """As seen by a process that may write no more into files than so much."""
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(2)
    with limited_files(40_000):
        world.receiver.reply = Reply(503)
        for _ in range(3):
            world.collect(*many(200))
            world.cycles(1)
            world.collect(*many(200))
        waiting = world.spool.state().entries
        assert waiting >= 3
        world.receiver.reply = Reply(200)
        advance(world.clock, 250)
        # All of it was delivered, in order, and is not delivered again.
        assert world.spool.state().entries == 0
        assert 1.0 in world.values
    log.errors_are_fine = True


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Have writes into files fail beyond some size."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, previous)


@pytest.mark.parametrize("whole", [False, True])
def test_a_spool_that_was_taken_away_is_begun_anew(
    clock: Clock, log: Log, tmp_path: Path, whole: bool
) -> None:
    folder = tmp_path / "spool"
    world = Spooling(clock, folder)
    world.start()
    if whole:
        folder.rename(tmp_path / "elsewhere")
    else:
        (folder / "spool.sqlite").unlink()
    world.receiver.reply = Reply(503)
    world.cycles(3)
    assert world.spool.state().entries == 3
    assert read_state(str(folder))[0].entries == 3
    with pytest.raises(SpoolInUseError):
        Spool(str(folder), max_bytes=1000, max_age=1).lock()
    world.spool.close()


def test_without_a_disk_and_without_a_server_the_newest_is_kept(world: Spooling, log: Log) -> None:
    world.start()
    world.spool.keep = lambda *_, **__: raise_full("full")  # type: ignore[method-assign, assignment]
    world.receiver.reply = Reply(503)
    growth = Growth()
    world.cycles(3)
    dropped = growth.all_of("federate_spool_dropped_total")
    assert dropped == {frozenset({("reason", "disk")}): 2}
    world.receiver.reply = Reply(200)
    advance(world.clock, 260)
    assert world.values[-1] == 3
    log.errors_are_fine = True


class Hanging:
    """A runner whose functions end when they are told to."""

    def __init__(self) -> None:
        self.hangs = False
        self.waiting: list[Deferred[None]] = []

    async def __call__(self, function: Any, *arguments: Any, **named: Any) -> Any:
        if self.hangs:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        return function(*arguments, **named)


def test_what_was_not_kept_is_kept_before_the_next(world: Spooling, log: Log) -> None:
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(2)
    real = world.spool.keep
    world.spool.keep = lambda *_, **__: raise_full("full")  # type: ignore[method-assign, assignment]
    world.cycles(1)
    world.spool.keep = real  # type: ignore[method-assign]
    world.cycles(2)
    tried = world.statuses
    world.receiver.reply = Reply(200)
    advance(world.clock, 260)
    assert world.values[tried:][:6] == [1, 1, 2, 3, 4, 5]
    log.errors_are_fine = True


def test_what_the_disk_could_not_forget_is_not_sent_again(
    clock: Clock, tmp_path: Path, log: Log
) -> None:
    hanging = Hanging()
    world = Spooling(clock, tmp_path, run=hanging)
    forget = world.spool.forget

    def late(number: int) -> None:
        raise_full("no answer")

    world.spool.forget = late  # type: ignore[method-assign]
    world.start()
    world.cycles(2)
    assert world.values == [1, 1, 2]
    world.spool.forget = forget  # type: ignore[method-assign]
    world.cycles(1)
    assert world.values == [1, 1, 2, 3]
    assert world.spool.state().entries == 0
    world.spool.close()
    log.errors_are_fine = True


def test_one_series_that_is_too_large_says_nothing_of_others(world: Spooling) -> None:
    world.collect(*many(30))
    world.receiver.reply = lambda received: Reply(413 if "m7" in names(received) else 200)
    world.start()
    advance(world.clock, 10)
    world.receiver.reply = Reply(200)
    before = world.statuses
    advance(world.clock, 275)
    assert world.statuses - before <= 30 / 2 + 1


def test_a_disk_that_hangs(clock: Clock, tmp_path: Path, log: Log) -> None:
    hanging = Hanging()
    world = Spooling(clock, tmp_path, run=hanging)
    world.start()
    hanging.hangs = True
    world.cycles(2)
    advance(clock, 20)
    assert world.values == [1, 1, 2]
    # No more is asked of it while it hangs.
    assert len(hanging.waiting) == 1
    (event,) = log.of("the spool cannot be used, what is collected is delivered without it")
    assert event["reason"] == "the disk gave no answer within 10 s"
    world.spool.close()
    log.errors_are_fine = True


def test_a_damaged_collection_is_dropped_and_told_of(world: Spooling, log: Log) -> None:
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(1)
    world.spool._opened().execute("UPDATE entries SET body = x'ff0600' WHERE number = 1")
    world.delivery._work = None
    world.receiver.reply = Reply(200)
    growth = Growth()
    advance(world.clock, 260)
    assert world.spool.state().entries == 0
    dropped = growth.all_of("federate_spool_dropped_total")
    assert dropped == {frozenset({("reason", "damaged")}): 1}
    assert len(log.of("a collection on disk cannot be read, it is dropped")) == 1
    log.errors_are_fine = True


def test_a_fault_of_ours_does_not_hold_up_the_others(
    world: Spooling, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise KeyError("ours")

    with monkeypatch.context() as patched:
        patched.setattr("telemeter.agent.delivery._payload", broken)
        world.start()
    assert world.receiver.received == []
    assert "KeyError: 'ours'" in "".join(log.lines)
    world.cycles(1)
    assert world.values == [1]
    log.errors_are_fine = True


def test_news_end_the_wait_for_news_after_failures(world: Spooling) -> None:
    world.receiver.reply = Reply(503)
    world.start()
    world.cycles(1)
    world.spool._opened().execute("DELETE FROM entries")
    advance(world.clock, 200)
    world.receiver.reply = Reply(200)
    before = world.statuses
    world.cycles(1)
    assert world.values[before:] == [2]


def test_a_spool_that_cannot_be_used_is_set_aside(clock: Clock, tmp_path: Path, log: Log) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"x" * 4096)
    world = Spooling(clock, tmp_path).start()
    assert world.values == [1]
    (event,) = log.of("the spool cannot be used; it is set aside, and a new one begun")
    assert event["aside"].startswith("set-aside-1.sqlite: it is damaged")
    world.spool.close()
    log.errors_are_fine = True


def test_the_oldest_are_dropped_over_the_limit(clock: Clock, tmp_path: Path, log: Log) -> None:
    world = Spooling(clock, tmp_path, max_bytes=400)
    world.receiver.reply = Reply(503)
    growth = Growth()
    world.start()
    world.cycles(8)
    assert world.spool.state().size <= 400
    left = world.spool.state().entries
    dropped = growth.all_of("federate_spool_dropped_total")
    assert dropped == {frozenset({("reason", "bytes")}): 9 - left}
    events = log.of("the oldest collections on disk were dropped undelivered")
    assert {event["flag"] for event in events} == {"--spool-max-bytes"}
    world.spool.close()


def test_another_agent_has_the_folder(clock: Clock, tmp_path: Path) -> None:
    first = Spooling(clock, tmp_path).start()
    second = Spooling(clock, tmp_path)
    with pytest.raises(StartError) as caught:
        second.keeper.startService()
    assert str(caught.value) == "--spool-dir 'x': another agent uses this folder"
    first.spool.close()


# --- Stopping -------------------------------------------------------------------------------------


def test_a_stop_with_nothing_under_way(world: Spooling, clock: Clock) -> None:
    world.start()
    assert has_fired(world.stop())
    assert clock.getDelayedCalls() == []


def test_a_stop_while_a_failure_is_waited_out(world: Spooling, clock: Clock) -> None:
    world.receiver.reply = Reply(503)
    world.start()
    assert has_fired(world.stop())
    assert clock.getDelayedCalls() == []


def test_a_stop_lets_the_request_under_way_end(world: Spooling, clock: Clock) -> None:
    world.receiver.reply = SILENCE
    world.start()
    stopped = world.stop()
    clock.advance(1)
    assert not has_fired(stopped)
    world.receiver.only.answer(Reply(200))
    assert has_fired(stopped)
    assert clock.getDelayedCalls() == []
    world.spool.lock()
    world.spool.open()
    assert world.spool.state().entries == 0


def test_a_stop_does_not_wait_for_ever(world: Spooling, clock: Clock) -> None:
    world.receiver.reply = SILENCE
    world.start()
    stopped = world.stop()
    advance(clock, 3)
    assert has_fired(stopped)
    assert clock.getDelayedCalls() == []
    world.spool.lock()
    world.spool.open()
    assert world.spool.state().entries == 1


def test_a_stop_keeps_what_is_being_collected(world: Spooling, clock: Clock) -> None:
    world.prometheus.reply = SILENCE
    world.receiver.reply = Reply(503)
    world.start()
    stopped = world.stop()
    clock.advance(2)
    world.prometheus.only.answer(families_reply(up(7.0)))
    advance(clock, 5)
    assert has_fired(stopped)
    world.spool.lock()
    world.spool.open()
    assert world.spool.state().entries == 1


def test_at_a_stop_the_series_end(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, stale=True).start()
    clock.advance(100)
    assert has_fired(world.stop())
    last = WriteRequest.FromString(decompress_block(world.receiver.received[-1].body, 1 << 20))
    (series,) = last.timeseries
    (sample,) = series.samples
    assert (bits(sample.value), sample.timestamp) == (bits(STALE_NAN), NOW_MS + 100_000)
    assert {label.name: label.value for label in series.labels}["_id"] == "cluster"
    assert clock.getDelayedCalls() == []


def test_at_a_stop_the_series_end_in_parts(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, stale=True)
    world.receiver.reply = lambda received: Reply(413 if len(names(received)) > 5 else 200)
    world.collect(*many(20))
    world.start()
    advance(clock, 10)
    before = world.statuses
    assert has_fired(world.stop())
    parts = [
        name
        for received in world.receiver.received[before:]
        if len(names(received)) <= 5
        for name in names(received)
    ]
    assert sorted(parts) == sorted(f"m{number}" for number in range(20))
    assert read_state(str(tmp_path))[0].entries == 0


def test_behind_a_backlog_the_end_waits_for_its_turn(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, stale=True).start()
    world.receiver.reply = Reply(503)
    world.cycles(3)
    world.receiver.reply = Reply(200)
    before = world.statuses
    stopped = world.stop()
    advance(clock, 4)
    assert has_fired(stopped)
    assert world.statuses == before
    assert read_state(str(tmp_path))[0].entries == 4


def test_the_end_of_the_series_is_kept_for_a_server_that_is_away(
    clock: Clock, tmp_path: Path
) -> None:
    world = Spooling(clock, tmp_path, stale=True).start()
    world.receiver.reply = Reply(503)
    clock.advance(100)
    stopped = world.stop()
    advance(clock, 4)
    assert has_fired(stopped)
    again = Spooling(clock, tmp_path, stale=True).start()
    advance(clock, 3)
    first, second = again.receiver.received
    assert bits(samples(first)[0][1]) == bits(STALE_NAN)
    assert samples(second)[0][1] == 1.0
    again.spool.close()


def test_nothing_was_sent_so_nothing_ends(clock: Clock, tmp_path: Path) -> None:
    world = Spooling(clock, tmp_path, stale=True)
    world.collect()
    world.start()
    assert has_fired(world.stop())
    assert world.receiver.received == []


def test_a_reload_ends_the_wait(world: Spooling) -> None:
    world.receiver.reply = [Reply(404), Reply(200)]
    world.luck = 1.0
    world.start()
    assert world.statuses == 1
    world.delivery.retry_now()
    advance(world.clock, 1)
    assert world.statuses == 2


def test_no_secret_is_in_the_log(world: Spooling, log: Log) -> None:
    world.receiver.reply = Reply(401, b"bad token")
    world.start()
    world.cycles(1)
    text = "".join(log.lines)
    assert "bad token" in text
    assert TOKEN not in text
    assert world.receiver.received[0].headers["authorization"].split()[1] not in text
