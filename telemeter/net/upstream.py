"""The interface of an upstream, which takes the samples that a sender was allowed to deliver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from prometheus_client import Counter
from twisted.web.http_headers import Headers

#: Counted by every upstream, and by the endpoint that converts for it.
SAMPLES = Counter(
    "telemeter_v1_forward_samples_total", "Samples of /upload that the upstream accepted."
)
REQUESTS = Counter(
    "telemeter_v1_forward_requests_total",
    "Uploads by what became of them: success and error say what the upstream answered, "
    "telemeter_error that the upload could not be converted.",
    ["result"],
)
for _result in ("success", "error", "telemeter_error"):
    REQUESTS.labels(_result)

#: The Content-Type and the version header of a version of remote write.
Version: TypeAlias = tuple[str, str]
V1: Final[Version] = ("application/x-protobuf", "0.1.0")
V2: Final[Version] = ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0")


@dataclass(frozen=True, slots=True)
class Sent:
    """The upstream's answer to a request that it accepted.

    Attributes:
        status: 200 to 299.
        headers: those of the answer.
        keeps_exemplars: whether exemplars were taken with the samples.
    """

    status: int = 200
    headers: Headers = field(default_factory=Headers)
    keeps_exemplars: bool = True


class ForwardError(Exception):
    """The upstream did not take the samples.

    Attributes:
        status: what to answer the sender.
        retry_after: what to tell the sender in Retry-After: the upstream's own, if it sent one.
        answered: whether the status is the upstream's own.
        headers: those of its answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        retry_after: str | None = None,
        *,
        answered: bool = False,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.answered = answered
        self.headers = headers or Headers()


class Upstream(Protocol):
    """A place that takes samples."""

    async def forward(self, cluster: str, payload: bytes, samples: int) -> None:
        """Take what is left of an upload, and count it.

        Args:
            cluster: whose it is.
            payload: a remote-write request of version 1.0, not compressed, with the latest sample
                of every series of the cluster.
            samples: how many samples it holds.

        Raises:
            ForwardError: it was not taken.
        """
        ...

    async def send(self, cluster: str, payload: bytes, version: Version = V1) -> Sent:
        """Take what is left of a remote-write request.

        Args:
            cluster: whose it is.
            payload: the request, not compressed, with any samples of some series of the cluster.
            version: which version it is of.

        Raises:
            ForwardError: it was not taken.
        """
        ...
