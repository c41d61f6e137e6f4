"""telemeter-client: its flags, and the service that they make."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner
from twisted.python.usage import UsageError

from telemeter import __version__
from telemeter.agent.authorize import TokenStore
from telemeter.agent.collect import Source
from telemeter.agent.cycle import Agent, Collecting, CycleError, Plan, collect
from telemeter.agent.upload import Destination
from telemeter.config.files import reading_from, recording, signature
from telemeter.config.flags import (
    LOGGING,
    Flag,
    Flags,
    integer,
    label_names,
    log_level,
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
    warn_of_empty,
    warn_of_tracing,
)
from telemeter.config.listen import listen_address, plain_listener
from telemeter.config.reload import Reloader
from telemeter.convert.collect import Transforms
from telemeter.convert.collector import KIND, Transformer
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock, elapsed_reactor
from telemeter.loop.threads import thread_runner
from telemeter.net.client import make_agent
from telemeter.net.treq_agent import TreqAgent
from telemeter.net.url import (
    add_query,
    check_http_url,
    default_path,
    extend_path,
    replace_path,
    shown,
)
from telemeter.observe.compiled import warn_of_python
from telemeter.observe.log import make_observer
from telemeter.samples.exposition import render_text
from telemeter.samples.family import label_fault
from telemeter.tap.daemon import Daemon
from telemeter.web.agent import federate_route
from telemeter.web.debug import debug_routes
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.reload import reload_route
from telemeter.web.site.routing import make_site

log = Logger()

PATHS = ("/", "/metrics", "/debug/", "/healthz", "/healthz/ready", "/federate", "/-/reload")
_SHORTEST_TIMEOUT = 10.0
_DEFAULT_MATCH = '{__name__="up"}'
#: The identifier in etc/client.env.example.
_PLACEHOLDER = "00000000-0000-0000-0000-000000000000"


def _path_or_url(value: str) -> str:
    """A URL, or a path on the server of --to."""
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
        """Make a plan, so that what is wrong is known before anything starts."""
        if not self["from"]:
            raise UsageError(
                "--from is required: the URL of a Prometheus server such as http://localhost:9090"
            )
        self.collecting()
        if self["dry-run"]:
            return
        if self["listen"]:
            self.require_listen("listen")
        self.urls()
        self.sending()
        read_proxies()

    def urls(self) -> tuple[str, str]:
        """Where to authorize and where to upload; raises `UsageError`."""
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

    def sending(self) -> dict[str, Any]:
        """Read the files that sending needs; raises `UsageError`."""
        to_token = read_secret(self, "to-token")
        if not to_token:
            raise UsageError("--to-token or --to-token-file is required, to authorize with")
        return {"to_policy": read_policy(self, "to-ca-file"), "to_token": to_token}

    def collecting(self) -> dict[str, Any]:
        """Read the files that collecting needs; raises `UsageError`."""
        policy = read_policy(self, "from-ca-file", "tls-cert-file", "tls-private-key-file")
        salt = read_salt(self, "anonymize-salt")
        if self["anonymize-labels"] and not salt:
            raise UsageError(
                "--anonymize-labels needs --anonymize-salt or --anonymize-salt-file, "
                "and neither was given"
            )
        return {
            "policy": policy,
            "from_token": read_secret(self, "from-token"),
            "salt": salt,
            "matches": self._matches(),
        }

    def rotating_paths(self) -> list[str]:
        """The files with tokens and certificates."""
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


def make_collecting(options: Options, reactor: Any) -> Collecting:
    """Read the files that collecting needs, and prepare to collect; raises `UsageError`."""
    settings = options.collecting()
    from_url = default_path(options["from"], "/federate")
    return Collecting(
        Source(
            TreqAgent(
                make_agent(reactor, "federate_from", options.program, policy=settings["policy"])
            ),
            reactor,
            add_query(from_url, [("match[]", match) for match in settings["matches"]]),
            token=settings["from_token"],
            limit=options["limit-bytes"],
            timeout=max(options["interval"], _SHORTEST_TIMEOUT),
        ),
        Transformer(
            Transforms(
                dict(options["label"]),
                dict(options["rename"]),
                frozenset(options["anonymize-labels"]),
                settings["salt"],
            )
        ),
        selectors=len(settings["matches"]),
    )


def make_plan(
    options: Options, reactor: Any, wall: WallClock, previous: Plan | None = None
) -> Plan:
    """Read all files again and make a plan of them; raises `UsageError`."""
    collecting = make_collecting(options, reactor)
    settings = options.sending()
    authorize_url, upload_url = options.urls()
    timeout = max(options["interval"], _SHORTEST_TIMEOUT)
    to_agent = TreqAgent(
        make_agent(
            reactor,
            "federate_to",
            options.program,
            policy=settings["to_policy"],
            proxies=read_proxies(),
        )
    )
    tokens = previous.tokens if previous else None
    if tokens is None or not tokens.serves(authorize_url, settings["to_token"]):
        tokens = TokenStore(to_agent, reactor, wall, authorize_url, settings["to_token"])
    else:
        tokens.use(to_agent)  # it may trust other authorities
    return Plan(
        collecting.source,
        collecting.transformer,
        tokens,
        Destination(to_agent, reactor, wall, upload_url, timeout),
        options["interval"],
        selectors=collecting.selectors,
    )


class Planner:
    """Makes the agent's plan anew: on request, and when tokens or certificates have changed.

    Kubernetes, for one, replaces such files while the agent runs.
    """

    def __init__(self, options: Options, reactor: Any, wall: WallClock) -> None:
        self._options = options
        self._reactor = reactor
        self._wall = wall
        self._signature = signature(options.rotating_paths())
        with recording() as self._contents:
            self.plan = make_plan(options, reactor, wall)

    def reload(self, agent: Agent) -> Mapping[str, object]:
        """Read all files again and have the agent use them; raises `UsageError`.

        Returns:
            What there is now, for the log.
        """
        with recording() as contents:
            self.plan = make_plan(self._options, self._reactor, self._wall, self.plan)
        self._contents = contents
        agent.reload(self.plan)
        return {"selectors": self.plan.selectors}

    def current(self) -> Plan:
        """The plan for the next cycle.

        The other files count as they were when all were read: a change to one of them waits for
        a reload, and if there is a mistake in it, tokens must not grow old for that.
        """
        paths = self._options.rotating_paths()
        state = signature(paths)
        if state != self._signature:
            self._signature = state
            try:
                with reading_from(self._contents, anew=paths):
                    self.plan = make_plan(self._options, self._reactor, self._wall, self.plan)
            except UsageError as error:
                log.error("changed files are not used yet", reason=str(error))
            else:
                log.info("changed files are used from now on")
        return self.plan


def makeService(
    options: Options, reactor: Any = None, wall: WallClock = SYSTEM_WALL_CLOCK
) -> IService:
    """The service of an agent: its cycle, and a listener."""
    if reactor is None:
        reactor = elapsed_reactor()
    if options["dry-run"]:
        globalLogBeginner.beginLoggingTo(
            [make_observer(sys.stderr, log_level(options))], redirectStandardIO=False
        )
        warn_of_empty(options)
        react(lambda reactor: Deferred.fromCoroutine(dry_run(options, reactor, wall)))
    daemon = Daemon(options, reactor)
    planner = Planner(options, reactor, wall)
    agent = Agent(planner.plan, reactor, wall, refresh=planner.current, run=thread_runner(reactor))
    agent.setServiceParent(daemon)
    reloader = Reloader(reactor, wall, lambda: planner.reload(agent))
    reloader.setServiceParent(daemon)
    daemon.signals.call(signal.SIGHUP, reloader.reload_quietly)
    if options["listen"]:
        health = Health()
        site = make_site(
            [
                index_route(PATHS),
                *health.routes(),
                metrics_route(),
                *debug_routes(reactor),
                federate_route(lambda: agent.last),
                reload_route(reloader.reload),
            ],
            reactor,
        )
        listener = plain_listener(reactor, site, options["listen"], options.program)
        listener.setServiceParent(daemon)
    authorize_url, upload_url = options.urls()
    log.info(
        "starting telemeter-client",
        version=__version__,
        **{"from": shown(options["from"])},
        authorize=shown(authorize_url),
        upload=shown(upload_url),
        transformer=KIND,
        selectors=planner.plan.selectors,
    )
    warn_of_python(KIND, "a cycle takes 12 to 15 times the processor time")
    warn_of_empty(options)
    warn_of_tracing(options)
    if not options["anonymize-labels"]:
        log.warn("no --anonymize-labels: label values are sent as they are")
    if options["to"] and not options["id"] and not options["to-auth"]:
        log.warn("no --id: a telemeter-server refuses to authorize without one")
    return daemon


async def dry_run(options: Options, reactor: Any, wall: WallClock) -> None:
    """Collect once and print what would be sent; ends the program."""
    try:
        transformed = await collect(make_collecting(options, reactor), wall)
    except CycleError as error:
        raise SystemExit(f"telemeter-client: --from {shown(options['from'])}: {error}") from None
    sys.stdout.write(render_text(transformed.decoded()))
    log.info(
        "dry run: nothing was sent",
        collected=transformed.received,
        left=transformed.samples,
    )
