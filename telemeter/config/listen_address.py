"""Addresses to listen at: HOST:PORT, or any of Twisted's endpoint descriptions."""

from __future__ import annotations

import re
import socket
from typing import Any, Protocol

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from telemeter.loop.address import host_of
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.web.site.listener import Listener
from telemeter.web.site.proxied import ProxiedEndpoint
from telemeter.web.site.site import Site

_HOST_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]+)")
_PROXIED = "haproxy:"
_ENDPOINT = re.compile(r"(?:tcp|tcp6|ssl|tls|unix|systemd|fd|haproxy)(?::|$)")


class EndpointMaker(Protocol):
    """A function that makes an endpoint."""

    def __call__(self, reactor: Any, timeouts: Timeouts = TIMEOUTS) -> IStreamServerEndpoint: ...


def listen_address(value: str) -> str:
    """Check an address, or nothing for a listener that is not wanted; raises ValueError."""
    if value:
        endpoint_maker(value)
    return value


def is_tcp(value: str) -> bool:
    """Tell whether an address is one of plain TCP, perhaps behind a PROXY protocol header."""
    value = value.removeprefix(_PROXIED)
    return not _ENDPOINT.match(value) or value.startswith(("tcp:", "tcp6:"))


def at_address(
    value: str, endpoint: IStreamServerEndpoint, reactor: Any, timeouts: Timeouts
) -> IStreamServerEndpoint:
    """Return an endpoint that listens elsewhere, with the header that an address asks for."""
    if value.startswith(_PROXIED):
        return ProxiedEndpoint(endpoint, reactor, timeouts.proxy_header)
    return endpoint


def endpoint_maker(value: str) -> EndpointMaker:
    """Return what makes the endpoint of an address.

    Raises:
        ValueError: it is no address.
    """
    if _ENDPOINT.match(value):
        return _described(value)
    parts = _HOST_PORT.fullmatch(value)
    if parts is None or int(parts["port"]) > 65535:
        raise ValueError(
            "expected HOST:PORT such as 0.0.0.0:9003, or an endpoint such as tcp:9003 or "
            "unix:/run/telemeter.sock"
        )
    port, host = int(parts["port"]), parts["six"] or parts["host"]
    if not host:
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - what ":9003" asks for
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ValueError(f"the host {host!r} is not known here: {error.strerror}") from None
    # As the original: an IPv4 address of a name before its IPv6 address.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    kind = TCP6ServerEndpoint if family == socket.AF_INET6 else TCP4ServerEndpoint
    return lambda reactor, timeouts=TIMEOUTS: kind(
        reactor, port, interface=host_of(address), backlog=1024
    )


def _described(value: str) -> EndpointMaker:
    """Return what makes the endpoint of a description of Twisted's; raises ValueError."""
    if value.startswith(_PROXIED):
        inner = _described(value.removeprefix(_PROXIED))
        return lambda reactor, timeouts=TIMEOUTS: ProxiedEndpoint(
            inner(reactor), reactor, timeouts.proxy_header
        )
    try:
        serverFromString(None, value)
    except Exception as error:  # whatever the parser of an endpoint stumbles over
        raise ValueError(f"Twisted does not take this endpoint: {error}") from None
    return lambda reactor, timeouts=TIMEOUTS: serverFromString(reactor, value)


def plain_listener(reactor: Any, site: Site, address: str, program: str) -> Listener:
    """Return a service that serves a site at the address of `--listen`, without TLS."""
    return Listener(
        reactor,
        endpoint_maker(address)(reactor),
        site,
        flag="listen",
        address=address,
        program=program,
    )
