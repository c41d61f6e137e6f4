"""Access tokens from an OpenID Connect issuer, for requests to other servers (specification 6).

Discovery: https://openid.net/specs/openid-connect-discovery-1_0.html. Grant: RFC 6749, section 4.4
(client credentials). Use: RFC 6750.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard, TypeVar
from urllib.parse import quote_plus, urlsplit

from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error
from treq.client import HTTPClient
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.net.body import AnswerTooLongError, BytesBody, read_body
from telemeter.net.client import USER_AGENT
from telemeter.net.errors import explain
from telemeter.net.url import check_http_url, extend_path

#: What one try may take, in seconds: discovery where it is due, and the grant.
_TIMEOUT: Final = 10.0
#: The pauses before the second and the third try, in seconds.
_PAUSES: Final = (0.5, 1.0)
#: How long the issuer is left alone after three tries in vain, in seconds: twice as long each time.
_SHORTEST_REST: Final = 2.0
_LONGEST_REST: Final = 30.0
_MOST_DOUBLINGS: Final = 10
#: How long a request waits for a token, in seconds: less than it has for all it does.
_PATIENCE: Final = 4.0
#: How long a token is used whose lifetime the issuer does not tell, and how long any, in seconds.
_DEFAULT_LIFETIME: Final = 300.0
_LONGEST_LIFETIME: Final = 24 * 3600.0
#: A token is used until so many seconds before it expires, as issuers count in whole seconds, and
#: renewed so many before that; but neither is more than a quarter of its lifetime.
_ROUNDING: Final = 1.0
_MARGIN: Final = 60.0
#: The shortest time between two renewals because a token was refused, in seconds.
_BETWEEN_REFUSALS: Final = 10.0

_ANSWER_LIMIT: Final = 64 * 1024
_LONGEST_TOKEN: Final = 16 * 1024
_LONGEST_REASON: Final = 500
_UNAUTHORIZED: Final = 401
#: Statuses that say nothing about the request itself.
_PASSING: Final = (408, 429)

log = Logger()

_T = TypeVar("_T")


class TokenUnavailableError(Exception):
    """There is no access token; the message says why, and holds no secret.

    Attributes:
        passing: whether it may be over in a moment.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


def check_issuer(value: str) -> str:
    """The URL of an issuer.

    Raises:
        ValueError: it is none: an issuer has neither user, query nor fragment.
    """
    parts = urlsplit(check_http_url(value))
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("expected an issuer without user, query and fragment: https://HOST/PATH")
    return value


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What we show to the issuer."""

    client_id: str
    secret: str = field(repr=False)

    @property
    def basic(self) -> tuple[str, str]:
        """User and password of HTTP Basic (RFC 6749, section 2.3.1)."""
        return quote_plus(self.client_id), quote_plus(self.secret)

    def hide(self, text: str) -> str:
        """The text without the secret, in whatever way it was sent."""
        encoded = base64.b64encode(":".join(self.basic).encode()).decode()
        for form in (encoded, self.secret, quote_plus(self.secret)):
            if form:
                text = text.replace(form, "...")
        return text


@dataclass(slots=True)
class _Token:
    """An access token.

    Attributes:
        value: what is shown.
        renew: from when on another is asked for, in seconds since the epoch.
        expires: until when it is used, in seconds since the epoch.
        refused: whether somebody refused it before its time.
    """

    value: str
    renew: float
    expires: float
    refused: bool = False


class _Issuer:
    """Asks the issuer, once.

    Attributes:
        url: where it is.
        credentials: what we show.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        url: str,
        credentials: _Credentials,
        audience: str,
    ) -> None:
        self.url = check_issuer(url)
        self.credentials = credentials
        self._agent = agent
        self._clock = clock
        self._audience = audience
        self._endpoint: str | None = None
        # Whether the endpoint wants the credentials in the form; None: not known.
        self._in_form: bool | None = None

    def forget(self) -> None:
        """Forget what was discovered, as it may be what is wrong."""
        self._endpoint = None

    async def find_endpoint(self) -> str:
        """Learn where the issuer gives out tokens.

        Raises:
            TokenUnavailableError: it gives no usable answer.
        """
        url = extend_path(self.url, ".well-known/openid-configuration")
        what = f"discovery at {url}"
        headers = Headers({"Accept": ["application/json"], "User-Agent": [USER_AGENT]})
        # A client of its own for every request: it would keep cookies.
        asked = HTTPClient(self._agent).get(
            url, headers=headers, allow_redirects=False, unbuffered=True
        )
        status, body = await _answer(what, asked)
        if status != 200:
            raise TokenUnavailableError(
                f"{what}: expected status 200, saw {status}", passing=_may_pass(status)
            )
        fields = _parse_object(what, body)
        issuer, endpoint = fields.get("issuer"), fields.get("token_endpoint")
        if issuer != self.url:
            raise TokenUnavailableError(
                f"{what}: expected the issuer {self.url!r} as configured, saw {issuer!r}"
            )
        if not _is_endpoint(endpoint):
            raise TokenUnavailableError(
                f"{what}: expected the token_endpoint to be an http or https URL, saw {endpoint!r}"
            )
        if _is_https(self.url) and not _is_https(endpoint):
            raise TokenUnavailableError(
                f"{what}: an https issuer must have an https token_endpoint, saw {endpoint!r}"
            )
        self._endpoint = endpoint
        return endpoint

    async def grant(self) -> _Token:
        """Get a token.

        The credentials go into the header, and if they are refused there, into the form; the way
        that worked is tried alone the next time, as golang.org/x/oauth2 does.

        Raises:
            TokenUnavailableError: the issuer gives none.
        """
        endpoint = self._endpoint or await self.find_endpoint()
        credentials = self.credentials
        ways = (False, True) if self._in_form is None else (self._in_form,)
        refusals = []
        for in_form in ways:
            began = self._clock.seconds()
            status, body = await self._post(endpoint, credentials, in_form=in_form)
            if 200 <= status < 300:
                self._in_form = in_form
                return _parse_token(endpoint, body, began)
            if _may_pass(status) or not 400 <= status < 500:
                raise TokenUnavailableError(
                    f"{endpoint} answered with status {status}", passing=_may_pass(status)
                )
            way = "in the form" if in_form else "by HTTP Basic"
            refusals.append(f"credentials {way}: status {status}{_why(body)}")
        self._in_form = None
        raise TokenUnavailableError(f"{endpoint} refused: {'; '.join(refusals)}")

    async def _post(
        self, endpoint: str, credentials: _Credentials, *, in_form: bool
    ) -> tuple[int, bytes]:
        client = BackendApplicationClient(credentials.client_id)
        form = client.prepare_request_body(
            include_client_id=in_form,
            client_secret=credentials.secret if in_form else None,
            audience=self._audience,
        )
        headers = Headers(
            {
                "Accept": ["application/json"],
                "Content-Type": ["application/x-www-form-urlencoded"],
                "User-Agent": [USER_AGENT],
            }
        )
        asked = HTTPClient(self._agent).post(
            endpoint,
            data=BytesBody(form.encode("ascii")),
            headers=headers,
            auth=None if in_form else credentials.basic,
            allow_redirects=False,
            unbuffered=True,
        )
        return await _answer(endpoint, asked)


class TokenSource:
    """Has an access token ready for everybody, and renews it with one request at a time.

    The token is renewed when somebody wants it in the last minute of its life, or a little later if
    it is short-lived; until the new one is there, the old one is used. Without a token, everybody
    waits for the same request, for 4 seconds at most. The issuer is asked up to three times in a
    row, 10 seconds each; after that it is left alone for 2 seconds, then 4, up to 30, and whoever
    wants a token meanwhile is told why there is none. The next who wants one after that has the
    issuer asked again.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        issuer: str,
        client_id: str,
        client_secret: str,
        audience: str = "",
    ) -> None:
        """Make a source; nothing is asked yet.

        Args:
            agent: reaches the issuer.
            clock: tells the time.
            issuer: the issuer's URL, exactly as the issuer itself writes it.
            client_id: who we are.
            client_secret: and our proof of it.
            audience: whom the tokens are for, where the issuer wants to know.

        Raises:
            ValueError: that is no URL of an issuer.
        """
        credentials = _Credentials(client_id, client_secret)
        self._issuer = _Issuer(agent, clock, issuer, credentials, audience)
        self._clock = clock
        self._token: _Token | None = None
        self._is_asking = False
        self._waiting: list[Deferred[str | None]] = []
        self._failures = 0
        self._rest_until = 0.0
        self._trouble = ""
        self._last_refusal = float("-inf")

    async def discover(self) -> None:
        """Learn from the issuer where it gives out tokens: in 32 seconds at most.

        This need not be called, but shows at the start whether the issuer is there.

        Raises:
            TokenUnavailableError: it gives no usable answer.
        """
        await self._insist(self._issuer.find_endpoint)

    async def token(self, other_than: str = "") -> str:
        """The current access token, or a new one.

        Args:
            other_than: a token that is of no use, as `invalidate` was told.

        Raises:
            TokenUnavailableError: there is none within 4 seconds.
        """
        now = self._clock.seconds()
        current = self._token
        # Also if the clock was set back.
        resting = self._rest_until - _LONGEST_REST <= now < self._rest_until
        may_ask = not self._is_asking and not resting
        if current is not None and now < current.expires and current.value != other_than:
            if may_ask and (current.refused or now >= current.renew):
                self._ask()
            return current.value
        if not may_ask and not self._is_asking:
            raise TokenUnavailableError(self._trouble)
        # Who is cancelled is forgotten with the others, when the renewal ends.
        waiting: Deferred[str | None] = Deferred()
        self._waiting.append(waiting)
        if may_ask:
            self._ask()
        try:
            value = await waiting.addTimeout(_PATIENCE, self._clock)
        except defer.TimeoutError:
            raise TokenUnavailableError(
                f"the issuer {self._issuer.url} gave no token within {_PATIENCE:g} seconds"
            ) from None
        if value is None:
            raise TokenUnavailableError(self._trouble)
        return value

    def invalidate(self, token: str) -> bool:
        """Have a token replaced that was refused with 401 before its time.

        Others may use it until a new one is there: a server may have meant something else by its
        401 (an authorization server does), and then the token is still good. For the same reason
        a token is replaced at most every 10 seconds.

        Returns:
            Whether there is another, or will be one if the issuer answers.
        """
        current = self._token
        if current is None or current.value != token:
            return True
        if not current.refused:
            now = self._clock.seconds()
            if 0 <= now - self._last_refusal < _BETWEEN_REFUSALS:
                return False
            self._last_refusal = now
            current.refused = True
        return True

    def use_secret(self, secret: str) -> None:
        """Use another client secret from the next request to the issuer on."""
        self._issuer.credentials = _Credentials(self._issuer.credentials.client_id, secret)
        self._failures = 0
        self._rest_until = 0.0

    # --- one renewal for all ----------------------------------------------------------------------

    def _ask(self) -> None:
        """Start a renewal; whoever waits is told how it ends."""
        self._is_asking = True
        renewal: Deferred[str | None] = Deferred.fromCoroutine(self._renew())
        renewal.addErrback(self._failed).addCallback(self._tell)

    def _tell(self, value: str | None) -> None:
        self._is_asking = False
        told, self._waiting = self._waiting, []
        for waiting in told:
            waiting.callback(value)

    async def _renew(self) -> str:
        self._token = await self._insist(self._issuer.grant)
        if self._failures:
            log.info("the issuer gives access tokens again", issuer=self._issuer.url)
        self._failures = 0
        return self._token.value

    def _failed(self, failure: Failure) -> None:
        if failure.check(TokenUnavailableError):
            self._trouble = failure.getErrorMessage()
        else:
            self._trouble = "an internal error, see the log"
            log.failure("cannot ask for an access token", failure)
        self._issuer.forget()
        rest = min(_SHORTEST_REST * 2**self._failures, _LONGEST_REST)
        self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
        self._rest_until = self._clock.seconds() + rest
        log.warn(
            "no new access token", issuer=self._issuer.url, reason=self._trouble, rest_seconds=rest
        )

    async def _insist(self, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Try something, and try it again after a failure that may pass."""
        pauses = iter(_PAUSES)
        while True:
            credentials = self._issuer.credentials
            try:
                return await Deferred.fromCoroutine(attempt()).addTimeout(_TIMEOUT, self._clock)
            except defer.TimeoutError:
                reason = f"{self._issuer.url} gave no complete answer within {_TIMEOUT:g} seconds"
                passing = True
            except TokenUnavailableError as error:
                reason, passing = credentials.hide(str(error))[:_LONGEST_REASON], error.passing
            pause = next(pauses, None) if passing else None
            if pause is None:
                raise TokenUnavailableError(reason)
            await deferLater(self._clock, pause)


async def _answer(what: str, asked: Deferred[Any]) -> tuple[int, bytes]:
    """Status and body of an answer."""
    try:
        response = await asked
        return response.code, await read_body(response, _ANSWER_LIMIT)
    except AnswerTooLongError as error:
        raise TokenUnavailableError(f"{what}: {error}") from None
    except Exception as error:
        if _is_cancelled(error):
            raise CancelledError from None
        raise TokenUnavailableError(f"{what}: {explain(error)}", passing=True) from None


def _is_cancelled(error: Exception) -> bool:
    """Whether we ended a request ourselves, which Twisted may tell as that it was not answered."""
    reasons = getattr(error, "reasons", None) or ()
    return isinstance(error, CancelledError) or any(each.check(CancelledError) for each in reasons)


def _may_pass(status: int) -> bool:
    return status >= 500 or status in _PASSING


def _is_endpoint(value: object) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and "@" not in urlsplit(check_http_url(value)).netloc
    except ValueError:
        return False


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"


def _parse_object(what: str, body: bytes) -> dict[str, Any]:
    # Not chained: the parser's error holds the whole body, in which a token may be.
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise TokenUnavailableError(f"{what}: expected a JSON object, saw something else")
    return fields


def _why(body: bytes) -> str:
    """What the issuer says about a refusal (RFC 6749, section 5.2)."""
    try:
        fields = _parse_object("", body)
    except TokenUnavailableError:
        return ""
    said = [str(fields[name]) for name in ("error", "error_description") if fields.get(name)]
    return f" ({': '.join(said)})" if said else ""


def _parse_token(endpoint: str, body: bytes, began: float) -> _Token:
    """Read a token (RFC 6749, section 5.1) that was asked for at that time."""
    fields = _parse_object(endpoint, body)
    # Only what is looked at here: oauthlib stumbles over some malformed values of the others.
    names = ("access_token", "token_type", "error", "error_description")
    plain = {name: fields[name] for name in names if isinstance(fields.get(name), str)}
    client = BackendApplicationClient("")
    try:
        client.parse_request_body_response(json.dumps(plain))
    except OAuth2Error as error:
        raise TokenUnavailableError(
            f"{endpoint} gave no token: {error.error}: {error.description}"
        ) from None
    if client.token_type.lower() != "bearer":
        raise TokenUnavailableError(
            f"{endpoint}: expected a token of type Bearer, saw {client.token_type!r}"
        )
    value = client.access_token or ""
    if not value.isascii() or not value.isprintable() or not value or " " in value:
        raise TokenUnavailableError(f"{endpoint}: the access token is malformed")
    if len(value) > _LONGEST_TOKEN:
        raise TokenUnavailableError(
            f"{endpoint}: the access token is over the limit of {_LONGEST_TOKEN} characters"
        )
    lifetime = _lifetime(fields.get("expires_in"))
    expires = began + lifetime - min(_ROUNDING, lifetime / 4)
    return _Token(value, expires - min(_MARGIN, lifetime / 4), expires)


def _lifetime(value: object) -> float:
    """For how many seconds a token is used, by its `expires_in`."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return _DEFAULT_LIFETIME
    return float(min(value, _LONGEST_LIFETIME))


@implementer(IAgent)
class OIDCAgent:
    """Shows an access token with every request of another agent."""

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
    read_body(response, _ANSWER_LIMIT, truncate=True).addErrback(lambda _: None).cancel()
