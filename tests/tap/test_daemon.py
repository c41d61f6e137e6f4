"""Listeners, and the order in which a daemon stops."""

from __future__ import annotations

import gc
import io
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.application.service import Application, IService, MultiService, Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.internet.testing import RaisingMemoryReactor
from twisted.logger import ILogObserver, Logger, LogLevel, textFileLogObserver
from twisted.web.iweb import IRequest

from telemeter.config.flag_parser import Flags
from telemeter.config.groups import LOGGING
from telemeter.loop.services import OnStop, StartError
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.tap.daemon import Daemon
from telemeter.web.site.listener import Listener
from telemeter.web.site.routing import Route, make_site
from tests.fakes import Log, Wire, has_fired, request_of, result_of
from tests.tap.world import FakeReactor


class Options(Flags):
    """The flags that every daemon has."""

    program = "toy"
    groups: ClassVar = (LOGGING,)


def make_daemon(*flags: str, runner: dict[str, Any] | None = None) -> Daemon:
    options: Any = Options()
    options.parent = runner
    options.parseOptions(list(flags))
    return Daemon(options, FakeReactor())


# --- Under twist ----------------------------------------------------------------------------------


def twisted_runner(stream: io.StringIO, **others: Any) -> dict[str, Any]:
    """What twist makes of its own flags."""
    return {
        "logFile": stream,
        "logLevel": LogLevel.info,
        "fileLogObserverFactory": textFileLogObserver,
        **others,
    }


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ([], LogLevel.info, LogLevel.info),
        (["--log-level=debug"], LogLevel.info, LogLevel.debug),
        (["--log-level=error"], LogLevel.info, LogLevel.error),
        ([], LogLevel.warn, LogLevel.warn),
    ],
)
def test_twist_writes_logfmt(flags: list[str], given: Any, expected: Any) -> None:
    stream = io.StringIO()
    runner = twisted_runner(stream, logLevel=given)
    daemon = make_daemon(*flags, runner=runner)
    daemon.setServiceParent(Application("toy"))
    assert runner["logLevel"] == expected
    Logger(observer=runner["fileLogObserverFactory"](stream)).error("broken", part="x")
    daemon.pass_on("ts=0 level=info msg=passed")
    assert "level=error" in stream.getvalue()
    assert "msg=broken part=x\nts=0 level=info msg=passed\n" in stream.getvalue()


@pytest.mark.parametrize("flag", ["--log-format", "--log-format=json", "--log-form"])
def test_twist_writes_what_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr("sys.argv", ["twist", flag, "json", "toy"])
    runner = twisted_runner(io.StringIO())
    make_daemon(runner=runner).setServiceParent(Application("toy"))
    assert runner["fileLogObserverFactory"] is textFileLogObserver


# --- A daemon -------------------------------------------------------------------------------------


class Part(Service):
    """A part of a daemon that says when it is stopped, and when it has."""

    def __init__(self, name: str, told: list[str], *, slow: bool = False) -> None:
        self.part = name
        self.told = told
        self.done: Deferred[None] | None = Deferred() if slow else None

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self.told.append(self.part)
        return self.done


def test_parts_stop_one_after_the_other_the_last_one_first() -> None:
    told: list[str] = []
    daemon = make_daemon()
    first, second, third = Part("1", told), Part("2", told, slow=True), Part("3", told, slow=True)
    for part in (first, second, third):
        part.setServiceParent(daemon)
    daemon.startService()
    assert (daemon.name, bool(daemon.running)) == ("toy", True)
    stopped = daemon.stopService()
    assert told == ["3"]
    assert third.done is not None
    third.done.callback(None)
    assert told == ["3", "2"]
    assert not has_fired(stopped)
    assert second.done is not None
    second.done.callback(None)
    assert told == ["3", "2", "1"]
    result_of(stopped)
    assert not daemon.running


def test_a_part_that_does_not_stop_well_holds_nobody_up(log: Log) -> None:
    told: list[str] = []
    daemon = make_daemon()
    Part("1", told).setServiceParent(daemon)
    OnStop(lambda: fail(KeyError("broken"))).setServiceParent(daemon)

    def broken() -> None:
        raise KeyError("broken")

    OnStop(broken).setServiceParent(daemon)
    daemon.startService()
    result_of(daemon.stopService())
    assert told == ["1"]
    assert len(log.errors) == 2
    log.errors_are_fine = True


def test_on_stop_hands_on_what_to_wait_for() -> None:
    waiting: Deferred[None] = Deferred()
    service = OnStop(lambda: waiting)
    service.startService()
    assert service.stopService() is waiting
    assert not service.running


USED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def collector() -> Iterator[None]:
    """Whatever a test does to how Python looks for unused objects, and to signals, undone."""
    before = {number: signal.getsignal(number) for number in USED}
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("is_application", [True, False])
def test_a_process_of_its_own_looks_for_unused_objects_less_often(
    is_application: bool, collector: None
) -> None:
    parent: Any = Application("x") if is_application else MultiService()
    make_daemon().setServiceParent(parent)
    frozen, (often, *_) = gc.get_freeze_count(), gc.get_threshold()
    IService(parent).startService()
    assert (gc.get_freeze_count() > frozen) == is_application
    assert (gc.get_threshold()[0] > often) == is_application


# --- Its log --------------------------------------------------------------------------------------


def observer_of(daemon: Daemon) -> Any:
    application: Any = Application("x")
    daemon.setServiceParent(application)
    return application.getComponent(ILogObserver)


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ([], ["info", "warn"]),
        (["--log-level", "warn"], ["warn"]),
        (["--verbose"], ["debug", "info", "warn"]),
        (["-v", "--log-level", "warn"], ["debug", "info", "warn"]),
    ],
)
def test_a_daemon_logs_to_standard_error(
    flags: list[str], levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = Logger("telemeter.test", observer=observer_of(make_daemon(*flags)))
    for level in ("debug", "info", "warn"):
        getattr(log, level)("message")
    lines = stream.getvalue().splitlines()
    assert [line.split(" ")[1] for line in lines] == [f"level={level}" for level in levels]


@pytest.mark.parametrize("runner", [{"logger": "some.observer"}, {"syslog": True}])
def test_a_log_that_the_user_chose_is_left_alone(runner: dict[str, Any]) -> None:
    assert observer_of(make_daemon(runner=runner)) is None


@pytest.mark.parametrize(
    ("runner", "name"),
    [
        ({"logfile": "given.log"}, "given.log"),
        ({"logfile": "given.log", "nodaemon": True}, "given.log"),
        ({"logfile": None, "nodaemon": False}, "twistd.log"),
    ],
)
def test_a_daemon_logs_to_the_file_of_its_runner(
    runner: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Logger("telemeter.test", observer=observer_of(make_daemon(runner=runner))).info("message")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "msg=message" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    "runner", [{"logfile": "-"}, {"logfile": "-", "nodaemon": False}, {"nodaemon": True}]
)
def test_a_daemon_logs_to_standard_error_if_told_so(
    runner: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.chdir(tmp_path)
    Logger("telemeter.test", observer=observer_of(make_daemon(runner=runner))).info("message")
    assert "msg=message" in stream.getvalue()
    assert list(tmp_path.iterdir()) == []


LINE = "ts=2026-11-23T07:05:03.004Z level=warn component=x msg=hello worker=1"


def test_a_line_of_another_process_goes_to_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    daemon = make_daemon(runner={"logfile": "given.log"})
    Logger("telemeter.test", observer=observer_of(daemon)).info("message")
    daemon.pass_on(LINE)
    assert (tmp_path / "given.log").read_text().splitlines()[1:] == [LINE]


def test_or_to_the_log_that_the_user_chose(log: Log) -> None:
    daemon = make_daemon(runner={"syslog": True})
    assert observer_of(daemon) is None
    daemon.pass_on(LINE)
    (event,) = log.of("{line}")
    assert (event["log_level"].name, event["line"]) == ("warn", LINE)


# --- A log file -----------------------------------------------------------------------------------


@pytest.fixture
def alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: None
) -> Callable[..., Daemon]:
    """What starts a daemon that is alone in its process, and logs to `a.log`."""
    monkeypatch.chdir(tmp_path)

    def make(*flags: str, runner: dict[str, Any] | None = None) -> Daemon:
        daemon = make_daemon(*flags, runner=runner or {"logfile": "a.log", "nodaemon": True})
        application: Any = Application("x")
        daemon.setServiceParent(application)
        daemon.startService()
        return daemon

    return make


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_opens_the_file_anew(
    number: int, alone: Callable[..., Daemon], tmp_path: Path, log: Log
) -> None:
    daemon = alone()
    daemon.pass_on("one")
    moved = (tmp_path / "a.log").rename(tmp_path / "moved")
    daemon.pass_on("two")
    signal.raise_signal(number)
    daemon.pass_on("three")
    assert (moved.read_text(), (tmp_path / "a.log").read_text()) == ("one\ntwo\n", "three\n")
    assert len(log.of("the log file is opened anew")) == 1


def test_a_file_that_cannot_be_opened_anew_is_an_error_and_written_on(
    alone: Callable[..., Daemon], tmp_path: Path, log: Log
) -> None:
    daemon = alone()
    (tmp_path / "a.log").rename(tmp_path / "moved")
    (tmp_path / "a.log").mkdir()
    signal.raise_signal(signal.SIGUSR1)
    daemon.pass_on("one")
    assert (tmp_path / "moved").read_text() == "one\n"
    (event,) = log.of("the log file cannot be opened anew, the old one is written on")
    assert (event["log_level"].name, event["file"]) == ("error", str(tmp_path / "a.log"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize(
    "runner", [{"nodaemon": True}, {"syslog": True}, {"logger": "x"}, {"logFile": sys.stdout}]
)
def test_without_a_file_there_is_nothing_to_open(
    number: int, runner: dict[str, Any], alone: Callable[..., Daemon], tmp_path: Path, log: Log
) -> None:
    alone(runner=runner)
    signal.raise_signal(number)
    assert log.of("the log file is opened anew") == []
    assert list(tmp_path.iterdir()) == []


def test_the_log_file_of_twist_is_opened_anew_too(
    alone: Callable[..., Daemon], tmp_path: Path
) -> None:
    with (tmp_path / "twist.log").open("a") as file:
        alone(runner={"logFile": file})
        print("one", file=file, flush=True)
        moved = (tmp_path / "twist.log").rename(tmp_path / "moved")
        signal.raise_signal(signal.SIGUSR1)
        print("two", file=file, flush=True)
    assert (moved.read_text(), (tmp_path / "twist.log").read_text()) == ("one\n", "two\n")


def test_rotation_is_for_those_who_ask_for_it(alone: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = alone("--rotate-log-bytes", "10", "--rotate-log-files", "2")
    for number in range(9):
        daemon.pass_on(f"line {number}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]


def test_a_log_file_that_cannot_be_written_ends_the_program(tmp_path: Path) -> None:
    daemon = make_daemon(runner={"logfile": f"{tmp_path}/missing/a.log"})
    with pytest.raises(StartError, match=r"^toy: --logfile .*missing/a.log.*: No such file"):
        daemon.setServiceParent(Application("x"))


# --- Its start and its end ------------------------------------------------------------------------


class Refusing(Service):
    """A part that cannot start."""

    def privilegedStartService(self) -> None:
        raise StartError("toy: --flag: no")

    startService = privilegedStartService


@pytest.mark.parametrize(
    ("runner", "in_log", "on_terminal", "for_python"),
    [
        ({"nodaemon": True}, True, False, False),
        ({"nodaemon": True, "logfile": "a.log"}, True, True, False),
        ({"nodaemon": False, "logfile": "a.log"}, True, False, False),
        ({"logFile": sys.stdout}, False, False, True),  # twist, whose log has not begun by then
        ({"nodaemon": True, "syslog": True}, True, True, False),
    ],
)
@pytest.mark.parametrize("step", ["privilegedStartService", "startService"])
def test_the_reason_not_to_start_is_in_the_log_before_twistd_says_that_it_is(
    runner: dict[str, Any],
    in_log: bool,
    on_terminal: bool,
    for_python: bool,
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: Log,
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", terminal)
    daemon = make_daemon(runner=runner)
    Refusing().setServiceParent(daemon)
    daemon.setServiceParent(Application("x"))
    daemon._is_alone = False  # no signals, please
    with pytest.raises(StartError, match=r"^toy: --flag: no$") as caught:
        getattr(daemon, step)()
    levels = [event["log_level"].name for event in log.of("toy: --flag: no")]
    assert levels == (["critical"] if in_log else [])
    assert terminal.getvalue() == ("toy: --flag: no\n" if on_terminal else "")
    assert caught.value.code == ("toy: --flag: no" if for_python else 1)


class Slow(Service):
    """A part that takes seconds to let requests finish."""

    finished = 0

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.finished = 3
        return deferLater(self._reactor, 2.5)


@pytest.mark.parametrize("sent", [None, signal.SIGTERM, signal.SIGINT])
def test_a_stop_says_why_and_what_was_finished(
    sent: signal.Signals | None, alone: Callable[..., Daemon], log: Log
) -> None:
    daemon = alone()
    reactor: Any = daemon._reactor
    for _ in range(2):
        Slow(reactor).setServiceParent(daemon)
    Part("1", []).setServiceParent(daemon)
    if sent is not None:
        daemon.signals._stops.append(sent)
    stopped = daemon.stopService()
    (event,) = log.of("stopping")
    assert (event["log_level"].name, event["signal"]) == ("info", sent.name if sent else "none")
    reactor.pump([2.5, 2.5])
    result_of(stopped)
    (event,) = log.of("stopped")
    assert (event["log_level"].name, event["requests"], event["seconds"]) == ("info", 6, "5.0")


def test_a_part_of_another_program_leaves_its_signals_and_its_log_alone(log: Log) -> None:
    daemon = make_daemon()
    daemon.setServiceParent(MultiService())
    before = [signal.getsignal(number) for number in USED]
    daemon.startService()
    result_of(daemon.stopService())
    assert [signal.getsignal(number) for number in USED] == before
    assert log.of("stopping") == []


# --- A listener -----------------------------------------------------------------------------------


class Listening:
    """A listener with a path whose answers wait."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.waiting: list[Deferred[bytes]] = []
        self.site = make_site([Route("/slow", self._wait, timed=False)], self.reactor)
        self.listener = Listener(
            self.reactor,
            TCP4ServerEndpoint(self.reactor, 9003, interface="127.0.0.1"),
            self.site,
            flag="listen",
            address="127.0.0.1:9003",
            program="toy",
        )

    def _wait(self, request: IRequest) -> Deferred[bytes]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def start(self) -> None:
        self.listener.privilegedStartService()
        self.listener.startService()

    def request(self) -> Wire:
        wire = Wire(self.site)
        wire.send(request_of("GET", "/slow"))
        return wire


@pytest.fixture
def listening() -> Listening:
    return Listening()


def test_it_listens_while_twistd_has_the_rights_to(listening: Listening, log: Log) -> None:
    listening.listener.privilegedStartService()
    ((port, factory, _, interface),) = listening.reactor.tcpServers
    assert (port, factory, interface) == (9003, listening.site, "127.0.0.1")
    (event,) = log.of("listening")
    assert (event["flag"], event["address"]) == ("--listen", "0.0.0.0:9003")


def test_it_listens_also_for_who_starts_it_in_one_step(listening: Listening) -> None:
    listening.listener.startService()
    assert len(listening.reactor.tcpServers) == 1


def test_it_stops_at_once_when_nothing_is_under_way(listening: Listening) -> None:
    listening.start()
    assert has_fired(listening.listener.stopService())


def test_it_lets_requests_finish(listening: Listening) -> None:
    listening.start()
    wire = listening.request()
    stopped = listening.listener.stopService()
    assert not has_fired(stopped)
    listening.reactor.advance(TIMEOUTS.stop - 0.1)
    assert not has_fired(stopped)
    listening.waiting[0].callback(b"done")
    assert wire.answer.status == 200
    wire.close()
    assert has_fired(stopped)
    assert listening.listener.finished == 1
    assert listening.reactor.getDelayedCalls() == []


def test_it_does_not_wait_for_ever(listening: Listening, log: Log) -> None:
    listening.start()
    wire = listening.request()
    stopped = listening.listener.stopService()
    listening.reactor.advance(TIMEOUTS.stop)
    assert has_fired(stopped)
    assert listening.listener.finished == 0
    assert wire.is_aborted()
    (event,) = log.of("requests were still under way when the time to stop was over")
    assert (event["log_level"].name, event["requests"]) == ("warn", 1)
    wire.vanish()


def test_it_stops_listening_first(listening: Listening) -> None:
    listening.start()
    closed: Deferred[None] = Deferred()
    port: Any = listening.listener.port
    port.stopListening = lambda: closed
    wire = listening.request()
    stopped = listening.listener.stopService()
    stopping = [listening.site.stopping]
    closed.callback(None)
    stopping.append(listening.site.stopping)
    assert stopping == [False, True]
    listening.waiting[0].callback(b"done")
    wire.close()
    assert has_fired(stopped)


def test_a_listener_that_never_listened_can_be_stopped(listening: Listening) -> None:
    assert has_fired(listening.listener.stopService())


@pytest.mark.parametrize(
    "error",
    [
        CannotListenError("127.0.0.1", 9003, OSError(98, "Address already in use")),
        PermissionError(13, "Permission denied"),
    ],
)
def test_an_address_that_cannot_be_listened_at_ends_the_program(error: Exception) -> None:
    reactor: Any = RaisingMemoryReactor(listenException=error)
    site = make_site([], FakeReactor())
    for endpoint in (TCP4ServerEndpoint(reactor, 9003), UNIXServerEndpoint(reactor, "/s")):
        listener = Listener(reactor, endpoint, site, flag="listen", address="here", program="toy")
        with pytest.raises(SystemExit) as caught:
            listener.privilegedStartService()
        message = str(caught.value)
        assert message.startswith("toy: --listen 'here': cannot listen there: ")
        assert "Address already in use" in message or "Permission denied" in message
        assert "\n" not in message
