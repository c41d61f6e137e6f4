"""Finding the OpenID Connect issuer when the server starts."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from telemeter.auth.oidc import TokenSource, TokenUnavailableError
from telemeter.web.health import Health

log = Logger()


class Discovery(Service):
    """Asks the issuer for its endpoints; the server is not ready before, and ends if it cannot."""

    def __init__(self, reactor: Any, source: TokenSource, health: Health, program: str) -> None:
        self._reactor = reactor
        self._source = source
        self._health = health
        self._program = program
        self._under_way: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._health.ready = False
        self._under_way = Deferred.fromCoroutine(self._discover())

    def stopService(self) -> None:
        super().stopService()
        if self._under_way is not None:
            self._under_way.addErrback(lambda _: None)
            self._under_way.cancel()

    async def _discover(self) -> None:
        try:
            await self._source.discover()
        except TokenUnavailableError as error:
            end_with_failure(self._reactor, f"{self._program}: --oidc-issuer: {error}")
        else:
            self._health.ready = bool(self.running)


def end_with_failure(reactor: Any, message: str) -> None:
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
