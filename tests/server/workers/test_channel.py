"""The connection between the parent and a worker: both real ends, over a real pair of sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.config.files import Contents
from telemeter.loop.timeouts import Timeouts
from telemeter.server.workers.child import Child
from telemeter.server.workers.control import MAX_REPORT, Control, Setup
from telemeter.server.workers.process import BusyError, WorkerControl
from tests.fakes import Log
from tests.reactor import in_reactor, reactor

QUESTION = b"may I?"
#: More than AMP takes as one value, many times.
LARGE: Contents = {"large": bytes(range(256)) * 4000, "grün": b"", "small": b"\x00"}


@dataclass
class Parent:
    """What the parent's end works for: the supervisor of one worker."""

    timeouts: Timeouts
    answer: Any = 5.0
    asked: list[bytes] = field(default_factory=list)
    reported: list[tuple[int, bytes]] = field(default_factory=list)
    changes: int = 0
    number: int = 3

    def __post_init__(self) -> None:
        self.pass_on: Callable[[str], None] = lambda line: None
        self.ask: Any = self._ask
        self.reports: dict[str, Any] = {"fleet": lambda *report: self.reported.append(report)}

    async def _ask(self, question: bytes) -> float:
        self.asked.append(question)
        answer = self.answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Deferred):
            return float(await answer)
        return float(answer)

    def readiness_changed(self) -> None:
        self.changes += 1

    def process_ended(self, process: Child, reason: Any) -> None:
        raise AssertionError("there is no process")


@dataclass
class Worker:
    """What the worker's end works for."""

    timeouts: Timeouts
    setup: Setup | None = None
    prepared: list[tuple[Contents, bool]] = field(default_factory=list)
    problem: Any = ""
    commits: int = 0
    stops: int = 0

    def configure(self, setup: Setup) -> None:
        self.setup = setup

    def prepare(self, files: Contents, only_certificates: bool) -> Any:
        self.prepared.append((files, only_certificates))
        if isinstance(self.problem, Exception):
            raise self.problem
        return self.problem

    def commit(self) -> None:
        self.commits += 1

    def stop(self) -> None:
        self.stops += 1


@dataclass
class Channel:
    """Both ends, and what they work for."""

    parent: Parent
    worker: Worker
    child: Child
    control: WorkerControl

    @property
    def ends(self) -> tuple[Any, Any]:
        """The transports of the parent's end and the worker's."""
        return self.child.control.transport, self.control.transport

    def close(self) -> None:
        """Close both ends."""
        for end in (self.child.control, self.control):
            transport: Any = end.transport
            if transport is not None:  # it has not been closed yet
                transport.abortConnection()

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait for something to become so; the test has a deadline."""
        while not is_so():
            await deferLater(reactor, 0.001, lambda: None)


def adopt(end: socket.socket, control: Control) -> None:
    """Have an end of a pair of sockets speak, as the daemon does with that which it has."""
    factory: Any = Factory.forProtocol(lambda: control)
    factory.noisy = False
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()


@asynccontextmanager
async def channel(**timeouts: float) -> AsyncIterator[Channel]:
    seconds = Timeouts(**timeouts)
    parent, worker = Parent(seconds), Worker(seconds)
    untyped: Any = worker
    child, control = Child(parent, parent, reactor), WorkerControl(untyped, reactor)
    ours, theirs = socket.socketpair()
    adopt(ours, child.control)
    adopt(theirs, control)
    made = Channel(parent, worker, child, control)
    try:
        yield made
    finally:
        made.close()
        await made.until(lambda: worker.stops)


def setup() -> Setup:
    return Setup(2, ["--listen", "a\udcff"], dict(LARGE), b"\x00\xff", b"table")


async def failure_of(awaited: Awaitable[object]) -> Exception:
    with pytest.raises(Exception) as caught:
        await awaited
    error = caught.value
    assert isinstance(error, Exception)
    return error


# --- What the parent says -------------------------------------------------------------------------


@in_reactor
async def test_a_setup_arrives_whole() -> None:
    async with channel() as both:
        both.child.configure(setup())
        await both.until(lambda: both.worker.setup)
        assert both.worker.setup == setup()


@pytest.mark.parametrize("only_certificates", [False, True])
@in_reactor
async def test_files_are_prepared_and_used(only_certificates: bool) -> None:
    async with channel() as both:
        assert await both.child.prepare(LARGE, only_certificates) == ""
        assert (both.worker.prepared, both.worker.commits) == ([(LARGE, only_certificates)], 0)
        await both.child.commit()
        assert both.worker.commits == 1
        # What the next command is about is not mixed with what the last one was.
        both.worker.problem = "--flag 'x': " + "ä" * 100_000
        problem = await both.child.prepare({"other": b"x"}, False)
        assert problem.startswith("--flag 'x': ää")
        assert both.worker.prepared[-1] == ({"other": b"x"}, False)


@in_reactor
async def test_a_worker_that_cannot_answer(log: Log) -> None:
    log.errors_are_fine = True
    async with channel() as both:
        both.worker.problem = ZeroDivisionError("ours")
        assert (await both.child.prepare({}, False)).startswith("worker 3 gives no answer: ")
        await both.until(lambda: both.worker.stops)  # AMP hangs up after an error of ours


@in_reactor
async def test_a_worker_that_does_not_answer_in_time() -> None:
    async with channel(worker_answer=0.02, worker_start=0.02) as both:
        both.ends[1].pauseProducing()
        problem = await both.child.prepare({}, False)
        assert problem.startswith("worker 3 gives no answer: ")
        assert both.worker.prepared == []


@in_reactor
async def test_a_worker_that_ends_in_the_middle_of_a_command() -> None:
    async with channel() as both:
        preparing = both.child.prepare(LARGE, False)
        both.ends[1].abortConnection()
        assert await preparing == ""  # it is gone: the next one gets what is in use then


@in_reactor
async def test_a_worker_is_told_to_stop() -> None:
    async with channel() as both:
        both.child.configure(setup())
        await both.child.prepare({}, False)  # is answered after that
        await both.child.stop()
        assert both.worker.stops == 1


# --- What the worker says -------------------------------------------------------------------------


@in_reactor
async def test_whether_it_wants_requests() -> None:
    async with channel() as both:
        for ready in (True, False):
            changes = both.parent.changes
            both.control.tell_ready(ready)
            await both.until(lambda: both.parent.changes > changes)  # noqa: B023 - awaited here
            assert both.child.ready is ready


@pytest.mark.parametrize("seconds", [5.0, 0.0])
@in_reactor
async def test_a_positive_answer_holds_for_a_while(seconds: float) -> None:
    async with channel() as both:
        both.parent.answer = seconds
        assert await both.control.ask(QUESTION) == seconds
        assert both.parent.asked == [QUESTION]


@in_reactor
async def test_a_negative_answer_has_its_status() -> None:
    async with channel() as both:
        both.parent.answer = RefusedError(404)
        error = await failure_of(both.control.ask(QUESTION))
        assert isinstance(error, RefusedError)
        assert error.status == 404


@in_reactor
async def test_no_answer_is_told_from_a_negative_one() -> None:
    async with channel() as both:
        both.parent.answer = UnavailableError("out of order")
        error = await failure_of(both.control.ask(QUESTION))
        assert (type(error), str(error)) == (UnavailableError, "out of order")
        both.parent.ask = None
        error = await failure_of(both.control.ask(QUESTION))
        assert (type(error), str(error)) == (
            UnavailableError,
            "there is no authorization server",
        )


@in_reactor
async def test_a_parent_that_says_nothing_is_not_waited_for() -> None:
    async with channel(parent_answer=0.02) as both:
        both.parent.answer = Deferred()
        error = await failure_of(both.control.ask(QUESTION))
        assert isinstance(error, UnavailableError)
        assert str(error) == "the parent process: no answer within 0.02 seconds"
        both.parent.answer.callback(1.0)


@in_reactor
async def test_a_parent_that_is_gone_says_nothing() -> None:
    async with channel() as both:
        both.parent.answer = Deferred()
        asking = Deferred.fromCoroutine(both.control.ask(QUESTION))
        await both.until(lambda: both.parent.asked)
        both.ends[0].abortConnection()
        assert isinstance(await failure_of(asking), UnavailableError)
        await both.until(lambda: both.worker.stops)
        assert isinstance(await failure_of(both.control.ask(QUESTION)), UnavailableError)
        both.parent.answer.callback(1.0)


@in_reactor
async def test_a_report_arrives() -> None:
    async with channel() as both:
        largest = b"x" * MAX_REPORT
        await both.control.report("fleet", largest)
        assert both.parent.reported == [(3, largest)]


@in_reactor
async def test_a_report_that_nobody_takes(log: Log) -> None:
    log.errors_are_fine = True

    def broken(number: int, body: bytes) -> None:
        raise ZeroDivisionError

    async with channel() as both:
        both.parent.reports["broken"] = broken
        for kind in ("unknown", "broken"):
            await both.control.report(kind, b"x")
        assert log.of("a worker reports what nobody wants to know")
        assert log.of("the report of a worker could not be used")


@in_reactor
async def test_a_report_that_is_too_long_is_an_error() -> None:
    async with channel() as both:
        with pytest.raises(ValueError, match="60001"):
            both.control.report("fleet", b"x" * (MAX_REPORT + 1))


@in_reactor
async def test_a_slow_parent_is_not_buried_in_reports() -> None:
    async with channel() as both:
        both.ends[0].pauseProducing()
        reports = [both.control.report("fleet", b"x" * MAX_REPORT) for _ in range(18)]
        last: Deferred[None] = reports.pop()
        assert isinstance(await failure_of(last), BusyError)  # 17 of them are a MiB
        both.ends[0].resumeProducing()
        for report in reports:
            await report
        assert len(both.parent.reported) == 17
        await both.control.report("fleet", b"x")
        assert len(both.parent.reported) == 18
