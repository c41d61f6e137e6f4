"""Group commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.net.upstream import ForwardError, Sent
from telemeter.samples.compression import compress_block, decompress_block
from telemeter.upstream import batch
from telemeter.upstream.batch import Batches, BatchLimits
from tests.fakes import Growth, Log, has_fired, result_of

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
        [b"b", b"bad"],
        [b"b"],
        [b"bad"],
        [b"c", b"d"],
    ]
    assert growth.of("telemeter_forward_batch_splits_total") == 2


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


def test_a_sender_that_has_gone_harms_nobody(world: World) -> None:
    world.add(b"a")
    gone, there = world.add(b"b", b"c")
    gone.cancel()
    gone.addErrback(lambda _: None)
    world.upstream.accept()
    world.upstream.accept()
    assert statuses([there]) == [200]


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
