"""A request that is not done, and why."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """A refusal, which ends a request with a status and a reason in plain words.

    Attributes:
        status: the HTTP status.
        reason: one sentence for the sender.
        headers: further headers of the answer.
        detail: what only the log may say.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Mapping[str, str] | None = None,
        *,
        detail: str = "",
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})
        self.detail = detail
