"""POST /upload: metric families from an agent (docs/protocol.md, "Upload").

`telemeter.web.site` lists the way of a request through this module: its gate is asked when the
headers are complete, the `Upload` that it returns takes the body, and `post` is called when the
body is complete. The rate limit is `telemeter.limits.ratelimit.RateLimiter`, asked by the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Info
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from telemeter.auth.bearer import NotAuthorizedError
from telemeter.auth.token import Client, TokenVerifier
from telemeter.convert.engine import KIND, UploadConverter
from telemeter.convert.results import Converted
from telemeter.convert.upload import UploadRules
from telemeter.limits.inflight import Account, InFlight
from telemeter.limits.ratelimit import RateLimitedError, RateLimiter, Slot
from telemeter.limits.replicas import Replicas, SharedSlot
from telemeter.loop.clocks import WallClock, elapsed, milliseconds
from telemeter.loop.threads import CONVERTED_HERE, Runners
from telemeter.net.upstream import REQUESTS, ForwardError, Upstream
from telemeter.samples.compression import decompress_framed, max_framed_size
from telemeter.samples.errors import BadInputError, BecomesTooLargeError, TooLargeError
from telemeter.samples.format import EXPECTED, Decoder, decoder_for
from telemeter.web.credentials import bearer_token, unauthorized
from telemeter.web.site.admission import admit
from telemeter.web.site.answers import outcome_of
from telemeter.web.site.body import BoundedBody
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route

RECEIVED = Counter("telemeter_v1_received_samples_total", "Metrics that valid uploads held.")
OVERWRITTEN = Counter(
    "telemeter_overwritten_timestamps_total",
    "Timestamps of /upload, all of which are overwritten, by where they lay: within 5 minutes of "
    "now is present.",
    ["tense"],
)
FUTURE = Counter(
    "telemeter_v1_forward_overwritten_timestamps_total",
    "Timestamps of /upload that lay after now, by any amount, and were overwritten.",
)
DROPPED = Counter(
    "telemeter_elide_transform_dropped_total", "Metrics of /upload that no whitelist rule allowed."
)
DUPLICATES = Counter(
    "telemeter_v1_forward_duplicate_series_total",
    "Series of /upload left out because an earlier one of the same upload had the same labels.",
)
TRANSCODER = Info("telemeter_transcoder", "Which code converts the usual request.")
TRANSCODER.info({"kind": KIND})
_PAST, _PRESENT, _FUTURE = map(OVERWRITTEN.labels, ("past", "present", "future"))

#: Bodies of up to so many bytes, compressed, are decompressed without a thread.
_DECOMPRESSED_HERE: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class BodyFormat:
    """The format of a body.

    Attributes:
        decode: decodes it.
        is_compressed: whether it is framed snappy.
    """

    decode: Decoder
    is_compressed: bool


def body_format(content_type: str | None, encoding: str) -> BodyFormat:
    """Return the format that the headers of an upload name.

    Raises:
        Refused: 415 for a type or an encoding that we do not speak.
    """
    decode = decoder_for(content_type or "")
    if decode is None:
        raise Refused(415, f"expected Content-Type {EXPECTED}; saw {content_type or 'none'}")
    if encoding not in ("", "identity", "snappy"):
        raise Refused(415, f"expected Content-Encoding snappy (framed) or none; saw {encoding}")
    return BodyFormat(decode, encoding == "snappy")


class Upload(BoundedBody):
    """An upload whose sender is known: takes the body.

    Attributes:
        allowed: fires with None when the other replicas agree that the cluster has its slot, or
            fails with `Refused`; None instead of a Deferred: there are none to ask.
    """

    def __init__(
        self,
        client: Client,
        cluster: str,
        slot: Slot | SharedSlot,
        body_format: BodyFormat,
        limit: int,
        account: Account,
    ) -> None:
        """Make one.

        Args:
            client: the sender.
            cluster: whose samples they are.
            slot: the cluster's slot, which this takes.
            body_format: of the body.
            limit: what the decompressed body must stay under, in bytes.
            account: counts what is held of it.
        """
        self.client = client
        self.cluster = cluster
        self.slot = slot
        self.decode = body_format.decode
        self.is_compressed = body_format.is_compressed
        self._limit = limit
        super().__init__((max_framed_size(limit) if self.is_compressed else limit) - 1, account)

    def too_large(self, size: int) -> Refused:
        what = "compressed bytes" if self.is_compressed else "bytes"
        return too_large("--limit-bytes", self._limit, f"{size} {what} or more")

    def abandoned(self) -> None:
        self.slot.give_back()


def too_large(flag: str, limit: int, seen: str) -> Refused:
    """Return the refusal of a body that is over the limit of a flag."""
    return Refused(413, f"the body must be under {limit} bytes ({flag}), it has {seen}")


def _too_early(cluster: str, error: RateLimitedError) -> Refused:
    return Refused(
        429,
        f"cluster {cluster} has uploaded less than the interval of --ratelimit ago; "
        f"retry after {error.retry_after} seconds",
        {"Retry-After": str(error.retry_after)},
    )


def _too_early_elsewhere(failure: Failure, cluster: str) -> Failure:
    error = failure.value
    return Failure(_too_early(cluster, error)) if isinstance(error, RateLimitedError) else failure


class UploadEndpoint:
    """The endpoint."""

    def __init__(
        self,
        verifier: TokenVerifier,
        limiter: RateLimiter,
        rules: UploadRules,
        upstream: Upstream,
        clock: IReactorTime,
        wall: WallClock,
        run: Runners,
        *,
        partition_label: str,
        limit_bytes: int,
        in_flight: InFlight,
        replicas: Replicas | None = None,
    ) -> None:
        """Make the endpoint.

        Args:
            verifier: checks the agents' tokens.
            limiter: allows a cluster one upload per interval.
            rules: what is done with every upload.
            upstream: takes what is left.
            clock: tells who may upload now.
            wall: tells which tokens have expired, and when samples came.
            run: runs the conversion of a body.
            partition_label: the label that tells clusters apart.
            limit_bytes: the limit of a decompressed body.
            in_flight: the bytes of requests that are held.
            replicas: have their say after the limiter; None: there are none, or no limit.
        """
        self._replicas = replicas
        self._verifier = verifier
        self._rate_limiter = limiter
        self._converter = UploadConverter(rules)
        self._upstream = upstream
        self._clock = clock
        self._wall = wall
        self._run = run
        self._partition_label = partition_label
        self._limit = limit_bytes
        self._in_flight = in_flight

    def reload(self, verifier: TokenVerifier, rules: UploadRules) -> None:
        """Check tokens and convert uploads in another way from now on."""
        self._verifier = verifier
        self._converter = UploadConverter(rules)

    def route(self) -> Route:
        return Route("/upload", self.post, ("POST",), "upload", self.gate)

    def gate(self, request: IRequest, length: int | None) -> Upload:
        """Decide on an upload by its headers: whose it is, whether it may come, in which format."""
        try:
            client = self._verifier.verify(bearer_token(request), self._wall.now())
        except NotAuthorizedError as error:
            raise unauthorized(error) from None
        cluster = client.labels.get(self._partition_label, "")
        if not cluster:
            raise Refused(
                401,
                f"Not authorized: the token carries no label {self._partition_label}, "
                "which this server tells clusters apart by; ask /authorize for a new one",
            )
        outcome = outcome_of(request)
        outcome.cluster, outcome.verified, outcome.expires = cluster, True, client.expires
        try:
            slot = self._rate_limiter.take(cluster, elapsed(self._clock))
        except RateLimitedError as error:
            raise _too_early(cluster, error) from None
        encoding = (request.getHeader("Content-Encoding") or "").strip().lower()
        of_body = body_format(request.getHeader("Content-Type"), encoding)
        account = self._in_flight.account(cluster)
        upload = Upload(client, cluster, slot, of_body, self._limit, account)
        upload.expect(length)
        if self._replicas is not None:
            upload.slot = shared = SharedSlot(slot, self._replicas, cluster)
            upload.allowed = shared.allowed.addErrback(_too_early_elsewhere, cluster)
        return upload

    async def post(self, request: IRequest) -> bytes:
        """Convert and forward the upload."""
        upload = admit(request, self.gate)
        if upload.allowed is not None:
            await upload.allowed
        try:
            converted = await self._converted(upload)
        except Exception as error:
            # An upload that is at fault itself has had its slot.
            if not isinstance(error, Refused) or error.status >= 500:
                upload.slot.give_back()
            raise
        outcome = outcome_of(request)
        outcome.received, outcome.kept = converted.received, converted.series
        outcome.dropped, outcome.duplicates = converted.dropped, converted.duplicates
        outcome.examples, outcome.newest_ms = converted.dropped_examples, converted.newest_ms
        if converted.series:
            upload.keep(len(converted.payload))
            try:
                await self._forward(upload.cluster, converted)
            except Exception:
                upload.slot.give_back()
                raise
            outcome.forwarded = converted.series
        return b""

    async def _converted(self, upload: Upload) -> Converted:
        try:
            converted = await self._convert(upload)
        except BecomesTooLargeError as error:
            raise Refused(413, str(error)) from None
        except TooLargeError as error:
            raise too_large("--limit-bytes", error.limit, f"{error.seen} bytes: {error}") from None
        except BadInputError as error:
            REQUESTS.labels("telemeter_error").inc()
            raise Refused(400, str(error)) from None
        _count(converted)
        return converted

    async def _convert(self, upload: Upload) -> Converted:
        """Decompress and convert a body, in a thread unless that takes next to no time."""
        now_ms = milliseconds(self._wall.now())
        body = upload.take_body()
        if upload.is_compressed:
            if len(body) > _DECOMPRESSED_HERE:
                body = await self._run.thread(decompress_framed, body, self._limit)
            else:
                body = decompress_framed(body, self._limit)
            upload.hold(len(body))
        return await CONVERTED_HERE.convert(
            self._run, len(body), self._converter, body, upload.decode, upload.client.labels, now_ms
        )

    async def _forward(self, cluster: str, converted: Converted) -> None:
        try:
            forwarding = self._upstream.forward(cluster, converted.payload, converted.series)
            converted.payload = b""  # what waits for the upstream keeps no more than it needs
            await forwarding
        except ForwardError as error:
            headers = {"Retry-After": error.retry_after} if error.retry_after else {}
            raise Refused(error.status, str(error), headers) from None


def _count(converted: Converted) -> None:
    for counter, count in (
        (RECEIVED, converted.received),
        (DROPPED, converted.dropped),
        (DUPLICATES, converted.duplicates),
        (FUTURE, converted.overwritten_future),
        (_PAST, converted.past),
        (_PRESENT, converted.present),
        (_FUTURE, converted.future),
    ):
        if count:  # most are 0, and to add that costs as much
            counter.inc(count)
