"""Why an outgoing request failed, in words for a log line."""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import defer
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)

from telemeter.loop.twisted_private import DataLoss, MalformedChunks


class ExplainedError(Exception):
    """An error whose text is the explanation: one sentence, without a secret."""


class ProxyError(ExplainedError):
    """A proxy did not do what it was asked to, or cannot be reached; the text names it."""


_WRAPPERS: Final = (
    ResponseNeverReceived,
    ResponseFailed,
    RequestTransmissionFailed,
    RequestGenerationFailed,
)


#: What happens while a connection is opened.
_BEFORE_SENDING: Final = (ConnectError, DNSLookupError, ProxyError, SSL.Error, VerificationError)


def explain(error: BaseException) -> str:
    """One sentence about a failed request. It holds no secret: it names no header and no body."""
    explained = _find_explained(error)
    if explained is not None:
        return str(explained)
    reasons = getattr(error, "reasons", None)
    if isinstance(error, _WRAPPERS) and reasons:
        # That something is missing is said already; why is the question.
        told = [reason for reason in reasons if not reason.check(DataLoss)] or reasons
        inner = "; ".join(dict.fromkeys(explain(reason.value) for reason in told))
        return f"no complete answer: {inner}"
    if isinstance(error, defer.TimeoutError | defer.CancelledError | ConnectingCancelledError):
        return "no answer in time"
    if isinstance(error, DNSLookupError):
        return f"the host name is not known: {error}"
    if isinstance(error, ConnectError):
        return f"cannot connect: {error}"
    if isinstance(error, ConnectionLost):
        return "the connection was lost"
    if isinstance(error, ConnectionDone):
        return "the connection was closed before its end"
    if isinstance(error, MalformedChunks):
        return f"malformed chunks: {error}"
    if isinstance(error, VerificationError):
        return "wrong name: the certificate is for another host"
    if isinstance(error, SSL.Error):
        return f"TLS failed: {'; '.join(openssl_reasons(error)) or 'no reason was given'}"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def was_cancelled(error: BaseException) -> bool:
    """Return whether a request failed because it was cancelled."""
    if isinstance(error, _WRAPPERS):
        return any(was_cancelled(reason.value) for reason in error.reasons or ())
    return isinstance(error, defer.CancelledError | ConnectingCancelledError)


def was_not_sent(error: BaseException) -> bool:
    """Return whether a request failed before anything of it had reached the server."""
    if isinstance(error, _WRAPPERS):
        return any(was_not_sent(reason.value) for reason in error.reasons or ())
    return isinstance(error, _BEFORE_SENDING)


def _find_explained(error: BaseException) -> ExplainedError | None:
    """Return the error, or the first of its reasons, that has an explanation of its own."""
    if isinstance(error, ExplainedError):
        return error
    if isinstance(error, _WRAPPERS):
        for reason in error.reasons or ():
            if (found := _find_explained(reason.value)) is not None:
                return found
    return None


def openssl_reasons(error: SSL.Error) -> list[str]:
    """Return OpenSSL's own words for an error, in lower case: `wrong version number`, for example.

    pyOpenSSL gives either a queue of (library, function, reason), or a number and a text.
    """
    if isinstance(error, SSL.SysCallError):
        return [str(error.args[-1]).lower()] if error.args else []
    queue = error.args[0] if error.args else []
    return [str(entry[-1]).lower() for entry in queue] if isinstance(queue, list | tuple) else []
