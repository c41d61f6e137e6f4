"""Sending metrics to the server: POST /upload, and POST /metrics/v1/receive for the spool."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import Gauge
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.agent.authorize import Token, TokenExchange
from telemeter.agent.collect import HTTP_REQUESTS
from telemeter.auth.composite import make_composite
from telemeter.loop.clocks import WallClock
from telemeter.net.errors import explain
from telemeter.net.exchange import exchange
from telemeter.net.quoted import quote_answer
from telemeter.net.redirect import RedirectError
from telemeter.net.retry_after import retry_after_seconds
from telemeter.net.url import to_request
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE

SENT = Gauge(
    "metricsclient_request_send",
    "Uploads, by status; metricsclient_http_requests_total says the same.",
    ["client", "status_code"],
)

_CLIENT = "federate_to"
_ANSWER_LIMIT = 1024


class UploadError(Exception):
    """The server did not take the upload; the message says why.

    Attributes:
        status: the server's status; 0 if it gave none.
        retry_after: when to try again, in seconds from now, if the server said so.
    """

    def __init__(self, reason: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class _Endpoint:
    """An endpoint of the telemeter-server that takes metrics."""

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        wall: WallClock,
        url: str,
        timeout: float,
    ) -> None:
        """Make it.

        Args:
            agent: makes the requests.
            clock: times them.
            wall: tells the time of day, for a Retry-After with a date.
            url: of the endpoint.
            timeout: how many seconds an answer may take.
        """
        self._agent = agent
        self._clock = clock
        self._wall = wall
        self._url = to_request(url)
        self._timeout = timeout

    async def _post(self, headers: Headers, body: bytes) -> None:
        """Send a body; raises `UploadError`."""
        try:
            answer = await exchange(
                self._agent,
                self._clock,
                "POST",
                self._url,
                headers,
                body,
                timeout=self._timeout,
                limit=_ANSWER_LIMIT,
            )
        except RedirectError as error:
            _count(error.status)
            raise UploadError(f"the server answered with {error}", error.status) from None
        except CancelledError:
            raise
        except Exception as error:
            raise UploadError(explain(error)) from error
        # The status is the answer: there is nothing in the body that could be missed.
        status = answer.status
        _count(status)
        if not 200 <= status < 300:
            said = quote_answer(answer.response, answer.start)
            raise UploadError(
                f"the server answered with status {status}: {said}",
                status,
                retry_after_seconds(answer.headers, self._wall.now()),
            )


class Destination(_Endpoint):
    """The server's /upload, which gives samples its own time."""

    async def upload(self, body: bytes, token: Token) -> None:
        """Upload delimited families, compressed to framed snappy.

        Raises:
            UploadError: the server did not take them.
        """
        headers = Headers(
            {
                "Authorization": [f"Bearer {token.value}"],
                "Content-Type": [PROTOBUF_CONTENT_TYPE],
                "Content-Encoding": ["snappy"],
            }
        )
        await self._post(headers, body)


class Receiver(_Endpoint):
    """The server's /metrics/v1/receive, where samples keep their own time.

    Attributes:
        cluster: the identifier of the cluster that is written for.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        wall: WallClock,
        url: str,
        timeout: float,
        *,
        cluster: str,
        token: str,
    ) -> None:
        """Make it.

        Args:
            agent: makes the requests.
            clock: times them.
            wall: tells the time of day, for a Retry-After with a date.
            url: of the endpoint.
            timeout: how many seconds an answer may take.
            cluster: the cluster's identifier.
            token: the bearer token that authorizes it.
        """
        super().__init__(agent, clock, wall, url, timeout)
        self.cluster = cluster
        self._headers = Headers(
            {
                "Authorization": [f"Bearer {make_composite(cluster, token)}"],
                "Content-Type": ["application/x-protobuf"],
                "Content-Encoding": ["snappy"],
                "X-Prometheus-Remote-Write-Version": ["0.1.0"],
            }
        )

    async def write(self, block: bytes) -> None:
        """Send a `WriteRequest`, compressed to a block of snappy.

        Raises:
            UploadError: the server did not take it.
        """
        await self._post(self._headers.copy(), block)


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """All that a delivery needs; a reload replaces it as a whole.

    Attributes:
        tokens: knows the labels that the server wants.
        receiver: where to deliver.
        rate: requests per second while there is a backlog.
        newest_first: whether the newest collection goes first, rather than the oldest.
    """

    tokens: TokenExchange
    receiver: Receiver
    rate: float
    newest_first: bool


def _count(status: int) -> None:
    HTTP_REQUESTS.labels(_CLIENT, str(status)).inc()
    SENT.labels(_CLIENT, str(status)).inc()
