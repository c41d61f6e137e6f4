"""The settings of the endpoints and their listeners, which the configuration fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twisted.internet.ssl import CertificateOptions

from telemeter.samples.whitelist import Whitelist


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One of the server's listeners.

    Attributes:
        flag: the name of the flag that says where it listens.
        address: what that flag says; see `telemeter.config.listen_address`.
        tls: what it shows over TLS; None: it speaks none.
    """

    flag: str
    address: str
    tls: CertificateOptions | None


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """The settings of who is let in at a listener for operators.

    Attributes:
        hosts: the names besides the machine's own that requests may be for, in lower case.
        token: the bearer token that is expected; empty: none is.
    """

    hosts: frozenset[str] = frozenset()
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """The settings of samples: those that are accepted and forwarded, and the changes to them.

    Attributes:
        partition_label: the label that holds the cluster's identifier.
        required_labels: what every incoming sample must carry besides.
        whitelist: the series that are forwarded.
        added_labels: labels to add to every series of an upload.
        received_labels: labels to add to every series of a remote write.
        elided_labels: labels to remove from every series.
        upload_bytes: the size, decompressed, that an upload must stay under.
        receive_bytes: the size, compressed, that a remote-write request must stay under.
        most_label_name: the most bytes of a label's name in a remote-write request.
        most_label_value: the most bytes of its value.
        foreign_ids: whether a remote-write sender may write for other clusters than its own.
        tenant_key: the field of a remote-write token that names the tenant, for the log.
    """

    partition_label: str
    required_labels: Mapping[str, str]
    whitelist: Whitelist
    added_labels: Mapping[str, str]
    received_labels: Mapping[str, str]
    elided_labels: frozenset[str]
    upload_bytes: int
    receive_bytes: int
    most_label_name: int
    most_label_value: int
    foreign_ids: bool
    tenant_key: str
