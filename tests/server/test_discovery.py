"""What a server does at the start about its OIDC issuer."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from telemeter.auth.oidc import TokenSource, TokenUnavailableError
from telemeter.server.discovery import Discovery
from telemeter.web.health import Health
from tests.fakes import Log
from tests.tap.world import FakeReactor


class Slow(TokenSource):
    """Finds the issuer when the test says so."""

    def __init__(self) -> None:
        self.found: Deferred[None] = Deferred()

    async def discover(self) -> None:
        await self.found


def is_ready(health: Health) -> bool:
    return health.ready


def test_a_server_is_not_ready_before_it_has_found_the_issuer() -> None:
    source, health = Slow(), Health()
    discovery = Discovery(FakeReactor(), source, health, "program")
    discovery.startService()
    assert not is_ready(health)
    source.found.callback(None)
    assert is_ready(health)


def test_a_server_that_is_stopped_meanwhile_does_not_become_ready(log: Log) -> None:
    source, health = Slow(), Health()
    discovery = Discovery(FakeReactor(), source, health, "program")
    discovery.startService()
    discovery.stopService()
    assert source.found.called
    assert not is_ready(health)


def test_a_worker_that_comes_later_serves_without_the_issuer(log: Log) -> None:
    reactor, source, health = FakeReactor(), Slow(), Health()
    discovery = Discovery(reactor, source, health, "program", vital=False)
    discovery.startService()
    assert not is_ready(health)
    source.found.errback(TokenUnavailableError("it is down"))
    assert is_ready(health)
    (event,) = log.of("serving without the issuer of --oidc-issuer for now")
    assert (event["log_level"].name, event["reason"]) == ("warn", "it is down")
    assert not reactor.hasStopped


def test_a_fault_of_ours_is_logged_and_the_server_is_not_ready(log: Log) -> None:
    log.errors_are_fine = True
    source, health = Slow(), Health()
    discovery = Discovery(FakeReactor(), source, health, "program")
    discovery.startService()
    source.found.errback(ZeroDivisionError())
    assert not is_ready(health)
    assert len(log.errors) == 1
    discovery.stopService()
    assert len(log.errors) == 1
