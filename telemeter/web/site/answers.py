"""The answers that every site gives: refusals, and what says that something of ours broke."""

from __future__ import annotations

import random
from http import HTTPStatus
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from telemeter.observe.outcome import Outcome
from telemeter.web.site.refused import Refused

#: The type of an answer in plain text.
TEXT: Final = "text/plain; charset=utf-8"
#: The words of each status; Twisted has none for some that are common by now, as 429.
PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

log = Logger()


def outcome_of(request: IRequest) -> Outcome:
    """Return the outcome of a request, to fill in; under another site, nobody will look at it."""
    outcome: Outcome | None = getattr(request, "outcome", None)
    return Outcome() if outcome is None else outcome


def answer_refused(request: IRequest, refused: Refused) -> bytes:
    """Fill in an answer from a refusal, and return its body."""
    outcome = outcome_of(request)
    outcome.reason = refused.reason
    if refused.detail:
        outcome.detail = refused.detail
    request.setResponseCode(refused.status)
    request.setHeader("Content-Type", TEXT)
    for name, value in refused.headers.items():
        request.setHeader(name, value)
    body = refused.reason.encode() + b"\n"
    request.setHeader("Content-Length", str(len(body)))
    return body


def answer_failure(request: IRequest, failure: Failure) -> bytes:
    """Answer that something of ours broke: a number for the client, the details for the log."""
    return answer_refused(request, broken(failure))


def broken(failure: Failure) -> Refused:
    """Return the refusal for a request that we fail to answer, and log the failure."""
    number = request_number()
    log.failure("internal server error", failure, requestid=number)
    return Refused(500, f"Internal server error, requestid={number}")


def request_number() -> int:
    """Return the number that a client is given to ask about, because it must not be told more."""
    return random.getrandbits(63)


def not_found() -> Refused:
    """Return the refusal of a path that nothing is at."""
    return Refused(404, "not found")


def method_not_allowed(methods: tuple[str, ...]) -> Refused:
    """Return the refusal of a method that a path does not take."""
    allowed = ", ".join(methods)
    return Refused(405, f"this path takes {allowed} only", {"Allow": allowed})
