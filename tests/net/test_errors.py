"""Why a request failed, in words."""

from __future__ import annotations

import pytest
from twisted.internet import defer
from twisted.internet import error as errors
from twisted.python.failure import Failure
from twisted.web._newclient import RequestGenerationFailed, RequestTransmissionFailed
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from telemeter.net.errors import ExplainedError, explain


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (defer.TimeoutError(), "no answer in time"),
        (defer.CancelledError(), "no answer in time"),
        (errors.DNSLookupError("x.test"), "the host name is not known: "),
        (errors.ConnectionRefusedError(), "cannot connect: Connection was refused"),
        (errors.TimeoutError(), "cannot connect: "),
        (errors.ConnectionLost(), "the connection was lost"),
        (ExplainedError("as it is"), "as it is"),
        (ValueError("text"), "ValueError: text"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error(error: Exception, text: str) -> None:
    assert explain(error).startswith(text)
    assert "\n" not in explain(error)


@pytest.mark.parametrize(
    "kind",
    [ResponseNeverReceived, ResponseFailed, RequestTransmissionFailed, RequestGenerationFailed],
)
def test_an_error_within_an_error(kind: type) -> None:
    lost = Failure(errors.ConnectionLost())
    assert explain(kind([lost])) == "no complete answer: the connection was lost"
    # Each reason once.
    assert explain(kind([lost, lost])) == "no complete answer: the connection was lost"
    both = explain(kind([lost, Failure(OSError("disk"))]))
    assert both == "no complete answer: the connection was lost; OSError: disk"
    assert explain(kind([lost, Failure(ExplainedError("as it is"))])) == "as it is"
    assert explain(kind([]))
