"""The options of telemeter-client: its flags, checked, and the configuration that they make."""

from __future__ import annotations

from typing import ClassVar, Final
from urllib.parse import urlsplit

from twisted.python.usage import UsageError

from telemeter.config.agent import AgentConfig, CollectSettings, SendSettings, SpoolSettings
from telemeter.config.agent_flags import DEFAULT_MATCH, GROUPS
from telemeter.config.flag_parser import Flags
from telemeter.config.groups import read_operators
from telemeter.config.reading import (
    read_policy,
    read_proxies,
    read_salt,
    read_secret,
    read_selectors,
    require_satisfiable,
)
from telemeter.convert.collect import Transforms
from telemeter.net.url import add_query, default_path, extend_path, replace_path, shown

#: An agent with a short interval waits this long for an answer all the same, in seconds.
_SHORTEST_TIMEOUT: Final = 10.0


class Options(Flags):
    """The flags of telemeter-client."""

    program = "telemeter-client"
    synopsis = "[flags]"
    longdesc = (
        "Collects metrics from a Prometheus server by federation, anonymizes and labels them, and "
        "pushes them to a telemeter-server, every interval. The server is reached through the "
        "proxies that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name, --from never is."
    )
    groups: ClassVar = GROUPS

    def check(self) -> None:
        """Read every file, so that what is wrong is known before anything starts."""
        if self["spool-status"]:
            if not self["spool-dir"]:
                raise UsageError("--spool-status needs --spool-dir, the folder to look into")
            return
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
            operators=read_operators(self),
            spool=self._spool(),
        )

    def _spool(self) -> SpoolSettings | None:
        """Return what is kept, and how; raises `UsageError`."""
        if not self["spool-dir"]:
            for name in ("to-receive", "stale-on-stop"):
                if self[name]:
                    raise UsageError(f"--{name} needs --spool-dir")
            return None
        if self["dry-run"]:
            return None
        if not self["id"]:
            raise UsageError(
                "--spool-dir needs --id: what is kept is delivered by remote write, as the cluster "
                "that --id names"
            )
        return SpoolSettings(
            self["spool-dir"],
            self["spool-max-bytes"],
            self["spool-max-age"],
            self["spool-rate"],
            self["spool-order"] == "newest-first",
            self["stale-on-stop"],
            self._receive_url(),
            self["id"],
        )

    def _receive_url(self) -> str:
        """Return where what is kept is delivered; raises `UsageError`."""
        target: str = self["to-receive"]
        if not self["to"] and (not target or target.startswith("/")):
            raise UsageError("--spool-dir needs --to, or --to-receive with a URL")
        if not target:
            return self._below_to("metrics/v1/receive")
        return replace_path(self["to"], target) if target.startswith("/") else target

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
        return [each.text for each in selectors] or [DEFAULT_MATCH]
