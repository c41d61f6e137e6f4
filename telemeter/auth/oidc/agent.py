"""Requests that show an access token."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.auth.oidc.source import TokenSource
from telemeter.net.body import BytesBody, read_body

_UNAUTHORIZED: Final = 401
_REFUSAL_LIMIT: Final = 64 * 1024


@implementer(IAgent)
class OIDCAgent:
    """An agent that shows an access token with every request of another one."""

    def __init__(self, agent: IAgent, source: TokenSource) -> None:
        self._agent = agent
        self._source = source

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """Make a request, and make it once more with a new token if the answer is 401.

        Args:
            method: the HTTP method.
            uri: the URL.
            headers: further headers; Authorization is replaced.
            bodyProducer: the body. Only with a `BytesBody`, or none, there is a second request.

        Returns:
            The answer, or a failure: `TokenUnavailableError`, or one of the other agent.
        """
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(
        self, method: bytes, uri: bytes, headers: Headers | None, body: IBodyProducer | None
    ) -> IResponse:
        token = await self._source.token()
        response = await self._agent.request(method, uri, _with_token(headers, token), body)
        if response.code != _UNAUTHORIZED or not self._source.invalidate(token):
            return response
        if not (body is None or isinstance(body, BytesBody)):
            return response
        try:
            another = await self._source.token(other_than=token)
        except BaseException:
            _let_go(response)
            raise
        if another == token:
            return response
        _let_go(response)
        return await self._agent.request(method, uri, _with_token(headers, another), body)


def _with_token(headers: Headers | None, token: str) -> Headers:
    headers = Headers() if headers is None else headers.copy()
    headers.setRawHeaders("Authorization", [f"Bearer {token}"])
    return headers


def _let_go(response: IResponse) -> None:
    """Be done with an answer: its connection is used again if all has arrived, or else closed."""
    read_body(response, _REFUSAL_LIMIT).addErrback(lambda _: None).cancel()
