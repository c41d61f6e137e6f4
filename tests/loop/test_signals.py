"""Signals of a daemon's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

from telemeter.loop import signals as module
from telemeter.loop.signals import PARENTS, Signals, held_back, hold_signals

USED = (*PARENTS, signal.SIGTERM)


class FakeReactor:
    """A reactor that does what it is told when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []
        self.when_running: list[Callable[[], object]] = []
        self.stops: list[int] = []

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        self.waiting.append(lambda: function(*arguments))

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        self.when_running.append(function)

    def sigTerm(self, number: int, frame: Any) -> None:
        self.stops.append(number)

    sigInt = sigTerm

    def run(self) -> None:
        """Begin to run, with handlers of its own, as Twisted does."""
        signal.signal(signal.SIGTERM, self.sigTerm)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.sigInt)
        for function in self.when_running:
            function()

    def turn(self) -> None:
        """Do what is waiting."""
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            function()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals as they are in a new process; whatever a test does to them, undone."""
    before = {number: signal.getsignal(number) for number in USED}
    for number in USED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    module._early.clear()


class Ended(BaseException):
    """Instead of the end of the process."""


class World:
    """Signals, and what they call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reactor = FakeReactor()
        self.signals = Signals(self.reactor)
        self.called: list[str] = []
        self.killed: list[int] = []
        self.signals.call(signal.SIGHUP, lambda: self.called.append("hup"))
        self.signals.call(signal.SIGUSR1, lambda: self.called.append("usr1"))
        monkeypatch.setattr("telemeter.loop.signals.os.kill", self._kill)
        monkeypatch.setattr("telemeter.loop.signals.os._exit", self._exit)

    def _kill(self, pid: int, number: int) -> None:
        assert pid == os.getpid()
        assert signal.getsignal(number) is signal.SIG_DFL
        self.killed.append(number)

    def _exit(self, status: int) -> None:
        raise Ended(status)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_what_comes_before_the_start_is_kept(world: World) -> None:
    hold_signals()
    for _ in range(3):
        signal.raise_signal(signal.SIGHUP)
    world.signals.start()
    assert world.called == []
    world.reactor.turn()
    assert world.called == ["hup"]
    signal.raise_signal(signal.SIGUSR1)
    world.reactor.turn()
    assert world.called == ["hup", "usr1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_reactor_runs_is_one(world: World, number: int) -> None:
    hold_signals()
    world.signals.start()
    signal.raise_signal(number)
    assert world.reactor.stops == []
    world.reactor.run()
    world.reactor.turn()
    assert world.reactor.stops == [number]
    assert world.signals.stopped_by == signal.Signals(number).name


def test_a_burst_is_told_once(world: World) -> None:
    world.signals.start()
    for _ in range(100):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
    world.reactor.turn()
    assert sorted(world.called) == ["hup", "usr1"]


def test_after_the_stop_nothing_is_called_and_nothing_ends_the_process(world: World) -> None:
    world.signals.start()
    signal.raise_signal(signal.SIGHUP)
    world.signals.stop()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGUSR1)
    # Of a signal without a handler that has come just before, Python would print that it is lost.
    assert all(callable(signal.getsignal(each)) for each in (signal.SIGHUP, signal.SIGUSR1))
    world.reactor.turn()
    assert world.called == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("held", [True, False])
def test_the_first_stops_the_reactor_and_the_second_ends_the_process(
    world: World, number: signal.Signals, held: bool
) -> None:
    if held:
        hold_signals()
    at_once: list[str] = []
    world.signals.at_once += [lambda: at_once.append("one"), lambda: 1 / 0]
    world.signals.at_once.append(lambda: at_once.append("two"))
    world.signals.start()
    world.reactor.run()
    assert world.signals.stopped_by == ""
    signal.raise_signal(number)
    assert world.reactor.stops == []
    world.reactor.turn()
    assert world.reactor.stops == [number]
    assert world.signals.stopped_by == number.name
    with pytest.raises(Ended, match=str(128 + number)):
        signal.raise_signal(number)
    assert at_once == ["one", "two"]
    assert world.killed == [number]


def test_one_of_each_is_one_stop_by_the_first(world: World) -> None:
    """A terminal's Ctrl-C, and a supervisor that passes it on as SIGTERM."""
    hold_signals()
    world.signals.start()
    world.reactor.run()
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    world.reactor.turn()
    assert world.reactor.stops == [signal.SIGINT]
    with pytest.raises(Ended):
        signal.raise_signal(signal.SIGTERM)
    assert world.killed == [signal.SIGINT]


def test_an_ignored_sigint_stays_ignored(world: World) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hold_signals()
    world.signals.start()
    world.reactor.run()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_program_that_is_chosen_holds_signals_and_one_that_is_listed_does_not() -> None:
    before = [signal.getsignal(number) for number in PARENTS]
    ours = [each for each in getPlugins(IServiceMaker) if each.tapname.startswith("telemeter-")]
    assert len(ours) == 4
    assert [signal.getsignal(number) for number in PARENTS] == before
    for each in ours:
        assert each.options.program == each.tapname
        for number in (signal.SIGHUP, signal.SIGUSR1):
            assert signal.getsignal(number) is not signal.SIG_DFL
            signal.signal(number, signal.SIG_DFL)


def test_handlers_are_there_before_anything_slow_is_imported() -> None:
    """Of a daemon: Python and twistd itself come before it is known which program it is."""
    program = """
import sys
from telemeter.loop import signals
import twisted.plugins.telemeter_plugin
def hold_signals():
    print(*sorted(name for name in sys.modules if name.startswith("telemeter")))
signals.hold_signals = hold_signals
twisted.plugins.telemeter_plugin.server.options
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"telemeter", b"telemeter.loop", b"telemeter.loop.signals"]


@pytest.mark.parametrize("number", PARENTS)
def test_nor_does_a_signal_during_the_first_import_break_it_off(number: signal.Signals) -> None:
    program = f"""
import os, sys
import twisted.plugins.telemeter_plugin
assert "telemeter" not in sys.modules
class Finder:
    def find_spec(self, name, path, target=None):
        if name.startswith("telemeter"):
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
twisted.plugins.telemeter_plugin.server.options
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stderr == b""
    ends = number == signal.SIGINT
    assert (done.returncode, done.stdout) == ((-number, b"") if ends else (0, b"alive\n"))


def test_what_is_held_back_waits_in_a_new_process() -> None:
    program = (
        "import signal; from telemeter.loop.signals import PARENTS\n"
        "input()\n"
        "for number in PARENTS: signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS)\n"
        "print('alive', len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))\n"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with held_back():
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    with child:
        for number in PARENTS:
            child.send_signal(number)
        output, _ = child.communicate(b"\n")
    assert output == b"alive 0\n"
    assert child.returncode == 0


def test_a_burst_that_fills_the_wakeup_buffer_prints_nothing() -> None:
    """The reactor wakes up anyway; by itself, Python prints a traceback for each signal more."""
    code = """
import os, signal
from telemeter.loop.signals import Signals
from tests.loop.test_signals import FakeReactor

reading, writing = os.pipe()
for end in (reading, writing):
    os.set_blocking(end, False)
try:
    while True:
        os.write(writing, b"x" * 4096)
except BlockingIOError:
    pass
signal.set_wakeup_fd(writing)
reactor = FakeReactor()
signals = Signals(reactor)
signals.start()
TAKE_OVER
os.kill(os.getpid(), signal.SIGHUP)
"""
    for take_over, expected in (("reactor.run()", False), ("", True)):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("TAKE_OVER", take_over)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("Traceback" in done.stderr or "wakeup fd" in done.stderr) is expected, done.stderr
