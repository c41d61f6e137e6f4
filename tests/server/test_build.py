"""The parts of a server: in which order they start and stop, and what a reload changes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from twisted.application.internet import TimerService
from twisted.application.service import Service
from twisted.python.usage import UsageError

from telemeter.config.reload import Reloader
from telemeter.config.server_options import Options
from telemeter.loop.memory import MemoryReturn
from telemeter.loop.services import OnStop, OrderedServices
from telemeter.server.app import ParentOfWorkers, ServerApp, SingleProcess, build
from telemeter.server.workers.supervisor import Workers
from telemeter.web.site.listener import Listener
from tests.fakes import FakeWall, Log, result_of, start
from tests.tap.world import FakeReactor

PACKAGE = Path(__file__).parents[2] / "telemeter"
FORWARD = ("--forward-url", "http://upstream.test/write")


def app_of(*flags: str) -> tuple[ServerApp, Options]:
    options = Options()
    options.parseOptions(list(flags))
    reactor = FakeReactor()
    return build(options.config, reactor, FakeWall(reactor), reader=options), options


def kinds(app: ServerApp) -> list[str]:
    return [
        f"listener of --{service.flag}" if isinstance(service, Listener) else type(service).__name__
        for service in app.services
    ]


def test_the_start_order_of_a_process() -> None:
    app, _ = app_of()
    assert isinstance(app, SingleProcess)
    assert kinds(app) == [
        OnStop.__name__,  # the connections to other servers
        MemoryReturn.__name__,
        TimerService.__name__,
        Reloader.__name__,
        "listener of --listen-internal",
        OnStop.__name__,  # the record of the fleet
        "listener of --listen",
        OnStop.__name__,  # health
    ]


def test_the_start_order_of_a_parent() -> None:
    app, _ = app_of("--workers", "2", *FORWARD)
    assert isinstance(app, ParentOfWorkers)
    assert kinds(app) == [
        OnStop.__name__,
        Reloader.__name__,
        "listener of --listen-internal",
        OnStop.__name__,
        Workers.__name__,
        OnStop.__name__,
    ]
    app.services[1].stopService()


def test_services_stop_in_the_reverse_order_each_after_the_other(log: Log) -> None:
    log.errors_are_fine = True
    stopped: list[str] = []

    class Part(Service):
        def __init__(self, name: str) -> None:
            self._name = name

        def stopService(self) -> None:
            stopped.append(self._name)
            if self._name == "second":
                raise RuntimeError("broken")

    services = OrderedServices()
    for name in ("first", "second", "third"):
        Part(name).setServiceParent(services)
    services.startService()
    done: Any = services.stopService()
    result_of(done)
    assert stopped == ["third", "second", "first"]
    assert len(log.errors) == 1


def test_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("up\n")
    app, options = app_of("--whitelist-file", str(rules))
    before = app.config
    rules.write_text("{broken\n")
    with pytest.raises(UsageError, match="line 1"):
        options.read_config()
    assert app.config is before
    rules.write_text("up\ndown\n")
    start(app.reload(options.read_config()))
    assert len(app.config.samples.whitelist.selectors) == 2


def test_flags_are_read_in_config_and_tap_only() -> None:
    """Everywhere else a setting is an attribute with a type."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("config", "tap")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        and ast.unparse(node.value).rpartition(".")[2].strip("_") in ("options", "flags")
    ]
    assert found == []
