"""Collecting: GET /federate from the local Prometheus."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.net.body import AnswerTooLongError
from telemeter.net.errors import explain
from telemeter.net.exchange import Answer, exchange
from telemeter.net.redirect import RedirectError
from telemeter.net.url import split_credentials
from telemeter.samples.exposition import parse_text
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, TEXT_CONTENT_TYPE
from telemeter.samples.format import EXPECTED, Decoder, decoder_for

HTTP_REQUESTS: Final = Counter(
    "metricsclient_http_requests_total",
    "Requests to the source (federate_from) and the server (federate_to), by status.",
    ["client", "status_code"],
)
RETRIEVED = Gauge(
    "metricsclient_request_retrieve",
    "Collections, by status; metricsclient_http_requests_total says the same.",
    ["client", "status_code"],
)

_CLIENT = "federate_from"
_SHOWN = 100
_ACCEPT = f"{PROTOBUF_CONTENT_TYPE};q=1, {TEXT_CONTENT_TYPE};q=0.5"
_REASONS = {
    400: "it refused the request; check --match and --match-file",
    401: "it requires authentication; check --from-token or --from-token-file",
    403: "it forbids access; check the rights of --from-token or --from-token-file",
}


class CollectError(Exception):
    """The source gave no metrics; the message says why."""


class FederationSource:
    """The Prometheus server that metrics are collected from."""

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        url: str,
        *,
        token: str,
        limit: int,
        timeout: float,
    ) -> None:
        """Make a source.

        Args:
            agent: makes the requests.
            clock: times them.
            url: of the federation endpoint, with the selectors to ask for in its query.
            token: a bearer token, or nothing.
            limit: how many bytes an answer may have.
            timeout: how many seconds an answer may take.
        """
        self._agent = agent
        self._clock = clock
        self._url, credentials = split_credentials(url)
        self._headers = Headers({"Accept": [_ACCEPT]})
        if token:
            credentials = f"Bearer {token}"
        if credentials:
            self._headers.setRawHeaders("Authorization", [credentials])
        self._limit = limit
        self._timeout = timeout

    async def collect(self) -> tuple[bytes, Decoder]:
        """Collect once.

        Returns:
            The body of the answer, and what decodes it.

        Raises:
            CollectError: nothing usable came.
        """
        try:
            answer = await exchange(
                self._agent,
                self._clock,
                "GET",
                self._url,
                self._headers,
                timeout=self._timeout,
                limit=self._limit,
            )
            _count(answer.status)
            _check_complete(answer)
            body = answer.body
        except CollectError:
            raise
        except RedirectError as error:
            _count(error.status)
            raise CollectError(f"the source answered with {error}") from None
        except AnswerTooLongError as error:
            raise CollectError(
                f"{error} (--limit-bytes): narrow --match, or raise the limit"
            ) from None
        except Exception as error:
            raise CollectError(explain(error)) from error
        content_type = answer.header(b"Content-Type")
        decode = decoder_for(content_type)
        if decode is None:
            shown = content_type[:_SHOWN] or "none"
            raise CollectError(f"expected Content-Type {EXPECTED}; saw {shown}")
        if answer.is_open_ended and decode is parse_text and body and not body.endswith(b"\n"):
            # A proxy that speaks HTTP/1.0 may hand on the end of a connection that was lost.
            raise CollectError("the body is cut off: there is no end of its last line")
        return body, decode


def _count(status: int) -> None:
    HTTP_REQUESTS.labels(_CLIENT, str(status)).inc()
    RETRIEVED.labels(_CLIENT, str(status)).inc()


def _check_complete(answer: Answer) -> None:
    """Check that an answer says that it holds what was asked for; raises `CollectError`."""
    status = answer.status
    if status != 200:
        reason = _REASONS.get(status, "expected status 200")
        raise CollectError(f"the source answered with status {status}: {reason}")
    if answer.headers.hasHeader(b"Content-Range"):
        raise CollectError("the source answered with a part (Content-Range), and was asked for all")
