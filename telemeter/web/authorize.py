"""POST /authorize: a cluster's bearer token for a short-lived JWT.

See docs/protocol.md, "Authorize".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from twisted.logger import Logger
from twisted.web.iweb import IRequest

from telemeter.auth.authorization_server import Authorizer, RefusedError, UnavailableError
from telemeter.auth.token import TokenIssuer
from telemeter.loop.clocks import WallClock
from telemeter.samples.family import label_fault
from telemeter.web.credentials import bearer_token
from telemeter.web.site.admission import admit
from telemeter.web.site.answers import outcome_of, request_number
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.query import parse_fields, query_of
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

_BODY_LIMIT = 4 * 1024
_MAX_FIELDS = 100
_BUSY_SECONDS = 300
_DOWN_SECONDS = 30
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FORM = "application/x-www-form-urlencoded"

log = Logger()


class _Form(BoundedBody):
    """The body of a request, which may be a form."""

    def too_large(self, size: int) -> Refused:
        return Refused(400, f"the body may have {_BODY_LIMIT} bytes (fixed), it has {size} or more")


class Authorize:
    """The endpoint."""

    def __init__(
        self,
        authorizer: Authorizer,
        issuer: TokenIssuer,
        wall: WallClock,
        partition_label: str,
        required_labels: Mapping[str, str],
    ) -> None:
        self._authorizer = authorizer
        self._issuer = issuer
        self._wall = wall
        self._partition_label = partition_label
        self._required_labels = dict(required_labels)

    def reload(self, issuer: TokenIssuer) -> None:
        """Have tokens signed by another issuer from now on."""
        self._issuer = issuer

    def route(self) -> Route:
        return Route("/authorize", self.post, ("POST",), "authorize", self.gate)

    def gate(self, request: IRequest, length: int | None) -> _Form:
        """Take a body that is shorter than headers may be: what it says comes before the token."""
        form = _Form(_BODY_LIMIT)
        form.expect(length)
        return form

    async def post(self, request: IRequest) -> bytes:
        form = admit(request, self.gate)
        cluster = _cluster_id(request, form.take_body())
        outcome_of(request).cluster = cluster
        token = bearer_token(request)
        account = await self._account(token, cluster)
        labels = {self._partition_label: cluster, **self._required_labels}
        answer = {
            "version": 1,
            "token": self._issuer.issue(account, labels, self._wall.now()),
            "expiresInSeconds": self._issuer.lifetime,
            "labels": labels,
        }
        request.setHeader("Content-Type", "application/json")
        request.setHeader("Cache-Control", "no-store")
        return json.dumps(answer).encode()

    async def _account(self, token: str, cluster: str) -> str:
        try:
            return await self._authorizer.authorize(token, cluster)
        except RefusedError as error:
            headers = {"Retry-After": str(_BUSY_SECONDS)} if error.status == 429 else {}
            raise Refused(error.status, error.reason, headers) from None
        except UnavailableError as error:
            raise Refused(
                503,
                f"authorization is not available at present, requestid={request_number()}",
                {"Retry-After": str(_DOWN_SECONDS)},
                detail=str(error),
            ) from None


def _cluster_id(request: IRequest, body: bytes) -> str:
    """Return the parameter `id`, from the form before the query."""
    fields = []
    content_type = (request.getHeader("Content-Type") or "").partition(";")[0].strip().lower()
    if content_type == _FORM:
        fields += _parse_form(body, "the form")
    fields += _parse_form(query_of(request), "the query")
    cluster = next((value for name, value in fields if name == "id"), "")
    if not cluster:
        raise Refused(
            400, "the parameter 'id' must be given, in the URL's query or in a url-encoded form"
        )
    if fault := label_fault("id", cluster):
        raise Refused(400, f"the parameter 'id' becomes a label of every sample: {fault}")
    return cluster


def _parse_form(data: bytes, what: str) -> list[tuple[str, str]]:
    try:
        if _BAD_ESCAPE.search(data) or b";" in data:
            raise ValueError("a malformed escape or a semicolon")
        fields = data.count(b"&") + 1
        if fields > _MAX_FIELDS:
            raise ValueError(f"it may have {_MAX_FIELDS} fields (fixed), it has {fields}")
        return parse_fields(data)
    except ValueError as error:
        raise Refused(400, f"{what} cannot be parsed: {error}") from None
