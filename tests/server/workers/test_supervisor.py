"""The parent of workers: whom it starts, replaces, reloads and stops."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from twisted.python.usage import UsageError

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.observe.shared import Key
from telemeter.server.workers.control import METRICS_FD, CheckToken, Report
from telemeter.server.workers.place import STABLE_SECONDS, pause_after
from telemeter.server.workers.supervisor import PING_SECONDS
from tests.fakes import Growth, Log, has_fired, result_of, start, value_of
from tests.server.workers.crew import FakeProcess, Parent

RESTARTS = "telemeter_worker_restarts_total"
KILLED = {"signal": int(signal.SIGKILL)}


@pytest.fixture
def parent() -> Iterator[Parent]:
    """A parent whose workers are ready."""
    parent = Parent()
    parent.start()
    yield parent
    if parent.workers.running:
        parent.end()
    assert parent.reactor.getDelayedCalls() == []


# --- Start ----------------------------------------------------------------------------------------


def test_it_listens_and_leaves_the_connections_to_workers(parent: Parent) -> None:
    assert not parent.port.reading
    assert [process.number for process in parent.processes] == [0, 1]
    assert parent.told(0) == parent.told(1) == ["configure"]
    assert parent.processes[1].end.setup == parent.setup
    assert not parent.processes[0].stdin_is_open
    assert parent.workers.pids() == {0: 1000, 1: 1001}


def test_each_counts_in_memory_of_its_own(parent: Parent) -> None:
    metrics = parent.workers.metrics
    assert {process.number: process.descriptors[METRICS_FD] for process in parent.processes} == {
        number: memory.descriptor for number, memory in metrics.items()
    }
    assert metrics[0].descriptor != metrics[1].descriptor
    parent.processes[1].ended(**KILLED)
    parent.reactor.advance(0)
    assert parent.processes[1].descriptors[METRICS_FD] == metrics[1].descriptor


def test_a_worker_whose_metrics_have_no_place_serves_without(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(descriptor: int, size: int) -> None:
        raise OSError(27, "File too large")

    with monkeypatch.context() as broken:
        broken.setattr(os, "posix_fallocate", lambda *_: no_memory(0, 0))
        parent = Parent()
        parent.start()
    assert parent.workers.ready
    events = log.of("the metrics of a worker do not count")
    assert [(event["worker"], event["reason"]) for event in events] == [
        (number, "[Errno 27] File too large") for number in range(2)
    ]
    assert all(METRICS_FD not in process.descriptors for process in parent.processes)
    # The next one has them again.
    parent.processes[0].ended(**KILLED)
    parent.reactor.advance(0)
    assert parent.processes[0].descriptors[METRICS_FD] == parent.workers.metrics[0].descriptor
    log.errors_are_fine = True
    parent.end()


def test_it_is_ready_when_all_have_been_and_one_is() -> None:
    parent = Parent()
    assert not parent.workers.ready
    parent.workers.privilegedStartService()
    parent.workers.startService()
    first, second = parent.processes
    seen = []
    for process, ready in ((first, True), (second, True), (first, False), (second, False)):
        process.end.ready(ready)
        parent.flush()
        seen.append((parent.workers.ready, value_of("telemeter_workers")))
    assert seen == [(False, 1), (True, 2), (True, 1), (False, 0)]
    parent.end()


def test_a_worker_that_does_not_start_is_killed(log: Log) -> None:
    parent = Parent()
    parent.workers.startService()
    for process in parent.processes:
        process.end.silent = {"configure"} if process.number == 1 else set()
    parent.flush()
    parent.reactor.advance(60)
    assert [process.signals for process in parent.processes] == [[], ["KILL"]]
    log.errors_are_fine = True
    parent.end()


# --- A worker that ends ---------------------------------------------------------------------------


def test_it_is_replaced_at_once(parent: Parent, log: Log) -> None:
    grown = Growth()
    old = parent.processes[0]
    parent.reactor.advance(STABLE_SECONDS)
    old.ended(**KILLED)
    assert (parent.workers.ready, value_of("telemeter_workers")) == (True, 1)
    parent.reactor.advance(0)
    assert [process.number for process in parent.processes] == [0, 1]
    assert grown.of(RESTARTS) == 1
    assert parent.told(0) == ["configure"]
    (event,) = log.of("a worker ended, and is replaced")
    assert (event["worker"], event["how"], event["after_seconds"]) == (0, "by SIGKILL", "10.0")
    parent.processes[0].end.ready()
    parent.flush()
    assert value_of("telemeter_workers") == 2


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ({"code": 0}, "it ended by itself"),
        ({"code": 3}, "with exit code 3"),
        (KILLED, "by SIGKILL"),
    ],
)
def test_the_log_says_how_it_ended(parent: Parent, log: Log, end: dict[str, int], how: str) -> None:
    parent.processes[1].ended(**end)
    (event,) = log.of("a worker ended, and is replaced")
    assert event["how"] == how
    parent.reactor.advance(0)


def test_the_pause_grows() -> None:
    assert [pause_after(ends) for ends in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]
    assert pause_after(10**6) == 30


def test_one_that_does_not_last_has_to_wait(parent: Parent) -> None:
    def starts_after(seconds: float) -> bool:
        before = len(parent.reactor.processes)
        parent.reactor.advance(seconds)
        return len(parent.reactor.processes) > before

    for pause in (0, 1, 2, 4):
        parent.processes[0].ended(code=1)
        if pause:
            assert not starts_after(pause - 0.01)
        assert starts_after(0.011)
    # One that lasts has it all forgotten.
    parent.reactor.advance(STABLE_SECONDS)
    parent.processes[0].ended(code=1)
    assert starts_after(0)
    assert len(parent.processes) == 2


def test_a_system_without_room_for_a_process_is_asked_again(parent: Parent, log: Log) -> None:
    parent.reactor.no_more = OSError("no more processes")
    parent.processes[0].ended(code=1)
    parent.reactor.advance(0)
    assert len(parent.processes) == 1
    assert log.of("a worker ended, and is replaced")[-1]["how"] == "no more processes"
    parent.reactor.no_more = None
    parent.reactor.advance(1)
    assert len(parent.processes) == 2


def test_what_is_under_way_in_a_dead_worker_is_not_counted(parent: Parent) -> None:
    for memory in parent.workers.metrics.values():
        for kind, mode, name in (("gauge", "livesum", "under_way"), ("counter", "", "done")):
            memory.add(Key(kind, mode, name, "", name, ()), 7)
    parent.processes[0].ended(**KILLED)
    for number, values in enumerate(([0, 7], [7, 7])):
        assert [entry.value for entry in parent.workers.metrics[number].entries()] == values
    parent.reactor.advance(0)


# --- A worker that gives no sign of life ----------------------------------------------------------


def pass_time(parent: Parent, seconds: float, step: float = PING_SECONDS) -> None:
    """Let time pass, and let everybody hear what was said after each step."""
    for _ in range(round(seconds / step)):
        parent.reactor.advance(step)
        parent.flush()


def stop_answering(parent: Parent, *commands: str) -> FakeProcess:
    """Have worker 1 say nothing from now on, at the beginning of an interval."""
    pass_time(parent, PING_SECONDS)
    parent.processes[1].end.silent = {"ping", *commands}
    pass_time(parent, PING_SECONDS)
    return parent.processes[1]


def test_it_is_killed_and_replaced(parent: Parent, log: Log) -> None:
    grown = Growth()
    silent = stop_answering(parent)
    pass_time(parent, TIMEOUTS.worker_silence - PING_SECONDS)
    assert silent.signals == []
    pass_time(parent, PING_SECONDS)
    assert [process.signals for process in parent.processes] == [[], ["KILL"]]
    pass_time(parent, 60)  # it takes long to die
    assert silent.signals == ["KILL"]
    (event,) = log.of("a worker gives no sign of life, and is killed")
    assert (event["worker"], event["pid"], event["seconds"]) == (1, silent.pid, "10")
    assert grown.of("telemeter_worker_silences_total") == 1
    silent.ended(**KILLED)
    pass_time(parent, 60)
    assert [process.signals for process in parent.processes] == [[], []]
    assert grown.of(RESTARTS) == 1
    log.errors_are_fine = True


def test_one_that_is_slow_to_answer_is_left_alone(parent: Parent, log: Log) -> None:
    slow = stop_answering(parent)
    for _ in range(5):
        pass_time(parent, 8)
        slow.end.answer_pings()
        parent.flush()
        pass_time(parent, 2)
    assert slow.signals == []


@pytest.mark.parametrize("stopped", [15, 3600])
def test_a_stop_of_the_whole_machine_is_nobody_s_silence(parent: Parent, stopped: float) -> None:
    for process in parent.processes:
        process.end.silent = {"ping"}
    pass_time(parent, PING_SECONDS)
    for _ in range(3):
        parent.reactor.advance(stopped)
    for process in parent.processes:
        process.end.silent = set()
        process.end.answer_pings()
    parent.flush()
    pass_time(parent, 60)
    assert [process.signals for process in parent.processes] == [[], []]


def test_one_that_thinks_about_other_files_has_longer(parent: Parent, log: Log) -> None:
    busy = stop_answering(parent, "prepare")
    using = parent.reload(NEW)
    pass_time(parent, TIMEOUTS.worker_answer)
    with pytest.raises(UsageError, match="worker 1 gives no answer"):
        result_of(using)
    pass_time(parent, TIMEOUTS.worker_silence - 2 * PING_SECONDS)
    assert busy.signals == []
    pass_time(parent, PING_SECONDS)
    assert busy.signals == ["KILL"]
    log.errors_are_fine = True


def test_reloads_without_end_do_not_save_it(parent: Parent, log: Log) -> None:
    silent = stop_answering(parent, "prepare")
    for _ in range(2):
        assert silent.signals == []
        using = parent.reload(NEW)
        pass_time(parent, TIMEOUTS.worker_answer)
        with pytest.raises(UsageError):
            result_of(using)
    assert silent.signals == ["KILL"]
    log.errors_are_fine = True


def test_one_that_is_still_starting_is_left_alone() -> None:
    parent = Parent()
    parent.workers.startService()
    for process in parent.processes:
        process.end.silent = {"configure", "ping"}
    pass_time(parent, 58)
    assert [process.signals for process in parent.processes] == [[], []]
    parent.end()


# --- What workers say -----------------------------------------------------------------------------


def test_lines_of_the_log_are_passed_on_whole(parent: Parent) -> None:
    protocol = parent.processes[0].protocol
    protocol.errReceived(b"ts=1 level=info msg=o")
    assert parent.lines == []
    protocol.errReceived(b"ne\nts=2 level=info msg=two\nts=3")
    assert parent.lines == ["ts=1 level=info msg=one", "ts=2 level=info msg=two"]
    parent.processes[0].ended(**KILLED)
    assert parent.lines[2:] == ["ts=3"]
    parent.reactor.advance(0)


def test_what_is_no_line_of_the_log_becomes_one(parent: Parent, log: Log) -> None:
    protocol = parent.processes[1].protocol
    protocol.outReceived(b"Traceback (most recent call last):\n\n  \xff\n")
    events = log.of("a worker printed")
    assert [(event["worker"], event["line"]) for event in events] == [
        (1, "Traceback (most recent call last):"),
        (1, "  \ufffd"),
    ]
    assert parent.lines == []


def test_a_line_without_an_end_is_not_kept_for_ever(parent: Parent, log: Log) -> None:
    protocol = parent.processes[0].protocol
    for _ in range(3):
        protocol.errReceived(b"x" * 40_000)
    (event,) = log.of("a worker printed")
    assert len(event["line"]) == 80_000


def test_reports_go_to_whom_they_concern(parent: Parent, log: Log) -> None:
    seen: list[tuple[int, bytes]] = []
    parent.workers.reports["fleet"] = lambda number, body: seen.append((number, body))

    def broken(number: int, body: bytes) -> None:
        raise KeyError("broken")

    parent.workers.reports["broken"] = broken
    end = parent.processes[1].end
    answers = [
        end.callRemote(Report, kind=kind, body=b"x" * 60_000)
        for kind in ("fleet", "broken", "unknown", "fleet")
    ]
    parent.flush()
    assert [result_of(answer) for answer in answers] == [{}] * 4
    assert seen == [(1, b"x" * 60_000)] * 2
    assert len(log.of("the report of a worker could not be used")) == 1
    assert log.of("a worker reports what nobody wants to know")[0]["kind"] == "unknown"
    log.errors_are_fine = True


async def yes(question: bytes) -> float:
    """Say yes for a while."""
    assert question == b"may I?"
    return 12.5


async def no(question: bytes) -> float:
    """Say no."""
    raise RefusedError(403)


async def nothing(question: bytes) -> float:
    """Say nothing of use."""
    raise UnavailableError("out of order " + "." * 70_000)


@pytest.mark.parametrize(
    ("ask", "field", "value"),
    [
        (yes, "seconds", 12.5),
        (no, "refused", 403),
        (nothing, "unavailable", "out of order"),
        (None, "unavailable", "there is no authorization server"),
    ],
)
def test_questions_are_answered(ask: object, field: str, value: object) -> None:
    parent = Parent(ask)  # type: ignore[arg-type]
    parent.start()
    asking = parent.processes[0].end.callRemote(CheckToken, question=b"may I?")
    parent.flush()
    answer = result_of(asking)
    assert [name for name, each in answer.items() if each is not None] == [field]
    assert str(answer[field]).startswith(str(value))
    parent.end()


# --- Reload ---------------------------------------------------------------------------------------

NEW = {"file": b"2", "other": b"3"}


def forget_start(parent: Parent) -> None:
    """Forget what workers were told so far."""
    parent.told(0)
    parent.told(1)


def test_all_prepare_before_anyone_commits(parent: Parent) -> None:
    forget_start(parent)
    slow = parent.processes[1].end
    slow.silent = {"prepare"}
    using = parent.reload(NEW)
    assert parent.told(0) == [("prepare", NEW, False)]
    assert not has_fired(using)
    slow.silent = set()
    parent.reactor.advance(10)
    with pytest.raises(UsageError, match="worker 1 gives no answer"):
        result_of(using)
    assert parent.told(0) == []

    using = parent.reload(NEW, only_certificates=True)
    result_of(using)
    for number in range(2):
        assert parent.told(number)[-2:] == [("prepare", NEW, True), "commit"]


def test_a_worker_with_a_problem_keeps_all_from_changing(parent: Parent) -> None:
    forget_start(parent)
    parent.processes[1].end.problem = "--flag 'x': no such luck"
    with pytest.raises(UsageError, match="--flag 'x': no such luck"):
        result_of(parent.reload(NEW))
    assert parent.told(0) == [("prepare", NEW, False)]
    parent.processes[0].ended(**KILLED)
    parent.reactor.advance(0)
    parent.flush()
    assert parent.processes[0].end.setup.files == {"file": b"1"}


def test_workers_that_are_still_starting_have_the_time_of_a_start() -> None:
    """A signal that came early asks for a reload as soon as the parent runs."""
    parent = Parent()
    parent.workers.startService()
    using = start(parent.workers.reload(NEW))
    parent.reactor.advance(59)
    assert not has_fired(using)
    parent.flush()
    result_of(using)
    for number in range(2):
        assert parent.told(number) == ["configure", ("prepare", NEW, False), "commit"]
    parent.end()


def test_a_worker_that_comes_later_starts_with_what_is_in_use(parent: Parent) -> None:
    result_of(parent.reload(NEW))
    result_of(parent.reload({"third": b"4"}))
    parent.processes[0].ended(**KILLED)
    parent.reactor.advance(0)
    parent.flush()
    assert parent.processes[0].end.setup.files == {**NEW, "third": b"4"}


def test_a_worker_that_dies_meanwhile_is_no_reason_to_give_up(parent: Parent) -> None:
    forget_start(parent)
    parent.processes[1].end.silent = {"prepare"}
    using = parent.reload(NEW)
    dying = parent.processes[1]
    dying.ended(**KILLED)
    parent.flush()
    result_of(using)
    assert parent.told(0) == [("prepare", NEW, False), "commit"]
    parent.reactor.advance(0.1)
    parent.flush()
    assert parent.processes[1].end.setup.files == NEW


def test_nobody_is_started_in_the_middle(parent: Parent) -> None:
    parent.processes[0].end.silent = {"prepare"}
    using = parent.reload(NEW)
    parent.processes[1].ended(**KILLED)
    parent.reactor.advance(1)
    assert len(parent.processes) == 1
    parent.reactor.advance(9)
    with pytest.raises(UsageError):
        result_of(using)
    parent.reactor.advance(0.1)
    assert len(parent.processes) == 2


def test_who_does_not_follow_is_replaced(parent: Parent, log: Log) -> None:
    slow = parent.processes[1]
    slow.end.silent = {"commit"}
    using = parent.reload(NEW)
    parent.reactor.advance(10)
    result_of(using)
    assert slow.signals == ["KILL"]
    assert parent.processes[0].signals == []
    log.errors_are_fine = True


# --- Stop -----------------------------------------------------------------------------------------


def test_the_port_is_closed_when_nobody_accepts_any_more(parent: Parent) -> None:
    forget_start(parent)
    parent.processes[1].end.silent = {"stop"}
    stopping = parent.workers.stopService()
    assert parent.told(0) == parent.told(1) == ["stop"]
    assert parent.port.closes == 0
    parent.reactor.advance(1)
    assert parent.port.closes == 1
    first, second = parent.processes
    first.ended(0)
    assert not has_fired(stopping)
    second.ended(0)
    result_of(stopping)
    assert parent.reactor.getDelayedCalls() == []


def test_who_does_not_stop_is_killed(parent: Parent, log: Log) -> None:
    stopping = parent.workers.stopService()
    parent.flush()
    first, second = parent.processes
    first.ended(0)
    parent.reactor.advance(11.5)
    assert (first.signals, second.signals) == ([], ["KILL"])
    assert not has_fired(stopping)
    second.ended(**KILLED)
    result_of(stopping)
    assert log.of("a worker did not stop in time, and is killed")[0]["worker"] == 1
    assert log.of("a worker ended, and is replaced") == []


def test_nobody_is_replaced_after_a_stop(parent: Parent) -> None:
    for _ in range(2):
        parent.processes[0].ended(code=1)
        parent.reactor.advance(0)
    parent.end()
    parent.reactor.advance(100)
    assert parent.processes == []


def test_who_has_not_even_started_is_told_by_a_signal() -> None:
    parent = Parent()
    parent.workers.privilegedStartService()
    parent.workers.startService()
    stopping = parent.workers.stopService()
    for process in parent.processes:
        assert process.signals == ["TERM"]
        process.ended(signal=int(signal.SIGTERM))
    result_of(stopping)


def test_a_stop_before_the_start_is_none() -> None:
    parent = Parent()
    result_of(parent.workers.stopService())
    assert parent.workers.metrics == {}
