"""Remote write to the upstream: docs/protocol.md, "Forwarding".

Protocol: https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from prometheus_client import Histogram
from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from telemeter.auth.oidc import TokenUnavailableError
from telemeter.loop.threads import Runner, run_here, run_if_large
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.coding import ACCEPTED
from telemeter.net.errors import explain, was_not_sent
from telemeter.net.exchange import MOST_CONNECTIONS, CrowdedError, LateError, exchange
from telemeter.net.quoted import quote_answer
from telemeter.net.redirect import RedirectError
from telemeter.net.retry_after import retry_after
from telemeter.net.upstream import REQUESTS, SAMPLES, V1, V2, ForwardError, Sent, Version
from telemeter.net.url import split_credentials
from telemeter.samples.compression import compress_block
from telemeter.upstream.batch import ALONE, Batches, BatchLimits
from telemeter.upstream.breaker import Breaker

DURATION = Histogram(
    "telemeter_v1_forward_request_duration_seconds",
    "How long the upstream took to answer, by its status.",
    ["status_code"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_SUCCEEDED, _FAILED = map(REQUESTS.labels, ("success", "error"))

#: The statuses with which gateways speak of servers behind them.
_GATEWAY_STATUSES: Final = frozenset((502, 503, 504))
_DOWN_SECONDS = 30
_ANSWER_LIMIT = 4096
#: Up to so many bytes are compressed without a thread, which would cost more.
_COMPRESSED_HERE = 4 << 20

log = Logger()


class Forwarder:
    """A sender of remote-write requests over pooled connections, for one tenant and identity.

    Requests of version 1.0 go out in batches when they come fast; those of 2.0, whose symbols are
    numbered, cannot be joined.

    Attributes:
        breaker: knows whether the upstream is down.
    """

    def __init__(
        self,
        agent: IAgent,
        clock: IReactorTime,
        url: str,
        tenant: str,
        limits: BatchLimits = ALONE,
        run: Runner = run_here,
        timeout: float = TIMEOUTS.forward,
        connections: int = MOST_CONNECTIONS,
    ) -> None:
        """Make a forwarder.

        Args:
            agent: makes the requests.
            clock: tells the time.
            url: of the upstream, perhaps with a user and a password.
            tenant: whom to forward as.
            limits: how large a batch may become.
            run: compresses a large request where that does not keep the reactor from its work.
            timeout: how many seconds the upstream may take for a request.
            connections: how many requests may be under way at a time.
        """
        self._timeout = timeout
        self._places = DeferredSemaphore(connections)
        self.breaker = Breaker(clock)
        self._agent = agent
        self._clock = clock
        self._run = run
        self._batches = Batches(self._post, clock, limits) if limits.requests > 1 else None
        self._url, credentials = split_credentials(url)
        self._headers = {
            version: _make_headers(version, tenant, credentials) for version in (V1, V2)
        }

    async def forward(self, cluster: str, payload: bytes, samples: int) -> None:
        """Send what is left of an upload; see `Upstream`."""
        began = self._clock.seconds()
        try:
            self.breaker.check()
            block = await self._compressed(payload)
            del payload  # an upload may wait a while, and its compressed form is all it needs
            sent = await self._send(block)
        except ForwardError as error:
            _FAILED.inc()
            if error.answered:
                _duration(error.status).observe(self._clock.seconds() - began)
            raise
        _duration(sent.status).observe(self._clock.seconds() - began)
        _SUCCEEDED.inc()
        SAMPLES.inc(samples)

    async def send(self, cluster: str, payload: bytes, version: Version = V1) -> Sent:
        """Send a remote-write request; see `Upstream`."""
        self.breaker.check()
        block = await self._compressed(payload)
        del payload
        return await (self._send(block) if version == V1 else self._post(block, version))

    def show(self) -> None:
        """Show in the metrics what waits for the upstream."""
        if self._batches is not None:
            self._batches.show()

    async def _compressed(self, payload: bytes) -> bytes:
        compress = run_if_large(self._run, len(payload), _COMPRESSED_HERE)
        return await compress(compress_block, payload)

    async def _send(self, block: bytes) -> Sent:
        if self._batches is None:
            return await self._post(block)
        return await self._batches.add(block)

    async def _post(self, block: bytes, version: Version = V1) -> Sent:
        self.breaker.admit()
        try:
            answer = await exchange(
                self._agent,
                self._clock,
                "POST",
                self._url,
                self._headers[version],
                block,
                timeout=self._timeout,
                limit=_ANSWER_LIMIT,
                may_repeat=True,
                places=self._places,
            )
        except CancelledError:
            raise  # nobody waits for the answer any more
        except CrowdedError as error:
            log.warn("no request to the upstream could be made in time", reason=str(error))
            reason = f"{error} (--peer-connections)"
            raise ForwardError(503, f"the upstream: {reason}", str(_DOWN_SECONDS)) from error
        except TokenUnavailableError as error:
            log.warn("no access token for the upstream", reason=str(error))
            raise ForwardError(
                502, "there is no access token for the upstream at present", str(_DOWN_SECONDS)
            ) from error
        except RedirectError as error:
            log.warn("the upstream sends elsewhere", reason=str(error))
            raise _unexpected(error.status) from error
        except Exception as error:
            reason = explain(error)
            log.warn("the upstream did not answer", reason=reason)
            if isinstance(error, LateError) or was_not_sent(error):
                self.breaker.failed(reason)
            raise ForwardError(502, "the upstream did not answer") from error
        # The status is the answer: what the upstream says in the body is for people.
        status = answer.status
        if status in _GATEWAY_STATUSES:
            self.breaker.failed(f"it answered with status {status}")
        else:
            self.breaker.succeeded()
        if 200 <= status < 300:
            return Sent(status, answer.headers)
        log.warn(
            "the upstream refused",
            status=status,
            answer=quote_answer(answer.response, answer.start),
        )
        if not 400 <= status < 600:
            raise _unexpected(status, retry_after(answer.headers))
        raise ForwardError(
            status,
            f"the upstream refused the samples with status {status}",
            retry_after(answer.headers),
            answered=True,
            headers=answer.headers,
        )


@lru_cache(1024)
def _duration(status: int) -> Histogram:
    """Return what measures the answers with a status; to look it up takes its time."""
    return DURATION.labels(str(status))


def _unexpected(status: int, retry_after: str | None = None) -> ForwardError:
    """Return the failure of an upstream whose status is none that a sender can be given."""
    reason = f"the upstream answered with the unexpected status {status}"
    return ForwardError(502, reason, retry_after)


def _make_headers(version: Version, tenant: str, credentials: str | None) -> Headers:
    content_type, number = version
    headers = Headers(
        {
            "Content-Type": [content_type],
            "Content-Encoding": ["snappy"],
            "Accept-Encoding": [ACCEPTED],
            "X-Prometheus-Remote-Write-Version": [number],
            "THANOS-TENANT": [tenant],
        }
    )
    if credentials:
        headers.setRawHeaders("Authorization", [credentials])
    return headers
