"""Exchanging the agent's bearer token for a short-lived one, and keeping that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.loop.clocks import Elapsed, WallClock, elapsed
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.errors import explain
from telemeter.net.exchange import exchange
from telemeter.net.quoted import quote_answer
from telemeter.net.redirect import RedirectError
from telemeter.net.retry_after import retry_after_seconds
from telemeter.net.url import to_request
from telemeter.samples.family import label_fault

_ANSWER_LIMIT = 16 * 1024
#: A token is let go so many seconds before it expires ...
_MARGIN = 15
#: ... if it holds for at least so many; a shorter one is used until it is refused.
_SHORT_LIFETIME = 60


class AuthorizeError(Exception):
    """There is no token; the message says why, and holds no secret.

    Attributes:
        retry_after: when to try again, in seconds from now, if the server said so.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Token:
    """A short-lived token.

    Attributes:
        value: what to show at /upload.
        labels: what every sample must be labelled with.
        expires: until when to use it.
    """

    value: str
    labels: Mapping[str, str]
    expires: Elapsed


class TokenExchange:
    """The agent's token, which is exchanged for a new one when it has expired."""

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        wall: WallClock,
        url: str,
        initial_token: str,
        timeout: float = TIMEOUTS.authorize,
    ) -> None:
        """Make a store that has no token yet.

        Args:
            agent: makes the requests.
            clock: times them.
            wall: tells the time of day, for a Retry-After with a date.
            url: where tokens are exchanged.
            initial_token: what is shown there.
            timeout: how many seconds the server may take.
        """
        self._timeout = timeout
        self._agent = agent
        self._clock = clock
        self._wall = wall
        self._asks = (url, initial_token)
        self._url = to_request(url)
        self._headers = Headers({"Authorization": [f"Bearer {initial_token}"]})
        self._token: Token | None = None

    async def get(self) -> Token:
        """Return the current token, or a new one.

        Raises:
            AuthorizeError: the server gave none.
        """
        token = self._token
        if token is None or token.expires <= self._clock.seconds():
            try:
                token = await self._exchange()
            except (AuthorizeError, CancelledError):
                raise
            except RedirectError as error:
                raise AuthorizeError(f"the server answered with {error}") from None
            except Exception as error:
                raise AuthorizeError(explain(error)) from error
            self._token = token
        return token

    def serves(self, url: str, initial_token: str) -> bool:
        """Return whether this store would ask there, with that token."""
        return (url, initial_token) == self._asks

    def use(self, agent: IAgent) -> None:
        """Ask through another agent from now on."""
        self._agent = agent

    def drop(self, token: Token) -> None:
        """Forget a token that the server refused."""
        if self._token is token:
            self._token = None

    async def _exchange(self) -> Token:
        began = elapsed(self._clock)
        answer = await exchange(
            self._agent,
            self._clock,
            "POST",
            self._url,
            self._headers,
            timeout=self._timeout,
            limit=_ANSWER_LIMIT,
        )
        if answer.status == 401:
            raise AuthorizeError(
                "the server answered with status 401: --to-token or --to-token-file is expired "
                "or invalid"
            )
        if answer.status not in (200, 201):
            said = quote_answer(answer.response, answer.start)
            raise AuthorizeError(
                f"the server answered with status {answer.status}: {said}",
                retry_after_seconds(answer.headers, self._wall.now()),
            )
        return _parse_token(answer.body, began)


def _parse_token(body: bytes, began: Elapsed) -> Token:
    try:
        answer: Any = json.loads(body)
        value, labels = answer["token"], answer.get("labels") or {}
        lifetime = float(answer.get("expiresInSeconds") or 0)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError("no token")
        faults = [fault for label in labels.items() if (fault := label_fault(*label))]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise _unexpected("something else") from None
    if not value.strip():
        raise _unexpected("no token")
    if faults:
        raise _unexpected(f"labels that no sample can carry: {faults[0]}")
    expires = began + lifetime - _MARGIN if lifetime >= _SHORT_LIFETIME else float("inf")
    return Token(value, labels, Elapsed(expires))


def _unexpected(seen: str) -> AuthorizeError:
    return AuthorizeError(
        'expected JSON such as {"token": ..., "expiresInSeconds": ..., "labels": {...}} '
        f"from the server, saw {seen}"
    )
