"""Where to listen."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from telemeter.config.listen_address import endpoint_maker, is_tcp, listen_address
from tests.fakes import result_of


def listened(address: str) -> tuple[int, str]:
    """The port and the interface that an address leads to."""
    reactor = MemoryReactorClock()
    result_of(endpoint_maker(address)(reactor).listen(Factory()))
    ((port, _, _, interface),) = reactor.tcpServers
    return port, interface


@pytest.mark.parametrize(
    ("address", "port", "interface"),
    [
        ("0.0.0.0:9003", 9003, "0.0.0.0"),
        ("127.0.0.1:0", 0, "127.0.0.1"),
        ("127.0.0.1:65535", 65535, "127.0.0.1"),
        ("localhost:9004", 9004, "127.0.0.1"),
        ("[::1]:9003", 9003, "::1"),
        ("[::]:9003", 9003, "::"),
    ],
)
def test_host_and_port(address: str, port: int, interface: str) -> None:
    assert listen_address(address) == address
    assert listened(address) == (port, interface)


def test_the_zone_of_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 9003, 0, 7))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    assert listened("[fe80::1%eth7]:9003") == (9003, "fe80::1%7")


def test_no_host_is_all_addresses() -> None:
    port, interface = listened(":9003")
    assert port == 9003
    assert interface == ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")


def test_the_backlog_is_long_enough_for_a_fleet() -> None:
    reactor = MemoryReactorClock()
    result_of(endpoint_maker("127.0.0.1:1")(reactor).listen(Factory()))
    assert reactor.tcpServers[0][2] == 1024


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1:1", TCP4ServerEndpoint),
        ("[::1]:1", TCP6ServerEndpoint),
        ("tcp:9003", TCP4ServerEndpoint),
        ("tcp:port=9003:interface=127.0.0.1", TCP4ServerEndpoint),
        ("tcp6:9003", TCP6ServerEndpoint),
        ("unix:/run/telemeter.sock", UNIXServerEndpoint),
        ("unix:address=/run/telemeter.sock:mode=660", UNIXServerEndpoint),
    ],
)
def test_endpoints(address: str, kind: type) -> None:
    assert listen_address(address) == address
    assert isinstance(endpoint_maker(address)(MemoryReactorClock()), kind)


def test_a_listener_that_is_not_wanted() -> None:
    assert listen_address("") == ""


@pytest.mark.parametrize(
    "address",
    [
        "9003",
        "localhost",
        "nowhere",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:65536",
        "localhost:99999999999",
        "::1:9003",
        "[::1]",
        "[::1:9003",
        "[localhost]:9003",
        "[]:9003",
        "1.2.3.4:5:6",
        "http://localhost:9003",
        "localhost:9003/",
        " localhost:9003",
        "localhost:9003 ",
        "localhost :9003",
        "999.1.1.1:9003",
        "no-such-host.invalid:9003",
        "sctp:9003",
    ],
)
def test_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve: Any = socket.getaddrinfo

    def numbers_only(*arguments: Any, **options: Any) -> Any:
        # No question leaves the machine.
        return resolve(*arguments, **{**options, "flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr(socket, "getaddrinfo", numbers_only)
    with pytest.raises(ValueError, match=r"expected HOST:PORT|is not known here"):
        listen_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "tcp",
        "tcp:",
        "tcp:x",
        "tcp:9003:nonsense=1",
        "unix",
        "unix:/s:mode=rw",
        "systemd:domain=INET:index=7",
        "ssl:9003:privateKey=/missing/key.pem",
        "haproxy",
        "haproxy:",
        "haproxy:nonsense:1",
        "haproxy:tcp:x",
        "fd:7",
    ],
)
def test_no_endpoint(address: str) -> None:
    with pytest.raises(ValueError, match="Twisted does not take this endpoint: "):
        listen_address(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", ":1", "[::1]:1", "tcp:1", "tcp6:1", "haproxy:tcp:1"]
)
def test_plain_tcp(address: str) -> None:
    assert is_tcp(address)


@pytest.mark.parametrize("address", ["unix:/s", "ssl:1", "tls:1", "systemd:x", "haproxy:unix:/s"])
def test_what_else_there_is(address: str) -> None:
    assert not is_tcp(address)
