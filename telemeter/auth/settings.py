"""The settings of authorization: whose tokens are taken, and who is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from telemeter.auth.keys import SigningKey
from telemeter.net.tls import ClientPolicy


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The signing and the verification of the agents' tokens.

    Attributes:
        keys: the first signs, all verify; empty: a fresh key at every start.
        lifetime: for how many seconds a token holds.
    """

    keys: tuple[SigningKey, ...]
    lifetime: int


@dataclass(frozen=True, slots=True)
class AuthorizationSettings:
    """The authorization server, and for how long its answers are kept.

    Attributes:
        url: of the authorization server; empty: nobody is asked, and every token is accepted.
        policy: whom to trust as that server, and what to show it.
        positive_seconds: for how long a positive answer is kept in this process; 0: not at all.
        negative_seconds: for how long a negative answer is kept; 0: not at all.
        most_answers: how many answers are kept, positive and negative ones each.
    """

    url: str
    policy: ClientPolicy
    positive_seconds: float
    negative_seconds: float
    most_answers: int


@dataclass(frozen=True, slots=True)
class OIDCSettings:
    """The settings of the issuer of the access tokens that the server shows to others.

    Attributes:
        issuer: the URL of the OpenID Connect issuer; empty: no tokens are shown.
        client_id: who the server is to the issuer.
        client_secret: its secret for the issuer.
        audience: whom tokens are asked for; empty: the issuer decides.
        scopes: what tokens are asked for.
        policy: whom to trust as the issuer.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    audience: str
    scopes: Sequence[str]
    policy: ClientPolicy


@dataclass(frozen=True, slots=True)
class MemcachedSettings:
    """The memcached servers that replicas of a server share.

    Attributes:
        addresses: host and port of each; empty: there are none.
        lifetime: for how many seconds a positive answer is kept there; 0: as long as possible.
        lookup_seconds: seconds between look-ups of the addresses; 0: only one.
    """

    addresses: Sequence[tuple[str, int]]
    lifetime: int
    lookup_seconds: int
