"""The flags of telemeter-client, and the configuration that they and their files make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol
from urllib.parse import urlsplit

from twisted.python.usage import UsageError

from telemeter.config.flags import (
    LOGGING,
    Flag,
    Flags,
    integer,
    label_names,
    positive_duration,
    raw,
    read_policy,
    read_proxies,
    read_salt,
    read_secret,
    read_selectors,
    rename_list,
    require_satisfiable,
    sample_label_list,
    selector,
    text,
    tracing_flags,
)
from telemeter.config.listen import listen_address
from telemeter.convert.collect import Transforms
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy
from telemeter.net.url import (
    add_query,
    check_http_url,
    default_path,
    extend_path,
    replace_path,
    shown,
)
from telemeter.samples.family import label_fault

#: An agent with a short interval waits this long for an answer all the same, in seconds.
_SHORTEST_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class CollectSettings:
    """The Prometheus server to collect from.

    Attributes:
        given_url: its URL as it was given, for messages.
        url: of its /federate, with the selectors.
        token: the bearer token to show; empty: none.
        policy: whom to trust as that server, and what to show it.
        limit_bytes: how many bytes its answer may have.
        timeout: for how many seconds to wait for the answer.
        selectors: how many selectors there are.
    """

    given_url: str
    url: str
    token: str = field(repr=False)
    policy: ClientPolicy
    limit_bytes: int
    timeout: float
    selectors: int


@dataclass(frozen=True, slots=True)
class SendSettings:
    """The telemeter-server to send to.

    Attributes:
        authorize_url: where to exchange the bearer token.
        upload_url: where to upload.
        token: the bearer token.
        policy: whom to trust as the server.
        proxies: the proxies on the way to it.
        timeout: for how many seconds to wait for the answer to an upload.
    """

    authorize_url: str
    upload_url: str
    token: str = field(repr=False)
    policy: ClientPolicy
    proxies: Proxies
    timeout: float


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The whole configuration of a telemeter-client: what its flags and their files say.

    Attributes:
        program: the name that messages begin with.
        listen: where to listen; empty: nowhere.
        interval: seconds from the end of one cycle to the start of the next.
        collecting: where to collect.
        transforms: what to change in what was collected.
        sending: where to send; None: nothing is sent.
        knows_id: whether the agent says to the server which cluster it is.
        timeouts: how long who waits for whom.
    """

    program: str
    listen: str
    interval: float
    collecting: CollectSettings
    transforms: Transforms
    sending: SendSettings | None
    knows_id: bool
    timeouts: Timeouts = TIMEOUTS


class AgentConfigReader(Protocol):
    """A way to read the configuration again while the agent runs."""

    def read_config(self) -> AgentConfig:
        """Read every file again; raises `UsageError`."""
        ...

    def rotating_paths(self) -> Sequence[str]:
        """Return the files with tokens and certificates, which are replaced while it runs."""
        ...


_DEFAULT_MATCH = '{__name__="up"}'
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


class Options(Flags):
    """The flags of telemeter-client."""

    program = "telemeter-client"
    synopsis = "[flags]"
    longdesc = (
        "Collects metrics from a Prometheus server by federation, anonymizes and labels them, and "
        "pushes them to a telemeter-server, every interval. The server is reached through the "
        "proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name, --from never is."
    )
    flags: ClassVar = (
        Flag(
            "listen",
            listen_address,
            "localhost:9002",
            "HOST:PORT to listen on for health and metrics, or a Twisted endpoint description; "
            "empty for nowhere.",
            may_be_empty=True,
        ),
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
            "id",
            _cluster,
            "",
            "The cluster's identifier. The server labels all its metrics with it, so it should be "
            "unique and hard to guess, such as a UUID.",
        ),
        Flag("to", check_http_url, "", "URL of the telemeter-server to push to."),
        Flag(
            "to-upload",
            _path_or_url,
            "",
            "URL to upload to, or a path on the server of --to.",
            shown="--to with /upload",
        ),
        Flag(
            "to-auth",
            _path_or_url,
            "",
            "URL to exchange the bearer token at, or a path on the server of --to.",
            shown="--to with /authorize?id= and --id",
        ),
        Flag(
            "to-ca-file",
            raw,
            "",
            "File with CA certificates (PEM) to trust for --to, in addition to the system's.",
        ),
        Flag("to-token", text, "", "Bearer token for the server.", secret=True),
        Flag("to-token-file", raw, "", "File with the bearer token for the server."),
        Flag(
            "interval",
            positive_duration,
            270.0,
            "The time from one cycle's end to the next. Prometheus federates the last 5 minutes.",
            shown="4m30s",
        ),
        Flag(
            "limit-bytes",
            integer(1),
            200 * 1024,
            "How many bytes the answer of --from may have.",
        ),
        Flag(
            "match",
            selector,
            [],
            "A PromQL selector of what to collect.",
            repeated=True,
            shown=f"{_DEFAULT_MATCH}, without --match-file",
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
        Flag(
            "dry-run",
            None,
            False,
            "Collect once, print what would be sent in the text format, and exit. Nothing is sent, "
            "so flags about the server are not needed; the labels that it would ask for are not "
            "there.",
            guards="send what is only to be looked at",
        ),
        *LOGGING,
        *tracing_flags("telemeter-client"),
    )

    def check(self) -> None:
        """Read every file, so that what is wrong is known before anything starts."""
        if not self["from"]:
            raise UsageError(
                "--from is required: the URL of a Prometheus server such as http://localhost:9090"
            )
        self.config = self.read_config()
        if self["listen"] and not self["dry-run"]:
            self.require_listen("listen")

    def read_config(self) -> AgentConfig:
        """Read every file now; raises `UsageError`."""
        salt = read_salt(self, "anonymize-salt")
        policy = read_policy(self, "from-ca-file", "tls-cert-file", "tls-private-key-file")
        if self["anonymize-labels"] and not salt:
            raise UsageError(
                "--anonymize-labels needs --anonymize-salt or --anonymize-salt-file, "
                "and neither was given"
            )
        token = read_secret(self, "from-token")
        matches = self._matches()
        timeout = max(self["interval"], _SHORTEST_TIMEOUT)
        collecting = CollectSettings(
            self["from"],
            add_query(
                default_path(self["from"], "/federate"),
                [("match[]", match) for match in matches],
            ),
            token,
            policy,
            self["limit-bytes"],
            timeout,
            len(matches),
        )
        return AgentConfig(
            program=self.program,
            listen=self["listen"],
            interval=self["interval"],
            collecting=collecting,
            transforms=Transforms(
                dict(self["label"]),
                dict(self["rename"]),
                frozenset(self["anonymize-labels"]),
                salt,
            ),
            sending=None if self["dry-run"] else self._sending(timeout),
            knows_id=bool(self["id"] or self["to-auth"]),
        )

    def _sending(self, timeout: float) -> SendSettings:
        authorize_url, upload_url = self._urls()
        token = read_secret(self, "to-token")
        if not token:
            raise UsageError("--to-token or --to-token-file is required, to authorize with")
        return SendSettings(
            authorize_url,
            upload_url,
            token,
            read_policy(self, "to-ca-file"),
            read_proxies(),
            timeout,
        )

    def _urls(self) -> tuple[str, str]:
        """Return where to authorize and where to upload; raises `UsageError`."""
        to = self["to"]
        targets = []
        for flag in ("to-auth", "to-upload"):
            target = self[flag]
            if target.startswith("/"):
                if not to:
                    raise UsageError(f"--{flag} {target!r}: a path needs --to too")
                target = replace_path(to, target)
            targets.append(target)
        authorize, upload = targets
        if to and not authorize:
            authorize = self._below_to("authorize")
            if self["id"]:
                authorize = add_query(authorize, [("id", self["id"])])
        if to and not upload:
            upload = self._below_to("upload")
        if not authorize or not upload:
            raise UsageError("--to, or both --to-auth and --to-upload, must be given")
        return authorize, upload

    def _below_to(self, path: str) -> str:
        """Return the URL of one of the server's paths."""
        for each in ("authorize", "upload"):
            if urlsplit(self["to"]).path.rstrip("/").endswith(f"/{each}"):
                raise UsageError(
                    f"--to {shown(self['to'])!r}: expected the URL without /{each}, which is put "
                    "behind it; for other paths there are --to-auth and --to-upload"
                )
        return extend_path(self["to"], path)

    def rotating_paths(self) -> list[str]:
        """Return the files with tokens and certificates."""
        names = (
            "from-token-file",
            "from-ca-file",
            "tls-cert-file",
            "tls-private-key-file",
            "to-token-file",
            "to-ca-file",
        )
        return [self[name] for name in names if self[name]]

    def _matches(self) -> list[str]:
        selectors = list(self["match"])
        given = "--match"
        if self["match-file"]:
            given += f" and --match-file {self['match-file']!r}"
            selectors += read_selectors(self, "match-file")
        require_satisfiable(selectors, given)
        for each in selectors:
            if not each.selects_something_named:
                raise UsageError(
                    f"--match {each.text!r}: Prometheus expects a matcher that does not match the "
                    "empty string"
                )
        return [each.text for each in selectors] or [_DEFAULT_MATCH]
