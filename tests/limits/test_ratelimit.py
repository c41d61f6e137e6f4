"""One upload per cluster and interval."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from telemeter.limits.ratelimit import RateLimitedError, RateLimiter, Slot, Table, shared_memory
from telemeter.loop.clocks import Elapsed


def wait_of(limiter: RateLimiter, cluster: str, now: float) -> int:
    """How long a cluster must wait; 0 if it need not."""
    try:
        limiter.take(cluster, Elapsed(now))
    except RateLimitedError as error:
        assert str(error.retry_after) in str(error)
        return error.retry_after
    return 0


@pytest.fixture
def descriptor() -> Iterator[int]:
    """Memory that processes share."""
    descriptor = shared_memory("test")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("later", "wait"),
    [(0, 270), (0.001, 270), (0.9, 270), (1, 269), (269, 1), (269.999, 1), (270, 0), (1e6, 0)],
)
def test_the_wait_is_in_whole_seconds_rounded_up(later: float, wait: int) -> None:
    limiter = RateLimiter(270)
    limiter.take("a", Elapsed(1000))
    assert wait_of(limiter, "a", 1000 + later) == wait


def test_a_refusal_does_not_prolong_the_wait() -> None:
    limiter = RateLimiter(10)
    limiter.take("a", Elapsed(0))
    assert [wait_of(limiter, "a", now) for now in range(1, 11)] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_clusters_are_independent() -> None:
    limiter = RateLimiter(10)
    assert [wait_of(limiter, cluster, 0) for cluster in ("a", "b", "", "A")] == [0, 0, 0, 0]


@pytest.mark.parametrize("interval", [0, -1])
def test_no_interval_is_no_limit(interval: float) -> None:
    limiter = RateLimiter(interval)
    slots = [limiter.take("a", Elapsed(0)) for _ in range(10)]
    slots[0].give_back()
    assert wait_of(limiter, "a", 0) == 0


def test_a_slot_that_was_given_back_is_free() -> None:
    limiter = RateLimiter(10)
    slot = limiter.take("a", Elapsed(0))
    slot.give_back()
    assert wait_of(limiter, "a", 0) == 0
    assert wait_of(limiter, "a", 1) == 9


def test_an_old_slot_frees_nothing() -> None:
    limiter = RateLimiter(10)
    old = limiter.take("a", Elapsed(0))
    limiter.take("a", Elapsed(10))
    old.give_back()
    assert wait_of(limiter, "a", 11) == 9


def test_giving_back_twice_does_no_harm() -> None:
    limiter = RateLimiter(10)
    slot = limiter.take("a", Elapsed(0))
    slot.give_back()
    limiter.take("a", Elapsed(0))
    slot.give_back()
    assert wait_of(limiter, "a", 2) == 8


def test_another_process_looked_at_the_clock_later_and_was_quicker() -> None:
    limiter = RateLimiter(10)
    limiter.take("a", Elapsed(100))
    assert wait_of(limiter, "a", 99.9) == 10


def test_those_who_share_a_table_have_the_same_mark(descriptor: int) -> None:
    table = Table(100, descriptor=descriptor)
    one, other = (
        RateLimiter(10, table),
        RateLimiter(10, Table(100, descriptor=descriptor, key=table.key)),
    )
    assert one.mark == other.mark != RateLimiter(10).mark


# --- A full bucket --------------------------------------------------------------------------------


@pytest.fixture
def full() -> RateLimiter:
    """A limiter of one bucket, which is full: 0 has taken its slot at 0.0, 1 at 0.1 and so on."""
    limiter = RateLimiter(10, Table(16))
    for number in range(16):
        limiter.take(str(number), Elapsed(number / 10))
    return limiter


def test_the_oldest_makes_room(full: RateLimiter) -> None:
    full.take("16", Elapsed(2))
    full.take("17", Elapsed(2))
    assert wait_of(full, "16", 3) == 9
    assert wait_of(full, "2", 3) == 8  # 1 and 0 have gone
    assert wait_of(full, "0", 3) == 0  # and takes the place of 2
    assert wait_of(full, "2", 3) == 0


def test_what_made_room_comes_back_with_the_slot(full: RateLimiter) -> None:
    full.take("16", Elapsed(2)).give_back()
    assert [wait_of(full, str(number), 3) > 0 for number in range(16)] == [True] * 16


def test_what_made_room_and_came_again_is_there_once(full: RateLimiter) -> None:
    slot = full.take("16", Elapsed(2))  # instead of 0
    full.take("0", Elapsed(2))  # instead of 1
    slot.give_back()
    assert wait_of(full, "0", 11) == 1
    assert wait_of(full, "0", 12) == 0


def test_tables_have_keys_of_their_own() -> None:
    assert Table(16).key != Table(16).key


# --- Against a model ------------------------------------------------------------------------------

INTERVAL = 10.0
CLUSTERS = st.sampled_from([f"cluster-{number}" for number in range(12)])


class Limited(RuleBasedStateMachine):
    """A limiter, small but with room for all, and what a dictionary would say."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = RateLimiter(INTERVAL, Table(64))
        self.now = 1000.0
        self.taken: dict[str, tuple[float, int]] = {}
        self.slots: list[tuple[str, Slot]] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 9.5, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(cluster=CLUSTERS)
    def take(self, cluster: str) -> None:
        taken, _ = self.taken.get(cluster, (0.0, 0))
        if self.now - taken < INTERVAL:
            assert wait_of(self.limiter, cluster, self.now) > 0
        else:
            self.taken[cluster] = (self.now, len(self.slots))
            self.slots.append((cluster, self.limiter.take(cluster, Elapsed(self.now))))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if not self.slots:
            return
        number = data.draw(st.integers(0, len(self.slots) - 1))
        cluster, slot = self.slots[number]
        slot.give_back()
        if self.taken.get(cluster, (0.0, -1))[1] == number:
            del self.taken[cluster]


TestLimited = Limited.TestCase


# --- Several processes ----------------------------------------------------------------------------


def test_a_table_is_shared(descriptor: int) -> None:
    first = Table(1000, descriptor=descriptor)
    one = RateLimiter(10, first)
    other = RateLimiter(10, Table(1000, descriptor=descriptor, key=first.key))
    slot = one.take("a", Elapsed(0))
    assert wait_of(other, "a", 1) == 9
    slot.give_back()
    assert wait_of(other, "a", 1) == 0
    assert wait_of(one, "a", 2) == 9


RIVALS = 5000
ROOM = RIVALS * 4  # so that no bucket overflows

#: Takes the slots of all clusters as soon as it is told to, and prints which it got.
RIVAL = f"""
import sys
from telemeter.limits.ratelimit import RateLimitedError, RateLimiter, Table

table = Table({ROOM}, descriptor=int(sys.argv[1]), key=bytes.fromhex(sys.argv[2]))
limiter = RateLimiter(1e6, table)
print("ready", flush=True)
sys.stdin.readline()
for number in range({RIVALS}):
    try:
        limiter.take(str(number), 1000.0)
    except RateLimitedError:
        continue
    print(number)
"""


def test_of_two_processes_one_gets_the_slot(descriptor: int) -> None:
    key = Table(ROOM, descriptor=descriptor).key
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(descriptor), key.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[descriptor],
        )
        for _ in range(2)
    ]
    for rival in rivals:
        assert rival.stdout
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin
        rival.stdin.write("go\n")
        rival.stdin.flush()
    won = [int(number) for rival in rivals for number in rival.communicate()[0].split()]
    assert sorted(won) == list(range(RIVALS))
