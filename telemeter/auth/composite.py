"""The bearer token of remote-write senders: base64 of JSON that names a cluster and its token."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from telemeter.auth.bearer import NotAuthorizedError, parse_bearer
from telemeter.samples.family import is_utf8

_EXPECTED = 'base64 of {"authorization_token": "...", "cluster_id": "..."}'
_MAX_TOKEN = 16 * 1024


class MalformedTokenError(ValueError):
    """The token cannot be read; the message says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class CompositeToken:
    """The identity that a remote-write sender claims.

    Attributes:
        question: the decoded JSON, which is what the authorization server is asked.
        cluster: the cluster's identifier.
        tenant: the field that `--tenant-key` names, for logs.
    """

    question: bytes
    cluster: str
    tenant: str


def parse_composite(header: str | None, tenant_key: str = "") -> CompositeToken:
    """Read an `Authorization` header.

    The base64 may be the standard or the URL-safe kind, with or without padding.

    Raises:
        MalformedTokenError: it does not hold such a token.
    """
    try:
        encoded = parse_bearer(header)
    except NotAuthorizedError as error:
        raise MalformedTokenError(str(error)) from None
    if len(encoded) > _MAX_TOKEN:
        raise MalformedTokenError(
            f"the token is longer than {_MAX_TOKEN} characters (fixed): it has {len(encoded)}"
        )
    try:
        plain = encoded.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
        question = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedTokenError(f"the token is not base64; expected {_EXPECTED}") from None
    fields = _parse_fields(question)
    cluster, secret = fields.get("cluster_id"), fields.get("authorization_token")
    if not _is_text(cluster) or not _is_text(secret):
        raise MalformedTokenError(
            "the token's JSON must have the texts authorization_token and cluster_id; "
            f"expected {_EXPECTED}"
        )
    tenant = fields.get(tenant_key, "") if tenant_key else ""
    return CompositeToken(question, cluster, tenant if isinstance(tenant, str) else "")


def _is_text(value: object) -> TypeGuard[str]:
    """Tell whether this can be a label's value; others read half a surrogate pair otherwise."""
    return isinstance(value, str) and bool(value) and is_utf8(value)


def _parse_fields(question: bytes) -> dict[str, Any]:
    try:
        # From bytes json would guess UTF-16 and UTF-32, too, which other readers do not take.
        fields = _DECODER.decode(question.decode())
    except MalformedTokenError:
        raise
    except (ValueError, RecursionError):
        if re.match(rb"\s*\{\s*'", question):
            raise MalformedTokenError(
                "the token holds single quotes where JSON has double quotes, as an old version of "
                f"the documentation showed; expected {_EXPECTED}"
            ) from None
        raise MalformedTokenError(f"the token holds no JSON; expected {_EXPECTED}") from None
    if not isinstance(fields, dict):
        raise MalformedTokenError(f"the token holds no JSON object; expected {_EXPECTED}")
    return fields


def _told_apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object in which nobody can find another cluster_id than we do.

    The authorization server gets the JSON as it is. Of names that are equal, or equal but for their
    case, other readers of JSON may take another than Python does.
    """
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        raise MalformedTokenError(f"the token's JSON has a name twice; expected {_EXPECTED}")
    return dict(pairs)


#: Made once: `json.loads` with a hook makes one for each token.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_told_apart)


def make_composite(cluster: str, authorization_token: str) -> str:
    """Return the token for a cluster."""
    fields = {"authorization_token": authorization_token, "cluster_id": cluster}
    return base64.b64encode(json.dumps(fields).encode()).decode("ascii")
