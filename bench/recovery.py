"""How a fleet of agents comes back after an outage: `python -m bench.recovery`.

The agents are real, each with a cycle of its own, or with a delivery of its own and a spool in
memory; the clock, the source and the server are not. So an hour takes a minute.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from zope.interface import implementer

from bench import report
from bench.plot import Line, Panel, render
from telemeter.agent.authorize import Token, TokenExchange
from telemeter.agent.collect import FederationSource
from telemeter.agent.cycle import Agent, CyclePlan
from telemeter.agent.delivery import Delivery
from telemeter.agent.keeper import Keeper
from telemeter.agent.spool import Entry, SpoolState
from telemeter.agent.upload import DeliveryPlan, Destination, Receiver, UploadError
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import CollectConverter
from telemeter.loop.clocks import Elapsed, Wall, WallClock
from telemeter.samples.family import Family, decode_families, encode_families
from telemeter.samples.proto import metrics_pb2

INTERVAL: Final = 270.0
OUTAGE: Final = 3600.0
#: The time that passes before the outage, so that the agents are out of step.
_BEFORE: Final = 600.0
#: More than a recovery takes.
_AFTER: Final = 1500.0
_BIN: Final = 5
_EPOCH: Final = 1_700_000_000.0


@implementer(IDelayedCall)
class _Call:
    """Something that a virtual clock will do."""

    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at = at
        self.call: Callable[[], object] | None = call

    def active(self) -> bool:
        return self.call is not None

    def cancel(self) -> None:
        self.call = None

    def getTime(self) -> float:
        return self.at

    def delay(self, secondsLater: float) -> None:
        raise NotImplementedError

    reset = delay


@implementer(IReactorTime)
class VirtualClock:
    """A clock for millions of calls; Twisted's own for tests sorts all of them for each."""

    def __init__(self) -> None:
        self._now = 0.0
        self._calls: list[tuple[float, int, _Call]] = []
        self._number = count()

    def seconds(self) -> float:
        return self._now

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - the interface calls it so
        *args: object,
        **kwargs: object,
    ) -> _Call:
        call = _Call(self._now + delay, partial(callable, *args, **kwargs))
        heapq.heappush(self._calls, (call.at, next(self._number), call))
        return call

    def getDelayedCalls(self) -> list[_Call]:
        return [call for _, _, call in self._calls if call.active()]

    def advance_to(self, until: float) -> None:
        """Do all that is due until then."""
        while self._calls and self._calls[0][0] <= until:
            self._now, _, call = heapq.heappop(self._calls)
            if call.call is not None:
                function, call.call = call.call, None
                function()
        self._now = until


class _Wall:
    """The time of day, as a virtual clock has it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> Wall:
        return Wall(_EPOCH + self._clock.seconds())


@dataclass
class Server:
    """A server that is away for an hour, and counts what arrives when it is back.

    Attributes:
        clock: tells when.
        arrivals: how many requests arrived, by the second.
        retry_after: what it says for as long as it is away; None: nobody is there to say anything.
    """

    clock: VirtualClock
    retry_after: float | None = None
    arrivals: Counter[int] = field(default_factory=Counter)

    async def take(self, *_: object) -> None:
        """Take an upload, or a remote write."""
        since = self.clock.seconds() - _BEFORE
        if 0 <= since < OUTAGE:
            status = 0 if self.retry_after is None else 503
            raise UploadError("the server is away", status, self.retry_after)
        if since >= OUTAGE:
            self.arrivals[int(since - OUTAGE)] += 1

    upload = write = take
    cluster = "cluster"


class _Tokens:
    """A token that always holds."""

    async def get(self) -> Token:
        return Token("token", {"_id": "cluster"}, Elapsed(float("inf")))


class _Source:
    """A Prometheus with one series."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    async def collect(self) -> tuple[bytes, Any]:
        family = Family(name="up", type=metrics_pb2.UNTYPED)
        family.metric.add(timestamp_ms=int((_EPOCH + self._clock.seconds()) * 1000))
        family.metric[0].untyped.value = 1.0
        return encode_families([family]), decode_families


class _Keeper:
    """A spool in memory."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self._number = 0

    @property
    def state(self) -> SpoolState:
        return SpoolState(len(self.entries))

    age = 0.0

    async def keep(self, collected_ms: int, body: bytes, *, is_write: bool = False) -> None:
        self._number += 1
        self.entries[self._number] = Entry(self._number, collected_ms, is_write, body)

    async def next(self, *, newest: bool, without: Collection[int] = ()) -> Entry | None:
        return next((each for each in self.entries.values() if each.number not in without), None)

    async def forget(self, number: int) -> None:
        del self.entries[number]


@dataclass(frozen=True)
class Recovery:
    """What a server saw after an outage.

    Attributes:
        name: what was different.
        arrivals: requests in each second since it was back, up to the end of the recovery.
    """

    name: str
    arrivals: list[int]

    @property
    def mean(self) -> float:
        """Requests per second, over the whole recovery."""
        return sum(self.arrivals) / len(self.arrivals)

    @property
    def peak(self) -> int:
        """The most requests in a second."""
        return max(self.arrivals)


def recover(
    name: str, agents: int, *, spool: bool, retry_after: float | None = None, seed: int = 1
) -> Recovery:
    """Let a fleet go through an outage; the recovery ends when the backlog of all is delivered.

    Without a spool there is no backlog: it ends when each agent has uploaded once.

    Args:
        name: of the case.
        agents: how many.
        spool: whether they have one.
        retry_after: what the server says for as long as it is away; None: nobody says anything.
        seed: of all that is random.
    """
    clock = VirtualClock()
    server = Server(clock, retry_after)
    luck = random.Random(seed)
    fleet = [_Member(clock, server, luck, spool=spool) for _ in range(agents)]
    for member in fleet:
        clock.callLater(luck.uniform(0, INTERVAL), member.start)
    clock.advance_to(_BEFORE + OUTAGE)
    for member in fleet:
        member.mark()
    end = 0
    while end < _AFTER and not all(member.has_recovered() for member in fleet):
        end += 1
        clock.advance_to(_BEFORE + OUTAGE + end)
    return Recovery(name, [server.arrivals[second] for second in range(end)])


class _Member:
    """One agent of the fleet."""

    def __init__(
        self, clock: VirtualClock, server: Server, luck: random.Random, *, spool: bool
    ) -> None:
        wall = cast(WallClock, _Wall(clock))
        reactor = cast(IReactorTime, clock)
        self._keeper = _Keeper()
        self._uploads = 0
        self._server = server
        delivery_plan = DeliveryPlan(
            cast(TokenExchange, _Tokens()), cast(Receiver, server), 1.0, newest_first=False
        )
        self._delivery = Delivery(
            cast(Keeper, self._keeper), lambda: delivery_plan, reactor, wall, luck.uniform
        )
        self._has_spool = spool
        plan = CyclePlan(
            cast(FederationSource, _Source(clock)),
            CollectConverter(Transforms()),
            cast(TokenExchange, _Tokens()),
            cast(Destination, self),
            INTERVAL,
        )
        keep = self._delivery.take if spool else None
        self._agent = Agent(plan, reactor, wall, luck.uniform, keep=keep)

    async def upload(self, *_: object) -> None:
        await self._server.take()
        self._uploads += 1

    def start(self) -> None:
        if self._has_spool:
            self._delivery.startService()
        self._agent.startService()

    def mark(self) -> None:
        """Take note that the server is back."""
        self._uploads = 0

    def has_recovered(self) -> bool:
        return not self._keeper.entries if self._has_spool else self._uploads > 0


def all_cases(agents: int) -> list[Recovery]:
    """Return the recoveries of fleets with and without a spool."""
    return [
        recover("with a spool", agents, spool=True),
        recover("with a spool, told to wait for 60 s", agents, spool=True, retry_after=60.0),
        recover("without a spool", agents, spool=False),
    ]


def markdown(agents: int, cases: list[Recovery]) -> str:
    """Return the table for the page."""
    lines = [
        f"{agents:,} agents, an outage of an hour, a virtual clock (`python -m bench.recovery`):",
        "",
        "| | recovery | requests | a second, mean | peak | peak over mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {case.name} | {len(case.arrivals)} s | {sum(case.arrivals):,} | {case.mean:.0f} "
        f"| {case.peak} | {case.peak / case.mean:.1f} |"
        for case in cases
    ]
    return "\n".join(lines)


def plot(cases: list[Recovery]) -> str:
    """Return the plot, as SVG."""
    lines = []
    for case in cases:
        bins = [case.arrivals[at : at + _BIN] for at in range(0, len(case.arrivals), _BIN)]
        points = [
            (at * _BIN + _BIN / 2, sum(each) / len(each))
            for at, each in enumerate(bins)
            if sum(each)
        ]
        lines.append(Line(case.name, points))
    panel = Panel(
        "After an outage of an hour", "seconds since the server is back", "requests a second", lines
    )
    return render([panel])


@implementer(ILogObserver)
def _silence(event: LogEvent) -> None:
    """Log nothing: an hour of failures is no news here."""


def main() -> int:
    """Run the simulation; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--page", type=Path, help="the page to write the results into")
    given = parser.parse_args()
    globalLogBeginner.beginLoggingTo([_silence], redirectStandardIO=False)
    cases = all_cases(given.agents)
    text = markdown(given.agents, cases)
    print(text)
    if given.page is not None:
        given.page.write_text(report.replace_measured(given.page.read_text(), text))
        given.page.with_name("recovery.svg").write_text(plot(cases))
    return 0


if __name__ == "__main__":
    sys.exit(main())
