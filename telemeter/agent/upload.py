"""Uploading: POST /upload to the server."""

from __future__ import annotations

from prometheus_client import Gauge
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.agent.federate import HTTP_REQUESTS
from telemeter.agent.token import Token, retry_after_seconds
from telemeter.metrics.family import PROTOBUF_CONTENT_TYPE
from telemeter.net.body import BytesBody, read_body
from telemeter.net.errors import explain
from telemeter.net.quoted import quote_answer
from telemeter.net.url import split_credentials

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

    def __init__(self, agent: IAgent, clock: IReactorTime, url: str, timeout: float) -> None:
        """Make a destination.

        Args:
            agent: makes the requests.
            clock: times them.
            url: of the upload endpoint.
            timeout: how many seconds an answer may take.
        """
        self._client = HTTPClient(agent)
        self._clock = clock
        self._url, _ = split_credentials(url)
        self._timeout = timeout

    async def upload(self, body: bytes, token: Token) -> None:
        """Upload delimited families, compressed to framed snappy.

        Raises:
            UploadError: the server did not take them.
        """
        exchange = Deferred.fromCoroutine(self._exchange(body, token))
        try:
            await exchange.addTimeout(self._timeout, self._clock)
        except UploadError:
            raise
        except Exception as error:
            raise UploadError(explain(error)) from error

    async def _exchange(self, body: bytes, token: Token) -> None:
        response = await self._client.post(
            self._url,
            data=BytesBody(body),
            headers=Headers(
                {
                    "Authorization": [f"Bearer {token.value}"],
                    "Content-Type": [PROTOBUF_CONTENT_TYPE],
                    "Content-Encoding": ["snappy"],
                }
            ),
            allow_redirects=False,
            unbuffered=True,
        )
        status = response.code
        HTTP_REQUESTS.labels(_CLIENT, str(status)).inc()
        SENT.labels(_CLIENT, str(status)).inc()
        answer = await read_body(response, _ANSWER_LIMIT, truncate=True)
        if not 200 <= status < 300:
            raise UploadError(
                f"the server answered with status {status}: {quote_answer(response, answer)}",
                status,
                retry_after_seconds(response.headers),
            )
