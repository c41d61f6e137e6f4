"""The settings of forwarding."""

from __future__ import annotations

from dataclasses import dataclass

from telemeter.net.tls import ClientPolicy
from telemeter.upstream.batch import BatchLimits


@dataclass(frozen=True, slots=True)
class ForwardSettings:
    """The settings of forwarding.

    Attributes:
        url: of the upstream's remote write; empty: samples are kept in memory instead.
        policy: whom to trust as the upstream, and what to show it.
        tenant: the tenant to forward as.
        batches: how much goes there as one request.
        keeps_version: whether what came as remote write 2.0 is forwarded as such.
    """

    url: str
    policy: ClientPolicy
    tenant: str
    batches: BatchLimits
    keeps_version: bool
