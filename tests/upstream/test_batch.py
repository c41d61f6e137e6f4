"""Group commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from telemeter.net.upstream import ForwardError, Sent
from telemeter.samples.compression import compress_block, decompress_block
from telemeter.upstream import batch
from telemeter.upstream.batch import Batches, BatchLimits
from tests.fakes import Growth, Log, has_fired, result_of, value_of

LIMITS = BatchLimits(requests=4, size=1000)


class Upstream:
    """Takes blocks, and answers when it is told to.

    Attributes:
        got: the texts of each block that came.
        answered: how many of them were answered.
    """

    def __init__(self) -> None:
        self.got: list[list[bytes]] = []
        self._answers: list[Deferred[Sent]] = []
        self.answered = 0

    def deliver(self, block: bytes) -> Deferred[Sent]:
        self.got.append(decompress_block(block, 1 << 20).split(b"\n")[:-1])
        self._answers.append(Deferred())
        return self._answers[-1]

    def accept(self, status: int = 200) -> None:
        """Accept the oldest request that waits for its answer."""
        self._next().callback(Sent(status))

    def refuse(self, status: int, *, answered: bool = True) -> None:
        """Refuse it."""
        self._next().errback(ForwardError(status, "no", answered=answered))

    def _next(self) -> Deferred[Sent]:
        self.answered += 1
        return self._answers[self.answered - 1]

    @property
    def is_asked(self) -> bool:
        """Whether a request waits for its answer."""
        return self.answered < len(self._answers)


class World:
    """Batches, their upstream, and the time."""

    def __init__(self, limits: BatchLimits = LIMITS) -> None:
        self.clock = Clock()
        self.upstream = Upstream()
        self.batches = Batches(self.upstream.deliver, self.clock, limits)

    def add(self, *texts: bytes) -> list[Deferred[Sent]]:
        """Let senders come, each with a text of its own."""
        return [self.batches.add(compress_block(text + b"\n")) for text in texts]


@pytest.fixture
def world() -> World:
    return World()


def statuses(answers: Sequence[Deferred[Sent]]) -> list[int]:
    """What the senders were told."""
    told = []
    for answer in answers:
        try:
            told.append(result_of(answer).status)
        except ForwardError as error:
            told.append(error.status)
    return told


def test_an_idle_upstream_gets_a_request_at_once(world: World) -> None:
    (answer,) = world.add(b"a")
    assert world.upstream.got == [[b"a"]]
    assert not has_fired(answer)
    world.upstream.accept(204)
    assert statuses([answer]) == [204]
    (again,) = world.add(b"b")
    assert world.upstream.got == [[b"a"], [b"b"]]
    world.upstream.accept()
    assert statuses([again]) == [200]
    assert not world.clock.getDelayedCalls()


def test_what_comes_meanwhile_goes_out_together(world: World) -> None:
    growth = Growth()
    first = world.add(b"a")
    rest = world.add(b"b", b"c", b"d")
    assert world.upstream.got == [[b"a"]]
    world.upstream.accept()
    assert world.upstream.got == [[b"a"], [b"b", b"c", b"d"]]
    assert has_fired(first[0])
    assert not any(map(has_fired, rest))
    world.upstream.accept()
    assert statuses(rest) == [200] * 3
    assert growth.of("telemeter_forward_batch_requests_sum") == 4
    assert growth.of("telemeter_forward_batch_requests_count") == 2


def test_a_full_batch_does_not_wait(world: World) -> None:
    world.add(b"a")
    world.add(b"1", b"2", b"3")
    assert len(world.upstream.got) == 1
    world.add(b"4")
    assert world.upstream.got[1:] == [[b"1", b"2", b"3", b"4"]]


def test_neither_do_many_bytes(world: World) -> None:
    world.add(b"a")
    world.add(b"x" * 600)
    assert len(world.upstream.got) == 1
    world.add(b"y" * 600)
    assert world.upstream.got[1:] == [[b"x" * 600]]
    world.upstream.accept()
    world.upstream.accept()
    assert world.upstream.got[2:] == [[b"y" * 600]]


def test_a_request_over_the_size_goes_out_by_itself(world: World) -> None:
    world.add(b"a")
    world.add(b"x" * 2000)
    world.add(b"b")
    assert world.upstream.got[1:] == [[b"x" * 2000]]


def test_a_slow_answer_holds_the_next_batch_for_half_a_second(world: World) -> None:
    world.add(b"a")
    world.add(b"b", b"c")
    world.clock.advance(0.49)
    assert len(world.upstream.got) == 1
    world.clock.advance(0.02)
    assert world.upstream.got[1:] == [[b"b", b"c"]]
    world.add(b"d")
    world.clock.advance(0.49)
    assert len(world.upstream.got) == 2
    world.clock.advance(0.02)
    assert world.upstream.got[2:] == [[b"d"]]


def test_no_more_than_so_many_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_MAX_UNDER_WAY", 2)
    world = World(BatchLimits(requests=2, size=1000))
    answers = world.add(*(b"%d" % number for number in range(9)))
    world.clock.advance(10)
    assert world.upstream.got == [[b"0"], [b"1", b"2"]]
    while world.upstream.is_asked:
        world.upstream.accept()
    assert statuses(answers) == [200] * 9
    assert [len(texts) for texts in world.upstream.got] == [1, 2, 2, 2, 2]
    assert not world.clock.getDelayedCalls()


def test_the_guilty_alone_is_told_so(world: World) -> None:
    growth = Growth()
    first = world.add(b"a")
    rest = world.add(b"b", b"bad", b"c", b"d")
    world.upstream.accept()
    while world.upstream.is_asked:
        texts = world.upstream.got[world.upstream.answered]
        if b"bad" in texts:
            world.upstream.refuse(400)
        else:
            world.upstream.accept()
    assert statuses(first + rest) == [200, 200, 400, 200, 200]
    assert world.upstream.got[1:] == [
        [b"b", b"bad", b"c", b"d"],
        *([text] for text in (b"b", b"bad", b"c", b"d")),
    ]
    assert growth.of("telemeter_forward_batch_splits_total") == 1


def settle(world: World, bad: set[bytes]) -> int:
    """Have the upstream refuse what has bad samples, and return how often it was asked in turn."""
    trips = 0
    while world.upstream.is_asked:
        trips += 1
        for _ in range(len(world.upstream.got) - world.upstream.answered):
            if bad.intersection(world.upstream.got[world.upstream.answered]):
                world.upstream.refuse(400)
            else:
                world.upstream.accept()
    return trips


def times_sent(world: World) -> Counter[bytes]:
    return Counter(text for texts in world.upstream.got for text in texts)


@pytest.mark.parametrize("count", [2, 19, 20, 64, 65, 90])
def test_one_sender_at_fault_costs_the_others_three_round_trips(count: int) -> None:
    for guilty in (0, count // 2, count - 1):
        world = World(BatchLimits(requests=count, size=1 << 20))
        texts = [b"%d" % number for number in range(count)]
        world.add(b"first")
        answers = world.add(*texts)
        world.upstream.accept()
        trips = settle(world, {texts[guilty]})
        told = statuses(answers)
        assert told.pop(guilty) == 400
        assert set(told) == {200}
        assert trips <= 3
        assert len(world.upstream.got) - 1 <= 20
        assert max(times_sent(world).values()) <= 3


@pytest.mark.parametrize("count", [2, 3, 19, 20, 64, 65, 90, 91, 256, 1000])
def test_however_many_are_at_fault_there_is_an_end(count: int) -> None:
    world = World(BatchLimits(requests=count, size=1 << 20))
    texts = [b"%d" % number for number in range(count)]
    world.add(b"first")
    answers = world.add(*texts)
    world.upstream.accept()
    settle(world, set(texts))
    assert set(statuses(answers)) == {400}
    assert len(world.upstream.got) - 1 <= 2 * count
    assert max(times_sent(world).values()) <= 4


def test_parts_are_bounded_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_SIDE_BY_SIDE", 3)
    world = World(BatchLimits(requests=16, size=1000))
    world.add(b"first")
    answers = world.add(*(b"%d" % number for number in range(16)))
    world.upstream.accept()
    world.upstream.refuse(400)
    while world.upstream.is_asked:
        assert len(world.upstream.got) - world.upstream.answered <= 3
        world.upstream.accept()
    assert statuses(answers) == [200] * 16


def test_batches_become_small_when_they_are_refused_and_grow_again() -> None:
    world = World(BatchLimits(requests=16, size=1000))

    def next_batch(bad: set[bytes]) -> int:
        before = len(world.upstream.got)
        world.add(b"first")
        answers = world.add(*(b"%d" % number for number in range(16)))
        size = max(map(len, world.upstream.got[before:]))
        world.clock.advance(1)
        settle(world, bad)
        assert len(statuses(answers)) == 16
        return size

    sizes = [next_batch({b"0", b"4", b"8", b"12"}) for _ in range(3)]
    assert sizes[0] > sizes[1] > sizes[2]
    sizes = [next_batch(set()) for _ in range(12)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 16


def test_a_sender_that_leaves_is_taken_out_of_the_queue(world: World) -> None:
    growth = Growth()
    world.add(b"a")
    gone, there = world.add(b"b", b"c")
    gone.cancel()
    gone.addErrback(lambda _: None)
    world.upstream.accept()
    assert world.upstream.got[1:] == [[b"c"]]
    world.upstream.accept()
    assert statuses([there]) == [200]
    assert growth.of("telemeter_forward_queue_left_total") == 1
    world.batches.show()
    assert value_of("telemeter_forward_queue_bytes") == 0


def test_what_waits_is_shown(world: World) -> None:
    world.add(b"a")
    world.add(b"b")
    world.clock.advance(0.25)
    world.add(b"c")
    shown = [f"telemeter_forward_queue_{name}" for name in ("requests", "oldest_seconds", "bytes")]
    world.batches.show()
    assert [value_of(name) for name in shown] == [2, 0.25, 3 * len(compress_block(b"a\n"))]
    world.clock.advance(0.125)
    world.batches.show()
    assert value_of("telemeter_forward_queue_oldest_seconds") == 0.375
    world.upstream.accept()
    world.batches.show()
    assert [value_of(name) for name in shown] == [0, 0, 0]


def test_when_nobody_waits_for_a_batch_it_makes_room(world: World) -> None:
    """An upstream that hangs would keep the next one waiting."""
    gone = world.add(b"a")
    later = world.add(b"b")
    assert world.upstream.got == [[b"a"]]
    for each in gone:
        each.cancel()
        each.addErrback(lambda _: None)
    assert world.upstream.got == [[b"a"], [b"b"]]
    world.upstream.answered = 1
    world.upstream.accept()
    assert statuses(later) == [200]
    assert not world.clock.getDelayedCalls()


def test_who_still_waits_for_a_request_that_is_given_up_may_come_again(clock: Clock) -> None:
    """Nobody here gives one up for which somebody waits; but a connection may, when all ends."""
    given_up: Deferred[Sent] = Deferred()
    answer = Batches(lambda block: given_up, clock, LIMITS).add(compress_block(b"a"))
    given_up.cancel()
    assert statuses([answer]) == [503]


def test_one_that_leaves_while_its_batch_is_parted_is_not_sent_again(world: World) -> None:
    world.add(b"a")
    gone, there, bad = world.add(b"b", b"c", b"bad")
    world.upstream.accept()
    gone.cancel()
    gone.addErrback(lambda _: None)
    world.upstream.refuse(400)
    assert world.upstream.got[2:] == [[b"c"], [b"bad"]]
    world.upstream.accept()
    world.upstream.refuse(400)
    assert statuses([there, bad]) == [200, 400]


def test_an_upstream_that_refuses_everything_at_once_takes_no_stack(clock: Clock) -> None:
    """As while the circuit breaker is open."""
    sent = 0

    def deliver(block: bytes) -> Any:
        nonlocal sent
        sent += 1
        return first if sent == 1 else fail(ForwardError(503, "down"))

    first: Deferred[Sent] = Deferred()
    batches = Batches(deliver, clock, BatchLimits(requests=2, size=1 << 20))
    answers = [batches.add(compress_block(b"x")) for _ in range(10_000)]
    first.callback(Sent())
    assert statuses(answers) == [200] + [503] * 9999


@given(st.integers(0, 2**8 - 1))
def test_any_number_may_be_guilty(guilty: int) -> None:
    world = World(BatchLimits(requests=8, size=1000))
    bad = {b"%d" % number for number in range(8) if guilty >> number & 1}
    world.add(b"first")
    answers = world.add(*(b"%d" % number for number in range(8)))
    while world.upstream.is_asked:
        if bad.intersection(world.upstream.got[world.upstream.answered]):
            world.upstream.refuse(422)
        else:
            world.upstream.accept()
    assert statuses(answers) == [422 if b"%d" % number in bad else 200 for number in range(8)]


@pytest.mark.parametrize(
    ("status", "answered"),
    [(401, True), (403, True), (404, True), (429, True), (500, True), (503, True), (502, False)],
)
def test_what_is_not_about_the_samples_is_everyones(
    world: World, status: int, answered: bool
) -> None:
    world.add(b"a")
    rest = world.add(b"b", b"c", b"d")
    world.upstream.accept()
    world.upstream.refuse(status, answered=answered)
    assert statuses(rest) == [status] * 3
    assert len(world.upstream.got) == 2


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(batch, "_MAX_HELD_BYTES", 100)
    (first,) = world.add(bytes(range(60)))
    with pytest.raises(ForwardError, match="bytes, compressed, of 100 that may") as caught:
        world.add(bytes(range(60)))
    assert (caught.value.status, caught.value.retry_after) == (503, "30")
    world.upstream.accept()
    assert statuses([first]) == [200]
    world.add(bytes(range(60)))
    assert world.upstream.is_asked


def test_a_fault_of_ours_leaves_nobody_waiting(clock: Clock, log: Log) -> None:
    def deliver(block: bytes) -> Any:
        raise RuntimeError("broken")

    answer = Batches(deliver, clock, LIMITS).add(compress_block(b"a"))
    with pytest.raises(RuntimeError, match="broken"):
        result_of(answer)
    assert log.of("a batch could not be forwarded")
    log.errors_are_fine = True
