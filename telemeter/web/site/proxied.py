"""Connections that a load balancer passes on, with a header of the PROXY protocol in front.

The header says where the client is. Both versions are understood, as they are in
https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt. Twisted's own `haproxy:` refuses a
header that comes in pieces and `PROXY UNKNOWN` alone, and leaves no line in the log.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from twisted.internet import address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from telemeter.loop.timeouts import TIMEOUTS

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = struct.Struct("!12sBBH")
#: Of version 2, by family: how addresses and ports lie in the header.
_IPV4: Final = (1, struct.Struct("!4s4sHH"))
_IPV6: Final = (2, struct.Struct("!16s16sHH"))
_LOCAL, _PROXY = 0, 1
#: The families there are: unspecified, IPv4, IPv6, UNIX; and transports: unspecified, TCP, UDP.
_MOST_FAMILY, _MOST_TRANSPORT = 3, 2

_LINE_START: Final = b"PROXY "
_UNKNOWN: Final = b"PROXY UNKNOWN"
#: The longest line of version 1, with its end.
_LINE_LIMIT: Final = 107
_FAMILIES: Final[Mapping[str, type[IPv4Address] | type[IPv6Address]]] = {
    "TCP4": IPv4Address,
    "TCP6": IPv6Address,
}
_PORT: Final = re.compile("0|[1-9][0-9]{0,4}")

#: So many bytes of what is no header are shown in a message, and of a line of version 1.
_SHOWN, _LINE_SHOWN = 16, 64

log = Logger()


class MalformedHeaderError(Exception):
    """The beginning of a connection is no header of the PROXY protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header.

    Attributes:
        size: how many bytes it has.
        source: the client; None: whoever has connected.
        destination: where the client had connected to; None: here.
    """

    size: int
    source: IAddress | None = None
    destination: IAddress | None = None


def parse_header(data: bytes | bytearray) -> Header | None:
    """Parse the header at the beginning of a connection.

    Args:
        data: what has come so far. Once there are 64 KiB and 16 bytes, the answer is not None.

    Returns:
        The header; None: it is not all there yet.

    Raises:
        MalformedHeaderError: this will never be one.
    """
    start = bytes(data[: len(_SIGNATURE)])
    if _SIGNATURE.startswith(start):
        return _parse_binary(data)
    if _LINE_START.startswith(start[: len(_LINE_START)]):
        return _parse_line(data)
    raise MalformedHeaderError(
        f"expected a header of version 1 or 2, saw {_beginning_of(data, _SHOWN)}"
    )


def _beginning_of(data: bytes | bytearray, length: int) -> str:
    return ascii(data[:length].decode("latin-1")) + ("..." if len(data) > length else "")


# --- Version 1 ------------------------------------------------------------------------------------


def _parse_line(data: bytes | bytearray) -> Header | None:
    line, end, _ = bytes(data[:_LINE_LIMIT]).partition(b"\r\n")
    if not end:
        if len(data) >= _LINE_LIMIT:
            raise MalformedHeaderError(f"the line has no end within {_LINE_LIMIT} bytes")
        return None
    size = len(line) + len(end)
    if line == _UNKNOWN or line.startswith(_UNKNOWN + b" "):
        return Header(size)
    try:
        _, family, source, destination, source_port, destination_port = line.decode().split(" ")
        kind = _FAMILIES[family]
        return Header(
            size,
            _address(_parse_ip(kind, source), _parse_port(source_port)),
            _address(_parse_ip(kind, destination), _parse_port(destination_port)),
        )
    except (ValueError, KeyError):
        raise MalformedHeaderError(
            "expected PROXY UNKNOWN, or PROXY TCP4 or TCP6 with two addresses and two ports, "
            f"saw {_beginning_of(line, _LINE_SHOWN)}"
        ) from None


def _parse_ip(kind: type[IPv4Address] | type[IPv6Address], text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError("an address with a zone")
    return kind(text)


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("no port")
    return int(text)


# --- Version 2 ------------------------------------------------------------------------------------


def _parse_binary(data: bytes | bytearray) -> Header | None:
    if len(data) < _FIXED.size:
        return None
    _, version_and_command, family_and_transport, length = _FIXED.unpack_from(data)
    version, command = divmod(version_and_command, 16)
    if version != 2:
        raise MalformedHeaderError(f"expected version 2 behind the signature, saw {version}")
    if command not in (_LOCAL, _PROXY):
        raise MalformedHeaderError(f"expected the command LOCAL (0) or PROXY (1), saw {command}")
    size = _FIXED.size + length
    family, transport = divmod(family_and_transport, 16)
    layout = None
    if command == _PROXY:
        _refuse_reserved(family, transport)
        if transport:
            layout = dict((_IPV4, _IPV6)).get(family)
    # For a balancer's own connections, such as health checks, and what has no address for us, the
    # protocol provides for that of whoever has connected.
    if layout is None:
        return Header(size) if len(data) >= size else None
    if length < layout.size:
        raise MalformedHeaderError(
            f"expected {layout.size} bytes of addresses and ports, saw {length}"
        )
    if len(data) < size:
        return None
    source, destination, source_port, destination_port = layout.unpack_from(data, _FIXED.size)
    kind = IPv4Address if layout is _IPV4[1] else IPv6Address
    return Header(
        size, _address(kind(source), source_port), _address(kind(destination), destination_port)
    )


def _refuse_reserved(family: int, transport: int) -> None:
    if family > _MOST_FAMILY:
        raise MalformedHeaderError(
            f"expected an address family up to {_MOST_FAMILY} (UNIX), saw {family}"
        )
    if transport > _MOST_TRANSPORT:
        raise MalformedHeaderError(
            f"expected a transport up to {_MOST_TRANSPORT} (datagram), saw {transport}"
        )


def _address(ip: IPv4Address | IPv6Address, port: int) -> IAddress:
    kind = address.IPv4Address if ip.version == 4 else address.IPv6Address
    return kind("TCP", str(ip), port)


# --- Connections ----------------------------------------------------------------------------------


class _Connection(ProtocolWrapper):
    """A connection with a header in front; behind that it is the client's."""

    transport: Any

    def __init__(
        self,
        factory: Any,
        wrapped: IProtocol,
        clock: IReactorTime,
        seconds: float,
    ) -> None:
        super().__init__(factory, wrapped)
        self._clock = clock
        self._seconds = seconds
        self._head: bytearray | None = bytearray()
        self._header: Header | None = None
        self._timer: IDelayedCall | None = None

    def makeConnection(self, transport: ITransport) -> None:
        self._timer = self._clock.callLater(
            self._seconds, self._hang_up, f"no header came within {self._seconds:g} seconds"
        )
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if self._header is not None:
            self.wrappedProtocol.dataReceived(data)
        elif self._head is not None:
            self._head += data
            self._read(self._head)

    def _read(self, head: bytearray) -> None:
        try:
            self._header = parse_header(head)
        except MalformedHeaderError as error:
            self._hang_up(str(error))
            return
        if self._header is not None:
            self._head = None
            self._stop_timer()
            rest = bytes(head[self._header.size :])
            if rest:
                self.wrappedProtocol.dataReceived(rest)

    def _hang_up(self, reason: str) -> None:
        self._head = None
        self._stop_timer()
        peer = getattr(self.transport.getPeer(), "host", "")
        log.info("connection without a PROXY protocol header closed", reason=reason, peer=peer)
        self.transport.abortConnection()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._head = None
        self._stop_timer()
        super().connectionLost(reason)

    def getPeer(self) -> IAddress:
        """Return the client, as far as the header names it."""
        source = None if self._header is None else self._header.source
        return self.transport.getPeer() if source is None else source

    def getHost(self) -> IAddress:
        """Return where the client had connected to, as far as the header names it."""
        destination = None if self._header is None else self._header.destination
        return self.transport.getHost() if destination is None else destination


class _Factory(WrappingFactory):
    """A factory of connections that begin with a header, in front of those of another factory."""

    noisy = False

    def __init__(self, wrapped: IProtocolFactory, clock: IReactorTime, seconds: float) -> None:
        super().__init__(wrapped)
        self._clock = clock
        self._seconds = seconds

    def buildProtocol(self, addr: IAddress | None) -> _Connection:
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return _Connection(self, wrapped, self._clock, self._seconds)


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """An endpoint whose connections all begin with a header of the PROXY protocol."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        clock: IReactorTime,
        seconds: float = TIMEOUTS.proxy_header,
    ) -> None:
        """Make one.

        Args:
            endpoint: where the load balancer connects to.
            clock: times the headers.
            seconds: how long a header may take.
        """
        self._seconds = seconds
        self._endpoint = endpoint
        self._clock = clock

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; a connection without a header is closed, with a line in the log."""
        listening: Deferred[IListeningPort] = self._endpoint.listen(
            _Factory(protocolFactory, self._clock, self._seconds)
        )
        return listening
