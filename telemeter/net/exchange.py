"""A request to another server, and its answer: the one way in which all of them are made.

It has a deadline for all that it takes and a limit for the decoded body, and follows redirects. No
cookie is kept, whatever a server sets.

The agent's requests are made with treq (`telemeter.net.treq_agent`). The rest of treq is not used:
its timeout ends with the headers, its bodies have no limit, and the decoder that it takes from
Twisted lets gzip that is cut off pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from telemeter.net.body import BodyReader, BytesBody
from telemeter.net.coding import ACCEPTED, CodingError, Gunzip, decoder_for
from telemeter.net.connection import StaleConnectionError
from telemeter.net.errors import ExplainedError, was_cancelled
from telemeter.net.redirect import MOST_REDIRECTS, RedirectError, is_redirect, redirect_target

#: How many requests to a server are under way at a time, unless it is configured.
MOST_CONNECTIONS: Final = 64
#: How many bytes of a redirect's body are read, so that its connection can be used again.
_IGNORED_BYTES: Final = 4096

_T = TypeVar("_T")


class LateError(ExplainedError):
    """There was no answer, or not all of it, before the deadline."""

    def __init__(self) -> None:
        super().__init__("no answer in time")


class CrowdedError(ExplainedError):
    """The request was not made in time, because too many others were under way."""

    def __init__(self) -> None:
        super().__init__("too many requests were under way there all the time")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a server.

    Attributes:
        response: Twisted's, which knows the request as it was sent; its body has been read.
        url: what was asked in the end, after redirects.
        start: the body, decoded, or the beginning of one that is not whole.
        flaw: why the body is not whole and intact; None: it is.
        is_open_ended: whether nothing but the orderly end of the connection says that it is whole,
            neither a length nor a checksum.
    """

    response: IResponse
    url: str
    start: bytes
    flaw: Exception | None
    is_open_ended: bool

    @property
    def status(self) -> int:
        """The HTTP status."""
        code: int = self.response.code
        return code

    @property
    def headers(self) -> Headers:
        """The headers, without those of the connection."""
        headers: Headers = self.response.headers
        return headers

    @property
    def body(self) -> bytes:
        """The whole body; raises why there is none."""
        if self.flaw is not None:
            raise self.flaw
        return self.start

    def header(self, name: bytes) -> str:
        """Return the first value of a header, each byte as one character; empty: there is none."""
        fields: Sequence[bytes] = self.headers.getRawHeaders(name) or (b"",)
        return fields[0].decode("latin-1")


class _Deadline:
    """A time by which all has to be done; what is not done then is cancelled."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self.is_over = False
        self._watched: Deferred[Any] | None = None
        self._call = clock.callLater(seconds, self._pass)

    def watch(self, deferred: Deferred[_T]) -> Deferred[_T]:
        """Have a Deferred cancelled if it has not fired by then."""
        self._watched = deferred
        if self.is_over:
            deferred.cancel()
        return deferred

    def end(self) -> None:
        if self._call.active():
            self._call.cancel()

    def _pass(self) -> None:
        self.is_over = True
        if self._watched is not None:
            self._watched.cancel()


async def exchange(
    agent: IAgent,
    clock: IReactorTime,
    method: str,
    url: str,
    headers: Headers,
    body: bytes | None = None,
    *,
    timeout: float,
    limit: int,
    may_repeat: bool = False,
    places: DeferredSemaphore | None = None,
) -> Answer:
    """Make a request, and read its answer.

    Redirects are followed as `redirect_target` says; a POST is confidential for its body. What
    fails in transport is repeated here and nowhere else, once at most: always if the connection had
    been kept from an earlier request, and was closed before anything of an answer came.

    Args:
        agent: makes the requests.
        clock: times them.
        method: GET or POST.
        url: absolute, http or https.
        headers: those of the request.
        body: of the request.
        timeout: how many seconds it may take in all.
        limit: how many bytes the body may have, decoded. What comes after them is not read.
        may_repeat: whether it is repeated as well when a new connection is closed before an answer.
            It may come twice then.
        places: bound how many requests are under way at a time; to wait for one is part of the
            time that the request may take. None: there is no bound.

    Returns:
        The answer. Its status counts as soon as it is there: a body that is cut off, damaged, over
        the limit or late is a flaw of the answer, and whoever needs the body raises it.

    Raises:
        CancelledError: nobody waits for it any more.
        Exception: there is no answer; `telemeter.net.errors.explain` has the words for that.
    """
    if not headers.hasHeader(b"Accept-Encoding"):
        headers = headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", [ACCEPTED.encode("ascii")])
    confidential = method != "GET" or headers.hasHeader(b"Authorization")
    verb = method.encode("ascii")
    deadline = _Deadline(clock, timeout)
    if places is not None and places.tokens:
        places.tokens -= 1
    elif places is not None:
        try:
            await deadline.watch(places.acquire())
        except CancelledError:
            deadline.end()
            if deadline.is_over:
                raise CrowdedError from None
            raise

    def ask() -> Deferred[IResponse]:
        producer = None if body is None else BytesBody(body)
        return deadline.watch(agent.request(verb, url.encode("ascii"), headers, producer))

    try:
        redirects, repeated = 0, False
        while True:
            try:
                response = await ask()
            except (ResponseNeverReceived, RequestTransmissionFailed) as error:
                if repeated or not _is_worth_repeating(error, may_repeat):
                    raise
                repeated = True
                continue
            status = response.code
            locations = response.headers.getRawHeaders(b"Location", ())
            if not locations or not is_redirect(status):
                return await _read(response, deadline, url, limit)
            await _read(response, deadline, url, _IGNORED_BYTES)
            url = redirect_target(method, url, status, locations, confidential=confidential)
            redirects += 1
            if redirects > MOST_REDIRECTS:
                raise RedirectError(status, url, f"there were {MOST_REDIRECTS} before it")
    except Exception as error:
        if deadline.is_over:
            raise LateError from None
        if was_cancelled(error):  # by whoever waits for the answer: Twisted tells in many ways
            raise CancelledError from None
        raise
    finally:
        deadline.end()
        if places is not None:
            places.release()


def _is_worth_repeating(
    error: ResponseNeverReceived | RequestTransmissionFailed, may_repeat: bool
) -> bool:
    if isinstance(error, StaleConnectionError):
        return True
    return may_repeat and any(reason.check(ConnectionClosed) for reason in error.reasons)


async def _read(response: IResponse, deadline: _Deadline, url: str, limit: int) -> Answer:
    """Read the rest of an answer."""
    flaw: Exception | None = None
    decoder: Gunzip | None = None
    try:
        decoder = decoder_for(response.headers.getRawHeaders(b"Content-Encoding", ()))
    except CodingError as error:
        flaw = error
    reader = BodyReader(0 if flaw else limit, decoder)
    response.deliverBody(reader)
    try:
        await deadline.watch(reader.done)
    except CancelledError:
        if not deadline.is_over:
            raise
        flaw = flaw or LateError()
    except Exception as error:
        flaw = flaw or error
    return Answer(response, url, reader.body, flaw, reader.is_open_ended)
