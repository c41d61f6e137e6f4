"""Stand-ins for what lies around the code: connections, other servers, and what was counted.

Nothing here opens a socket or waits: time is a `Clock`, connections are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from treq.testing import RequestTraversalAgent
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from telemeter.loop.clocks import Elapsed, Moment, Wall
from telemeter.observe.log import logfmt
from telemeter.samples.family import Family
from telemeter.samples.proto import metrics_pb2
from telemeter.web.site.site import Site

#: The time that wall clocks show at first, in seconds since the epoch.
NOW: Final = 1_700_000_000
#: The time that clocks of elapsed time show then: nobody can take one for the other.
UPTIME: Final = 5_000
NOW_MS: Final = NOW * 1000

_T = TypeVar("_T")


def clock_at(seconds: float = UPTIME) -> Clock:
    """A clock that shows this elapsed time."""
    clock = Clock()
    clock.advance(seconds)
    return clock


class FakeWall:
    """A wall clock that goes as a clock of elapsed time does, until it is set."""

    def __init__(self, clock: IReactorTime, ahead: float = 0.0) -> None:
        self._clock = clock
        self._ahead = NOW - UPTIME + ahead

    def now(self) -> Wall:
        return Wall(self._clock.seconds() + self._ahead)

    def step(self, seconds: float) -> None:
        """Set it forward, or back, by some seconds."""
        self._ahead += seconds


def moment_at(seconds: float = NOW) -> Moment:
    """The moment at which the wall clock shows this time, if it was never set."""
    return Moment(Elapsed(seconds - NOW + UPTIME), Wall(seconds))


# --- Deferreds ------------------------------------------------------------------------------------


def result_of(deferred: Deferred[_T]) -> _T:
    """The result of a Deferred that has fired; its failure is raised."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


def has_fired(deferred: Deferred[Any]) -> bool:
    """Whether a Deferred has a result, or a failure."""
    return bool(deferred.called and not deferred.paused)


def start(coroutine: Any) -> Deferred[Any]:
    """Start a coroutine."""
    return Deferred.fromCoroutine(coroutine)


def run(coroutine: Any) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    return result_of(start(coroutine))


# --- Families -------------------------------------------------------------------------------------


def untyped(name: str, *samples: tuple[Mapping[str, str], float], at: int = NOW_MS) -> Family:
    """A family as Prometheus federates it: untyped, one number a metric."""
    family = Family(name=name, type=metrics_pb2.UNTYPED)
    for labels, value in samples:
        metric = family.metric.add(timestamp_ms=at)
        metric.untyped.value = value
        for label, text in labels.items():
            metric.label.add(name=label, value=text)
    return family


# --- Requests to a site ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An answer; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse_answers(data: bytes, *, head: bool = False) -> list[Answer]:
    """All answers on a connection; what is no answer fails."""
    answers = []
    while data:
        lines, separator, data = data.partition(b"\r\n\r\n")
        assert separator, lines
        status_line, *fields = lines.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version in ("HTTP/1.0", "HTTP/1.1"), status_line
        pairs = [each.split(": ", 1) for each in fields]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header came twice: {pairs}"
        if headers.get("transfer-encoding") == "chunked" and not head:
            body, data = _join_chunks(data)
            answers.append(Answer(int(status), headers, body))
            continue
        length = 0 if head else int(headers.get("content-length", "0"))
        assert len(data) >= length
        answers.append(Answer(int(status), headers, data[:length]))
        data = data[length:]
    return answers


def _join_chunks(data: bytes) -> tuple[bytes, bytes]:
    """A chunked body, and what comes after it."""
    body = []
    while True:
        size, separator, data = data.partition(b"\r\n")
        assert separator, "the body is not complete"
        length = int(size, 16)
        body.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if not length:
            return b"".join(body), data


class FakeTransport(StringTransport):
    """A transport that is as patient as TCP's, where closing twice does no harm."""

    def __init__(self) -> None:
        super().__init__(
            hostAddress=IPv4Address("TCP", "10.0.0.1", 9003),
            peerAddress=IPv4Address("TCP", "192.0.2.7", 54321),
            lenient=True,
        )

    def unregisterProducer(self) -> None:
        self.producer = None


def take_turns(clock: Clock) -> None:
    """Let the event loop go round until nothing is due."""
    while any(each.getTime() <= clock.seconds() for each in clock.getDelayedCalls()):
        clock.advance(0)


class Wire:
    """A connection to a site, byte by byte."""

    def __init__(self, site: Site, *, eager: bool = False) -> None:
        """Connect.

        Args:
            site: what to connect to.
            eager: hand on data also after the site closed, as TLS may do.
        """
        self.transport = FakeTransport()
        self._eager = eager
        self._reactor: Any = site.reactor
        self._protocol = site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 54321))
        assert self._protocol is not None
        self._protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> None:
        """Deliver bytes, each piece by itself, with turns of the event loop in between."""
        for piece in pieces:
            self.deliver(piece)
            take_turns(self._reactor)

    def deliver(self, piece: bytes) -> None:
        """Deliver bytes, and nothing else happens."""
        assert self._protocol is not None
        if self._eager or not self.transport.disconnecting:
            self._protocol.dataReceived(piece)

    def vanish(self) -> None:
        """Lose the connection, as when the sender is gone."""
        assert self._protocol is not None
        self._protocol.connectionLost(Failure(ConnectionLost()))

    def close(self) -> None:
        """End the connection in good order."""
        assert self._protocol is not None
        self._protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def written(self) -> bytes:
        written: bytes = self.transport.value()
        return written

    @property
    def answers(self) -> list[Answer]:
        return parse_answers(self.written)

    @property
    def answer(self) -> Answer:
        """The only answer."""
        (answer,) = self.answers
        return answer

    def is_closed(self) -> bool:
        """Whether the site wants to end the connection, after what it wrote."""
        return bool(self.transport.disconnecting)

    def is_aborted(self) -> bool:
        """Whether the site has ended the connection at once."""
        return bool(self.transport.disconnected)

    def is_paused(self) -> bool:
        """Whether the site wants to read no more for now."""
        return bool(self.transport.producerState == "paused")


def head_of(method: str, target: str, headers: Mapping[str, str | bytes] | None = None) -> bytes:
    """The head of a request in HTTP/1.1."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: localhost"]
    for name, value in (headers or {}).items():
        lines.append(
            name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
        )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; without data, the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_of(
    method: str,
    target: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes | None = None,
) -> bytes:
    """A whole request, with a Content-Length if there is a body."""
    fields = dict(headers or {})
    if body is not None:
        fields["Content-Length"] = str(len(body))
    return head_of(method, target, fields) + (body or b"")


def ask(
    site: Site,
    method: str,
    target: str,
    headers: Mapping[str, str | bytes] | None = None,
    body: bytes | None = None,
) -> Answer:
    """The answer to one request on a connection of its own."""
    wire = Wire(site)
    wire.send(request_of(method, target, headers, body))
    (answer,) = parse_answers(wire.written, head=method == "HEAD")
    wire.close()
    return answer


# --- Other servers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """What a peer answers; without a status: nothing, until it is told to."""

    status: int | None = 200
    body: bytes = b""
    headers: Mapping[str, str | bytes] = field(default_factory=dict)


SILENCE: Final = Reply(status=None)


def json_reply(value: object, status: int = 200, content_type: str = "application/json") -> Reply:
    """A reply in JSON."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": content_type})


@dataclass(frozen=True)
class Received:
    """A request that a peer got; the names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    answer: Callable[[Reply], None]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer(Resource):
    """A server in memory.

    Attributes:
        agent: reaches it, whatever the URL.
        received: the requests that it got.
        reply: what it answers; a list: one after the other, the last one for ever; a function:
            what that returns for the request.
    """

    isLeaf = True

    def __init__(self, reply: Reply | Sequence[Reply] | None = None) -> None:
        super().__init__()
        self.received: list[Received] = []
        self.reply: Reply | Sequence[Reply] | Callable[[Received], Reply]
        self.reply = reply if reply is not None else Reply()
        self._agent = RequestTraversalAgent(self)
        self.agent: IAgent = self._agent

    @property
    def only(self) -> Received:
        """The only request that it got."""
        (received,) = self.received
        return received

    def render(self, request: Any) -> Any:
        headers = {
            name.decode().lower(): values[-1].decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        gone: list[bool] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(reply: Reply) -> None:
            assert reply.status is not None
            request.setResponseCode(reply.status)
            for name, value in reply.headers.items():
                request.setHeader(name, value)
            request.write(reply.body)
            request.finish()

        def answer_late(reply: Reply) -> None:
            if not gone:
                answer(reply)
                self._agent.flush()

        self.received.append(
            Received(
                request.method.decode(),
                request.uri.decode(),
                headers,
                request.content.read(),
                answer_late,
            )
        )
        reply = self._next_reply()
        if reply.status is not None:
            answer(reply)
        return NOT_DONE_YET

    def _next_reply(self) -> Reply:
        if isinstance(self.reply, Reply):
            return self.reply
        if callable(self.reply):
            return self.reply(self.received[-1])
        first, *rest = self.reply
        if rest:
            self.reply = rest
        return first


@implementer(IAgent)
class Broken:
    """An agent whose requests fail, one error after the other; then they reach somebody."""

    def __init__(self, *errors: Exception, then: IAgent | None = None) -> None:
        self._errors = list(errors)
        self._then = then
        self.requests = 0

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        self.requests += 1
        if self._errors:
            return fail(self._errors.pop(0))
        assert self._then is not None
        return self._then.request(method, uri, headers, bodyProducer)


# --- What was counted and logged ------------------------------------------------------------------


def samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of all metrics, but those of buckets: there are too many."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if "le" not in sample.labels
    }


def value_of(name: str, **labels: str) -> float:
    """What a sample shows now."""
    return samples()[name, frozenset(labels.items())]


def parse_samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples on a /metrics page."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


class Growth:
    """By how much metrics have grown since it was made."""

    def __init__(self) -> None:
        self._before = samples()

    def of(self, name: str, **labels: str) -> float:
        """The growth of one sample, which must be on the page."""
        key = (name, frozenset(labels.items()))
        return samples()[key] - self._before.get(key, 0.0)

    def all_of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """The growth of all samples of a name that have grown."""
        return {
            labels: grown
            for (each, labels), value in samples().items()
            if each == name and (grown := value - self._before.get((each, labels), 0.0))
        }


@implementer(ILogObserver)
class Log(Sequence[LogEvent]):
    """The events that were logged."""

    def __init__(self) -> None:
        self._events: list[LogEvent] = []
        self.errors_are_fine = False

    def __call__(self, event: LogEvent) -> None:
        self._events.append(event)

    def __getitem__(self, index: Any) -> Any:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    @property
    def lines(self) -> list[str]:
        """The events as lines."""
        return [line for event in self._events if (line := logfmt(event)) is not None]

    def of(self, message: str) -> list[LogEvent]:
        """The events with this message."""
        return [event for event in self._events if event.get("log_format") == message]

    def requests(self) -> Iterator[LogEvent]:
        """The access log."""
        yield from self.of("request")

    @property
    def errors(self) -> list[str]:
        """The lines of what nobody expected."""
        return [
            line
            for event in self._events
            if event.get("log_failure") is not None or event.get("isError")
            if (line := logfmt(event)) is not None
        ]
