"""The flags of telemeter-client, by task."""

from __future__ import annotations

from typing import Final

from telemeter.config.flag_parser import Flag, Group
from telemeter.config.groups import LOGGING, operator_flags, tracing_flags
from telemeter.config.listen_address import listen_address
from telemeter.config.values import (
    byte_size,
    choice,
    integer,
    label_names,
    positive_duration,
    rate,
    raw,
    rename_list,
    sample_label_list,
    selector,
    text,
)
from telemeter.net.url import check_http_url
from telemeter.samples.family import label_fault

DEFAULT_MATCH = '{__name__="up"}'
#: The identifier in etc/client.env.example.
_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"


def _path_or_url(value: str) -> str:
    """Parse a URL, or a path on the server of --to."""
    if value.startswith("/") and value.isascii() and value.isprintable() and " " not in value:
        return value
    return check_http_url(value)


def _cluster(value: str) -> str:
    """Parse a cluster's identifier, which becomes a label of every sample."""
    if fault := label_fault("id", value):
        raise ValueError(f"expected what a server takes in a sample: {fault}")
    if value == _PLACEHOLDER:
        raise ValueError("expected an identifier of your own, not the example's")
    return value


GROUPS: Final = (
    Group(
        "What is collected, and from where",
        Flag(
            "from",
            check_http_url,
            "",
            "URL of the Prometheus server to collect from; its path defaults to /federate. "
            "Required.",
        ),
        Flag("from-token", text, "", "Bearer token for --from.", secret=True),
        Flag("from-token-file", raw, "", "File with the bearer token for --from."),
        Flag(
            "from-ca-file",
            raw,
            "",
            "File with CA certificates (PEM) to trust for --from, in addition to the system's.",
        ),
        Flag(
            "tls-cert-file",
            raw,
            "",
            "File with a client certificate (PEM) to show to --from.",
            warns=True,
        ),
        Flag("tls-private-key-file", raw, "", "File with its private key (PEM).", warns=True),
        Flag(
            "match",
            selector,
            [],
            "A PromQL selector of what to collect.",
            repeated=True,
            shown=f"{DEFAULT_MATCH}, without --match-file",
            warns=True,
        ),
        Flag(
            "match-file",
            raw,
            "",
            "File with more of them, one a line; blank lines and lines starting with # are "
            "ignored.",
            guards="collect what was not asked for",
        ),
        Flag(
            "limit-bytes",
            integer(1),
            200 * 1024,
            "How many bytes the answer of --from may have.",
        ),
        Flag(
            "interval",
            positive_duration,
            270.0,
            "The time from one cycle's end to the next. Prometheus federates the last 5 minutes.",
            shown="4m30s",
        ),
    ),
    Group(
        "What is changed before it is sent",
        Flag(
            "label",
            sample_label_list,
            [],
            "NAME=VALUE labels to add to every metric, or to overwrite there.",
            repeated=True,
        ),
        Flag(
            "rename",
            rename_list,
            [("ALERTS", "alerts")],
            "OLD=NEW metric names to replace before sending; with ALERTS=ALERTS none are.",
            repeated=True,
            shown="ALERTS=alerts",
        ),
        Flag(
            "anonymize-labels",
            label_names,
            [],
            "Labels whose values are replaced by salted hashes before sending.",
            repeated=True,
            warns=True,
        ),
        Flag(
            "anonymize-salt",
            raw,
            "",
            "A secret that nobody can guess, to salt the hashes with.",
            secret=True,
        ),
        Flag("anonymize-salt-file", raw, "", "File with the salt."),
    ),
    Group(
        "Where it is sent",
        Flag(
            "id",
            _cluster,
            "",
            "The cluster's identifier. The server labels all its metrics with it, so it should be "
            "unique and hard to guess, such as a UUID.",
        ),
        Flag("to", check_http_url, "", "URL of the telemeter-server to push to."),
        Flag("to-token", text, "", "Bearer token for the server.", secret=True),
        Flag("to-token-file", raw, "", "File with the bearer token for the server."),
        Flag(
            "to-ca-file",
            raw,
            "",
            "File with CA certificates (PEM) to trust for --to, in addition to the system's.",
        ),
        Flag(
            "to-auth",
            _path_or_url,
            "",
            "URL to exchange the bearer token at, or a path on the server of --to.",
            shown="--to with /authorize?id= and --id",
        ),
        Flag(
            "to-upload",
            _path_or_url,
            "",
            "URL to upload to, or a path on the server of --to.",
            shown="--to with /upload",
        ),
        Flag(
            "to-receive",
            _path_or_url,
            "",
            "With --spool-dir: URL to deliver to, or a path on the server of --to.",
            shown="--to with /metrics/v1/receive",
        ),
    ),
    Group(
        "What is kept until it is delivered",
        Flag(
            "spool-dir",
            raw,
            "",
            "Folder to keep every collection in until the server has it. Samples are delivered "
            "with the time of their collection, through remote write, so an outage leaves no gap. "
            "Needs --id. Without it, what cannot be uploaded at once is lost.",
        ),
        Flag(
            "spool-max-bytes",
            byte_size,
            256 << 20,
            "How many bytes of collections are kept; over it, the oldest are dropped.",
            shown="256MiB",
        ),
        Flag(
            "spool-max-age",
            positive_duration,
            24 * 3600.0,
            "How long a collection is kept before it is dropped.",
            shown="24h",
        ),
        Flag(
            "spool-rate",
            rate,
            1.0,
            "How many requests a second are made while there is a backlog.",
            shown="1",
        ),
        Flag(
            "spool-order",
            choice("in-order", "newest-first"),
            "in-order",
            "Which collection is delivered first: in-order, the oldest, as every receiver takes "
            "them; newest-first, for receivers that take samples out of order.",
        ),
        Flag(
            "stale-on-stop",
            None,
            False,
            "With --spool-dir: tell the server at the end that the series that were last sent have "
            "ended.",
        ),
        Flag(
            "spool-status",
            None,
            False,
            "Print what is kept in --spool-dir, and exit. The agent may run meanwhile.",
        ),
    ),
    Group(
        "Trying it",
        Flag(
            "dry-run",
            None,
            False,
            "Collect once, print what would be sent in the text format, and exit. Nothing is sent, "
            "so flags about the server are not needed; the labels that it would ask for are not "
            "there.",
            guards="send what is only to be looked at",
        ),
    ),
    Group(
        "Listening",
        Flag(
            "listen",
            listen_address,
            "localhost:9002",
            "HOST:PORT to listen on for health and metrics, or a Twisted endpoint description; "
            "empty for nowhere.",
            may_be_empty=True,
        ),
        *operator_flags("listen"),
    ),
    LOGGING,
    tracing_flags("telemeter-client"),
)
