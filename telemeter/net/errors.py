"""Why an outgoing request failed, in words for a log line."""

from __future__ import annotations

from twisted.internet import defer
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.web._newclient import RequestGenerationFailed, RequestTransmissionFailed
from twisted.web.client import ResponseFailed, ResponseNeverReceived


def explain(error: BaseException) -> str:
    """One sentence about a failed request. It holds no secret: it names no header and no body."""
    reasons = getattr(error, "reasons", None)
    if (
        isinstance(
            error,
            ResponseNeverReceived
            | ResponseFailed
            | RequestTransmissionFailed
            | RequestGenerationFailed,
        )
        and reasons
    ):
        inner = "; ".join(dict.fromkeys(explain(reason.value) for reason in reasons))
        return f"no complete answer: {inner}"
    if isinstance(error, defer.TimeoutError | defer.CancelledError):
        return "no answer in time"
    if isinstance(error, DNSLookupError):
        return f"the host name is not known: {error}"
    if isinstance(error, ConnectError):
        return f"cannot connect: {error}"
    if isinstance(error, ConnectionLost):
        return "the connection was lost"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
