"""An issuer in memory, and what is expected of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from telemeter.auth.oidc import TokenSource, TokenUnavailableError
from tests.fakes import Peer, Received, Reply, json_reply

ISSUER: Final = "https://issuer.test/realm"
ENDPOINT: Final = "https://issuer.test/realm/token"
SECRET: Final = "s3cret/?&=+ %ü'\"\\"
WELL_KNOWN: Final = ".well-known/openid-configuration"

#: How long three tries without an answer take.
THREE_TRIES: Final = 10 + 0.5 + 10 + 1 + 10


@implementer(IAgent)
class Issuer:
    """An issuer in memory: discovery, and the endpoint that gives `token-1`, `token-2` and so on.

    Attributes:
        discovery: answers at the well-known URL.
        endpoint: answers at every other.
        errors: what befalls the next requests.
    """

    def __init__(self, issuer: str = ISSUER, endpoint: Any = ENDPOINT) -> None:
        self.discovery = Peer(json_reply({"issuer": issuer, "token_endpoint": endpoint}))
        self.endpoint = Peer([token_reply(f"token-{number}") for number in range(1, 9)])
        self.errors: list[Exception] = []
        self.uris: list[bytes] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        self.uris.append(uri)
        if self.errors:
            return fail(self.errors.pop(0))
        peer = self.discovery if uri.endswith(WELL_KNOWN.encode()) else self.endpoint
        return peer.agent.request(method, uri, headers, bodyProducer)

    @property
    def asked(self) -> list[Received]:
        """The requests for a token."""
        return self.endpoint.received


def token_reply(token: object, expires_in: object = 1000, **others: object) -> Reply:
    return json_reply(
        {"access_token": token, "token_type": "Bearer", "expires_in": expires_in, **others}
    )


def make_source(issuer: Issuer, clock: Clock, **others: Any) -> TokenSource:
    return TokenSource(issuer, clock, ISSUER, "client", SECRET, **others)


def take_time(clock: Clock, seconds: float) -> None:
    """Let time pass in small steps, so that what is due makes its own plans in time."""
    clock.pump([0.25] * int(seconds * 4))


def form_of(received: Received) -> dict[str, str]:
    return dict(parse_qsl(received.body.decode(), strict_parsing=True))


def basic(client: str, secret: str) -> str:
    pair = f"{quote_plus(client)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@contextmanager
def unavailable(*words: str) -> Iterator[None]:
    """Expect that there is no token, for this reason, told without a secret."""
    with pytest.raises(TokenUnavailableError) as caught:
        yield
    for word in words:
        assert word in str(caught.value)
    # All that a traceback would tell.
    told = []
    error: BaseException | None = caught.value
    while error is not None:
        told.append(f"{error!r} {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for secret in (SECRET, quote_plus(SECRET), basic("client", SECRET)[6:], "token-"):
        assert secret not in " ".join(told)
