"""The short-lived tokens (JWTs) that an agent gets at /authorize and shows at /upload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from typing import Any, Final

import jwt

from telemeter.auth.bearer import NotAuthorizedError
from telemeter.auth.keys import PublicKey, SigningKey
from telemeter.loop.clocks import NO_DATE, Wall
from telemeter.samples.family import is_utf8

ISSUER: Final = "telemeter.selfsigned"
AUDIENCE: Final = "telemeter-client"
_PRIVATE_CLAIM = "telemeter.openshift.io"
#: How many good tokens are remembered; each takes less than a kilobyte.
_REMEMBERED = 50_000
#: How far the clock of another replica may run ahead of ours, in seconds.
_LEEWAY = 60


@dataclass(frozen=True, slots=True)
class Client:
    """The caller that a token names.

    Attributes:
        subject: the account.
        labels: the labels that every sample of this client must carry.
        expires: until when the token holds.
    """

    subject: str
    labels: Mapping[str, str] = field(default_factory=dict)
    expires: Wall = NO_DATE


class TokenIssuer:
    """A signer of tokens."""

    def __init__(self, key: SigningKey, lifetime: int) -> None:
        """Make an issuer.

        Args:
            key: what signs.
            lifetime: for how many seconds a token holds.
        """
        self._key = key
        self.lifetime = lifetime

    def issue(self, subject: str, labels: Mapping[str, str], now: Wall) -> str:
        """Return a token for an account that vouches for these labels."""
        issued = int(now)
        claims = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": subject,
            "iat": issued,
            "nbf": issued,
            "exp": issued + self.lifetime,
            _PRIVATE_CLAIM: {"labels": dict(labels)},
        }
        key = self._key
        headers = {"kid": key.identifier}
        return jwt.encode(claims, key.private, algorithm=key.algorithm, headers=headers)


class TokenVerifier:
    """A verifier of tokens, with one or more keys, each for its own algorithm and no other.

    An agent shows one token for a day, and to check a signature takes longer than all else that is
    done with a small upload. So what was found to be good is remembered until it expires.
    """

    def __init__(self, keys: Sequence[SigningKey], remembered: int = _REMEMBERED) -> None:
        """Make a verifier.

        Args:
            keys: any of them may have signed a token.
            remembered: how many good tokens are remembered. When there are more, those known
                longest stay: of a fleet that takes turns, each would push out the next otherwise.
        """
        self._keys = {key.identifier: (key.public, key.algorithm) for key in keys}
        self._remembered = remembered
        self._known: dict[bytes, Client] = {}

    def __len__(self) -> int:
        """Return how many tokens are cached."""
        return len(self._known)

    def verify(self, token: str, now: Wall) -> Client:
        """Return whom a token belongs to.

        Args:
            token: the encoded token.
            now: the time.

        Raises:
            NotAuthorizedError: signature, issuer, audience or times are not right.
        """
        # Not the token itself: it is a secret, and may be long.
        key = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is not None and now < known.expires:
            return known
        client = self._check(token, now)
        self._remember(key, client, now)
        return client

    def _remember(self, key: bytes, client: Client, now: Wall) -> None:
        self._known.pop(key, None)
        if self._known and len(self._known) >= self._remembered:
            oldest = next(iter(self._known))
            if now < self._known[oldest].expires:
                return
            del self._known[oldest]
        if self._remembered:
            self._known[key] = client

    def _check(self, token: str, now: Wall) -> Client:
        claims = self._decode(token)
        try:
            expires = _time(claims["exp"])
            not_before = max(_time(claims.get("nbf", 0)), _time(claims.get("iat", 0)))
            private = claims.get(_PRIVATE_CLAIM) or {}
            labels = {**(private.get("labels") or {})}
            subject = claims.get("sub") or ""
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise NotAuthorizedError("the token has malformed claims") from None
        texts = (subject, *labels, *labels.values())
        if not all(isinstance(text, str) and is_utf8(text) for text in texts):
            raise NotAuthorizedError("the token has malformed claims")
        if not now < expires:
            raise NotAuthorizedError("the token has expired")
        if not not_before <= now + _LEEWAY:
            raise NotAuthorizedError("the token is not valid yet: check the clocks")
        return Client(subject, labels, Wall(expires))

    def _candidates(self, token: str) -> Iterable[tuple[PublicKey, str]]:
        """Return the keys that may have signed a token: that which it names, or else all."""
        try:
            named = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError):
            return ()
        if isinstance(named, str):
            return [self._keys[named]] if named in self._keys else ()
        return self._keys.values()

    def _decode(self, token: str) -> dict[str, Any]:
        reason = "the token could not be verified"
        for key, algorithm in self._candidates(token):
            try:
                payload: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    # The times are checked against our own clock.
                    options={
                        "require": ["exp", "iss", "aud"],
                        "verify_exp": False,
                        "verify_nbf": False,
                        "verify_iat": False,
                    },
                )
                return payload
            except jwt.InvalidAudienceError:
                reason = "the token is for another audience"
            except jwt.InvalidIssuerError:
                reason = "the token is from another issuer"
            except (jwt.PyJWTError, ValueError, RecursionError):
                continue
        raise NotAuthorizedError(reason)


def _time(claim: object) -> float:
    """Return a time in a claim, in seconds since the epoch; raises ValueError."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not isfinite(claim):
        raise ValueError("expected a number")
    return float(claim)
