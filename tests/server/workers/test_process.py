"""A worker, without its process: what it makes of what its parent says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.config.server_options import Options
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.server.workers.control import MAX_REPORT, CheckToken, Control, Report
from telemeter.server.workers.process import BusyError, Worker, WorkerControl, WorkerOptions
from tests.fakes import FakeWall, Log, has_fired, result_of, start
from tests.server.workers.crew import connect
from tests.tap.world import FakeReactor

QUESTION = b"may I?"


class ParentEnd(Control):
    """A parent's end of the connection: says what a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Any = {"seconds": 5.0}
        self.reports: list[tuple[str, bytes]] = []
        self.unanswered: list[Deferred[dict[str, object]]] = []
        self.slow = False

    @CheckToken.responder
    def check(self, question: bytes) -> Any:
        assert question == QUESTION
        return self.answer

    @Report.responder
    def report(self, kind: str, body: bytes) -> Any:
        self.reports.append((kind, body))
        if not self.slow:
            return {}
        self.unanswered.append(Deferred())
        return self.unanswered[-1]


class Orphans:
    """What a worker is told by the loss of its parent."""

    timeouts = TIMEOUTS

    def __init__(self) -> None:
        self.gone = 0

    def parent_is_gone(self) -> None:
        self.gone += 1


class Pair:
    """Both ends of a connection."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.parent = ParentEnd()
        self.worker = Orphans()
        worker: Any = self.worker
        self.control = WorkerControl(worker, self.reactor)
        self.pump = connect(self.parent, self.control)

    def ask(self) -> Any:
        """Ask, and return what came of it."""
        asking = start(self.control.ask(QUESTION))
        self.pump.flush()
        return asking

    def lose(self) -> None:
        """Lose the connection."""
        self.control.connectionLost(Failure(ConnectionError()))


@pytest.fixture
def pair(log: Log) -> Iterator[Pair]:
    pair = Pair()
    yield pair
    assert pair.reactor.getDelayedCalls() == []


# --- Questions ------------------------------------------------------------------------------------


def test_a_yes_holds_for_a_while(pair: Pair) -> None:
    assert result_of(pair.ask()) == 5.0


def test_a_yes_that_nobody_remembers_is_one_too(pair: Pair) -> None:
    pair.parent.answer = {"seconds": 0.0}
    assert result_of(pair.ask()) == 0.0


def test_a_no_has_its_status(pair: Pair) -> None:
    pair.parent.answer = {"refused": 404}
    with pytest.raises(RefusedError) as caught:
        result_of(pair.ask())
    assert caught.value.status == 404


def test_no_answer_is_told_from_a_no(pair: Pair) -> None:
    pair.parent.answer = {"unavailable": "out of order"}
    with pytest.raises(UnavailableError, match="out of order"):
        result_of(pair.ask())


def test_a_parent_that_says_nothing_is_not_waited_for(pair: Pair) -> None:
    pair.parent.answer = Deferred()
    asking = pair.ask()
    pair.reactor.advance(24)
    assert not has_fired(asking)
    pair.reactor.advance(1)
    with pytest.raises(UnavailableError, match="parent"):
        result_of(asking)


def test_a_parent_that_is_gone_says_nothing(pair: Pair) -> None:
    pair.parent.answer = Deferred()
    asking = pair.ask()
    pair.lose()
    with pytest.raises(UnavailableError, match="parent"):
        result_of(asking)
    assert pair.worker.gone == 1
    with pytest.raises(UnavailableError, match="parent"):
        result_of(pair.ask())


# --- Reports --------------------------------------------------------------------------------------


def test_a_report_arrives(pair: Pair) -> None:
    reported = pair.control.report("fleet", b"x" * MAX_REPORT)
    pair.pump.flush()
    assert result_of(reported) is None
    assert pair.parent.reports == [("fleet", b"x" * MAX_REPORT)]


def test_a_report_that_is_too_long_is_an_error(pair: Pair) -> None:
    with pytest.raises(ValueError, match="60001"):
        pair.control.report("fleet", b"x" * (MAX_REPORT + 1))


def test_a_slow_parent_is_not_buried_in_reports(pair: Pair) -> None:
    pair.parent.slow = True
    reports = [pair.control.report("fleet", b"x" * MAX_REPORT) for _ in range(18)]
    pair.pump.flush()
    assert len(pair.parent.reports) == 17  # a MiB
    with pytest.raises(BusyError):
        result_of(reports[-1])
    pair.parent.unanswered[0].callback({})
    pair.pump.flush()
    assert result_of(reports[0]) is None
    another = pair.control.report("fleet", b"x" * MAX_REPORT)
    pair.pump.flush()
    assert len(pair.parent.reports) == 18
    pair.lose()
    for report in (*reports[1:17], another):
        with pytest.raises(ConnectionError):
            result_of(report)


# --- Its flags, and its files ---------------------------------------------------------------------


def test_it_does_not_look_up_again_where_to_listen() -> None:
    flags = ["--listen", "no-such-host.invalid:1", "--listen-internal", "systemd:domain=INET"]
    options = WorkerOptions()
    options.parseOptions(flags)
    assert options["listen"] == "no-such-host.invalid:1"
    with pytest.raises(SystemExit):
        Options().parseOptions(flags)


class Reloaded:
    """A worker that has been configured."""

    def __init__(self, *flags: str) -> None:
        reactor = FakeReactor()
        self.worker = Worker(reactor, FakeWall(reactor), 0)
        self.used: list[Any] = []
        untyped: Any = self.worker
        untyped._options = WorkerOptions()
        untyped._options.parseOptions(list(flags))
        untyped._endpoints = self

    def reload(self, config: Any) -> None:
        self.used.append(config)

    def use(self, certificate: Any) -> None:
        self.used.append(certificate)

    @property
    def tls(self) -> Reloaded:
        return self


def test_other_files_are_used_when_that_is_decided(tmp_path: Any) -> None:
    path = tmp_path / "whitelist"
    path.write_text("one\n")
    reloaded = Reloaded("--whitelist-file", str(path))
    assert reloaded.worker.prepare({str(path): b"two\nthree\n"}, False) == ""
    assert reloaded.used == []
    reloaded.worker.commit()
    (config,) = reloaded.used
    assert len(config.samples.whitelist.selectors) == 2


def test_only_what_the_parent_has_read_is_there(tmp_path: Any) -> None:
    path = tmp_path / "whitelist"
    path.write_text("one\n")
    reloaded = Reloaded("--whitelist-file", str(path))
    assert "--whitelist-file" in reloaded.worker.prepare({}, False)
    assert "line 1" in reloaded.worker.prepare({str(path): b"{two\n"}, False)


def test_certificates_alone() -> None:
    reloaded = Reloaded()
    assert reloaded.worker.prepare({}, True) == ""
    reloaded.worker.commit()
    assert reloaded.used == [None]
