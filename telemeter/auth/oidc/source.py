"""An access token that is ready whenever somebody wants one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IAgent

from telemeter.auth.oidc.access import AccessToken, TokenUnavailableError
from telemeter.auth.oidc.issuer import Credentials, Issuer
from telemeter.loop.clocks import LONG_AGO
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.loop.waiters import Waiters

#: The pauses before the second and the third try, in seconds.
_PAUSES: Final = (0.5, 1.0)
#: How long the issuer is left alone after three tries in vain, in seconds: twice as long each time.
_SHORTEST_REST: Final = 2.0
_LONGEST_REST: Final = 30.0
_MOST_DOUBLINGS: Final = 10
#: The shortest time between two renewals because a token was refused, in seconds.
_BETWEEN_REFUSALS: Final = 10.0
_LONGEST_REASON: Final = 500

log = Logger()

_T = TypeVar("_T")


class TokenSource:
    """A source of access tokens, which renews them with one request at a time.

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
        scopes: Sequence[str] = (),
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """Make a source; nothing is asked yet.

        Args:
            agent: reaches the issuer.
            clock: times everything.
            issuer: the issuer's URL, exactly as the issuer itself writes it.
            client_id: who we are.
            client_secret: and our proof of it.
            audience: whom the tokens are for, where the issuer wants to know.
            scopes: what they are for, likewise.
            timeouts: how long the issuer may take.

        Raises:
            ValueError: that is no URL of an issuer.
        """
        self._timeouts = timeouts
        # While nothing is served yet: it takes 15 ms, and `parse_token` needs it.
        import oauthlib.oauth2  # noqa: F401

        credentials = Credentials(client_id, client_secret)
        self._issuer = Issuer(
            agent, clock, issuer, credentials, audience, scopes, timeouts.oidc_answer
        )
        self._clock = clock
        self._token: AccessToken | None = None
        self._is_asking = False
        self._waiting: Waiters[str | None] = Waiters()
        self._failures = 0
        self._rest_until: float = LONG_AGO
        self._trouble = ""
        self._last_refusal: float = LONG_AGO

    async def discover(self) -> None:
        """Learn from the issuer where it gives out tokens: in 32 seconds at most.

        This need not be called, but shows at the start whether the issuer is there.

        Raises:
            TokenUnavailableError: it gives no usable answer.
        """
        await self._insist(self._issuer.find_endpoint)

    async def token(self, other_than: str = "") -> str:
        """Return the current access token, or a new one.

        Args:
            other_than: a token that is of no use, as `invalidate` was told.

        Raises:
            TokenUnavailableError: there is none within 4 seconds.
        """
        now = self._clock.seconds()
        current = self._token
        may_ask = not self._is_asking and now >= self._rest_until
        if current is not None and now < current.expires and current.value != other_than:
            if may_ask and (current.refused or now >= current.renew):
                self._ask()
            return current.value
        if not may_ask and not self._is_asking:
            raise TokenUnavailableError(self._trouble)
        waiting = self._waiting.wait()
        if may_ask:
            self._ask()
        try:
            value = await waiting.addTimeout(self._timeouts.oidc_token, self._clock)
        except defer.TimeoutError:
            raise TokenUnavailableError(
                f"the issuer {self._issuer.url} gave no token within "
                f"{self._timeouts.oidc_token:g} seconds"
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
            if now - self._last_refusal < _BETWEEN_REFUSALS:
                return False
            self._last_refusal = now
            current.refused = True
        return True

    def use_secret(self, secret: str) -> None:
        """Use another client secret from the next request to the issuer on."""
        self._issuer.credentials = Credentials(self._issuer.credentials.client_id, secret)
        self._failures = 0
        self._rest_until = LONG_AGO

    # --- one renewal for all ----------------------------------------------------------------------

    def _ask(self) -> None:
        """Start a renewal; whoever waits is told how it ends."""
        self._is_asking = True
        renewal: Deferred[str | None] = Deferred.fromCoroutine(self._renew())
        renewal.addErrback(self._failed).addCallback(self._tell)

    def _tell(self, value: str | None) -> None:
        self._is_asking = False
        self._waiting.tell(value)

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
        timeout = self._timeouts.oidc_attempt
        while True:
            credentials = self._issuer.credentials
            try:
                return await Deferred.fromCoroutine(attempt()).addTimeout(timeout, self._clock)
            except defer.TimeoutError:
                reason = f"{self._issuer.url} gave no complete answer within {timeout:g} seconds"
                passing = True
            except TokenUnavailableError as error:
                reason, passing = credentials.hide(str(error))[:_LONGEST_REASON], error.passing
            pause = next(pauses, None) if passing else None
            if pause is None:
                raise TokenUnavailableError(reason)
            await deferLater(self._clock, pause)
