"""telemeter-demo-source: its flags, and how it asks the machine."""

from __future__ import annotations

import sys

import pytest
from twisted.internet.defer import Deferred

from telemeter import observe
from telemeter.devtools.source import MachineSource
from telemeter.loop.threads import run_here
from telemeter.tap.demo_source import Options, makeService
from tests.fakes import NOW, FakeWall, Log, ask, clock_at
from tests.tap.world import FakeReactor, started


def options_of(*flags: str) -> Options:
    options = Options()
    options.parseOptions(list(flags))
    return options


def test_without_psutil_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "telemeter.observe.machine", raising=False)
    monkeypatch.delattr(observe, "machine", raising=False)  # another test may have imported it
    with pytest.raises(SystemExit, match=r"psutil is needed: pip install 'telemeter\[demo\]'"):
        options_of()


@pytest.mark.parametrize("flags", ["--interval 0", "--listen nowhere"])
def test_what_is_no_flag_is_refused(flags: str) -> None:
    with pytest.raises(SystemExit, match=flags.split()[0]):
        options_of(*flags.split())


def test_it_shows_what_the_machine_says(log: Log) -> None:
    reactor = FakeReactor()
    options = options_of("--instance", "me", "--interval", "5s")
    values = iter([1.0, 2.0])
    options.figures = lambda: iter([("node_load1", {}, next(values))])
    service = makeService(options, reactor, FakeWall(reactor))
    with_parent = started(service)
    site = reactor.site(9090)
    for value in (1, 2):
        answer = ask(site, "GET", "/federate?match[]=node_load1")
        assert answer.text.startswith("# TYPE node_load1 untyped\n")
        assert f'{{instance="me",job="demo-source"}} {value} ' in answer.text
        if value == 1:
            reactor.advance(5)
    page = ask(site, "GET", "/metrics").text
    assert [line.split()[2] for line in page.splitlines() if line[0] == "#"] == [
        "ALERTS",
        "node_load1",
        "up",
    ]
    assert ask(site, "GET", "/healthz/ready").status == 200
    with_parent.stopService()


def test_a_machine_that_cannot_be_asked_is_asked_again(log: Log) -> None:
    def broken() -> list[tuple[str, dict[str, str], float]]:
        raise ZeroDivisionError

    log.errors_are_fine = True
    clock = clock_at()
    source = MachineSource(broken, "me", 1.0, clock, FakeWall(clock), run_here)
    results: list[object] = []
    done: Deferred[None] = source.look()
    done.addCallback(results.append)
    assert results == [None]
    assert log.of("the machine could not be asked")


@pytest.mark.parametrize("step", [-3600, 3600])
def test_samples_have_the_time_of_day(step: int) -> None:
    reactor = FakeReactor()
    wall = FakeWall(reactor)
    service = started(makeService(options_of("--interval", "5s"), reactor, wall))
    wall.step(step)
    reactor.advance(5)
    page = ask(reactor.site(9090), "GET", "/federate?match[]=up").text
    assert page.split()[-1] == str((NOW + 5 + step) * 1000)
    service.stopService()
