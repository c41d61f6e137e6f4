"""The parts of a server: in which order they start and stop, and what a reload changes."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.python.usage import UsageError

from telemeter.agent.app import AgentApp
from telemeter.auth.keys import generate_key
from telemeter.config import agent_options
from telemeter.config.server_options import Options
from telemeter.loop.services import OrderedServices
from telemeter.server import start_order
from telemeter.server.app import ParentOfWorkers, ServerApp, SingleProcess, build
from telemeter.server.endpoints import Endpoints, Shared, operator_routes
from telemeter.server.fleet import reporter
from telemeter.upstream.forwarder import Forwarder
from tests.fakes import FakeWall, Log, result_of, start
from tests.tap.world import FakeReactor

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "telemeter"
FORWARD = ("--forward-url", "http://upstream.test/write")
#: All optional services that go together, but for the store's.
EVERYTHING = (
    *FORWARD,
    *("--memcached", "127.0.0.1:11211"),
    *("--fleet-database", "sqlite:fleet.sqlite"),
    *("--oidc-issuer", "http://issuer.test", "--client-id", "id", "--client-secret", "secret"),
)


def app_of(*flags: str) -> tuple[ServerApp, Options]:
    options = Options()
    options.parseOptions(list(flags))
    reactor: Any = FakeReactor()
    return build(options.config, reactor, FakeWall(reactor), reader=options), options


def names(of: Iterable[IService]) -> list[str]:
    return [str(service.name) for service in of]


def services_of_worker(*flags: str) -> list[IService]:
    options = Options()
    options.parseOptions(list(flags))
    reactor: Any = FakeReactor()
    wall = FakeWall(reactor)
    endpoints = Endpoints(options.config, reactor, wall, Shared(generate_key()))
    reports = reporter(lambda kind, body: Deferred(), reactor, wall)
    endpoint = TCP4ServerEndpoint(reactor, 9003)
    listener = endpoints.client_listener(endpoint)
    return start_order.of_worker(endpoints, reports, client_listener=listener)


def documented(first: str, column: str) -> list[str]:
    """Return the services that a table of docs/architecture.md has, in its order.

    Args:
        first: the first column's entry in the first row.
        column: the heading of the column that must not be empty.
    """
    page = (ROOT / "docs" / "architecture.md").read_text()
    (table,) = (
        block
        for block in page.split("\n\n")
        if block.startswith("| service |") and f"\n| `{first}` |" in block
    )
    heading, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    at = heading.index(column)
    return [row[0].strip("`") for row in rows if row[at]]


def test_all_that_clients_ask_has_a_deadline_and_most_that_operators_ask() -> None:
    app, _ = app_of()
    assert isinstance(app, SingleProcess)
    assert all(route.timed for route in app.endpoints.client_routes())
    reactor: Any = FakeReactor()
    routes = operator_routes(
        reactor, app.health, REGISTRY, app.reloader.reload, app.endpoints.store, app.fleet, 1
    )
    assert [route.path for route in routes if not route.timed] == [
        "/debug/profile",
        "/-/reload",
        "/federate",
        "/metrics/clusters",
        "/api/v1/clusters",
        "/api/v1/clusters/",
        "/api/v1/events",
    ]


def test_the_start_order_of_a_process() -> None:
    without, _ = app_of()
    assert isinstance(without, SingleProcess)
    app, _ = app_of(*EVERYTHING)
    expected = documented("reports", "single process")
    optional = ["queue_metrics", "memcached", "fleet_keeper", "issuer_discovery"]
    assert names(without.services) == [each for each in expected if each not in optional]
    assert names(app.services) == [each for each in expected if each != "store_expiry"]


def test_what_waits_for_the_upstream_is_shown_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Forwarder] = []
    monkeypatch.setattr(Forwarder, "show", lambda self: shown.append(self))
    app, _ = app_of(*FORWARD)
    assert isinstance(app, SingleProcess)
    service, clock = app.endpoints.queue_metrics, Clock()
    assert service is not None
    service.clock = clock
    service.startService()
    clock.pump([1.0] * 3)
    service.stopService()
    assert shown == [app.endpoints.clients.forwarder] * 4
    clock.advance(5)
    assert len(shown) == 4


def test_the_start_order_of_a_parent() -> None:
    app, _ = app_of("--workers", "2", *EVERYTHING)
    assert isinstance(app, ParentOfWorkers)
    assert names(app.services) == documented("reports", "parent")
    app.reloader.stopService()


def test_the_start_order_of_a_worker() -> None:
    flags = ("--workers", "2", *EVERYTHING)
    assert names(services_of_worker(*flags)) == documented("reports", "worker")


def test_the_start_order_of_an_agent() -> None:
    options = agent_options.Options()
    options.parseOptions(
        [
            *("--from", "http://prometheus.test", "--to", "http://telemeter.test"),
            *("--to-token", "token", "--listen", "127.0.0.1:9002"),
            *("--id", "cluster", "--spool-dir", "spool"),
        ]
    )
    reactor = FakeReactor()
    app = AgentApp(options.config, reactor, FakeWall(reactor), options)
    assert names(app.services) == documented("keeper", "its stop")


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
