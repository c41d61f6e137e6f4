"""The flags of telemeter-server, by task.

For a new flag, add a `Flag` here; an attribute to the settings of the room that needs it, such as
`telemeter.web.settings`; to `read_config` in `server_options` what fills that attribute; and hand
it on where the part is made, mostly in `telemeter.server.endpoints`.
"""

from __future__ import annotations

from typing import Final

from telemeter.auth.oidc import check_issuer
from telemeter.config.flag_parser import Flag, Group
from telemeter.config.groups import LOGGING, operator_flags, policy_flags, tracing_flags
from telemeter.config.listen_address import listen_address
from telemeter.config.values import (
    choice,
    duration,
    fleet_database,
    header_text,
    integer,
    label_list,
    label_name,
    memcached_list,
    positive_duration,
    raw,
    sample_label_list,
    scope_list,
    selector,
    text,
)
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.net.exchange import MOST_CONNECTIONS
from telemeter.net.url import check_http_url
from telemeter.samples.limits import MAX_LABEL_NAME, MAX_LABEL_VALUE
from telemeter.store.settings import MOST_BYTES

#: The most processes that answer clients.
MAX_WORKERS: Final = 256

GROUPS: Final = (
    Group(
        "Listening",
        Flag(
            "listen",
            listen_address,
            "0.0.0.0:9003",
            "HOST:PORT to listen on for clients, or a Twisted endpoint description.",
        ),
        Flag(
            "listen-internal",
            listen_address,
            "localhost:9004",
            "HOST:PORT to listen on for health, metrics and debugging.",
        ),
        *operator_flags("listen-internal"),
        Flag(
            "idle-timeout",
            positive_duration,
            TIMEOUTS.idle,
            "How long a client's connection may wait for its next request. Keep it above the idle "
            "timeout of a load balancer in front of the server, which is often 60s.",
            shown="75s",
        ),
        Flag(
            "tls-crt",
            raw,
            "",
            "File with the certificate and its chain (PEM) for --listen.",
            warns=True,
        ),
        Flag("tls-key", raw, "", "File with the private key (PEM) for --listen.", warns=True),
        Flag("internal-tls-crt", raw, "", "As --tls-crt, for --listen-internal.", warns=True),
        Flag("internal-tls-key", raw, "", "As --tls-key, for --listen-internal.", warns=True),
    ),
    Group(
        "How much clients may take up",
        Flag(
            "max-connections",
            integer(0),
            0,
            "How many connections of clients there may be in each process. Over it, the one that "
            "has sent nothing for longest is closed, those that never completed a request first. "
            "0: as many as the limit of open files allows, less some for other uses.",
            shown="0",
        ),
        Flag(
            "max-inflight-bytes",
            integer(1 << 20),
            256 << 20,
            "How many bytes of requests each process may hold: bodies, what they are converted to, "
            "and what waits for the upstream. Over it, or over a sender's share of it, 503.",
            shown="256 MiB",
        ),
        Flag(
            "handshake-timeout",
            positive_duration,
            TIMEOUTS.handshake,
            "How long a client may take for a TLS handshake.",
            shown="10s",
        ),
        Flag(
            "headers-timeout",
            positive_duration,
            TIMEOUTS.headers,
            "How long the headers of a request may take, from their first byte on.",
            shown="10s",
        ),
        Flag(
            "body-timeout",
            positive_duration,
            TIMEOUTS.body,
            "How long the body of a request may take. After its first 10 seconds, 1000 bytes a "
            "second on the average are the least.",
            shown="2m",
        ),
        Flag(
            "request-timeout",
            positive_duration,
            TIMEOUTS.request,
            "How long a client waits for its answer, from the last byte of its request on; then "
            "it is told to try again (503).",
            shown="10s",
        ),
    ),
    Group(
        "The tokens of agents",
        Flag(
            "shared-key",
            raw,
            [],
            "File with the private key that signs the agents' tokens: RSA, or EC on P-256, P-384 "
            "or P-521; PEM or DER. Servers that share it accept each other's tokens. Of several "
            "the first signs, and all verify.",
            repeated=True,
            shown="a fresh key at every start",
        ),
        Flag(
            "token-expire-seconds",
            # In the original agent's 63 bits of nanoseconds, a longer time has passed already.
            integer(1, 2**63 // 10**9),
            24 * 60 * 60,
            "For how many seconds an agent's token holds.",
        ),
    ),
    Group(
        "The authorization server",
        Flag(
            "authorize",
            check_http_url,
            "",
            "URL of the authorization server. Without it every token is accepted.",
            warns=True,
        ),
        *policy_flags("authorize"),
        Flag(
            "authorize-cache-expire",
            duration,
            300.0,
            "For how long a positive answer of the authorization server about a remote-write token "
            "is kept in this process; 0 for not at all. Not used with --memcached.",
            shown="5m",
        ),
        Flag(
            "authorize-cache-size",
            integer(1),
            100_000,
            "How many of its answers are kept, positive and negative ones each.",
        ),
        Flag(
            "authorize-refused-expire",
            duration,
            10.0,
            "For how long a negative answer about a remote-write token is kept; 0 for not at all.",
            shown="10s",
        ),
    ),
    Group(
        "Which samples are accepted",
        Flag(
            "partition-label",
            label_name,
            "_id",
            "The label that holds the cluster's identifier; every sample must carry it.",
        ),
        Flag(
            "required-label",
            sample_label_list,
            [],
            "NAME=VALUE labels that every incoming sample must carry; agents learn them from "
            "/authorize.",
            repeated=True,
            warns=True,
        ),
        Flag(
            "limit-bytes",
            integer(1),
            500 * 1024,
            "The size in bytes, decompressed, that an upload must stay under.",
        ),
        Flag(
            "limit-receive-bytes",
            integer(1),
            128 * 1024,
            "The size in bytes, compressed, that a remote-write request must stay under.",
        ),
        Flag(
            "limit-label-name-bytes",
            integer(1),
            MAX_LABEL_NAME,
            "The most bytes that the name of a label may have in a remote-write request.",
        ),
        Flag(
            "limit-label-value-bytes",
            integer(1),
            MAX_LABEL_VALUE,
            "The most bytes that the value of a label may have in a remote-write request.",
        ),
        Flag(
            "ratelimit",
            duration,
            270.0,
            "The shortest time between two uploads of a cluster; 0 for no limit.",
            shown="4m30s",
        ),
        Flag(
            "receive-foreign-ids",
            None,
            False,
            "Let a remote-write sender write for other clusters than the one of its token, as a "
            "gateway does.",
        ),
    ),
    Group(
        "Which series are forwarded, and what is changed in them",
        Flag(
            "whitelist",
            selector,
            [],
            'A PromQL selector such as {__name__="up"}: only series that at least one selects are '
            "forwarded. Without any, all are.",
            repeated=True,
            guards="let every series pass",
        ),
        Flag(
            "whitelist-file",
            raw,
            "",
            "File with more of them, one a line; blank lines and lines starting with # are "
            "ignored.",
            guards="let every series pass",
        ),
        Flag(
            "elide-label",
            label_name,
            [],
            "A label to remove from every series.",
            repeated=True,
            warns=True,
        ),
        Flag(
            "label",
            label_list,
            [],
            "NAME=VALUE labels to add to every series of an upload, or to overwrite there.",
            repeated=True,
        ),
        Flag(
            "receive-label",
            label_list,
            [],
            "The same for every series of a remote write, of which agents with a spool make use.",
            repeated=True,
        ),
    ),
    Group(
        "Where samples go",
        Flag(
            "forward-url",
            check_http_url,
            "",
            "Remote-write URL that everything is forwarded to. Without it the latest sample of "
            "every series is kept in memory, and the internal listener shows it.",
            warns=True,
        ),
        *policy_flags("forward"),
        Flag(
            "tenant-id",
            header_text,
            "FB870BF3-9F3A-44FF-9BF7-D7A047A52F43",
            "The tenant to forward as (header THANOS-TENANT).",
        ),
        Flag(
            "forward-protocol",
            choice("1.0", "2.0"),
            "1.0",
            "The version in which remote write 2.0 is forwarded: 1.0, or 2.0 as it came.",
        ),
        Flag(
            "forward-batch-requests",
            integer(1),
            64,
            "How many senders' requests may go to --forward-url as one, when they come while "
            "another is under way; 1 for no batches.",
        ),
        Flag(
            "forward-batch-bytes",
            integer(1),
            4 << 20,
            "The size in bytes, decompressed, up to which a request to --forward-url is filled "
            "with those of several senders.",
        ),
    ),
    Group(
        "Where samples stay, without --forward-url",
        Flag(
            "store-retention",
            duration,
            600.0,
            "Without --forward-url: how long after its last request a cluster's series are kept.",
            shown="10m",
        ),
        Flag(
            "store-max-series",
            integer(1),
            1_000_000,
            "Without --forward-url: how many series are kept at the most; of one cluster, a "
            "quarter of what others leave.",
        ),
        Flag(
            "store-max-bytes",
            integer(1 << 16),
            MOST_BYTES,
            "Without --forward-url: how many bytes they take at the most, roughly; of one cluster, "
            "a quarter of what others leave.",
            shown="1 GiB",
        ),
    ),
    Group(
        "Reaching other servers",
        Flag(
            "peer-connections",
            integer(1, 100_000),
            MOST_CONNECTIONS,
            "How many requests to --forward-url may be under way at a time, and how many to "
            "--authorize; others wait.",
        ),
        Flag(
            "proxy-from-environment",
            None,
            False,
            "Make outgoing requests through the proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY "
            "name.",
        ),
        Flag(
            "oidc-issuer",
            check_issuer,
            "",
            "URL of an OpenID Connect issuer whose access tokens are shown to the upstream and to "
            "the authorization server.",
        ),
        Flag("client-id", text, "", "Who the server is to the issuer."),
        Flag("client-secret", text, "", "The server's secret for the issuer.", secret=True),
        Flag("client-secret-file", raw, "", "File with that secret."),
        Flag("oidc-audience", text, "", "The audience to ask tokens for, if the issuer wants it."),
        Flag(
            "oidc-scope",
            scope_list,
            [],
            "A scope to ask tokens for, if the issuer wants it.",
            repeated=True,
        ),
        Flag(
            "oidc-ca-file",
            raw,
            "",
            "File with CA certificates (PEM) to trust for --oidc-issuer, in addition to the "
            "system's.",
        ),
    ),
    Group(
        "Several processes, several servers",
        Flag(
            "workers",
            integer(0, MAX_WORKERS),
            1,
            "How many processes answer clients; 0 for as many as there are processors. More than "
            "one need --forward-url.",
        ),
        Flag(
            "memcached",
            memcached_list,
            [],
            "HOST:PORT of memcached servers to keep positive answers in, and who uploaded when, "
            "for servers with replicas.",
            repeated=True,
        ),
        Flag(
            "memcached-expire",
            integer(0, 2**31 - 1),
            24 * 60 * 60,
            "For how many seconds memcached keeps a positive answer; 0 for as long as it can.",
        ),
        Flag(
            "memcached-interval",
            integer(0, 2**31 - 1),
            10,
            "Seconds between look-ups of the addresses of --memcached; 0 for only once.",
        ),
    ),
    Group(
        "The fleet's page",
        Flag(
            "fleet-max-clusters",
            integer(0, 10_000_000),
            100_000,
            "How many clusters the fleet's page knows; the oldest is forgotten first. Each takes "
            "up to 1 kB of memory. 0: there is no page.",
        ),
        Flag(
            "fleet-database",
            fleet_database,
            "",
            "Where the record of the fleet is kept, so that it survives a restart: sqlite:PATH. "
            "It is written behind, at most 20 seconds late.",
            shown="in memory only",
        ),
        Flag(
            "fleet-retention",
            positive_duration,
            30 * 86_400.0,
            "With --fleet-database: after how long without a word a cluster is forgotten.",
            shown="720h",
        ),
    ),
    Group(
        "Log",
        *LOGGING.flags,
        Flag(
            "tenant-key",
            text,
            "",
            "The field of a remote-write token that names the tenant, for the log.",
        ),
    ),
    tracing_flags("telemeter-server"),
)
