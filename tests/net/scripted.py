"""Servers in the real reactor that answer byte by byte as a test says, also what is no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import Any

import trustme
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from telemeter.net.client import make_agent
from telemeter.net.tls import ClientPolicy, server_options

reactor: Any = _reactor


class End(Enum):
    """How a server goes on after its answer."""

    CLOSE = auto()  # in good order; over TLS with its closing alert
    CUT = auto()  # over TLS without the alert
    RESET = auto()
    STAY = auto()


@dataclass(frozen=True)
class Script:
    """An answer: bytes, and what comes after them.

    Attributes:
        data: what is sent.
        end: what is done then.
        endless: what is sent again and again after that, for as long as somebody reads.
        late: what is sent a moment later, where the connection stays.
    """

    data: bytes
    end: End = End.CLOSE
    endless: bytes = b""
    late: bytes = b""


@dataclass
class Server:
    """A running server.

    Attributes:
        scripts: its answers, one after the other; the last one from then on.
        host: where it listens.
        port: and at which port.
        secure: whether it speaks TLS.
        asked: the requests, with their bodies.
        open: how many connections there are now.
        made: how many there were in all.
        sent: how many bytes were sent that are endless.
    """

    scripts: Sequence[Script]
    host: str = "127.0.0.1"
    port: int = 0
    secure: bool = False
    asked: list[bytes] = field(default_factory=list)
    open: int = 0
    made: int = 0
    sent: int = 0
    _closed: list[Deferred[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    @property
    def heads(self) -> list[list[str]]:
        """The lines of the heads of all requests."""
        return [each.partition(b"\r\n\r\n")[0].decode().split("\r\n") for each in self.asked]

    def all_closed(self) -> Deferred[None]:
        """Fire when no connection is open."""
        closed: Deferred[None] = Deferred()
        if self.open:
            self._closed.append(closed)
        else:
            closed.callback(None)
        return closed

    def lost(self) -> None:
        self.open -= 1
        if not self.open:
            told, self._closed = self._closed, []
            for each in told:
                each.callback(None)


class _Answering(Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._flood = b""

    def connectionMade(self) -> None:
        self._server.open += 1
        self._server.made += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._flood = b""
        self._server.lost()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        while (size := _request_size(self._data)) is not None:
            request, self._data = self._data[:size], self._data[size:]
            scripts = self._server.scripts
            script = scripts[min(len(self._server.asked), len(scripts) - 1)]
            self._server.asked.append(request)
            self._play(script)

    def _play(self, script: Script) -> None:
        transport: Any = self.transport
        transport.write(script.data)
        if script.endless:
            self._flood = script.endless
            transport.registerProducer(self, False)
        elif script.late:
            _soon(transport.write, script.late)
        elif script.end is End.CLOSE:
            transport.loseConnection()
        elif script.end in (End.CUT, End.RESET):
            tcp = transport.transport if self._server.secure else transport
            # What is written must have been read before: a reset throws away what waits.
            _soon(tcp.loseConnection if script.end is End.CUT else tcp.abortConnection)

    def resumeProducing(self) -> None:
        if self._flood and self.transport is not None:
            self._server.sent += len(self._flood)
            self.transport.write(self._flood)

    def stopProducing(self) -> None:
        self._flood = b""


def _soon(call: Callable[..., object], *arguments: object, turns: int = 10) -> None:
    """Call something when the reactor has read and written all that is ready, again and again."""
    if turns:
        reactor.callLater(0, _soon, call, *arguments, turns=turns - 1)
    else:
        call(*arguments)


def _request_size(data: bytes) -> int | None:
    """How many bytes the first request has; None: it is not all there."""
    head, end, _ = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    size = len(head) + len(end) + length
    return size if end and len(data) >= size else None


@cache
def authority() -> trustme.CA:
    """The authority of the servers over TLS, which are at 127.0.0.1 and ::1."""
    return trustme.CA()


@cache
def _certificate(host: str) -> trustme.LeafCert:
    return authority().issue_cert(host)


def trusting() -> ClientPolicy:
    """Trust the servers over TLS."""
    return ClientPolicy(authority().cert_pem.bytes())


def agent(**others: Any) -> Any:
    """An agent as the daemons have theirs."""
    return make_agent(reactor, "test", "telemeter-test", policy=trusting(), **others)


@asynccontextmanager
async def serving(
    *scripts: Script | bytes, host: str = "127.0.0.1", secure: bool = False
) -> AsyncIterator[Server]:
    """Run a server; at the end, wait until all its connections are closed."""
    played = [each if isinstance(each, Script) else Script(each) for each in scripts]
    server = Server(played, host, secure=secure)
    factory: Any = Factory.forProtocol(lambda: _Answering(server))
    factory.noisy = False
    if secure:
        own = _certificate(host)
        chain = b"".join(each.bytes() for each in own.cert_chain_pems)
        options = server_options(chain, own.private_key_pem.bytes())
        factory = TLSMemoryBIOFactory(options, False, factory)
        factory.noisy = False
    port = reactor.listenTCP(0, factory, interface=host)
    server.port = port.getHost().port
    try:
        yield server
    finally:
        await port.stopListening()
    await server.all_closed()


def response(
    body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None
) -> bytes:
    """An answer with a Content-Length, by default the right one."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {size}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def head(*lines: str, version: str = "1.1", status: str = "200 OK") -> bytes:
    """The head of an answer, without a word about the length of its body."""
    return "\r\n".join([f"HTTP/{version} {status}", *lines, "", ""]).encode("latin-1")
