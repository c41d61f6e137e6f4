"""Look-ups of names, apart from other work."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from telemeter.loop.resolver import Found, Names, Resolver, UnknownNameError, look_up_apart
from tests.fakes import Log, has_fired, result_of, start

FOUR: Found = (socket.AF_INET, "192.0.2.1")
SIX: Found = (socket.AF_INET6, "2001:db8::1")


class Reactor(MemoryReactorClock):
    """A reactor whose threads go on when they are told to.

    Attributes:
        threads: what they have to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[Callable[[], None]] = []

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def callInOwnThread(self, function: Callable[[], None]) -> None:
        self.threads.append(function)

    def go_on(self) -> None:
        """Have the threads that there are come to their ends."""
        threads, self.threads = self.threads, []
        for call in threads:
            call()


class World:
    """Names, and who knows them."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.asked: list[str] = []
        self.known: dict[str, list[Found] | Exception] = {}
        self.names = Names(self.reactor, 5, self.look_up)

    def look_up(self, host: str) -> list[Found]:
        self.asked.append(host)
        found = self.known.get(host, [FOUR, SIX])
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_all_who_ask_at_once_get_one_answer(world: World) -> None:
    asking = [start(world.names.addresses("a")) for _ in range(3)]
    world.reactor.go_on()
    assert [result_of(each) for each in asking] == [[FOUR, SIX]] * 3
    assert world.asked == ["a"]


def test_an_answer_is_used_again_for_some_seconds(world: World) -> None:
    for wait, asked in ((0, 1), (4.9, 1), (0.2, 2)):
        world.reactor.advance(wait)
        asking = start(world.names.addresses("a"))
        world.reactor.go_on()
        assert result_of(asking) == [FOUR, SIX]
        assert len(world.asked) == asked


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label too long"), "label too long"),
    ],
)
def test_a_name_that_nobody_knows(world: World, error: Exception, reason: str) -> None:
    world.known["a"] = error
    asking = start(world.names.addresses("a"))
    world.reactor.go_on()
    with pytest.raises(UnknownNameError, match=reason):
        result_of(asking)
    world.known["a"] = [FOUR]
    asking = start(world.names.addresses("a"))
    world.reactor.go_on()
    assert result_of(asking) == [FOUR]


def test_nobody_waits_long_and_threads_are_few(world: World) -> None:
    """A name server that does not answer keeps four threads, and no more."""
    asking = [start(world.names.addresses(f"n{number}")) for number in range(10)]
    assert len(world.reactor.threads) == 4
    world.reactor.advance(4.9)
    assert not any(map(has_fired, asking))
    world.reactor.advance(0.1)
    for each in asking:
        with pytest.raises(UnknownNameError, match="no answer within 5 seconds"):
            result_of(each)
    again = start(world.names.addresses("other"))
    assert len(world.reactor.threads) == 4
    for _ in range(4):
        world.reactor.go_on()
    assert result_of(again) == [FOUR, SIX]


def test_names_that_are_kept_are_bounded(world: World) -> None:
    for number in range(1010):
        asking = start(world.names.addresses(f"n{number}"))
        world.reactor.go_on()
        result_of(asking)
    assert len(world.names._kept) == 1000


@implementer(IResolutionReceiver)
class Receiver:
    """Takes addresses as Twisted's endpoints do."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.is_complete = False

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.resolution = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        self.found.append(address)

    def resolutionComplete(self) -> None:
        self.is_complete = True


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (None, ["192.0.2.1", "2001:db8::1"]),
        ([IPv4Address], ["192.0.2.1"]),
        ([IPv6Address], ["2001:db8::1"]),
    ],
)
def test_twisted_is_given_addresses(world: World, types: Any, found: list[str]) -> None:
    receiver = Receiver()
    Resolver(world.names).resolveHostName(receiver, "a", 443, types)
    world.reactor.go_on()
    assert [each.host for each in receiver.found] == found
    assert {each.port for each in receiver.found} == {443}
    assert receiver.is_complete


def test_without_addresses_it_is_complete_all_the_same(world: World, log: Log) -> None:
    world.known["a"] = socket.gaierror(-2, "Name or service not known")
    receiver = Receiver()
    Resolver(world.names).resolveHostName(receiver, "a")
    world.reactor.go_on()
    assert (receiver.found, receiver.is_complete) == ([], True)
    (event,) = log.of("a name could not be looked up")
    assert (event["name"], event["reason"]) == ("a", "Name or service not known")


def test_a_look_up_that_is_not_wanted_any_more(world: World) -> None:
    receiver = Receiver()
    Resolver(world.names).resolveHostName(receiver, "a")
    receiver.resolution.cancel()
    world.reactor.go_on()
    assert receiver.found == []


def test_it_is_installed() -> None:
    installed: list[Any] = []
    reactor = Reactor()
    untyped: Any = reactor
    untyped.installNameResolver = installed.append
    look_up_apart(reactor, 5)
    assert isinstance(installed[0], Resolver)
