"""POST /metrics/v1/receive: remote write from any Prometheus (docs/protocol.md, "Receive").

`telemeter.web.site.request` asks the gate when the headers of a request are complete, gives the
body to the `Write` that it returns, and has `post` called when the body is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import NO_CONTENT
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest

from telemeter.auth.authorization_server import RefusedError, UnavailableError
from telemeter.auth.composite import CompositeToken, MalformedTokenError, parse_composite
from telemeter.convert.engine import WriteConverter
from telemeter.convert.results import Written
from telemeter.convert.sieve import ForeignIdError, MissingLabelError, WriteRules
from telemeter.limits.inflight import Account, InFlight
from telemeter.loop.threads import CONVERTED_HERE, Runners
from telemeter.net.upstream import V1, V2, ForwardError, Sent, Upstream
from telemeter.samples.compression import block_size, decompress_block
from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.format import split_content_type
from telemeter.web.refusals import (
    CONTENT,
    MALFORMED,
    SIZE,
    UNAUTHORIZED,
    UNAVAILABLE,
    refusal_counter,
)
from telemeter.web.site.admission import admit
from telemeter.web.site.answers import outcome_of
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route
from telemeter.web.upload import too_large

FORWARDED: Final = Counter(
    "telemeter_forward_requests_total", "Remote-write requests forwarded, by result.", ["result"]
)
SIZE_LIMITED: Final = Counter(
    "telemeter_receive_size_limited_total", "Remote-write requests refused because of their size."
)
MISSING_LABELS: Final = Counter(
    "telemeter_receive_request_missing_labels_total",
    "Remote-write requests refused because a series lacked the partition label.",
)
FOREIGN_IDS: Final = Counter(
    "telemeter_receive_request_incorrect_label_values_total",
    "Remote-write requests refused because a series carried another cluster's identifier.",
)
REFUSED: Final = refusal_counter(
    "telemeter_receive_requests_refused_total",
    "Remote-write requests refused, by reason.",
    (
        "token",
        UNAUTHORIZED,
        UNAVAILABLE,
        CONTENT,
        SIZE,
        MALFORMED,
        "missing_label",
        "foreign_id",
        "nothing_left",
    ),
)
SERIES: Final = Counter(
    "telemeter_receive_series_processed_total", "Series of remote-write requests let pass."
)
DROPPED: Final = Counter(
    "telemeter_receive_series_dropped_total",
    "Series of remote-write requests that no whitelist rule allowed.",
)
DUPLICATES: Final = Counter(
    "telemeter_receive_duplicate_series_total",
    "Series of remote-write requests left out because another had become identical.",
)
METADATA: Final = Counter(
    "telemeter_receive_metadata_requests_total",
    "Remote-write requests with metadata only, which are accepted and discarded.",
)
_SUCCEEDED, _FAILED = map(FORWARDED.labels, ("success", "error"))

_V2_MESSAGE = "io.prometheus.write.v2.Request"
_V1_MESSAGE = "prometheus.WriteRequest"
_WRITTEN: Final = tuple(
    f"X-Prometheus-Remote-Write-{kind}-Written" for kind in ("Samples", "Histograms", "Exemplars")
)
#: More than an upstream ever counts.
_MOST_DIGITS = 18
_BUSY_SECONDS = 60
_DOWN_SECONDS = 30
#: snappy stores at best 64 bytes in 3: a block that declares more than this is lying.
_MOST_COMPRESSION = 32

#: Asks whether a token is good; fails with `RefusedError` or `UnavailableError`.
TokenCheck = Callable[[bytes], Deferred[None]]


def _refused(reason: str, refused: Refused) -> Refused:
    REFUSED.labels(reason).inc()
    return refused


class Write(BoundedBody):
    """A remote-write request: takes the body, once its token has turned out to be good."""

    def __init__(self, token: CompositeToken, version: int, limit: int, account: Account) -> None:
        super().__init__(limit - 1, account)
        self.token = token
        self.version = version
        self.allowed: Deferred[None]
        self._limit = limit

    def abandoned(self) -> None:
        self.allowed.addErrback(lambda _: None)
        self.allowed.cancel()

    def too_large(self, size: int) -> Refused:
        SIZE_LIMITED.inc()
        return _refused(
            SIZE, too_large("--limit-receive-bytes", self._limit, f"{size} compressed or more")
        )


@dataclass(frozen=True, slots=True)
class ReceiveSettings:
    """The settings of the endpoint.

    Attributes:
        rules: for every request; the cluster is filled in from its token.
        limit_bytes: the limit of a compressed body.
        tenant_key: the field of the token that names the tenant in logs.
        foreign_ids: whether a sender may write for other clusters than its own.
        keep_version: whether 2.0 requests are forwarded as such, rather than as 1.0.
    """

    rules: WriteRules
    limit_bytes: int
    tenant_key: str = ""
    foreign_ids: bool = False
    keep_version: bool = False


class ReceiveEndpoint:
    """The endpoint."""

    def __init__(
        self,
        settings: ReceiveSettings,
        check: TokenCheck,
        upstream: Upstream,
        run: Runners,
        in_flight: InFlight,
    ) -> None:
        """Make the endpoint.

        Args:
            settings: how it is configured.
            check: asks whether a token is good.
            upstream: takes what is left.
            run: sifts a body where it does not keep the reactor from its work.
            in_flight: the bytes of requests that are held.
        """
        self._in_flight = in_flight
        self.reload(settings)
        self._check = check
        self._upstream = upstream
        self._run = run

    def reload(self, settings: ReceiveSettings) -> None:
        """Work with other settings from now on."""
        self._settings = settings
        self._converter = WriteConverter(settings.rules, keep_version=settings.keep_version)

    def route(self) -> Route:
        return Route("/metrics/v1/receive", self.post, ("POST",), "receive", self.gate)

    def gate(self, request: IRequest, length: int | None) -> Write:
        """Read the token, and ask about it; until the answer is there, no body is read."""
        try:
            token = parse_composite(request.getHeader("Authorization"), self._settings.tenant_key)
        except MalformedTokenError as error:
            raise _refused("token", Refused(400, str(error))) from None
        outcome = outcome_of(request)
        outcome.cluster, outcome.tenant = token.cluster, token.tenant
        account = self._in_flight.account(token.question)
        write = Write(token, _version_of(request), self._settings.limit_bytes, account)
        if write.version == 2:
            _tell_written(request, dict.fromkeys(_WRITTEN, 0))
        write.expect(length)
        write.allowed = self._check(token.question).addErrback(_not_allowed)
        return write

    async def post(self, request: IRequest) -> bytes:
        write = admit(request, self.gate)
        await write.allowed
        outcome = outcome_of(request)
        outcome.verified = True
        written = await self._sifted(write)
        outcome.received, outcome.kept = written.received, written.series
        outcome.dropped, outcome.duplicates = written.dropped, written.duplicates
        outcome.examples = written.dropped_examples
        SERIES.inc(written.series)
        if written.dropped:  # to add nothing costs as much
            DROPPED.inc(written.dropped)
        if written.duplicates:
            DUPLICATES.inc(written.duplicates)
        if written.only_metadata:
            METADATA.inc()
        if written.is_empty or (written.only_metadata and write.version == 2):
            request.setResponseCode(NO_CONTENT)
            return b""
        if written.only_metadata:
            request.setHeader("Content-Type", "application/json")
            return json.dumps({"message": "metadata is accepted and discarded"}).encode()
        if not written.series:
            raise _refused("nothing_left", Refused(400, _nothing_left(write, written)))
        sent = await self._forward(write, written)
        outcome.forwarded = written.series
        if write.version == 2:
            _tell_written(request, self._accepted(written, sent))
        # 2.0 asks for 204 of a receiver; a sender of 1.0 is told what the upstream said.
        request.setResponseCode(NO_CONTENT if write.version == 2 else sent.status)
        return b""

    async def _sifted(self, write: Write) -> Written:
        try:
            return await self._sift(write)
        except MissingLabelError as error:
            MISSING_LABELS.inc()
            raise _refused("missing_label", Refused(400, str(error))) from None
        except ForeignIdError as error:
            FOREIGN_IDS.inc()
            raise _refused("foreign_id", Refused(400, str(error))) from None
        except TooLargeError as error:
            SIZE_LIMITED.inc()
            raise _refused(SIZE, Refused(413, str(error))) from None
        except BadInputError as error:
            raise _refused(MALFORMED, Refused(400, str(error))) from None

    async def _sift(self, write: Write) -> Written:
        """Decompress and sift, in a thread unless that takes next to no time."""
        converter, limit = self._converter, self._settings.limit_bytes
        cluster = None if self._settings.foreign_ids else write.token.cluster
        body = write.take_body()
        size = block_size(body)
        write.hold(min(size, _MOST_COMPRESSION * len(body)))  # what says more is refused below
        if size > CONVERTED_HERE.compiled:
            large: Written = await self._run.thread(
                sift, body, write.version, cluster, converter, limit
            )
            return large
        plain = _decompressed(body, limit)
        return await CONVERTED_HERE.convert(
            self._run, len(plain), converter, plain, write.version, cluster
        )

    async def _forward(self, write: Write, written: Written) -> Sent:
        keep = write.version == 2 and self._settings.keep_version
        write.keep(len(written.payload))
        try:
            sending = self._upstream.send(write.token.cluster, written.payload, V2 if keep else V1)
            written.payload = b""  # what waits for the upstream keeps no more than it needs
            sent = await sending
        except ForwardError as error:
            _FAILED.inc()
            headers = {"Retry-After": error.retry_after} if error.retry_after else {}
            if keep:
                headers |= _written_by(error.headers)
            raise Refused(error.status, str(error), headers) from None
        _SUCCEEDED.inc()
        return sent

    def _accepted(self, written: Written, sent: Sent) -> Mapping[str, object]:
        """Return what a 2.0 sender is told was written."""
        if self._settings.keep_version:
            return _written_by(sent.headers)
        exemplars = written.exemplars if sent.keeps_exemplars else 0
        counts = (written.samples, written.histograms, exemplars)
        return dict(zip(_WRITTEN, counts, strict=True))


def _version_of(request: IRequest) -> int:
    """Return the version of the protocol, by the headers.

    Raises:
        Refused: 415, they name something that we do not speak.
    """
    content_type = request.getHeader("Content-Type") or "application/x-protobuf"
    media_type, parameters = split_content_type(content_type)
    message = parameters.get("proto", _V1_MESSAGE)
    if media_type != "application/x-protobuf" or message not in (_V1_MESSAGE, _V2_MESSAGE):
        raise _refused(
            CONTENT,
            Refused(
                415,
                f"expected Content-Type application/x-protobuf, alone or with proto={_V1_MESSAGE} "
                f"or proto={_V2_MESSAGE}; saw {content_type}",
            ),
        )
    encoding = (request.getHeader("Content-Encoding") or "snappy").strip().lower()
    if encoding != "snappy":
        raise _refused(CONTENT, Refused(415, f"expected Content-Encoding snappy; saw {encoding}"))
    return 2 if message == _V2_MESSAGE else 1


def _nothing_left(write: Write, written: Written) -> str:
    if written.received:
        return "nothing is left to forward: no series, or none is whitelisted"
    message = _V2_MESSAGE if write.version == 2 else _V1_MESSAGE
    return (
        f"nothing is left to forward: no series. Expected a {message}, as the Content-Type says; "
        "saw fields that it does not have"
    )


def _not_allowed(failure: Failure) -> Failure:
    """Return what a sender is told whose token the authorization server did not accept.

    A Prometheus drops its samples on most 4xx statuses and keeps them on 429 and 5xx, so a server
    that is only busy or down must not become a 401.
    """
    error = failure.value
    if isinstance(error, RefusedError) and error.status == 429:
        busy = {"Retry-After": str(_BUSY_SECONDS)}
        return Failure(_refused(UNAVAILABLE, Refused(429, error.reason, busy)))
    if isinstance(error, RefusedError):
        refused = Refused(401, f"the token was refused: {error.reason}")
        return Failure(_refused(UNAUTHORIZED, refused))
    if isinstance(error, UnavailableError):
        refused = Refused(
            503,
            "the authorization server gives no answer at present",
            {"Retry-After": str(_DOWN_SECONDS)},
            detail=str(error),
        )
        return Failure(_refused(UNAVAILABLE, refused))
    return failure


def sift(
    body: bytes, version: int, cluster: str | None, converter: WriteConverter, limit: int
) -> Written:
    """Decompress and sift, which needs nothing but the processor.

    Raises:
        BadInputError: the request is refused.
    """
    plain = _decompressed(body, limit)
    return converter.convert(plain, version, cluster)


def _decompressed(body: bytes, limit: int) -> bytes:
    try:
        return decompress_block(body, _MOST_COMPRESSION * len(body))
    except TooLargeError as error:
        most = _MOST_COMPRESSION * limit
        if error.seen > most:
            raise TooLargeError(
                f"{error}: it says that it has {error.seen} bytes, {most} are the most "
                f"({_MOST_COMPRESSION} times --limit-receive-bytes)",
                limit=most,
                seen=error.seen,
            ) from None
        raise BadInputError(
            f"the body is not a valid snappy block: {len(body)} bytes cannot hold {error.seen}"
        ) from None


def _written_by(headers: Headers) -> dict[str, str]:
    """Return what an upstream says it has written of a 2.0 request: 0 of what it does not name."""
    said = {name: headers.getRawHeaders(name.encode(), [b""])[0] for name in _WRITTEN}
    return {
        name: count.decode() if count.isdigit() and len(count) <= _MOST_DIGITS else "0"
        for name, count in said.items()
    }


def _tell_written(request: IRequest, counts: Mapping[str, object]) -> None:
    for name, count in counts.items():
        request.setHeader(name, str(count))
