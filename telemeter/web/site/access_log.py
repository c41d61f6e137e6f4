"""The access log: the line of a request. Nothing else knows the names of its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger, LogLevel

if TYPE_CHECKING:
    from telemeter.observe.outcome import Outcome

#: The status of a request whose client went away before the answer: no fault of anybody's here.
CLIENT_WENT_AWAY: Final = 499

#: Named as operators know it, wherever this module is.
log = Logger("telemeter.web.site")


def log_request(outcome: Outcome, method: str, path: str, size: int, peer: str) -> None:
    """Log a request that is over.

    Args:
        outcome: what became of it.
        method: its method.
        path: its path, without the query.
        size: how many bytes its body had, as it came.
        peer: the address of its sender.
    """
    fields: dict[str, object] = {}
    if outcome.cluster is not None:
        fields["cluster"] = outcome.cluster
    if outcome.tenant:
        fields["tenant"] = outcome.tenant
    if outcome.received is not None:
        fields["received"] = outcome.received
        fields["forwarded"] = outcome.forwarded
        fields["dropped"] = outcome.dropped
    if outcome.reason:
        fields["reason"] = outcome.reason
    if outcome.detail:
        fields["detail"] = outcome.detail
    log.emit(
        _level_of(outcome.status),
        "request",
        method=method,
        path=path,
        status=outcome.status,
        seconds=f"{outcome.seconds:.4f}",
        bytes=size,
        peer=peer,
        **fields,
    )


def _level_of(status: int) -> Any:
    if status >= 500 and status != CLIENT_WENT_AWAY:
        return LogLevel.warn
    return LogLevel.info if status >= 400 else LogLevel.debug
