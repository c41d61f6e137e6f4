"""A telemeter-server without sockets: its endpoints, and the servers that it talks to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from treq.testing import StubTreq
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent

from telemeter.auth.keys import generate_key
from telemeter.auth.token import TokenIssuer
from telemeter.config.server_options import Options
from telemeter.convert.upload import UploadRules
from telemeter.limits.replicas import Memcache
from telemeter.limits.settings import RateLimitSettings
from telemeter.loop.timeouts import TIMEOUTS, Timeouts
from telemeter.net.client import InstrumentedAgent
from telemeter.samples.compression import compress_framed, decompress_block
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, Family, encode_families
from telemeter.samples.proto import remote_pb2
from telemeter.server.app import SingleProcess, build
from telemeter.server.endpoints import Seams
from telemeter.web.site.listener import Listener
from telemeter.web.site.routing import make_resource
from tests.fakes import (
    NOW,
    Answer,
    FakeWall,
    Peer,
    Received,
    ask,
    clock_at,
    json_reply,
    result_of,
    untyped,
)

KEY: Final = generate_key()
ACCOUNT: Final = "account-1"
CLUSTER: Final = "cluster-1"
TENANT: Final = "FB870BF3-9F3A-44FF-9BF7-D7A047A52F43"
UPSTREAM_URL: Final = "http://upstream.test/api/v1/receive"

Caller = Callable[..., Answer]


class Server:
    """A server as its daemon builds it, with other agents.

    Attributes:
        clock: goes by elapsed time.
        wall: what time it is.
        tollbooth: the authorization server; it accepts everything until told otherwise.
        upstream: takes what is forwarded, and answers 200 until told otherwise.
        site: what listens.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        rules: UploadRules | None = None,
        required: Mapping[str, str] | None = None,
        partition_label: str = "_id",
        ratelimit: float = 270.0,
        limit_bytes: int = 512_000,
        lifetime: int = 86_400,
        authorize: bool = True,
        forward_agent: IAgent | None = None,
        run: Callable[..., Deferred[Any]] = maybeDeferred,
        memcache: Memcache | None = None,
        timeouts: Timeouts = TIMEOUTS,
        inflight_bytes: int | None = None,
    ) -> None:
        self.clock = clock or clock_at()
        self.wall = FakeWall(self.clock)
        self.tollbooth = Peer(json_reply({"account_id": ACCOUNT}))
        self.upstream = Peer()
        agents = {
            "authorize": self.tollbooth.agent,
            "forward": forward_agent or self.upstream.agent,
        }
        rules = rules or UploadRules()
        options = Options()
        options.parseOptions(
            [
                *("--partition-label", partition_label),
                *("--forward-url", UPSTREAM_URL),
                *("--forward-batch-requests", "1"),
                *("--tenant-id", TENANT),
                *("--authorize", "http://tollbooth.test/tb" if authorize else ""),
                *("--limit-bytes", str(limit_bytes)),
                *("--token-expire-seconds", str(lifetime)),
                *("--fleet-max-clusters", "0"),
            ]
        )
        config = replace(
            options.config,
            tokens=replace(options.config.tokens, keys=(KEY,)),
            samples=replace(
                options.config.samples,
                whitelist=rules.whitelist,
                added_labels=rules.labels,
                elided_labels=rules.elided,
                required_labels=required or {},
            ),
            ratelimit=RateLimitSettings(ratelimit),
            timeouts=timeouts,
            inflight_bytes=inflight_bytes or options.config.inflight_bytes,
        )
        reactor: Any = self.clock  # all that is needed of one here
        app = build(
            config,
            reactor,
            self.wall,
            reader=options,
            seams=Seams(
                lambda name, _: InstrumentedAgent(agents[name], name, self.clock), run, memcache
            ),
        )
        assert isinstance(app, SingleProcess)
        self.health = app.health
        self.limiter = app.endpoints.rate_limiter
        self.issuer = TokenIssuer(KEY, lifetime)
        self._partition_label = partition_label
        self.routes = app.endpoints.client_routes()
        (self.site,) = (
            service.site
            for service in app.services
            if isinstance(service, Listener) and service.flag == "listen"
        )

    def token(self, cluster: str = CLUSTER, **labels: str) -> str:
        """The token of a cluster."""
        labels = {self._partition_label: cluster, **labels}
        return self.issuer.issue(ACCOUNT, labels, self.wall.now())

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The answer of the site."""
        return ask(self.site, method, target, headers, body)

    def ask_tree(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The answer of the bare resource tree, without the site before it."""
        client: Any = StubTreq(make_resource(self.routes))
        url = f"http://telemeter.test{target}"
        response = result_of(
            client.request(
                method, url, headers=dict(headers or {}), data=body, allow_redirects=False
            )
        )
        answered = {
            name.decode().lower(): values[-1].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, answered, result_of(client.content(response)))

    def upload(
        self,
        *families: Family,
        cluster: str = CLUSTER,
        token: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        caller: Caller | None = None,
    ) -> Answer:
        """The answer to an upload, as the agent sends it unless told otherwise."""
        token = self.token(cluster) if token is None else token
        if body is None:
            body = compress_framed(encode_families(families))
        fields = {**agent_headers(token), **(headers or {})}
        return (caller or self.ask)("POST", "/upload", fields, body)


def agent_headers(token: str) -> dict[str, str | bytes]:
    """The headers of an upload."""
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": PROTOBUF_CONTENT_TYPE,
        "Content-Encoding": "snappy",
    }


def up(value: float = 1.0, cluster: str = CLUSTER, at: int = NOW * 1000, **labels: str) -> Family:
    """One sample of a cluster."""
    return untyped("up", ({"_id": cluster, **labels}, value), at=at)


def forwarded(received: Received) -> list[tuple[dict[str, str], float, int]]:
    """What an upstream got: labels, value and timestamp of each series."""
    request = remote_pb2.WriteRequest.FromString(decompress_block(received.body, 1 << 20))
    return [
        ({pair.name: pair.value for pair in series.labels}, sample.value, sample.timestamp)
        for series in request.timeseries
        for sample in series.samples
    ]
