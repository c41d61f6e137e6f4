"""What lies around an agent: a Prometheus and a telemeter-server, in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.task import Clock

from telemeter.agent.authorize import TokenExchange
from telemeter.agent.collect import FederationSource
from telemeter.agent.cycle import Agent, CyclePlan
from telemeter.agent.upload import Destination
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import CollectConverter
from telemeter.samples.compression import decompress_framed
from telemeter.samples.family import (
    PROTOBUF_CONTENT_TYPE,
    Family,
    decode_families,
    encode_families,
)
from tests.fakes import NOW_MS, FakeWall, Peer, Received, Reply, json_reply, untyped

INTERVAL: Final = 270.0
FROM_URL: Final = "http://prometheus.test/federate?match[]=up"
AUTHORIZE_URL: Final = "http://telemeter.test/authorize?id=cluster"
UPLOAD_URL: Final = "http://telemeter.test/upload"
TOKEN: Final = "the-cluster-token"


def families_reply(*families: Family) -> Reply:
    """What a Prometheus answers at /federate."""
    return Reply(200, encode_families(families), {"Content-Type": PROTOBUF_CONTENT_TYPE})


def token_reply(value: str = "jwt-1", lifetime: object = 86400, **labels: str) -> Reply:
    """What a server answers at /authorize."""
    return json_reply(
        {"version": 1, "token": value, "expiresInSeconds": lifetime, "labels": labels}
    )


class World:
    """An agent and all that it talks to.

    Attributes:
        prometheus: has one sample of `up`.
        authorize: gives out a token.
        server: takes uploads.
        jitters: the bounds between which the agent asked for a random number.
        luck: what is random: 0 is the lower bound, 1 the upper one.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        interval: float = INTERVAL,
        transforms: Transforms | None = None,
        limit: int = 204_800,
        timeout: float = INTERVAL,
        refresh: Callable[[], Awaitable[CyclePlan]] | None = None,
    ) -> None:
        self.clock = clock
        self.wall = FakeWall(clock)
        self.prometheus = Peer(families_reply(up()))
        self.authorize = Peer(token_reply(_id="cluster"))
        self.server = Peer()
        self.jitters: list[tuple[float, float]] = []
        self.luck = 0.5
        self._limit = limit
        self._timeout = timeout
        self.plan = self.make_cycle_plan(interval=interval, transforms=transforms)
        self.agent = Agent(self.plan, clock, self.wall, self._jitter, refresh)

    def make_cycle_plan(
        self,
        *,
        interval: float = INTERVAL,
        transforms: Transforms | None = None,
        tokens: TokenExchange | None = None,
        upload_url: str = UPLOAD_URL,
    ) -> CyclePlan:
        """A plan."""
        return CyclePlan(
            FederationSource(
                self.prometheus.agent,
                self.clock,
                FROM_URL,
                token="",
                limit=self._limit,
                timeout=self._timeout,
            ),
            CollectConverter(transforms or Transforms()),
            tokens
            or TokenExchange(self.authorize.agent, self.clock, self.wall, AUTHORIZE_URL, TOKEN),
            Destination(self.server.agent, self.clock, self.wall, upload_url, self._timeout),
            interval,
        )

    def _jitter(self, low: float, high: float) -> float:
        self.jitters.append((low, high))
        return low + (high - low) * self.luck

    @property
    def uploads(self) -> int:
        """How many uploads the server got."""
        return len(self.server.received)


def up(value: float = 1.0, at: int = NOW_MS, **labels: str) -> Family:
    """One sample, as Prometheus has it."""
    return untyped("up", ({"job": "j", **labels}, value), at=at)


def uploaded(received: Received) -> list[tuple[str, dict[str, str], float, int]]:
    """Name, labels, value and timestamp of all samples of an upload."""
    return [
        (
            family.name,
            {pair.name: pair.value for pair in metric.label},
            metric.untyped.value,
            metric.timestamp_ms,
        )
        for family in decode_families(decompress_framed(received.body, 1 << 20))
        for metric in family.metric
    ]
