"""Uploading: POST /upload to the server."""

from __future__ import annotations

from prometheus_client import Gauge
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.agent.authorize import Token
from telemeter.agent.collect import HTTP_REQUESTS
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


class Destination:
    """The telemeter-server that metrics are uploaded to."""

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        wall: WallClock,
        url: str,
        timeout: float,
    ) -> None:
        """Make a destination.

        Args:
            agent: makes the requests.
            clock: times them.
            wall: tells the time of day, for a Retry-After with a date.
            url: of the upload endpoint.
            timeout: how many seconds an answer may take.
        """
        self._agent = agent
        self._clock = clock
        self._wall = wall
        self._url = to_request(url)
        self._timeout = timeout

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


def _count(status: int) -> None:
    HTTP_REQUESTS.labels(_CLIENT, str(status)).inc()
    SENT.labels(_CLIENT, str(status)).inc()
