"""The OpenID Connect issuer: discovery, and the grant of one token."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeGuard
from urllib.parse import quote_plus, urlsplit

from oauthlib.oauth2 import BackendApplicationClient
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.auth.oidc.access import AccessToken, TokenUnavailableError, parse_object, parse_token
from telemeter.loop.clocks import elapsed
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.body import AnswerTooLongError
from telemeter.net.errors import explain
from telemeter.net.exchange import Answer, exchange
from telemeter.net.redirect import RedirectError
from telemeter.net.url import check_http_url, extend_path, shown

_ANSWER_LIMIT: Final = 64 * 1024
#: Statuses that say nothing about the request itself.
_PASSING: Final = (408, 429)


def check_issuer(value: str) -> str:
    """Return the URL of an issuer.

    Raises:
        ValueError: it is none: an issuer has neither user, query nor fragment.
    """
    parts = urlsplit(check_http_url(value))
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("expected an issuer without user, query and fragment: https://HOST/PATH")
    return value


@dataclass(frozen=True, slots=True)
class Credentials:
    """The proof of who we are for the issuer."""

    client_id: str
    secret: str = field(repr=False)

    @property
    def basic_header(self) -> str:
        """The value of Authorization for HTTP Basic (RFC 6749, section 2.3.1)."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.secret)}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def hide(self, text: str) -> str:
        """Return the text without the secret, in whatever way it was sent."""
        encoded = self.basic_header.removeprefix("Basic ")
        for form in (encoded, self.secret, quote_plus(self.secret)):
            if form:
                text = text.replace(form, "...")
        return text


class Issuer:
    """A client of the issuer, which asks once.

    Attributes:
        url: where it is.
        credentials: what we show.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        url: str,
        credentials: Credentials,
        audience: str,
        scopes: Sequence[str] = (),
        timeout: float = TIMEOUTS.oidc_answer,
    ) -> None:
        self._timeout = timeout
        self.url = check_issuer(url)
        self.credentials = credentials
        self._agent = agent
        self._clock = clock
        self._audience = audience
        self._scopes = scopes
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
        headers = Headers({"Accept": ["application/json"]})
        answer = await self._exchange(what, "GET", url, headers)
        if answer.status != 200:
            raise TokenUnavailableError(
                f"{what}: expected status 200, saw {answer.status}",
                passing=_may_pass(answer.status),
            )
        if _is_https(url) and not _is_https(answer.url):
            raise TokenUnavailableError(
                f"{what}: it was redirected from https to {shown(answer.url)}, which is not trusted"
            )
        fields = parse_object(what, _whole(what, answer))
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

    async def grant(self) -> AccessToken:
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
            began = elapsed(self._clock)
            answer = await self._post(endpoint, credentials, in_form=in_form)
            status = answer.status
            if 200 <= status < 300:
                self._in_form = in_form
                return parse_token(endpoint, _whole(endpoint, answer), began)
            if _may_pass(status) or not 400 <= status < 500:
                raise TokenUnavailableError(
                    f"{endpoint} answered with status {status}", passing=_may_pass(status)
                )
            way = "in the form" if in_form else "by HTTP Basic"
            refusals.append(f"credentials {way}: status {status}{_why(answer.start)}")
        self._in_form = None
        raise TokenUnavailableError(f"{endpoint} refused: {'; '.join(refusals)}")

    async def _post(self, endpoint: str, credentials: Credentials, *, in_form: bool) -> Answer:
        client = BackendApplicationClient(credentials.client_id)
        form = client.prepare_request_body(
            include_client_id=in_form,
            client_secret=credentials.secret if in_form else None,
            audience=self._audience,
            scope=" ".join(self._scopes) or None,
        )
        headers = Headers(
            {
                "Accept": ["application/json"],
                "Content-Type": ["application/x-www-form-urlencoded"],
            }
        )
        if not in_form:
            headers.setRawHeaders("Authorization", [credentials.basic_header])
        return await self._exchange(endpoint, "POST", endpoint, headers, form.encode("ascii"))

    async def _exchange(
        self, what: str, method: str, url: str, headers: Headers, body: bytes | None = None
    ) -> Answer:
        try:
            return await exchange(
                self._agent,
                self._clock,
                method,
                url,
                headers,
                body,
                timeout=self._timeout,
                limit=_ANSWER_LIMIT,
            )
        except RedirectError as error:
            raise TokenUnavailableError(f"{what}: {error}") from None
        except Exception as error:
            if _is_cancelled(error):
                raise CancelledError from None
            raise TokenUnavailableError(f"{what}: {explain(error)}", passing=True) from None


def _whole(what: str, answer: Answer) -> bytes:
    """Return the body of an answer that counts; raises `TokenUnavailableError`."""
    try:
        return answer.body
    except Exception as error:
        passing = not isinstance(error, AnswerTooLongError)
        raise TokenUnavailableError(f"{what}: {explain(error)}", passing=passing) from None


def _is_cancelled(error: Exception) -> bool:
    """Tell whether we ended a request ourselves; Twisted may say that it was not answered."""
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


def _why(body: bytes) -> str:
    """Return what the issuer says about a refusal (RFC 6749, section 5.2)."""
    try:
        fields = parse_object("", body)
    except TokenUnavailableError:
        return ""
    said = [str(fields[name]) for name in ("error", "error_description") if fields.get(name)]
    return f" ({': '.join(said)})" if said else ""
