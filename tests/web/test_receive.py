"""POST /metrics/v1/receive, wired as the daemon wires it, without sockets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
from twisted.internet import error as errors
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from twisted.web.iweb import IAgent

from telemeter.auth.composite import make_composite
from telemeter.config.server import ServerConfig
from telemeter.config.server_options import Options
from telemeter.convert.sieve import WriteRules
from telemeter.limits.inflight import InFlight
from telemeter.loop.threads import HERE, ThreadPolicy
from telemeter.net.client import InstrumentedAgent
from telemeter.samples.compression import compress_block, compress_framed, decompress_block
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from telemeter.samples.wire import write_varint
from telemeter.server.app import SingleProcess, build
from telemeter.server.endpoints import Seams
from telemeter.store.federation import Federation, Text
from telemeter.store.store import Store
from telemeter.web import receive
from telemeter.web.receive import ReceiveEndpoint, ReceiveSettings, TokenCheck
from telemeter.web.site.listener import Listener
from telemeter.web.site.routing import make_site
from tests.convert.write_strategies import (
    Exemplar,
    Histogram,
    Metadata,
    Pairs,
    Request,
    Sample,
    Series,
    double,
    encode_v1,
    encode_v2,
    packed,
    packed_doubles,
    raw,
    read_v2,
    varint,
    whole,
    zigzag,
)
from tests.convert.write_strategies import chunk as field
from tests.fakes import (
    NOW_MS,
    SILENCE,
    Answer,
    Broken,
    FakeWall,
    Growth,
    Log,
    Peer,
    Reply,
    Wire,
    ask,
    chunk,
    clock_at,
    head_of,
    json_reply,
    request_of,
    take_turns,
)
from tests.samples import histogram_model
from tests.samples.build import NORMAL_NAN, STALE_NAN, bits

PATH: Final = "/metrics/v1/receive"
NAME: Final = "__name__"
CLUSTER: Final = "cluster-1"
SECRET: Final = "s3cr3t-of-cluster-1"
TOKEN: Final = make_composite(CLUSTER, SECRET)
TENANT: Final = "FB870BF3-9F3A-44FF-9BF7-D7A047A52F43"
TOLLBOOTH_URL: Final = "http://reader:tb-passw0rd@tollbooth.test/tb"
UPSTREAM_URL: Final = "http://writer:up-passw0rd@upstream.test/api/v1/receive"
LIMIT: Final = 128 * 1024
V1: Final = "application/x-protobuf"
V2: Final = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
#: What must never be in a log: the secret, and how it looks in the token.
PRIVATE: Final = (SECRET, TOKEN, TOKEN.rstrip("="), "up-passw0rd", "tb-passw0rd")
ACCEPTED: Final = json_reply({"account_id": "account-1"})
CHUNKED: Final = {"Transfer-Encoding": "chunked"}

Run = Callable[..., Deferred[Any]]


def settings(
    *rules: str, elided: tuple[str, ...] = (), limit: int = LIMIT, **more: Any
) -> ReceiveSettings:
    whitelist = Whitelist([parse_selector(rule) for rule in rules])
    return ReceiveSettings(WriteRules(whitelist, frozenset(elided)), limit, **more)


def configured_by(config: ServerConfig, configured: ReceiveSettings) -> ServerConfig:
    """The configuration of a server whose endpoint is configured in a way."""
    rules = configured.rules
    return replace(
        config,
        samples=replace(
            config.samples,
            partition_label=rules.partition_label,
            whitelist=rules.whitelist,
            elided_labels=rules.elided,
            received_labels=rules.added,
            receive_bytes=configured.limit_bytes,
            foreign_ids=configured.foreign_ids,
            tenant_key=configured.tenant_key,
        ),
        forward=replace(config.forward, keeps_version=configured.keep_version),
    )


class Server:
    """A server as its daemon builds it, and the servers that it talks to.

    Attributes:
        tollbooth: the authorization server; it accepts everything until told otherwise.
        upstream: takes what is forwarded, and answers 200 until told otherwise.
    """

    def __init__(
        self,
        configured: ReceiveSettings | None = None,
        *,
        authorize: bool = True,
        authorize_agent: IAgent | None = None,
        forward_agent: IAgent | None = None,
        run: Run = maybeDeferred,
    ) -> None:
        self.clock: Clock = clock_at()
        self.tollbooth = Peer(ACCEPTED)
        self.upstream = Peer()
        agents = {
            "authorize": authorize_agent or self.tollbooth.agent,
            "forward": forward_agent or self.upstream.agent,
        }
        options = Options()
        options.parseOptions(
            [
                *("--forward-url", UPSTREAM_URL),
                *("--forward-batch-requests", "1"),
                *("--tenant-id", TENANT),
                *("--authorize", TOLLBOOTH_URL if authorize else ""),
                *("--authorize-cache-size", "10"),
                *("--fleet-max-clusters", "0"),
            ]
        )
        reactor: Any = self.clock  # all that is needed of one here
        app = build(
            configured_by(options.config, configured or settings()),
            reactor,
            FakeWall(self.clock),
            reader=options,
            seams=Seams(lambda name, _: InstrumentedAgent(agents[name], name, self.clock), run),
        )
        assert isinstance(app, SingleProcess)
        self.forwarder = app.endpoints.clients.forwarder
        (self.site,) = (
            service.site
            for service in app.services
            if isinstance(service, Listener) and service.flag == "listen"
        )

    def write(
        self,
        body: bytes | Request,
        version: int = 1,
        *,
        token: str = TOKEN,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> Answer:
        """The answer to a request, which is compressed unless it is bytes."""
        fields = {**headers_of(version, token), **(headers or {})}
        return ask(self.site, "POST", PATH, fields, encoded(body, version))

    def begin(self, length: int | None = None, *, token: str = TOKEN) -> Wire:
        """A connection on which a request has begun; without a length its body comes chunked."""
        wire = Wire(self.site)
        fields = {**headers_of(1, token)}
        fields |= CHUNKED if length is None else {"Content-Length": str(length)}
        wire.send(head_of("POST", PATH, fields))
        return wire

    @property
    def forwarded(self) -> bytes:
        """The only request that was forwarded, decompressed."""
        return decompress_block(self.upstream.only.body, 1 << 24)


class Checking(Server):
    """A server whose endpoint asks something else about tokens."""

    def __init__(self, check: TokenCheck) -> None:
        super().__init__()
        assert self.forwarder is not None
        endpoint = ReceiveEndpoint(settings(), check, self.forwarder, HERE, InFlight(1 << 30))
        self.site = make_site([endpoint.route()], self.clock)


def headers_of(version: int = 1, token: str = TOKEN) -> dict[str, str | bytes]:
    """The headers of a Prometheus."""
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": V1 if version == 1 else V2,
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0" if version == 1 else "2.0.0",
        "User-Agent": "Prometheus/3.5.0",
    }


def encoded(body: bytes | Request, version: int) -> bytes:
    if isinstance(body, bytes):
        return body
    return compress_block(encode_v1(body) if version == 1 else encode_v2(body))


def labels(name: str = "up", *more: tuple[str, str], cluster: str = CLUSTER) -> Pairs:
    return ((NAME, name), ("_id", cluster), *more)


def up(*more: tuple[str, str], at: int = NOW_MS, cluster: str = CLUSTER) -> Series:
    return Series(labels("up", *more, cluster=cluster), (Sample(bits(1.0), at),))


def request(*series: Series) -> Request:
    return Request(series)


ONE: Final = request(up())
BODY: Final = compress_block(encode_v1(ONE))
#: A body that is too large to be sifted at once.
LARGE: Final = request(*(up(("number", f"{number:01200}")) for number in range(500)))
LARGE_BODY: Final = compress_block(encode_v1(LARGE))
EXEMPLAR: Final = Exemplar((("trace_id", "abc"),), bits(0.5), NOW_MS)
HISTOGRAM: Final = Histogram(varint(1, 3) + double(3, bits(2.5)) + varint(6, 3), NOW_MS)
WRITTEN: Final = tuple(
    f"x-prometheus-remote-write-{kind}-written" for kind in ("samples", "histograms", "exemplars")
)
#: How success is answered, by version, when the upstream says 200.
WRITTEN_STATUS: Final = {1: 200, 2: 204}

both = pytest.mark.parametrize("version", [1, 2])


def written(answer: Answer) -> tuple[str | None, ...]:
    """The counts of samples, histograms and exemplars that an answer tells."""
    return tuple(answer.headers.get(name) for name in WRITTEN)


@pytest.fixture(autouse=True)
def nothing_private_is_logged(log: Log) -> Iterator[None]:
    """Fail a test that has logged a secret."""
    yield
    for event in log:
        shown = repr(event)
        assert not any(text in shown for text in PRIVATE), shown


@pytest.fixture
def growth() -> Growth:
    return Growth()


def refused(growth: Growth) -> dict[str, float]:
    """Which refusals were counted."""
    found = growth.all_of("telemeter_receive_requests_refused_total")
    return {dict(key)["reason"]: count for key, count in found.items()}


# --- What passes ----------------------------------------------------------------------------------


class TestForwarding:
    def test_labels_are_added(self) -> None:
        configured = settings()
        rules = replace(configured.rules, added={"region": "eu", "zone": "z"})
        server = Server(replace(configured, rules=rules))
        sent = Request((Series(labels("up", ("zone", "x")), (Sample(bits(1.0), NOW_MS),)),))
        assert server.write(sent).status == 200
        (series,) = sent.series
        expected = replace(series, labels=labels("up", ("region", "eu"), ("zone", "z")))
        assert server.forwarded == encode_v1(Request((expected,)))

    def test_of_1(self, growth: Growth, log: Log) -> None:
        server = Server(settings("up", "down", elided=("zone",)))
        sent = Request(
            (
                Series(labels("up", ("zone", "x")), (Sample(bits(STALE_NAN), NOW_MS - 5),)),
                Series(labels("up", ("zone", "y")), (Sample(bits(1.0), NOW_MS),)),
                Series(labels("down"), (), (EXEMPLAR,), (HISTOGRAM,)),
                Series(labels("other"), (Sample(bits(1.0), NOW_MS),)),
            ),
            (("up", Metadata(2, "is it up?")),),
            varint(100, 7),
        )
        answer = server.write(sent)
        assert (answer.status, answer.body) == (200, b"")
        first, _, second, _ = sent.series
        passing = (replace(first, labels=labels()), second)
        assert server.forwarded == encode_v1(replace(sent, series=passing))
        assert growth.of("telemeter_receive_series_processed_total") == 2
        assert growth.of("telemeter_receive_series_dropped_total") == 1
        assert growth.of("telemeter_receive_duplicate_series_total") == 1
        assert growth.of("telemeter_forward_requests_total", result="success") == 1
        assert growth.of("http_requests_total", code="200", handler="receive", method="post") == 1
        assert refused(growth) == {}
        (event,) = log.requests()
        noted = {name: event[name] for name in ("cluster", "received", "forwarded", "dropped")}
        assert noted == {"cluster": CLUSTER, "received": 4, "forwarded": 2, "dropped": 1}

    @pytest.mark.parametrize("status", [400, 429, 503])
    def test_that_the_upstream_refuses(self, log: Log, status: int) -> None:
        server = Server()
        server.upstream.reply = Reply(status)
        assert server.write(ONE).status == status
        (event,) = log.requests()
        assert (event["received"], event["forwarded"], event["dropped"]) == (1, 0, 0)

    @pytest.mark.parametrize(
        ("version", "keep", "content_type", "version_header"),
        [
            (1, False, V1, "0.1.0"),
            (1, True, V1, "0.1.0"),
            (2, False, V1, "0.1.0"),
            (2, True, V2, "2.0.0"),
        ],
    )
    def test_headers(
        self, version: int, keep: bool, content_type: str, version_header: str
    ) -> None:
        server = Server(settings(keep_version=keep))
        assert server.write(ONE, version).status == WRITTEN_STATUS[version]
        received = server.upstream.only
        credentials = base64.b64encode(b"writer:up-passw0rd").decode()
        expected = {
            "content-type": content_type,
            "content-encoding": "snappy",
            "x-prometheus-remote-write-version": version_header,
            "thanos-tenant": TENANT,
            "authorization": f"Basic {credentials}",
            "content-length": str(len(received.body)),
        }
        assert {name: received.headers[name] for name in expected} == expected
        assert "transfer-encoding" not in received.headers
        assert (received.method, received.target) == ("POST", "/api/v1/receive")

    def test_of_2_as_1(self) -> None:
        server = Server()
        series = replace(up(), metadata=Metadata(1, "is it up?", "s"), exemplars=(EXEMPLAR,))
        assert server.write(request(series), 2).status == 204
        as_1 = Request((replace(series),), (("up", Metadata(1, "is it up?", "s")),))
        assert server.forwarded == encode_v1(as_1)

    def test_of_2_as_it_came(self) -> None:
        server = Server(settings(keep_version=True))
        start = Sample(bits(1.0), NOW_MS, start=NOW_MS - 1000)
        series = replace(up(), samples=(start,), metadata=Metadata(1, "is it up?", "s"))
        assert server.write(request(series), 2).status == 204
        symbols, (found,) = read_v2(server.forwarded)
        assert found == raw(series)
        assert symbols[0] == ""

    @both
    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("status", [200, 202, 204])
    def test_success_is_204_for_2_and_the_upstreams_status_for_1(
        self, version: int, keep: bool, status: int
    ) -> None:
        server = Server(settings(keep_version=keep))
        server.upstream.reply = Reply(status, b"" if status == 204 else b"thanks")
        answer = server.write(ONE, version)
        expected = 204 if version == 2 else status
        assert (answer.status, answer.body) == (expected, b"")
        assert ("content-length" in answer.headers) is (expected != 204)

    def test_large_bodies_are_sifted_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = ThreadPolicy(len(LARGE_BODY), len(LARGE_BODY), 4096)
        monkeypatch.setattr(receive, "CONVERTED_HERE", small)
        ran: list[int] = []

        def run(function: Callable[..., Any], body: bytes, *more: Any) -> Deferred[Any]:
            ran.append(len(body))
            return maybeDeferred(function, body, *more)

        server = Server(run=run)
        assert server.write(ONE).status == 200
        assert ran == []
        assert server.write(LARGE).status == 200
        assert ran == [len(LARGE_BODY)]
        _, large = server.upstream.received
        assert decompress_block(large.body, 1 << 20) == encode_v1(LARGE)

    def test_the_authorization_server_gets_the_token_as_it_is(self) -> None:
        question = f'{{ "cluster_id":"{CLUSTER}",\n"authorization_token":"{SECRET}", "x": 1.50}}'
        server = Server()
        token = base64.urlsafe_b64encode(question.encode()).decode().rstrip("=")
        assert server.write(ONE, token=token).status == 200
        asked = server.tollbooth.only
        assert asked.body == question.encode()
        assert asked.headers["content-type"] == "application/json"
        assert (asked.method, asked.target) == ("POST", "/tb")

    def test_it_is_asked_once(self) -> None:
        server = Server()
        for seconds in (0, 1, 298):
            server.clock.advance(seconds)
            assert server.write(ONE).status == 200
        assert len(server.tollbooth.received) == 1
        server.clock.advance(1)
        assert server.write(ONE).status == 200
        assert len(server.tollbooth.received) == 2
        assert len(server.upstream.received) == 4

    def test_without_an_authorization_server_every_readable_token_is_good(self) -> None:
        server = Server(authorize=False)
        assert server.write(ONE).status == 200
        assert server.write(ONE, token="x").status == 400
        assert server.write(request(up(cluster="other"))).status == 400
        assert server.tollbooth.received == []

    @pytest.mark.parametrize(
        ("key", "noted"), [("tenant", "acme"), ("cluster_id", CLUSTER), ("absent", None)]
    )
    def test_the_tenant_is_for_the_log(self, log: Log, key: str, noted: str | None) -> None:
        server = Server(settings(tenant_key=key))
        question = {"authorization_token": SECRET, "cluster_id": CLUSTER, "tenant": "acme"}
        token = base64.b64encode(json.dumps(question).encode()).decode()
        assert server.write(ONE, token=token).status == 200
        (event,) = log.requests()
        assert event.get("tenant") == noted
        assert server.upstream.only.headers["thanos-tenant"] == TENANT

    def test_two_requests_on_one_connection(self) -> None:
        server = Server()
        wire = Wire(server.site)
        wire.send(request_of("POST", PATH, headers_of(), BODY) * 2)
        assert [answer.status for answer in wire.answers] == [200, 200]
        assert len(server.upstream.received) == 2
        wire.close()

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_another_method(self, method: str) -> None:
        server = Server()
        answer = ask(server.site, method, PATH, headers_of(), BODY)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert server.tollbooth.received == []


class TestCountsOf2:
    SERIES: Final = (
        replace(up(), exemplars=(EXEMPLAR,)),
        up(at=NOW_MS + 1),
        Series(labels("seconds"), (), (EXEMPLAR, EXEMPLAR), (HISTOGRAM,)),
        Series(labels("dropped"), (Sample(bits(1.0), 1),), (EXEMPLAR,), (HISTOGRAM,)),
    )

    def test_what_was_forwarded_as_1(self) -> None:
        server = Server(settings("up", "seconds"))
        assert written(server.write(request(*self.SERIES), 2)) == ("2", "1", "3")

    @pytest.mark.parametrize("status", [204, 400, 503])
    def test_what_an_upstream_says_that_speaks_2(self, status: int) -> None:
        server = Server(settings(keep_version=True))
        said = dict(zip(WRITTEN, ("3", "2", "0"), strict=True))
        server.upstream.reply = Reply(status, headers=said)
        answer = server.write(request(*self.SERIES), 2)
        assert answer.status == status
        assert written(answer) == ("3", "2", "0")

    @pytest.mark.parametrize(
        "said",
        [{}, *(dict.fromkeys(WRITTEN, count) for count in ("many", b"\xff", "-1", "9" * 1000))],
    )
    def test_an_upstream_that_does_not_say(self, said: dict[str, str | bytes]) -> None:
        """One that knows 1.0 only accepts a 2.0 request, and finds nothing in it."""
        server = Server(settings(keep_version=True))
        server.upstream.reply = Reply(204, headers=said)
        answer = server.write(request(*self.SERIES), 2)
        assert (answer.status, written(answer)) == (204, ("0", "0", "0"))

    def test_an_upstream_that_speaks_1_is_not_asked(self) -> None:
        server = Server()
        server.upstream.reply = Reply(200, headers=dict.fromkeys(WRITTEN, "7"))
        assert written(server.write(ONE, 2)) == ("1", "0", "0")

    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("status", [400, 429, 500, 503])
    def test_what_was_not_accepted(self, status: int, keep: bool) -> None:
        server = Server(settings(keep_version=keep))
        server.upstream.reply = Reply(status)
        answer = server.write(ONE, 2)
        assert (answer.status, written(answer)) == (status, ("0", "0", "0"))

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (request(), 204),
            (request(up(cluster="other")), 400),
            (request(Series(labels(), metadata=Metadata(1))), 204),
            (b"", 400),
            (b"x", 400),
            (bytes(LIMIT), 413),
        ],
    )
    def test_what_was_not_forwarded(self, body: Request | bytes, status: int) -> None:
        answer = Server().write(body, 2)
        assert (answer.status, written(answer)) == (status, ("0", "0", "0"))

    def test_what_the_store_does_not_keep_is_not_written(self) -> None:
        """It keeps no exemplars."""
        clock = clock_at()
        store = Store(clock, 600.0, 1000)
        endpoint = ReceiveEndpoint(
            settings(), lambda _: succeed(None), store, HERE, InFlight(1 << 30)
        )
        site = make_site([endpoint.route()], clock)
        series = replace(up(), exemplars=(EXEMPLAR,), histograms=(HISTOGRAM,))
        sent = encoded(request(series, observed(named("lat"), custom=True)), 2)
        answer = ask(site, "POST", PATH, headers_of(2), sent)
        assert (answer.status, written(answer)) == (204, ("1", "2", "0"))
        text = b"".join(
            Federation(store, [parse_selector('{__name__=~"lat.*"}')], Text()).pieces()
        ).decode()
        assert f'lat_bucket{{_id="{CLUSTER}",le="+Inf",instance=""}} 30 {NOW_MS}\n' in text
        assert len([line for line in text.splitlines() if line.startswith("lat_bucket")]) == 7

    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("status", [204, 400])
    def test_1_knows_no_counts(self, status: int, keep: bool) -> None:
        server = Server(settings(keep_version=keep))
        server.upstream.reply = Reply(status, headers=dict.fromkeys(WRITTEN, "7"))
        for body in (ONE, request(), request(up(cluster="other"))):
            assert written(server.write(body)) == (None, None, None)


# --- Tokens ---------------------------------------------------------------------------------------


def token_of(question: str) -> str:
    return base64.b64encode(question.encode()).decode()


class TestTokens:
    @pytest.mark.parametrize("body", [BODY, b"", None], ids=["body", "empty body", "no body"])
    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            (None, "no Authorization header"),
            (f"Basic {TOKEN}", "only bearer authorization is allowed"),
            ("Bearer", "no token behind Bearer"),
            (f"Bearer {SECRET}!", "the token is not base64; expected base64 of {"),
            (b"Bearer \xff\xfe", "the token is not base64"),
            ("Bearer " + token_of(SECRET), "the token holds no JSON"),
            ("Bearer " + token_of(f'["{SECRET}"]'), "the token holds no JSON object"),
            ("Bearer " + token_of(f'{{"cluster_id": "{CLUSTER}"}}'), "must have the texts"),
            (
                "Bearer " + token_of(f'{{"authorization_token": "{SECRET}", "cluster_id": 7}}'),
                "must have the texts",
            ),
            (
                "Bearer " + token_of(f"{{'authorization_token': '{SECRET}', 'cluster_id': 'c'}}"),
                "single quotes where JSON has double quotes",
            ),
        ],
    )
    def test_what_cannot_be_read(
        self, growth: Growth, log: Log, header: str | bytes | None, reason: str, body: bytes | None
    ) -> None:
        server = Server()
        fields = headers_of()
        if header is None:
            del fields["Authorization"]
        else:
            fields["Authorization"] = header
        answer = ask(server.site, "POST", PATH, fields, body)
        assert answer.status == 400
        assert reason in answer.text
        assert not any(text in answer.text for text in (*PRIVATE, token_of(SECRET)))
        assert server.tollbooth.received == server.upstream.received == []
        assert refused(growth) == {"token": 1}
        (event,) = log.requests()
        assert reason in event["reason"]
        assert token_of(SECRET)[:12] not in repr(event)

    def test_one_that_is_too_long_is_not_even_a_header(self) -> None:
        """A line of 16 KiB is more than a header may have; the connection is closed."""
        server = Server()
        wire = Wire(server.site)
        wire.send(head_of("POST", PATH, headers_of(token="x" * 20_000)))
        assert wire.is_closed()
        assert server.tollbooth.received == []
        wire.close()

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410])
    @pytest.mark.parametrize("body", [BODY, None], ids=["body", "no body"])
    def test_refused(self, growth: Growth, status: int, body: bytes | None) -> None:
        server = Server()
        server.tollbooth.reply = Reply(status, b"tollbooth-details")
        for _ in range(2):
            answer = ask(server.site, "POST", PATH, headers_of(), body)
            assert answer.status == 401
            assert answer.text.startswith("the token was refused: ")
            assert "tollbooth-details" not in answer.text
            assert "retry-after" not in answer.headers
        assert len(server.tollbooth.received) == 1
        assert server.upstream.received == []
        assert refused(growth) == {"unauthorized": 2}

    def test_a_refusal_is_forgotten_soon(self) -> None:
        server = Server()
        server.tollbooth.reply = [Reply(401), ACCEPTED]
        assert server.write(ONE).status == 401
        server.clock.advance(9.9)
        assert server.write(ONE).status == 401
        server.clock.advance(0.1)
        assert server.write(ONE).status == 200
        assert len(server.tollbooth.received) == 2

    def test_busy(self, growth: Growth) -> None:
        """A Prometheus keeps its samples on 429 and 5xx; on 401 it would drop them."""
        server = Server()
        server.tollbooth.reply = Reply(429, headers={"Retry-After": "7"})
        for _ in range(2):
            answer = server.write(ONE)
            assert (answer.status, answer.headers["retry-after"]) == (429, "60")
        assert len(server.tollbooth.received) == 2
        assert refused(growth) == {"unavailable": 2}

    @pytest.mark.parametrize("status", [202, 204, 302, 500, 502, 503])
    def test_broken(self, growth: Growth, log: Log, status: int) -> None:
        server = Server()
        server.tollbooth.reply = Reply(status, b"" if status == 204 else b"tollbooth-details")
        answer = server.write(ONE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        assert answer.text == "the authorization server gives no answer at present\n"
        assert refused(growth) == {"unavailable": 1}
        (event,) = log.requests()
        assert event["detail"] == f"the authorization server answered with status {status}"
        server.tollbooth.reply = ACCEPTED
        assert server.write(ONE).status == 200

    @pytest.mark.parametrize(
        ("error", "detail"),
        [
            (errors.ConnectionRefusedError(), "cannot connect"),
            (ResponseNeverReceived([Failure(errors.ConnectionLost())]), "the connection was lost"),
        ],
    )
    def test_out_of_reach(self, log: Log, error: Exception, detail: str) -> None:
        server = Server(authorize_agent=Broken(error))
        answer = server.write(ONE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        (event,) = log.requests()
        assert detail in event["detail"]
        assert detail not in answer.text

    def test_silent(self, log: Log) -> None:
        server = Server()
        server.tollbooth.reply = SILENCE
        wire = server.begin(len(BODY))
        server.clock.advance(19.9)
        assert wire.written == b""
        server.clock.advance(0.1)
        assert (wire.answer.status, wire.answer.headers["retry-after"]) == (503, "30")
        (event,) = log.requests()
        assert "no answer in time" in event["detail"]
        wire.close()


# --- What is refused ------------------------------------------------------------------------------


class TestContent:
    @pytest.mark.parametrize(
        ("content_type", "version"),
        [
            ("application/x-protobuf", 1),
            ("Application/X-Protobuf", 1),
            ("application/x-protobuf;proto=prometheus.WriteRequest", 1),
            ('application/x-protobuf; proto="prometheus.WriteRequest"', 1),
            ("application/x-protobuf; charset=utf-8", 1),
            ("", 1),
            (V2, 2),
            ("application/x-protobuf ; proto=io.prometheus.write.v2.Request", 2),
            ('application/x-protobuf; Proto="io.prometheus.write.v2.Request"; a=b', 2),
        ],
    )
    def test_spoken(self, content_type: str, version: int) -> None:
        server = Server()
        headers = {"Content-Type": content_type}
        assert server.write(ONE, version, headers=headers).status == WRITTEN_STATUS[version]
        assert server.forwarded == encode_v1(ONE)

    @pytest.mark.parametrize("name", ["Content-Type", "Content-Encoding"])
    def test_not_said(self, name: str) -> None:
        server = Server()
        fields = headers_of()
        del fields[name]
        assert ask(server.site, "POST", PATH, fields, BODY).status == 200

    @pytest.mark.parametrize("body", [BODY, b"0" + BODY[1:], b""])
    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("Content-Type", "application/json", "expected Content-Type application/x-protobuf"),
            ("Content-Type", "image/png", "saw image/png"),
            ("Content-Type", "text/plain", "saw text/plain"),
            ("Content-Type", "application/protobuf", "saw application/protobuf"),
            ("Content-Type", "application/x-protobuf;proto=", "or proto=io.prometheus.write.v2"),
            ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v1.Request", "v1"),
            ("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v3.Request", "v3"),
            ("Content-Type", b"\xff", "saw \ufffd"),
            ("Content-Encoding", "gzip", "expected Content-Encoding snappy; saw gzip"),
            ("Content-Encoding", "deflate", "saw deflate"),
            ("Content-Encoding", "zstd", "saw zstd"),
            ("Content-Encoding", "identity", "saw identity"),
            ("Content-Encoding", "snappy, gzip", "saw snappy, gzip"),
        ],
    )
    def test_not_spoken(
        self, growth: Growth, name: str, value: str | bytes, expected: str, body: bytes
    ) -> None:
        server = Server()
        answer = server.write(body, headers={name: value})
        assert answer.status == 415
        assert expected in answer.text
        assert server.tollbooth.received == server.upstream.received == []
        assert refused(growth) == {"content": 1}

    @pytest.mark.parametrize("value", ["snappy", "Snappy", " snappy "])
    def test_an_encoding_is_case_insensitive(self, value: str) -> None:
        assert Server().write(ONE, headers={"Content-Encoding": value}).status == 200

    @both
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "a varint is cut off"),
            (b"\xff" * 20, "a varint is longer than ten bytes"),
            (b"0" + BODY[1:], "not a valid snappy block"),
            (BODY[:-1], "not a valid snappy block"),
            (encode_v1(ONE), "not a valid snappy block"),
            (compress_framed(encode_v1(ONE)), "not a valid snappy block"),
            (b"x", "not a valid snappy block: 1 bytes cannot hold 120"),
            (b"\xff\x7f" + bytes(500), "not a valid snappy block: 502 bytes cannot hold 16383"),
            (b"\xff\x7f" + bytes(600), "not a valid snappy block"),
            (compress_block(b"\x0a"), "the body is not a"),
            (compress_block(b"no protobuf"), "the body is not a"),
        ],
    )
    def test_broken(self, growth: Growth, version: int, body: bytes, reason: str) -> None:
        server = Server()
        answer = server.write(body, version)
        assert answer.status == 400
        assert reason in answer.text
        assert refused(growth) == {"malformed": 1}
        assert server.upstream.received == []

    @both
    def test_nothing_at_all(self, growth: Growth, version: int) -> None:
        server = Server(settings("other"))
        answer = server.write(request(), version)
        assert (answer.status, answer.text, server.upstream.received) == (204, "", [])
        assert refused(growth) == {}

    @both
    def test_a_request_of_the_other_version(self, growth: Growth, version: int) -> None:
        """It holds nothing that is known here, but to say that all is well would lose it."""
        server = Server()
        answer = server.write(encoded(ONE, 3 - version), version)
        message = ("prometheus.WriteRequest", "io.prometheus.write.v2.Request")[version - 1]
        assert (answer.status, server.upstream.received) == (400, [])
        assert f"nothing is left to forward: no series. Expected a {message}, as" in answer.text
        assert refused(growth) == {"nothing_left": 1}


class TestSize:
    def test_the_limit_is_the_first_size_that_is_refused(self, growth: Growth) -> None:
        server = Server(settings(limit=len(BODY)))
        answer = server.write(BODY)
        assert answer.status == 413
        expected = f"the body must be under {len(BODY)} bytes (--limit-receive-bytes), it has "
        assert answer.text == f"{expected}{len(BODY)} compressed or more\n"
        assert server.tollbooth.received == []
        assert growth.of("telemeter_receive_size_limited_total") == 1
        assert refused(growth) == {"size": 1}
        assert Server(settings(limit=len(BODY) + 1)).write(BODY).status == 200

    def test_a_length_is_refused_before_the_body(self, growth: Growth) -> None:
        server = Server()
        wire = server.begin(LIMIT)
        assert wire.answer.status == 413
        assert wire.answer.headers["connection"] == "close"
        assert server.tollbooth.received == []
        wire.send(bytes(1000))
        assert not wire.is_closed()
        wire.send(bytes(LIMIT - 1000))
        assert wire.is_closed()
        assert growth.of("telemeter_receive_size_limited_total") == 1
        wire.close()

    def test_a_body_without_a_length_is_refused_while_it_arrives(self, growth: Growth) -> None:
        server = Server()
        wire = server.begin()
        assert len(server.tollbooth.received) == 1
        wire.send(chunk(bytes(LIMIT - 1)))
        assert wire.written == b""
        wire.send(chunk(b"x"))
        assert wire.answer.status == 413
        wire.send(chunk(bytes(10_000)), chunk(b""))
        assert wire.is_closed()
        assert server.upstream.received == []
        assert refused(growth) == {"size": 1}
        wire.close()

    def test_a_chunk_need_not_be_complete(self) -> None:
        wire = Server().begin()
        wire.send(b"fffffff\r\n", *[bytes(1024)] * (LIMIT // 1024 - 1))
        assert wire.written == b""
        wire.send(bytes(1024))
        assert wire.answer.status == 413
        wire.close()

    def test_a_body_in_chunks_may_be_as_long_as_any(self) -> None:
        server = Server(settings(limit=len(BODY) + 1))
        wire = server.begin()
        wire.send(*(chunk(BODY[at : at + 7]) for at in range(0, len(BODY), 7)), chunk(b""))
        assert wire.answer.status == 200
        assert server.forwarded == encode_v1(ONE)
        wire.close()

    @pytest.mark.parametrize("declared", [LIMIT * 32 + 1, 1 << 30, (1 << 32) - 1, (1 << 63) - 1])
    def test_the_declared_size_is_checked(self, growth: Growth, declared: int) -> None:
        """What is over everything that a body under the limit could hold is too much."""
        server = Server()
        answer = server.write(write_varint(declared) + BODY)
        assert answer.status == 413
        assert "the decompressed body is too long" in answer.text
        assert f"it has {declared} bytes, {LIMIT * 32} are the most" in answer.text
        assert "(32 times --limit-receive-bytes)" in answer.text
        assert growth.of("telemeter_receive_size_limited_total") == 1
        assert refused(growth) == {"size": 1}

    def test_a_declared_size_that_could_be_is_a_lie_all_the_same(self, growth: Growth) -> None:
        server = Server()
        assert server.write(write_varint(LIMIT * 32) + BODY).status == 400
        assert refused(growth) == {"malformed": 1}

    def test_what_compresses_well_is_no_lie(self) -> None:
        series = up(*((f"a{number}", "x" * 16_000) for number in range(6)))
        server = Server()
        body = compress_block(encode_v1(request(series)))
        assert len(body) < 6000
        assert server.write(body).status == 200
        assert server.forwarded == encode_v1(request(series))

    def test_symbols_that_would_become_too_much(self, growth: Growth) -> None:
        pairs = tuple((str(number), "x" * 10_000) for number in range(2000))
        server = Server()
        answer = server.write(request(up(*pairs)), 2)
        assert answer.status == 413
        assert "more than 16777216 bytes of labels and samples, 20" in answer.text
        assert "this limit is fixed" in answer.text
        assert "--limit" not in answer.text
        assert (server.upstream.received, refused(growth)) == ([], {"size": 1})
        kept = Server(settings(keep_version=True))
        assert kept.write(request(up(*pairs)), 2).status == 204
        assert len(kept.forwarded) < 110_000


@both
class TestLabels:
    def test_missing(self, growth: Growth, version: int) -> None:
        server = Server()
        answer = server.write(request(up(), Series(((NAME, "up"),), (Sample(0, 1),))), version)
        assert answer.status == 400
        assert answer.text == "a series lacks the label _id: {__name__='up'}\n"
        assert server.upstream.received == []
        assert growth.of("telemeter_receive_request_missing_labels_total") == 1
        assert refused(growth) == {"missing_label": 1}

    def test_foreign(self, growth: Growth, version: int) -> None:
        server = Server()
        answer = server.write(request(up(), up(cluster="other")), version)
        assert answer.status == 400
        assert "must be the cluster_id of the token, 'cluster-1'" in answer.text
        assert server.upstream.received == []
        assert growth.of("telemeter_receive_request_incorrect_label_values_total") == 1
        assert refused(growth) == {"foreign_id": 1}

    def test_of_the_token_at_hand(self, version: int) -> None:
        server = Server()
        for cluster, other in (("a", "b"), ("b", "a")):
            write = partial(server.write, token=make_composite(cluster, SECRET))
            assert write(request(up(cluster=cluster)), version).status == WRITTEN_STATUS[version]
            assert write(request(up(cluster=other)), version).status == 400

    def test_foreign_ones_of_a_gateway(self, growth: Growth, version: int) -> None:
        server = Server(settings(foreign_ids=True))
        sent = request(*(up(cluster=cluster) for cluster in ("a", "b", CLUSTER)))
        assert server.write(sent, version).status == WRITTEN_STATUS[version]
        assert server.forwarded == encode_v1(sent)
        anonymous = Series(((NAME, "up"),), (Sample(0, 1),))
        assert server.write(request(up(), anonymous), version).status == 400
        assert refused(growth) == {"missing_label": 1}

    def test_of_another_name(self, version: int) -> None:
        configured = settings()
        rules = replace(configured.rules, partition_label="cluster")
        server = Server(replace(configured, rules=rules))
        mine = Series(((NAME, "up"), ("cluster", CLUSTER)), (Sample(0, 1),))
        assert server.write(request(mine), version).status == WRITTEN_STATUS[version]
        answer = server.write(request(up()), version)
        assert (answer.status, "lacks the label cluster" in answer.text) == (400, True)

    def test_no_name(self, growth: Growth, version: int) -> None:
        answer = Server().write(request(Series((("_id", CLUSTER),), (Sample(0, 1),))), version)
        assert answer.status == 400
        assert "a series has no metric name (label __name__): {_id='cluster-1'}" in answer.text
        assert refused(growth) == {"malformed": 1}

    def test_nothing_left(self, growth: Growth, version: int) -> None:
        server = Server(settings("other"))
        answer = server.write(ONE, version)
        assert answer.status == 400
        assert "nothing is left to forward: no series, or none is whitelisted" in answer.text
        assert server.upstream.received == []
        assert growth.of("telemeter_receive_series_dropped_total") == 1
        assert refused(growth) == {"nothing_left": 1}

    def test_in_a_large_body(self, growth: Growth, version: int) -> None:
        """What goes wrong where large bodies are sifted is told the same way."""
        server = Server()
        sent = request(*LARGE.series, up(cluster="other"))
        assert len(decompress_block(encoded(sent, version), 1 << 20)) > 512 * 1024
        assert server.write(sent, version).status == 400
        assert refused(growth) == {"foreign_id": 1}


class TestMetadata:
    @pytest.mark.parametrize(
        ("sent", "version"),
        [
            (Request(metadata=(("up", Metadata(2, "is it up?")),)), 1),
            (Request(metadata=(("", Metadata()),)), 1),
            (request(Series(labels(), metadata=Metadata(2, "is it up?"))), 2),
            (request(Series(((NAME, "up"),), metadata=Metadata(2))), 2),
        ],
    )
    def test_alone_is_accepted_and_counted(
        self, growth: Growth, sent: Request, version: int
    ) -> None:
        server = Server(settings("other"))
        answer = server.write(sent, version)
        if version == 2:
            assert (answer.status, answer.text) == (204, "")
            assert written(answer) == ("0", "0", "0")
        else:
            assert answer.status == 200
            assert answer.headers["content-type"] == "application/json"
            assert isinstance(answer.json, dict)
        assert server.upstream.received == []
        assert growth.of("telemeter_receive_metadata_requests_total") == 1
        assert refused(growth) == {}

    def test_needs_a_good_token_too(self) -> None:
        server = Server()
        server.tollbooth.reply = Reply(401)
        assert server.write(Request(metadata=(("up", Metadata(2)),))).status == 401


# --- What the upstream says -----------------------------------------------------------------------


@both
class TestUpstream:
    @pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 429, 500, 502, 503])
    @pytest.mark.parametrize("retry_after", [None, "17"])
    def test_refuses(
        self, growth: Growth, log: Log, version: int, status: int, retry_after: str | None
    ) -> None:
        server = Server()
        headers = {"Retry-After": retry_after} if retry_after else {}
        server.upstream.reply = Reply(status, b"upstream-details", headers)
        answer = server.write(ONE, version)
        assert answer.status == status
        assert answer.text == f"the upstream refused the samples with status {status}\n"
        assert answer.headers.get("retry-after") == retry_after
        assert growth.of("telemeter_forward_requests_total", result="error") == 1
        assert growth.of("telemeter_forward_requests_total", result="success") == 0
        (event,) = log.of("the upstream refused")
        assert event["answer"] == "upstream-details"

    @pytest.mark.parametrize("status", [300, 302, 304, 399, 600, 999])
    @pytest.mark.parametrize("retry_after", [None, "17"])
    def test_has_a_status_that_no_sender_can_be_given(
        self, version: int, status: int, retry_after: str | None
    ) -> None:
        server = Server()
        headers = {"Retry-After": retry_after} if retry_after else {}
        server.upstream.reply = Reply(status, headers=headers)
        answer = server.write(ONE, version)
        assert answer.status == 502
        assert answer.text == f"the upstream answered with the unexpected status {status}\n"
        assert answer.headers.get("retry-after") == retry_after

    def test_is_out_of_reach(self, growth: Growth, version: int) -> None:
        server = Server(forward_agent=Broken(errors.ConnectionRefusedError()))
        answer = server.write(ONE, version)
        assert (answer.status, answer.text) == (502, "the upstream did not answer\n")
        assert growth.of("telemeter_forward_requests_total", result="error") == 1

    def test_is_silent(self, version: int) -> None:
        server = Server()
        server.upstream.reply = SILENCE
        wire = Wire(server.site)
        wire.send(request_of("POST", PATH, headers_of(version), encoded(ONE, version)))
        server.clock.advance(4.9)
        assert wire.written == b""
        server.clock.advance(0.1)
        assert (wire.answer.status, wire.answer.text) == (502, "the upstream did not answer\n")
        wire.close()


# --- On the wire ----------------------------------------------------------------------------------


class Asking(Server):
    """A server whose authorization server has not made up its mind yet."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.tollbooth.reply = SILENCE

    def decide(self, reply: Reply = ACCEPTED) -> None:
        """Let it answer the question that it was asked last, and all that follow."""
        self.tollbooth.reply = reply
        self.tollbooth.received[-1].answer(reply)


NOES: Final = [
    pytest.param(Reply(401), 401, id="refused"),
    pytest.param(Reply(429), 429, id="busy"),
    pytest.param(Reply(500), 503, id="broken"),
]
lengths = pytest.mark.parametrize("length", [len(BODY), None], ids=["length", "chunked"])


def pieces(length: int | None) -> list[bytes]:
    """The body as it is sent on the wire."""
    return [BODY] if length is not None else [chunk(BODY[:9]), chunk(BODY[9:]), chunk(b"")]


class TestWaitingForAnAnswer:
    @lengths
    def test_nothing_is_read_meanwhile(self, length: int | None) -> None:
        server = Asking()
        wire = server.begin(length)
        assert len(server.tollbooth.received) == 1
        assert wire.is_paused()
        server.clock.advance(10)
        assert wire.is_paused()
        server.decide()
        assert not wire.is_paused()
        assert wire.written == b""
        wire.send(*pieces(length))
        assert wire.answer.status == 200
        assert not wire.is_closed()
        assert server.forwarded == encode_v1(ONE)
        wire.close()

    def test_nothing_is_held_when_the_answer_is_known(self) -> None:
        server = Asking()
        server.begin(len(BODY)).vanish()
        server.decide()
        wire = server.begin(len(BODY))
        assert not wire.is_paused()
        wire.send(BODY)
        assert wire.answer.status == 200
        assert len(server.tollbooth.received) == 1
        wire.close()

    @lengths
    def test_what_had_come_with_the_headers_is_kept(self, length: int | None) -> None:
        server = Asking()
        wire = server.begin(length)
        first, *rest = pieces(length)
        wire.send(first[:5])
        assert wire.is_paused()
        server.decide()
        wire.send(first[5:], *rest)
        assert wire.answer.status == 200
        assert server.forwarded == encode_v1(ONE)
        wire.close()

    @lengths
    def test_the_whole_body_had_come_with_the_headers(self, length: int | None) -> None:
        server = Asking()
        wire = server.begin(length)
        wire.send(*pieces(length))
        assert (wire.written, server.upstream.received) == (b"", [])
        server.decide()
        assert wire.answer.status == 200
        assert not wire.is_paused()
        assert server.forwarded == encode_v1(ONE)
        wire.send(request_of("POST", PATH, headers_of(), BODY))
        assert [answer.status for answer in wire.answers] == [200, 200]
        wire.close()

    @pytest.mark.parametrize(("reply", "status"), NOES)
    @lengths
    def test_a_no_is_answered_at_once(
        self, length: int | None, reply: Reply, status: int, log: Log
    ) -> None:
        server = Asking()
        wire = server.begin(length)
        server.decide(reply)
        assert wire.answer.status == status
        assert wire.answer.headers["connection"] == "close"
        assert not wire.is_paused()
        assert not wire.is_closed()
        wire.send(*pieces(length))
        assert wire.is_closed()
        assert len(wire.answers) == 1
        assert server.upstream.received == []
        (event,) = log.requests()
        assert event["status"] == status
        wire.close()

    @pytest.mark.parametrize(("reply", "status"), NOES)
    @lengths
    def test_a_no_when_the_whole_body_is_there(
        self, length: int | None, reply: Reply, status: int
    ) -> None:
        server = Asking()
        wire = server.begin(length)
        wire.send(*pieces(length))
        server.decide(reply)
        assert wire.answer.status == status
        assert not wire.is_closed()
        assert server.upstream.received == []
        wire.close()

    @lengths
    def test_a_no_that_is_known_is_answered_before_the_body(self, length: int | None) -> None:
        server = Server()
        server.tollbooth.reply = Reply(401)
        assert server.write(ONE).status == 401
        wire = server.begin(length)
        assert wire.answer.status == 401
        assert not wire.is_closed()
        wire.send(*pieces(length))
        assert wire.is_closed()
        assert len(wire.answers) == len(server.tollbooth.received) == 1
        wire.close()

    def test_a_no_that_is_known_wins_over_a_body_that_is_too_long(self) -> None:
        server = Server()
        server.tollbooth.reply = Reply(401)
        assert server.write(ONE).status == 401
        wire = server.begin()
        wire.send(chunk(bytes(LIMIT)), chunk(b""))
        assert wire.answer.status == 401
        wire.close()

    @pytest.mark.parametrize(("reply", "status"), NOES)
    def test_too_long_before_the_answer(self, reply: Reply, status: int) -> None:
        """What has arrived already is counted, whatever the answer will be."""
        server = Asking()
        wire = server.begin()
        wire.send(chunk(bytes(LIMIT)))
        assert wire.answer.status == 413
        server.decide(reply)
        wire.send(chunk(b""))
        assert len(wire.answers) == 1
        assert wire.is_closed()
        wire.close()

    def test_all_senders_of_a_cluster_wait_for_one_answer(self) -> None:
        server = Asking()
        wires = [server.begin(len(BODY)) for _ in range(3)]
        other = server.begin(len(BODY), token=make_composite("other", SECRET))
        assert len(server.tollbooth.received) == 2
        server.tollbooth.received[0].answer(ACCEPTED)
        assert [wire.is_paused() for wire in (*wires, other)] == [False] * 3 + [True]
        for wire in wires:
            wire.send(BODY)
            assert wire.answer.status == 200
            wire.close()
        other.vanish()

    def test_the_next_request_on_the_connection_waits_too(self) -> None:
        server = Asking()
        wire = server.begin(len(BODY))
        wire.send(BODY + request_of("POST", PATH, headers_of(), BODY))
        assert wire.written == b""
        server.decide()
        take_turns(server.clock)
        assert [answer.status for answer in wire.answers] == [200, 200]
        wire.close()

    @pytest.mark.parametrize("sent", [b"", BODY], ids=["head", "all"])
    def test_what_nobody_thought_of_is_told_to_the_log_only(self, log: Log, sent: bytes) -> None:
        log.errors_are_fine = True
        asked: Deferred[None] = Deferred()
        server = Checking(lambda question: asked)
        wire = server.begin(len(BODY))
        wire.send(sent)
        asked.errback(ValueError("never thought of"))
        assert wire.answer.status == 500
        assert wire.answer.text.startswith("Internal server error, requestid=")
        (error,) = log.of("internal server error")
        assert isinstance(error["log_failure"].value, ValueError)
        assert wire.answer.text.strip().endswith(f"={error['requestid']}")
        assert server.upstream.received == []
        wire.close()


class TestSendersThatVanish:
    """Nothing is forwarded for them, nothing is logged but the request, and nobody else suffers."""

    def status(self, log: Log) -> int:
        (event,) = log.requests()
        status: int = event["status"]
        return status

    @pytest.mark.parametrize("sent", [b"", BODY[:5], BODY], ids=["head", "part", "all"])
    @pytest.mark.parametrize("reply", [ACCEPTED, Reply(401), Reply(429), Reply(500)])
    def test_before_the_answer(self, log: Log, sent: bytes, reply: Reply) -> None:
        server = Asking()
        wire = server.begin(len(BODY))
        wire.send(sent)
        wire.vanish()
        assert self.status(log) == 499
        server.decide(reply)
        assert (wire.written, server.upstream.received) == (b"", [])
        assert server.site.active == set()

    @pytest.mark.parametrize("sent", [b"", BODY], ids=["head", "all"])
    def test_their_place_among_the_waiting_is_given_up(self, log: Log, sent: bytes) -> None:
        cancelled: list[Deferred[None]] = []
        asked: Deferred[None] = Deferred(cancelled.append)
        server = Checking(lambda question: asked)
        wire = server.begin(len(BODY))
        wire.send(sent)
        assert cancelled == []
        wire.vanish()
        assert cancelled == [asked]
        assert self.status(log) == 499

    def test_without_harm_to_those_who_wait_too(self) -> None:
        server = Asking()
        wires = [server.begin(len(BODY)) for _ in range(3)]
        wires[0].vanish()
        wires[2].vanish()
        server.decide()
        wires[1].send(BODY)
        assert wires[1].answer.status == 200
        assert len(server.tollbooth.received) == 1
        wires[1].close()

    def test_and_the_answer_is_remembered_all_the_same(self) -> None:
        server = Asking()
        server.begin(len(BODY)).vanish()
        server.decide()
        assert server.write(ONE).status == 200
        assert len(server.tollbooth.received) == 1

    @pytest.mark.parametrize("sent", [b"", BODY[:5]])
    def test_behind_a_yes(self, log: Log, sent: bytes) -> None:
        server = Server()
        wire = server.begin(len(BODY))
        wire.send(sent)
        wire.vanish()
        assert self.status(log) == 499
        assert server.upstream.received == []

    def test_behind_a_no(self, log: Log) -> None:
        server = Asking()
        wire = server.begin(len(BODY))
        server.decide(Reply(401))
        wire.vanish()
        assert self.status(log) == 401
        server.clock.advance(100)
        assert server.clock.getDelayedCalls() == []

    def test_while_it_is_sifted(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        small = ThreadPolicy(len(LARGE_BODY), len(LARGE_BODY), 4096)
        monkeypatch.setattr(receive, "CONVERTED_HERE", small)
        sifting: Deferred[Any] = Deferred()
        server = Server(run=lambda *_: sifting)
        wire = server.begin(len(LARGE_BODY))
        wire.send(LARGE_BODY)
        wire.vanish()
        assert self.status(log) == 499
        assert server.upstream.received == []

    @pytest.mark.parametrize("reply", [Reply(200), Reply(500)])
    def test_while_it_is_forwarded(self, log: Log, reply: Reply) -> None:
        server = Server()
        server.upstream.reply = SILENCE
        wire = server.begin(len(BODY))
        wire.send(BODY)
        wire.vanish()
        assert self.status(log) == 499
        server.upstream.only.answer(reply)
        server.clock.advance(100)
        assert wire.written == b""
        assert server.clock.getDelayedCalls() == []


# --- The cases of the public compliance suite for receivers ---------------------------------------
#
# It runs against a receiver that stores what it gets, and expects 204, the counts of what was
# written, and 400 for what is wrong. Here every series has the label _id as well.

VALUES: Final = {
    "1": bits(1.0),
    "stale": bits(STALE_NAN),
    "NaN": bits(NORMAL_NAN),
    "+Inf": bits(float("inf")),
    "-Inf": bits(float("-inf")),
}


def metric(given: Mapping[str, str], **parts: Any) -> Series:
    """A series with these labels, and an _id."""
    return Series((*given.items(), ("_id", CLUSTER)), **parts)


def sampled(given: Mapping[str, str], value: int = bits(1.0), at: int = NOW_MS, **more: Any) -> Any:
    return metric(given, samples=(Sample(value, at),), **more)


def named(name: str, **more: str) -> dict[str, str]:
    return {NAME: name, **more}


JOB: Final = named("up", job="testjob", instance="localhost:9090")


def traced(value: float = 1.0, at: int = NOW_MS, **given: str) -> Exemplar:
    return Exemplar(tuple(given.items()), bits(value), at)


def native(
    total: float,
    *,
    positive: bool = False,
    negative: bool = False,
    zero: bool = False,
    custom: bool = False,
    bad: bool = False,
) -> Histogram:
    """A native histogram with some sides; a bad one has a count that does not fit its buckets."""
    sides, count = b"", int(zero)
    bounds: tuple[float, ...] = ()
    if negative:
        count += 3
        sides += field(8, whole(2, 2)) + packed(9, map(zigzag, (1, 1)))
    if custom:
        count, bounds = 30, (0.1, 0.5, 1.0, 2.5, 5.0, 10.0)
        sides = field(11, whole(2, 6)) + packed(12, map(zigzag, (2, 1, 2, 3, -1, -2)))
    elif positive:
        count += 23
        spans = field(11, whole(2, 3)) + field(11, whole(1, zigzag(2)) + whole(2, 2))
        sides += spans + packed(12, map(zigzag, (1, 2, 1, 3, 1)))
    head = varint(1, 99 if bad else count)
    head += double(3, bits(total)) if total else b""
    head += whole(4, zigzag(-53)) if custom else b""
    head += varint(6, 1) if zero else b""
    return Histogram(head + sides, NOW_MS, bounds)


def observed(given: Mapping[str, str], total: float = 1.0, **sides: bool) -> Series:
    return metric(given, histograms=(native(total, **sides),))


def described(series: Series, kind: int, text: str, unit: str) -> Series:
    return replace(series, metadata=Metadata(kind, text, unit))


def accepts(*series: Series) -> None:
    """The series are accepted, counted, and forwarded as 1.0 with everything they hold."""
    for status in (200, 204):
        server = Server()
        server.upstream.reply = Reply(status)
        answer = server.write(request(*series), 2)
        counts = (
            sum(len(each.samples) for each in series),
            sum(len(each.histograms) for each in series),
            sum(len(each.exemplars) for each in series),
        )
        assert (answer.status, answer.text) == (204, "")
        assert written(answer) == tuple(map(str, counts))
        in_order = tuple(
            replace(each, labels=tuple(sorted(each.labels, key=lambda pair: pair[0].encode())))
            for one in series
            for each in as_1(one)
        )
        metadata = {
            dict(each.labels)[NAME]: each.metadata
            for each in series
            if each.metadata is not None and each.metadata != Metadata()
        }
        assert server.forwarded == encode_v1(Request(in_order, tuple(metadata.items())))


def as_1(series: Series) -> list[Series]:
    """The series that 1.0 holds one as: several, if it is a histogram with custom buckets."""
    custom = [each for each in series.histograms if histogram_model.is_custom(each)]
    if not custom:
        return [series]
    given = dict(series.labels)
    parts = histogram_model.parts(custom, series.exemplars, custom[0])
    return [
        Series(
            tuple({**given, NAME: given[NAME] + suffix, **({"le": le} if le else {})}.items()),
            tuple(samples),
            tuple(exemplars),
        )
        for (suffix, le), (samples, exemplars) in parts.items()
    ]


def rejects(*series: Series) -> None:
    """The series get 400, and nothing is forwarded."""
    server = Server()
    answer = server.write(request(*series), 2)
    assert (answer.status, written(answer)) == (400, ("0", "0", "0"))
    assert server.upstream.received == []


class TestCompliance:
    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    @pytest.mark.parametrize(
        "given",
        [
            named("up"),
            JOB,
            named("up", job="test\njob\n", instance="localhost:9090"),
            {NAME: "resource.cpu.usage", "job.name": "testjob", "instance.name": "localhost:9090"},
            {NAME: "resource cpu usage", "job name": "testjob", "instance name": "localhost:9090"},
        ],
    )
    def test_a_sample(self, given: dict[str, str], value: int) -> None:
        accepts(sampled(given, value))

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    @pytest.mark.parametrize("given", [{"job": "testjob", "instance": "localhost:9090"}, {}])
    def test_a_sample_without_a_name(self, given: dict[str, str], value: int) -> None:
        rejects(sampled(given, value))
        rejects(Series((), (Sample(value, NOW_MS),)))

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    def test_several_samples(self, value: int) -> None:
        instances = [{**JOB, "instance": f"localhost:909{number}"} for number in range(4)]
        accepts(*(sampled(each, value) for each in instances))
        unnamed = [{"job": "testjob", "instance": each["instance"]} for each in instances]
        rejects(*(sampled(each, value) for each in unnamed))
        rejects(sampled(unnamed[0], value), *(sampled(each, value) for each in instances[1:]))

    def test_a_created_timestamp(self) -> None:
        """Earlier drafts of 2.0 had it as field 6 of a series; that number is reserved now."""
        series = sampled(named("http_requests_total", job="api"), bits(100.0))
        body = encode_v2(request(series))
        with_created = replace(series, extra=whole(6, NOW_MS - 3_600_000))
        assert encode_v2(request(with_created)) != body
        server = Server()
        answer = server.write(request(with_created), 2)
        assert (answer.status, written(answer)) == (204, ("1", "0", "0"))

    @pytest.mark.parametrize(
        ("given", "sides"),
        [
            (named("test_histogram"), {"positive": True, "negative": True, "zero": True}),
            (named("test_histogram"), {"positive": True, "custom": True}),
            (named("test_histogram", job="test"), {"positive": True, "zero": True}),
            (named("test_histogram", instance="localhost"), {"negative": True}),
            (named("minimal_hist"), {"zero": True}),
            (named("empty_hist"), {}),
        ],
    )
    def test_a_histogram(self, given: dict[str, str], sides: dict[str, bool]) -> None:
        accepts(observed(given, **sides))

    def test_a_histogram_with_a_bad_count(self) -> None:
        rejects(observed(named("minimal_hist"), positive=True, bad=True))

    def test_several_histograms(self) -> None:
        accepts(
            observed(named("hist1", job="test"), 10.5, positive=True, zero=True),
            observed(named("hist2", job="test"), 5.2, negative=True),
        )

    @pytest.mark.parametrize(
        ("given", "exemplar"),
        [
            (named("http_requests_total", job="api"), traced(trace_id="abc123def456")),
            (named("seconds", method="GET"), traced(0.125, trace_id="xyz789", span_id="span123")),
            (named("cpu_usage", instance="host1"), traced(0.85, user_id="user123")),
            (
                named("request_latency", service="auth"),
                traced(0.05, trace_id="trace456", user="admin", endpoint="/login"),
            ),
            (named("simple_counter"), traced()),
            (named("test_metric"), traced(42.0, trace_id="trace-with-dashes_and_underscores.123")),
            (named("unicode_test", region="🌍"), traced(100.0, trace_id="unicode_trace_测试")),
        ],
    )
    def test_an_exemplar(self, given: dict[str, str], exemplar: Exemplar) -> None:
        accepts(sampled(given, exemplars=(exemplar,)))

    @pytest.mark.parametrize(
        "value",
        [0.0, -123.456, 1e10, 1e-10, NORMAL_NAN, float("inf"), float("-inf")],
        ids=["zero", "negative", "large", "small", "NaN", "+Inf", "-Inf"],
    )
    def test_an_exemplar_with_a_special_value(self, value: float) -> None:
        exemplar = traced(value, trace_id="special_value_trace")
        accepts(sampled(named("test_metric"), bits(value), exemplars=(exemplar,)))

    def test_exemplars_of_one_series_at_several_times(self) -> None:
        accepts(
            *(
                sampled(
                    named("latency_hist"),
                    at=NOW_MS - ago,
                    exemplars=(traced(0.05, NOW_MS - ago, trace_id=f"trace_{ago}"),),
                )
                for ago in (3_600_000, 60_000, 0)
            )
        )

    @pytest.mark.parametrize("given", [{"job": "test"}, {NAME: ""}])
    def test_exemplars_and_metadata_of_series_without_a_name(self, given: dict[str, str]) -> None:
        rejects(sampled(given, exemplars=(traced(trace_id="test_trace"),)))
        rejects(described(sampled(given), 1, "Test help", "unit"))

    @pytest.mark.parametrize("kind", range(8))
    @pytest.mark.parametrize(
        ("text", "unit"),
        [
            ("Total number of HTTP requests", "requests"),
            ("", ""),
            ('Test metric with\nnewlines and "quotes"', "bytes/sec"),
            ("Total number of HTTP requests", ""),
        ],
    )
    def test_metadata(self, kind: int, text: str, unit: str) -> None:
        accepts(described(sampled(JOB), kind, text, unit))
        histogram = observed(JOB, positive=True, negative=True, zero=True)
        accepts(described(histogram, kind, text, unit))

    def test_everything_together(self) -> None:
        samples = [
            described(
                sampled(named(f"counter_metric_{number}", series=f"series_{number}")),
                1,
                f"Counter metric number {number}",
                "count",
            )
            for number in range(50)
        ]
        histograms = [
            described(
                observed(
                    named(f"histogram_metric_{number}", bucket=f"bucket_{number}"),
                    number / 10,
                    positive=True,
                    negative=number % 2 == 0,
                    zero=True,
                ),
                3,
                f"Histogram metric number {number}",
                "seconds",
            )
            for number in range(50)
        ]
        everything = [
            replace(series, exemplars=(traced(number, trace_id=f"trace_{number}"),))
            for number, series in enumerate(samples + histograms)
        ]
        accepts(*everything[:50])
        accepts(*everything[50:])

    def test_special_characters(self) -> None:
        given = named(
            "test_metric",
            job="test-job_with.special@chars",
            instance="localhost:9090",
            environment="test🚀",
        )
        exemplar = traced(
            42.0, trace_id="special_trace_äöü-123", span_id="span_with.dots-and_underscores"
        )
        series = sampled(given, exemplars=(exemplar,))
        help_ = 'Test metric with special characters: äöü, newlines\nand "quotes"'
        accepts(described(series, 2, help_, "special/units"))

    def test_custom_buckets_with_an_exemplar(self) -> None:
        series = observed(named("custom_latency_hist", version="v2"), 0.05, custom=True)
        exemplar = traced(0.05, trace_id="custom_bucket_trace", bucket="0.1")
        accepts(replace(series, exemplars=(exemplar,)))

    def test_metadata_without_data(self) -> None:
        server = Server()
        orphan = described(metric(named("orphan_metric")), 1, "Orphaned metric metadata", "count")
        answer = server.write(request(orphan), 2)
        assert (answer.status, answer.text, written(answer)) == (204, "", ("0", "0", "0"))

    def test_exemplars_without_data(self) -> None:
        orphan = traced(42.0, trace_id="orphan_trace")
        accepts(metric(named("orphan_metric"), exemplars=(orphan,)))

    def test_times_that_differ(self) -> None:
        old = traced(1.0, NOW_MS - 1_800_000, trace_id="old_trace")
        accepts(
            sampled(named("old_metric"), at=NOW_MS - 3_600_000, exemplars=(old,)),
            sampled(named("new_metric"), bits(2.0)),
        )

    def test_a_sender_of_1(self) -> None:
        server = Server()
        sent = request(sampled(JOB), sampled(named("http_requests_total"), bits(100.0)))
        fields = headers_of()
        del fields["X-Prometheus-Remote-Write-Version"]
        answer = ask(server.site, "POST", PATH, fields, encoded(sent, 1))
        assert (answer.status, written(answer)) == (200, (None, None, None))

    @both
    @pytest.mark.parametrize("first", [b"0", b"\xff"])
    def test_a_corrupt_body(self, version: int, first: bytes) -> None:
        body = first + encoded(request(sampled(named("up"))), version)[1:]
        assert Server().write(body, version).status == 400


def test_the_histograms_above_are_what_they_should_be() -> None:
    """The encoding of the tests, checked against one that was written by Prometheus' own rules."""
    assert native(0.0).head == bytes.fromhex("0800")
    assert native(1.0, zero=True).head == bytes.fromhex("0801 19 000000000000f03f 3001")
    custom = native(1.0, custom=True)
    assert custom.head.endswith(bytes.fromhex("5a021006 6206 0402040601 03".replace(" ", "")))
    assert packed_doubles(16, custom.custom[:1]) == bytes.fromhex("8201089a9999999999b93f")
