"""Requests made with treq whose answers arrive as they were sent."""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


class _URI(EncodedURL):
    """A URL of ASCII, for which treq has nothing to encode.

    It would take the host for a name that may not be ASCII, and refuse an IPv6 address.
    """

    def to_uri(self) -> _URI:
        return self


class _NoCookies(CookieJar):
    """A jar that no cookie is put into. It does not look at a server's cookies, even malformed."""

    def add_cookie_header(self, request: Any) -> None: ...

    def extract_cookies(self, response: Any, request: Any) -> None: ...


@implementer(IAgent)
class TreqAgent:
    """An agent that makes the requests of another one with treq.

    Cookies are ignored, redirects are not followed, and bodies stay encoded: `exchange` decodes
    them and checks that they are whole, which the decoder that treq takes from Twisted does not.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        plain = _Plain(self._agent, uri, headers)
        jar: Any = _NoCookies()
        answered: Deferred[Any] = HTTPClient(plain, jar).request(
            method.decode("ascii"),
            _URI.from_text(uri.decode("ascii")),
            headers=headers,
            data=bodyProducer,
            allow_redirects=False,
            unbuffered=True,
        )
        return answered.addCallback(plain.restore)


@implementer(IAgent)
class _Plain:
    """An agent for one request: it keeps the URI as it was, and the answer's coding from treq."""

    def __init__(self, agent: IAgent, uri: bytes, headers: Headers | None) -> None:
        self._agent = agent
        self._uri = uri
        self._accepted = list((headers or Headers()).getRawHeaders(b"Accept-Encoding", ()))
        self._codings: list[bytes] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        headers = Headers() if headers is None else headers.copy()
        headers.setRawHeaders(b"Accept-Encoding", self._accepted)  # without what treq adds
        answered: Deferred[IResponse] = self._agent.request(
            method, self._uri, headers, bodyProducer
        )
        return answered.addCallback(self._hide)

    def _hide(self, response: IResponse) -> IResponse:
        self._codings = list(response.headers.getRawHeaders(b"Content-Encoding", ()))
        response.headers.removeHeader(b"Content-Encoding")
        return response

    def restore(self, response: IResponse) -> IResponse:
        """Put back what treq was not to see."""
        response.headers.removeHeader(b"Content-Encoding")  # treq leaves an empty one
        if self._codings:
            response.headers.setRawHeaders(b"Content-Encoding", self._codings)
        return response
