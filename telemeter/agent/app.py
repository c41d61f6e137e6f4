"""A telemeter-client, put together: its cycle, its listener and its reload."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twisted.application.service import IService
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger
from twisted.python.usage import UsageError
from twisted.web.iweb import IAgent

from telemeter.agent.authorize import TokenExchange
from telemeter.agent.collect import FederationSource
from telemeter.agent.cycle import Agent, Collecting, CycleError, CyclePlan, collect
from telemeter.agent.delivery import Delivery
from telemeter.agent.keeper import Keeper
from telemeter.agent.spool import Spool, SpoolError, read_state
from telemeter.agent.upload import DeliveryPlan, Destination, Receiver
from telemeter.config.agent import AgentConfig, AgentConfigReader, SpoolSettings
from telemeter.config.disk import Disk
from telemeter.config.files import Contents, Readings, reading_from, recording, signature
from telemeter.config.listen_address import plain_listener
from telemeter.config.reload import Reloader, Told
from telemeter.convert.engine import CollectConverter
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, WallClock
from telemeter.loop.services import in_start_order
from telemeter.loop.threads import DaemonThread, Runner, thread_runner
from telemeter.net.client import make_agent
from telemeter.net.treq_agent import TreqAgent
from telemeter.net.url import shown
from telemeter.samples.errors import BadInputError
from telemeter.samples.exposition import render_text
from telemeter.web.agent_federate import federate_route
from telemeter.web.debug import debug_routes
from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.reload import reload_route
from telemeter.web.site.guard import Guard
from telemeter.web.site.routing import make_site

#: How many connections of operators there may be.
_OPERATORS: Final = 64

log = Logger()


def build(
    config: AgentConfig,
    reactor: Any,
    wall: WallClock = SYSTEM_WALL_CLOCK,
    *,
    reader: AgentConfigReader,
) -> AgentApp:
    """Put an agent together; nothing is started yet.

    Args:
        config: the configuration.
        reactor: what it runs on; its clock shows elapsed time.
        wall: tells the time of day.
        reader: reads the configuration again.
    """
    return AgentApp(config, reactor, wall, reader)


class AgentApp:
    """An agent: what it consists of.

    Attributes:
        services: what runs, in start order. They stop in the reverse order, each when
            the one that stops before it has (`telemeter.loop.services.OrderedServices`).
        reloader: reloads on request.
        planner: makes the plan of each cycle.
    """

    def __init__(
        self, config: AgentConfig, reactor: Any, wall: WallClock, reader: AgentConfigReader
    ) -> None:
        self.planner = planner = Planner(reader, reactor, wall)
        run = thread_runner(reactor, BadInputError)
        spooling = self._spooling = (
            Spooling(config, config.spool, planner, reactor, wall, run) if config.spool else None
        )
        stop_seconds = config.timeouts.agent_stop
        agent = Agent(
            planner.plan,
            reactor,
            wall,
            refresh=planner.current,
            run=run,
            keep=spooling.delivery.take if spooling else None,
            stop_seconds=stop_seconds / 2 if spooling else stop_seconds,
        )
        health = Health()
        if spooling:
            health.shared["spool"] = spooling.keeper.describe
        self._agent = agent
        self._guard = Guard(config.operators)
        self.reloader = Reloader(reactor, wall, planner.disk, self._reload)
        listener = None
        if config.listen:
            routes = [
                metrics_route(),
                *debug_routes(reactor),
                *health.routes(for_operators=True),
                federate_route(lambda: agent.last),
                reload_route(self.reloader.reload),
            ]
            site = make_site(
                [index_route(routes), *routes],
                reactor,
                timeouts=config.timeouts,
                guard=self._guard,
                connections=_OPERATORS,
            )
            listener = plain_listener(reactor, site, config.listen, config.program)
        self.services: Sequence[IService] = in_start_order(
            keeper=spooling.keeper if spooling else None,  # with --spool-dir, as the next
            delivery=spooling.delivery if spooling else None,
            cycle=agent,
            reloader=self.reloader,
            listener=listener,  # None without --listen
        )

    async def _reload(self) -> Told:
        told = await self.planner.reload(self._agent)
        if self._spooling:
            self._spooling.delivery.retry_now()
        self._guard.settings = self.planner.config.operators
        return told


class Spooling:
    """What there is besides when collections are kept on disk until they are delivered.

    Attributes:
        keeper: has the spool.
        delivery: delivers what is in it.
    """

    def __init__(
        self,
        config: AgentConfig,
        settings: SpoolSettings,
        planner: Planner,
        reactor: Any,
        wall: WallClock,
        run: Runner,
    ) -> None:
        self.keeper = Keeper(
            Spool(
                settings.folder,
                max_bytes=settings.max_bytes,
                max_age=settings.max_age,
                busy=config.timeouts.spool_busy,
            ),
            reactor,
            wall,
            DaemonThread(reactor).run,
            flag=f"{config.program}: --spool-dir {settings.folder!r}",
            seconds=config.timeouts.spool,
        )

        def plan() -> DeliveryPlan:
            delivery = planner.plan.delivery
            assert delivery is not None
            return delivery

        self.delivery = Delivery(
            self.keeper,
            plan,
            reactor,
            wall,
            run=run,
            stop_seconds=config.timeouts.agent_stop / 6,
            stale_on_stop=settings.stale_on_stop,
        )


def make_collecting(config: AgentConfig, reactor: Any) -> Collecting:
    """Return what collects and transforms."""
    settings = config.collecting
    agent = make_agent(
        reactor,
        "federate_from",
        config.program,
        policy=settings.policy,
        timeouts=config.timeouts,
    )
    return Collecting(
        FederationSource(
            TreqAgent(agent),
            reactor,
            settings.url,
            token=settings.token,
            limit=settings.limit_bytes,
            timeout=settings.timeout,
        ),
        CollectConverter(config.transforms),
        selectors=settings.selectors,
    )


def make_cycle_plan(
    config: AgentConfig, reactor: Any, wall: WallClock, previous: CyclePlan | None = None
) -> CyclePlan:
    """Return the plan of a cycle; the token of a previous plan is kept if it still serves."""
    collecting = make_collecting(config, reactor)
    settings = config.sending
    assert settings is not None, "nothing is sent in a dry run"
    to_agent = TreqAgent(
        make_agent(
            reactor,
            "federate_to",
            config.program,
            policy=settings.policy,
            proxies=settings.proxies,
            timeouts=config.timeouts,
        )
    )
    tokens = previous.tokens if previous else None
    if tokens is None or not tokens.serves(settings.authorize_url, settings.token):
        tokens = TokenExchange(
            to_agent,
            reactor,
            wall,
            settings.authorize_url,
            settings.token,
            config.timeouts.authorize,
        )
    else:
        tokens.use(to_agent)  # it may trust other authorities
    return CyclePlan(
        collecting.source,
        collecting.transformer,
        tokens,
        Destination(to_agent, reactor, wall, settings.upload_url, settings.timeout),
        config.interval,
        selectors=collecting.selectors,
        delivery=_delivery_plan(config, to_agent, reactor, wall, tokens),
    )


def _delivery_plan(
    config: AgentConfig, agent: IAgent, reactor: Any, wall: WallClock, tokens: TokenExchange
) -> DeliveryPlan | None:
    """Return how to deliver what a spool keeps; None: there is none."""
    sending, spool = config.sending, config.spool
    if sending is None or spool is None:
        return None
    receiver = Receiver(
        agent,
        reactor,
        wall,
        spool.receive_url,
        sending.timeout,
        cluster=spool.cluster,
        token=sending.token,
    )
    return DeliveryPlan(tokens, receiver, spool.rate, spool.newest_first)


class Planner:
    """The plan of each cycle, made again on request and when tokens or certificates have changed.

    Kubernetes, for one, replaces such files while the agent runs.

    Attributes:
        config: the configuration that was read last.
        plan: made of it.
        disk: reads the files.
    """

    def __init__(self, reader: AgentConfigReader, reactor: Any, wall: WallClock) -> None:
        self._reader = reader
        self._reactor = reactor
        self._wall = wall
        self._signature = signature(reader.rotating_paths())
        with recording() as self._contents:
            self.config = reader.read_config()
        self.plan = make_cycle_plan(self.config, reactor, wall)
        self.disk = Disk(reactor, self.config.timeouts.files)
        self._one_at_a_time = DeferredLock()

    def _make_again(self, readings: Readings) -> Contents:
        """Make another plan of what was read; return the contents of the files."""
        with reading_from(readings), recording() as contents:
            self.config = self._reader.read_config()
        self.plan = make_cycle_plan(self.config, self._reactor, self._wall, self.plan)
        return contents

    async def reload(self, agent: Agent) -> Mapping[str, object]:
        """Read all files again and have the agent use them; raises `UsageError`.

        Returns:
            What there is now, for the log.
        """
        await self._one_at_a_time.acquire()
        try:
            readings = await self.disk.read(self._contents, "the reload of all files")
            self._contents = self._make_again(readings)
        finally:
            self._one_at_a_time.release()
        agent.reload(self.plan)
        return {"selectors": self.plan.selectors}

    async def current(self) -> CyclePlan:
        """Return the plan for the next cycle.

        The other files count as they were when all were read: a change to one of them waits for
        a reload, and if there is a mistake in it, tokens must not grow old for that.
        """
        await self._one_at_a_time.acquire()
        try:
            await self._use_rotated()
        except UsageError as error:
            log.error("changed files are not used yet", reason=str(error))
        finally:
            self._one_at_a_time.release()
        return self.plan

    async def _use_rotated(self) -> None:
        """Use tokens and certificates if they have changed; raises `UsageError`."""
        paths = self._reader.rotating_paths()
        purpose = "the look for changed tokens and certificates"
        state = await self.disk.signature(paths, purpose)
        if state == self._signature:
            return
        readings = await self.disk.read(paths, purpose)
        self._signature = state
        self._make_again({**self._contents, **readings})
        log.info("changed files are used from now on")


async def dry_run(config: AgentConfig, reactor: Any, wall: WallClock) -> None:
    """Collect once and print what would be sent; raises `SystemExit` if that fails."""
    try:
        transformed = await collect(make_collecting(config, reactor), wall)
    except CycleError as error:
        url = shown(config.collecting.given_url)
        raise SystemExit(f"{config.program}: --from {url}: {error}") from None
    sys.stdout.write(render_text(transformed.decoded()))
    log.info(
        "dry run: nothing was sent",
        collected=transformed.received,
        left=transformed.samples,
    )


def spool_status(program: str, folder: str, wall: WallClock) -> str:
    """Return what is in a spool, in words; raises `SystemExit` if it cannot be read."""
    try:
        state, newest_ms = read_state(folder)
    except SpoolError as error:
        raise SystemExit(f"{program}: --spool-dir {folder!r}: {error}") from None
    lines = [f"collections {state.entries}", f"bytes {state.size}"]
    for name, stamp in (("oldest", state.oldest_ms), ("newest", newest_ms)):
        if stamp:
            date = datetime.fromtimestamp(stamp / 1000, UTC).isoformat(timespec="seconds")
            lines.append(f"{name} {date} ({wall.now() - stamp / 1000:.0f} s ago)")
    return "".join(f"{line}\n" for line in lines)
