"""Finding the OpenID Connect issuer when the server starts."""

from __future__ import annotations

import atexit
import os
import sys

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger
from twisted.python.failure import Failure

from telemeter.auth.oidc import TokenSource, TokenUnavailableError
from telemeter.web.health import Health

log = Logger()


class Discovery(Service):
    """The service that asks the issuer for its endpoints; the server is not ready before."""

    def __init__(
        self,
        reactor: IReactorCore,
        source: TokenSource,
        health: Health,
        program: str,
        *,
        vital: bool = True,
    ) -> None:
        """Make one.

        Args:
            reactor: what is stopped.
            source: asks the issuer.
            health: is not ready before the issuer has answered.
            program: what the message at the end begins with.
            vital: whether the program ends if the issuer does not answer as it should. If not, it
                serves all the same, and asks again when somebody needs a token.
        """
        self._reactor = reactor
        self._source = source
        self._health = health
        self._program = program
        self._vital = vital
        self._under_way: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._health.ready = False
        self._under_way = Deferred.fromCoroutine(self._discover())
        self._under_way.addErrback(self._failed)

    def stopService(self) -> None:
        super().stopService()
        if self._under_way is not None:
            self._under_way.cancel()

    def _failed(self, failure: Failure) -> None:
        """Log a fault of ours, which leaves the server not ready; a stop is none."""
        if self.running:
            log.failure("the issuer of --oidc-issuer cannot be looked for", failure)

    async def _discover(self) -> None:
        try:
            await self._source.discover()
        except TokenUnavailableError as error:
            if self._vital:
                end_with_failure(self._reactor, f"{self._program}: --oidc-issuer: {error}")
                return
            log.warn("serving without the issuer of --oidc-issuer for now", reason=str(error))
        self._health.ready = bool(self.running)


def end_with_failure(reactor: IReactorCore, message: str) -> None:
    """Stop a running reactor, and have the program end with status 1.

    The reactor and twistd know of no other status than that of a signal, so it is set by the last
    function that the interpreter calls.
    """
    log.critical(message)

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)
    reactor.callWhenRunning(reactor.stop)
