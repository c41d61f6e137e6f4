"""The authorization server ("tollbooth"), which knows whose a cluster is.

Protocol: docs/protocol.md, "Authorization server". A question is a POST of JSON with `cluster_id`
and `authorization_token`; 200 and 201 accept, with the `account_id`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.auth.fnv import fnv1a_base32
from telemeter.auth.oidc import TokenUnavailableError
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.body import AnswerTooLongError
from telemeter.net.errors import explain
from telemeter.net.exchange import MOST_CONNECTIONS, exchange
from telemeter.net.url import split_credentials
from telemeter.samples.family import is_utf8

_ANSWER_LIMIT = 32 * 1024
_SHOWN = 100
#: A part of every token, which goes into a header.
_LONGEST_ACCOUNT = 1024
_YES = (200, 201)
_REASONS: Final = {
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    409: (
        "the provided cluster identifier is already in use under a different account "
        "or is not sufficiently random"
    ),
    429: "rate limited, please try again later",
}

log = Logger()


class RefusedError(Exception):
    """The authorization server said no.

    Attributes:
        status: its HTTP status, 400 to 499.
        reason: why, in words of ours that may be shown to the client.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        self.reason = _REASONS.get(status, f"the authorization server refused with status {status}")
        super().__init__(self.reason)


class UnavailableError(Exception):
    """The authorization server gave no usable answer; the message is for the log only."""


class Authorizer(Protocol):
    """An authority that says whose a cluster is."""

    async def authorize(self, token: str, cluster: str) -> str:
        """Return the account of a cluster that shows this token.

        Raises:
            RefusedError: not with this token.
            UnavailableError: nobody can say at present.
        """
        ...


class AcceptEveryone:
    """An authority that accepts every token; the account is the token's hash."""

    async def authorize(self, token: str, cluster: str) -> str:
        return fnv1a_base32(token)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the authorization server.

    Attributes:
        status: the HTTP status.
        content_type: the media type, in lower case, without parameters.
        body: the first 32 KiB of the body.
    """

    status: int
    content_type: str
    body: bytes


class AuthorizationServer:
    """A client of an authorization server."""

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        url: str,
        timeout: float = TIMEOUTS.authorization_server,
        connections: int = MOST_CONNECTIONS,
    ) -> None:
        """Make one.

        Args:
            agent: makes the requests.
            clock: times them.
            url: of the server, perhaps with a user and a password.
            timeout: how many seconds it may take for an answer.
            connections: how many requests may be under way at a time.
        """
        self._timeout = timeout
        self._places = DeferredSemaphore(connections)
        self._failures = 0
        self._last_failure = ""
        self._agent = agent
        self._clock = clock
        self._url, credentials = split_credentials(url)
        self._headers = Headers(
            {
                "Content-Type": ["application/json"],
                "Accept": ["application/json"],
            }
        )
        if credentials:
            self._headers.setRawHeaders("Authorization", [credentials])

    async def authorize(self, token: str, cluster: str) -> str:
        question = json.dumps({"cluster_id": cluster, "authorization_token": token}).encode()
        answer = await self.ask(question)
        if answer.content_type != "application/json":
            raise UnavailableError(
                f"expected application/json from the authorization server, "
                f"saw {answer.content_type[:_SHOWN]!r}"
            )
        account = _account_of(answer.body)
        if not account:
            raise UnavailableError("the authorization server answered without an account_id")
        return account

    async def ask(self, question: bytes) -> Answer:
        """Ask, and return the answer if it is positive.

        Raises:
            RefusedError: it said no.
            UnavailableError: it said something else, or nothing.
        """
        try:
            answer = await self._exchange(question)
        except TokenUnavailableError as error:
            raise self._failed(
                f"there is no access token for the authorization server: {error}"
            ) from error
        except Exception as error:
            raise self._failed(f"the authorization server: {explain(error)}") from error
        if answer.status >= 500:
            raise self._failed(f"the authorization server answered with status {answer.status}")
        self._failures = 0
        if answer.status in _YES:
            return answer
        if 400 <= answer.status < 500:
            raise RefusedError(answer.status)
        raise UnavailableError(f"the authorization server answered with status {answer.status}")

    def describe(self) -> str:
        """Return in words how it is, by what it answered last."""
        if not self._failures:
            return "up"
        return f"no answer, {self._failures} times in a row: {self._last_failure}"

    def _failed(self, reason: str) -> UnavailableError:
        self._failures += 1
        self._last_failure = reason
        return UnavailableError(reason)

    async def _exchange(self, question: bytes) -> Answer:
        answer = await exchange(
            self._agent,
            self._clock,
            "POST",
            self._url,
            self._headers,
            question,
            timeout=self._timeout,
            limit=_ANSWER_LIMIT,
            places=self._places,
        )
        content_type = answer.header(b"Content-Type").partition(";")[0].strip().lower()
        # A refusal is its status. What accepts must have come whole, but only the start is read.
        is_whole = answer.status not in _YES or isinstance(answer.flaw, AnswerTooLongError)
        return Answer(answer.status, content_type, answer.start if is_whole else answer.body)


def _account_of(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise UnavailableError("the authorization server answered with malformed JSON") from None
    account = answer.get("account_id") if isinstance(answer, dict) else None
    if not isinstance(account, str):
        return ""
    if not is_utf8(account) or len(account) > _LONGEST_ACCOUNT:
        raise UnavailableError(
            "the authorization server answered with an account_id that is no text of "
            f"{_LONGEST_ACCOUNT} characters at most"
        )
    return account
