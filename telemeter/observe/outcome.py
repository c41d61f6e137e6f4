"""The outcome of a request: one object for the access log, the counters and the fleet."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.web.http_headers import Headers

from telemeter.loop.clocks import NO_DATE, Wall


@dataclass(slots=True)
class Outcome:
    """The outcome of a request, which its handler and the site fill in.

    Attributes:
        cluster: who sent it, as it says itself; None: it does not say.
        verified: whether the sender has proven to be that cluster.
        tenant: the tenant that its token names; empty: none.
        expires: until when its token holds; 1970: not known.
        received: how many series came; None: it did not come as far as counting them.
        kept: how many of them the rules let pass, whether or not the upstream took them.
        forwarded: how many of them the upstream took.
        dropped: how many no rule of the whitelist allowed.
        duplicates: how many were there twice.
        examples: dropped series, each the encoded labels of a `TimeSeries`.
        newest_ms: the newest timestamp, in milliseconds since the epoch; 0: not known.
        reason: why it was refused, as the sender was told; empty: it was not.
        detail: more about that, for operators only.
        path: the name of its path in metrics; empty: it went to none.
        status: the status of the answer.
        seconds: how long it took.
        headers: those of the request; an observer that wants one reads it later.
    """

    cluster: str | None = None
    verified: bool = False
    tenant: str = ""
    expires: Wall = NO_DATE
    received: int | None = None
    kept: int = 0
    forwarded: int = 0
    dropped: int = 0
    duplicates: int = 0
    examples: tuple[bytes, ...] = ()
    newest_ms: int = 0
    reason: str = ""
    detail: str = ""
    path: str = ""
    status: int = 0
    seconds: float = 0.0
    headers: Headers | None = None
