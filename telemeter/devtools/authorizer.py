"""The stub authorization server, which accepts the tokens that it was given.

See docs/protocol.md, "Authorization server".
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from twisted.web.iweb import IRequest

from telemeter.auth.fnv import fnv1a_base32
from telemeter.samples.family import is_utf8
from telemeter.web.site.admission import admit
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

_BODY_LIMIT = 32 * 1024
_MAX_SEEN = 100_000
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


class _Question(BoundedBody):
    """The body of a question."""

    def too_large(self, size: int) -> Refused:
        return Refused(
            413, f"a question may have {_BODY_LIMIT} bytes (fixed), this has {size} or more"
        )


class StubAuthorizer:
    """A stub that knows tokens, and remembers which clusters it has seen."""

    def __init__(self, tokens: Collection[str]) -> None:
        self._tokens = frozenset(tokens)
        self._seen: set[tuple[str, str]] = set()

    def route(self) -> Route:
        """Return the one route: it answers alike at every path, as the original Telemeter (Go)."""
        return Route("/", self.answer, _METHODS, gate=self.gate, branch=True)

    def gate(self, request: IRequest, length: int | None) -> _Question:
        return _Question(_BODY_LIMIT)

    def answer(self, request: IRequest) -> bytes:
        status, answer = self._judge(request)
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        return json.dumps(answer, indent=2).encode()

    def _judge(self, request: IRequest) -> tuple[int, dict[str, str]]:
        question = admit(request, self.gate)
        if request.method != b"POST":
            return 405, _error("MethodNotAllowed", "Only requests of type 'POST' are accepted.")
        if request.getHeader("Content-Type") != "application/json":
            return 400, _error(
                "InvalidContentType",
                "Only requests with Content-Type application/json are accepted.",
            )
        try:
            asked: Any = json.loads(question.take_body())
            if not isinstance(asked, dict):
                raise ValueError("expected an object")
            cluster, token = asked.get("cluster_id", ""), asked.get("authorization_token", "")
            if not all(isinstance(text, str) and is_utf8(text) for text in (cluster, token)):
                raise ValueError("cluster_id and authorization_token must be strings")
        except (ValueError, RecursionError) as error:
            return 400, _error("InvalidBody", f"Unable to parse body as JSON: {error}")
        if not cluster:
            return 400, _error("BadRequest", "No cluster ID provided.")
        if token not in self._tokens:
            return 401, _error("NotAuthorized", "The provided token is not recognized.")
        status = 200 if (token, cluster) in self._seen else 201
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add((token, cluster))
        return status, {
            "cluster_id": cluster,
            "authorization_token": token,
            "account_id": fnv1a_base32(cluster),
        }


def _error(name: str, reason: str) -> dict[str, str]:
    return {"name": name, "reason": reason}
