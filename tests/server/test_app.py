"""telemeter-server: its flags, its two listeners, and how it stops; on a reactor in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.application.service import MultiService
from twisted.internet.error import ConnectionRefusedError as TCPRefusedError
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from telemeter.auth.keys import load_key
from telemeter.auth.token import TokenIssuer
from telemeter.config.reload import WATCH_SECONDS
from telemeter.config.server import ServerConfig
from telemeter.config.server_options import Options
from telemeter.convert.engine import KIND
from telemeter.loop.clocks import Wall
from telemeter.samples.compression import compress_framed
from telemeter.samples.family import encode_families
from telemeter.tap.server import makeService
from tests.fakes import (
    NOW,
    NOW_MS,
    SILENCE,
    Answer,
    FakeWall,
    Log,
    Peer,
    Reply,
    Wire,
    ask,
    has_fired,
    json_reply,
    parse_samples,
    request_of,
    result_of,
    untyped,
)
from tests.net.test_tls import certificate, pem
from tests.tap.world import FakeReactor, started
from tests.web.server import CLUSTER, TENANT, agent_headers, forwarded, up

EXTERNAL, INTERNAL = 9003, 9004
BEARER = {"Authorization": "Bearer the-token"}


def options_of(*flags: str) -> Options:
    options = Options()
    options.parseOptions(list(flags))
    return options


class Daemon:
    """A server on a reactor of its own."""

    def __init__(self, *flags: str) -> None:
        self.reactor = FakeReactor()
        self.options = options_of(*flags)
        self.service: MultiService = started(
            makeService(self.options, self.reactor, FakeWall(self.reactor))
        )

    def ask(self, method: str, target: str, *, port: int = EXTERNAL, **more: Any) -> Answer:
        return ask(self.reactor.site(port), method, target, **more)

    def authorize(self, cluster: str = CLUSTER) -> Answer:
        return self.ask("POST", f"/authorize?id={cluster}", headers=BEARER)

    def upload(self, token: str, *, port: int = EXTERNAL) -> Wire:
        """Begin an upload of one sample."""
        wire = Wire(self.reactor.site(port))
        body = compress_framed(encode_families([up()]))
        wire.send(request_of("POST", "/upload", agent_headers(token), body))
        return wire

    def stop(self) -> Any:
        return self.service.stopService()


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop what a test started, so that it leaves no signal handler behind."""
    made: list[Daemon] = []
    make = Daemon.__init__

    def remember(self: Daemon, *flags: str) -> None:
        make(self, *flags)
        made.append(self)

    monkeypatch.setattr(Daemon, "__init__", remember)
    yield
    for daemon in made:
        if daemon.service.running:
            daemon.stop()
            daemon.reactor.pump([10, 10])


# --- docs/protocol.md, "Paths" --------------------------------------------------------------------


def test_the_default_addresses() -> None:
    servers = Daemon().reactor.tcpServers
    assert [(port, interface) for port, _, _, interface in servers] == [
        (9004, "127.0.0.1"),
        (9003, "0.0.0.0"),
    ]


def test_other_addresses(tmp_path: Path) -> None:
    socket = str(tmp_path / "s")
    daemon = Daemon("--listen", "127.0.0.1:1", "--listen-internal", f"unix:{socket}")
    assert [(port, host) for port, _, _, host in daemon.reactor.tcpServers] == [(1, "127.0.0.1")]
    assert [address for address, *_ in daemon.reactor.unixServers] == [socket]


@pytest.mark.parametrize(("flags", "seconds"), [((), 75), (("--idle-timeout", "5m"), 300)])
@pytest.mark.parametrize("port", [EXTERNAL, INTERNAL])
def test_how_long_connections_may_be_idle(
    flags: tuple[str, ...], seconds: float, port: int
) -> None:
    daemon = Daemon(*flags)
    wire = Wire(daemon.reactor.site(port))
    wire.send(request_of("GET", "/healthz"))
    daemon.reactor.advance(seconds - 0.1)
    assert not wire.is_closed()
    daemon.reactor.advance(0.1)
    assert wire.is_closed()
    wire.close()


@pytest.mark.parametrize("value", ["0", "-1s", "75"])
def test_connections_cannot_be_idle_for_ever(value: str) -> None:
    with pytest.raises(SystemExit, match=r"--idle-timeout.*expected a duration"):
        options_of("--idle-timeout", value)


def test_the_external_index() -> None:
    answer = Daemon().ask("GET", "/")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "paths": [
            "/",
            "/authorize",
            "/upload",
            "/healthz",
            "/healthz/ready",
            "/metrics/v1/receive",
        ]
    }


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/healthz/ready", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/authorize?id=c", 401),
        ("POST", "/upload", 401),
        ("POST", "/metrics/v1/receive", 400),
        # Known paths with another method.
        ("POST", "/", 405),
        ("POST", "/healthz", 405),
        ("DELETE", "/healthz/ready", 405),
        ("GET", "/authorize", 405),
        ("GET", "/upload", 405),
        ("PUT", "/upload", 405),
        ("GET", "/metrics/v1/receive", 405),
        # Nothing of the inside is outside, and nothing else is there.
        ("GET", "/metrics", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/debug", 404),
        ("GET", "/debug/", 404),
        ("GET", "/debug/stacks", 404),
        ("GET", "/debug/profile", 404),
        ("GET", "/debug/pprof/", 404),
        ("POST", "/-/reload", 404),
        ("GET", "/federate", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("GET", "//metrics", 404),
        ("GET", "/%6Detrics", 404),
        ("GET", "http://localhost:9004/metrics", 404),
        ("GET", "/healthz/../metrics", 404),
    ],
)
def test_what_is_outside(method: str, target: str, status: int) -> None:
    answer = Daemon().ask(method, target)
    assert answer.status == status
    if status == 405:
        assert answer.headers["allow"] in ("POST", "GET, HEAD")
    elif method == "GET" and status == 200:
        assert answer.text == "ok\n"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/healthz/ready", 200),
        ("GET", "/debug/", 200),
        ("GET", "/debug/stacks", 200),
        ("POST", "/-/reload", 200),
        ("POST", "/metrics", 405),
        ("GET", "/-/reload", 405),
        ("POST", "/upload", 404),
        ("POST", "/authorize?id=c", 404),
        ("POST", "/metrics/v1/receive", 404),
        ("GET", "/nowhere", 404),
    ],
)
def test_what_is_inside(method: str, target: str, status: int) -> None:
    daemon = Daemon()
    assert daemon.ask(method, target, port=INTERNAL).status == status


def test_the_internal_index_and_metrics() -> None:
    daemon = Daemon()
    paths = daemon.ask("GET", "/", port=INTERNAL).json["paths"]
    assert paths == [
        "/",
        "/metrics",
        "/debug/",
        "/healthz",
        "/healthz/ready",
        "/-/reload",
        "/federate",
        "/metrics/clusters",
        "/api/v1/fleet",
        "/api/v1/clusters",
    ]
    for path in paths:
        assert daemon.ask("GET", path, port=INTERNAL).status in (200, 405)
    page = daemon.ask("GET", "/metrics", port=INTERNAL).text
    assert ("process_open_fds", frozenset()) in parse_samples(page)


# --- The whole way --------------------------------------------------------------------------------


def test_from_a_token_to_the_upstream() -> None:
    daemon = Daemon(
        *("--authorize", "http://tollbooth.test/tb", "--forward-url", "http://upstream.test/w"),
        *("--required-label", "tier=gold", "--whitelist", "up", "--elide-label", "job"),
        *("--label", "region=eu"),
    )
    wire = Wire(daemon.reactor.site(EXTERNAL))
    wire.send(request_of("POST", f"/authorize?id={CLUSTER}", BEARER))
    tollbooth = Peer(json_reply({"account_id": "account"}))
    daemon.reactor.connect(tollbooth)
    assert tollbooth.only.json == {"cluster_id": CLUSTER, "authorization_token": "the-token"}
    answer = wire.answer.json
    assert answer["labels"] == {"_id": CLUSTER, "tier": "gold"}

    body = compress_framed(
        encode_families(
            [
                up(job="j", tier="gold"),
                untyped("down", ({"_id": CLUSTER, "tier": "gold"}, 1.0)),
            ]
        )
    )
    wire = Wire(daemon.reactor.site(EXTERNAL))
    wire.send(request_of("POST", "/upload", agent_headers(answer["token"]), body))
    upstream = Peer()
    daemon.reactor.connect(upstream)
    assert wire.answer.status == 200
    assert upstream.only.target == "/w"
    assert upstream.only.headers["thanos-tenant"] == TENANT
    labels = {"__name__": "up", "_id": CLUSTER, "region": "eu", "tier": "gold"}
    assert forwarded(upstream.only) == [(labels, 1.0, NOW_MS)]


def test_a_large_upload_is_converted_in_a_thread() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    token = daemon.authorize().json["token"]
    samples = [({"_id": CLUSTER, "n": f"{n:060}"}, 1.0) for n in range(500)]
    body = encode_families([untyped("up", *samples)])
    wire = Wire(daemon.reactor.site(EXTERNAL))
    headers = {**agent_headers(token), "Content-Encoding": ""}
    wire.send(request_of("POST", "/upload", headers, body))
    upstream = Peer()
    daemon.reactor.connect(upstream)
    assert wire.answer.status == 200
    assert len(forwarded(upstream.only)) == 500


def test_an_upstream_that_refuses_connections_is_502() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    wire = daemon.upload(daemon.authorize().json["token"])
    ((_, _, factory, timeout, _),) = daemon.reactor.tcpClients
    factory.clientConnectionFailed(daemon.reactor.connectors[0], Failure(TCPRefusedError()))
    daemon.reactor.advance(5)
    assert (wire.answer.status, timeout) == (502, 10)


def test_an_upstream_that_lets_connections_wait_is_502() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    wire = daemon.upload(daemon.authorize().json["token"])
    daemon.reactor.advance(4.9)
    assert wire.written == b""
    daemon.reactor.advance(0.1)
    assert wire.answer.status == 502


def test_the_flags_for_limits() -> None:
    daemon = Daemon("--limit-bytes", "10", "--ratelimit", "7s", "--token-expire-seconds", "60")
    answer = daemon.authorize().json
    assert answer["expiresInSeconds"] == 60
    assert daemon.upload(answer["token"]).answer.status == 413
    second = daemon.upload(answer["token"]).answer
    assert (second.status, second.headers["retry-after"]) == (429, "7")


def test_another_partition_label() -> None:
    daemon = Daemon("--partition-label", "cluster")
    assert daemon.authorize().json["labels"] == {"cluster": CLUSTER}


# --- Warnings at the start ------------------------------------------------------------------------


def warnings_of(log: Log) -> str:
    return "".join(line for line in log.lines if " level=warn " in line)


def test_what_is_missing_for_production_is_said_at_the_start(log: Log) -> None:
    Daemon()
    text = warnings_of(log)
    for flag in ("--shared-key", "--authorize", "--whitelist"):
        assert f"no {flag}" in text


def test_where_samples_go_without_a_forward_url_is_said_at_the_start(log: Log) -> None:
    Daemon("--store-retention", "1m", "--store-max-series", "7")
    (line,) = (line for line in log.lines if "no --forward-url" in line)
    assert " level=info " in line
    assert "retention=60.0 max_series=7" in line


def test_a_complete_configuration_is_not_warned_of(log: Log, key_file: Path) -> None:
    Daemon(
        *("--shared-key", str(key_file), "--authorize", "http://user:secret@tollbooth.test/"),
        *("--whitelist", "up", "--forward-url", "http://user:secret@upstream.test/w?key=secret"),
    )
    lines = warnings_of(log).splitlines()
    if KIND != "compiled":  # which is another matter
        lines = [line for line in lines if "component=telemeter.observe.compiled" not in line]
    assert lines == []
    assert "secret" not in "".join(log.lines)
    (event,) = log.of("starting telemeter-server")
    assert event["forward_url"] == "http://upstream.test/w"


# --- Keys -----------------------------------------------------------------------------------------


def key_bytes() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "shared.key"
    path.write_bytes(key_bytes())
    return path


def test_a_shared_key_signs(key_file: Path) -> None:
    first, second = Daemon("--shared-key", str(key_file)), Daemon("--shared-key", str(key_file))
    token = first.authorize().json["token"]
    assert jwt.get_unverified_header(token)["alg"] == "ES384"
    assert second.ask("POST", "/upload", headers=agent_headers(token)).status == 200


def test_a_fresh_key_is_known_to_nobody_else() -> None:
    token = Daemon().authorize().json["token"]
    assert jwt.get_unverified_header(token)["alg"] == "ES256"
    assert Daemon().ask("POST", "/upload", headers=agent_headers(token)).status == 401


def test_of_several_keys_the_first_signs_and_all_verify(tmp_path: Path) -> None:
    paths = [tmp_path / "new", tmp_path / "old"]
    for path in paths:
        path.write_bytes(key_bytes())
    new, old = (load_key(path.read_bytes()) for path in paths)
    daemon = Daemon("--shared-key", str(paths[0]), "--shared-key", str(paths[1]))
    token = daemon.authorize().json["token"]
    assert jwt.get_unverified_header(token)["kid"] == new.identifier
    old_token = TokenIssuer(old, 600).issue("a", {"_id": "other"}, Wall(NOW))
    for each in (token, old_token):
        assert daemon.ask("POST", "/upload", headers=agent_headers(each)).status == 200


def test_a_reload_takes_up_keys_and_rules(tmp_path: Path, key_file: Path, log: Log) -> None:
    rules = tmp_path / "rules"
    rules.write_text("down\n")
    daemon = Daemon(
        *("--shared-key", str(key_file), "--whitelist-file", str(rules), "--ratelimit", "0"),
    )
    old = daemon.authorize().json["token"]
    assert daemon.upload(old).answer.status == 200
    assert daemon.ask("GET", "/federate?match[]=up", port=INTERNAL).text == ""
    rules.write_text("up\nother\n")
    assert daemon.ask("POST", "/-/reload", port=INTERNAL).status == 200
    assert [event["whitelist_rules"] for event in log.of("reloaded")] == [2]
    assert daemon.upload(old).answer.status == 200
    assert "\nup{" in daemon.ask("GET", "/federate?match[]=up", port=INTERNAL).text
    key_file.write_bytes(key_bytes())
    assert daemon.ask("POST", "/-/reload", port=INTERNAL).status == 200
    assert daemon.upload(old).answer.status == 401


@pytest.mark.parametrize("content", ["{up\n", "", "\n# up\n"])
def test_a_reload_that_fails_changes_nothing(tmp_path: Path, key_file: Path, content: str) -> None:
    rules = tmp_path / "rules"
    rules.write_text("down\n")
    daemon = Daemon(
        *("--shared-key", str(key_file), "--whitelist-file", str(rules), "--ratelimit", "0"),
    )
    token = daemon.authorize().json["token"]
    key_file.write_bytes(key_bytes())
    rules.write_text(content)
    answer = daemon.ask("POST", "/-/reload", port=INTERNAL)
    assert answer.status == 500
    assert f"--whitelist-file {str(rules)!r}" in answer.text
    assert daemon.upload(token).answer.status == 200
    assert daemon.ask("GET", "/federate?match[]=up", port=INTERNAL).text == ""


# --- TLS ------------------------------------------------------------------------------------------


def test_tls_on_either_listener(tmp_path: Path) -> None:
    (tmp_path / "crt").write_bytes(certificate("ec"))
    (tmp_path / "key").write_bytes(pem("ec"))
    pair = [str(tmp_path / "crt"), str(tmp_path / "key")]
    daemon = Daemon("--tls-crt", pair[0], "--tls-key", pair[1])
    factories = {port: factory for port, factory, _, _ in daemon.reactor.tcpServers}
    assert isinstance(factories[EXTERNAL], TLSMemoryBIOFactory)
    assert not isinstance(factories[INTERNAL], TLSMemoryBIOFactory)
    daemon = Daemon("--internal-tls-crt", pair[0], "--internal-tls-key", pair[1])
    factories = {port: factory for port, factory, _, _ in daemon.reactor.tcpServers}
    assert isinstance(factories[INTERNAL], TLSMemoryBIOFactory)
    assert not isinstance(factories[EXTERNAL], TLSMemoryBIOFactory)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_certificate_that_is_replaced_while_the_server_starts_is_noticed(
    tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    crt, key = tmp_path / "crt", tmp_path / "key"
    crt.write_bytes(certificate("ec"))
    key.write_bytes(pem("ec"))
    read = Options.read_config

    def read_and_replace(options: Options) -> ServerConfig:
        config = read(options)
        if replaced:
            crt.write_bytes(certificate("other"))
            key.write_bytes(pem("other"))
        return config

    monkeypatch.setattr(Options, "read_config", read_and_replace)
    daemon = Daemon("--tls-crt", str(crt), "--tls-key", str(key))
    daemon.reactor.pump([WATCH_SECONDS] * 3)
    assert len(log.of("reloaded")) == replaced


# --- Proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_a_stray_variable_does_not_move_a_server(
    wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {
        "HTTP": "proxy.test:3128",
        "HTTPS": "proxy.test:3128",
        "NO": "",
    }.items():
        monkeypatch.setenv(f"{variable}_PROXY", value)
        monkeypatch.delenv(f"{variable.lower()}_proxy", raising=False)
    flags = ["--proxy-from-environment"] if wanted else []
    authorize = ["--authorize", "http://authorizer.test:8001/"]
    forward = ["--forward-url", "https://upstream.test:8002/"]
    issuer = ["--oidc-issuer", "https://sso.test:8003", "--client-id", "x", "--client-secret", "y"]

    def asked(daemon: Daemon) -> list[int]:
        return [port for _, port, *_ in daemon.reactor.tcpClients]

    daemon = Daemon(*authorize, *flags)
    Wire(daemon.reactor.site(EXTERNAL)).send(request_of("POST", "/authorize?id=x", BEARER))
    assert asked(daemon) == [3128 if wanted else 8001]
    daemon = Daemon(*forward, *flags)
    daemon.upload(daemon.authorize().json["token"])
    assert asked(daemon) == [3128 if wanted else 8002]
    assert asked(Daemon(*issuer, *flags)) == [3128 if wanted else 8003]


# --- A stop ---------------------------------------------------------------------------------------


def test_an_idle_server_stops_at_once() -> None:
    daemon = Daemon()
    stopping = daemon.stop()
    assert has_fired(stopping)
    assert not daemon.reactor.getDelayedCalls()


def test_an_upload_under_way_is_finished() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    token = daemon.authorize().json["token"]
    wire = daemon.upload(token)
    upstream = Peer(SILENCE)
    pump = daemon.reactor.connect(upstream)
    stopping = daemon.stop()
    # Inside, it still answers, and says that it wants no more work.
    for target, status in (("/healthz/ready", 503), ("/healthz", 200), ("/metrics", 200)):
        assert daemon.ask("GET", target, port=INTERNAL).status == status
    upstream.only.answer(Reply(200))
    assert not has_fired(stopping)
    pump.flush()
    assert wire.answer.status == 200
    wire.close()
    # What is left is the connection to the upstream, kept for another request.
    assert not has_fired(stopping)
    pump.flush()
    assert has_fired(stopping)


def test_a_stuck_upload_does_not_hold_the_server() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    wire = Wire(daemon.reactor.site(EXTERNAL))
    head = {**agent_headers(daemon.authorize().json["token"]), "Content-Length": "100"}
    wire.send(request_of("POST", "/upload", head))
    stopping = daemon.stop()
    daemon.reactor.advance(9.9)
    assert not has_fired(stopping)
    daemon.reactor.advance(0.1)
    assert has_fired(stopping)
    assert wire.is_aborted()
    wire.vanish()


def test_nothing_else_is_reported_when_it_stops(log: Log) -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    result_of(daemon.stop())
    assert log.errors == []


# --- The flags ------------------------------------------------------------------------------------

# Names and defaults, which must not change: docs/protocol.md, "Flags".
DEFAULTS: dict[str, object] = {
    "listen": "0.0.0.0:9003",
    "listen-internal": "localhost:9004",
    "tls-key": "",
    "tls-crt": "",
    "internal-tls-key": "",
    "internal-tls-crt": "",
    "label": [],
    "receive-label": [],
    "partition-label": "_id",
    "shared-key": [],
    "token-expire-seconds": 86_400,
    "authorize": "",
    "oidc-issuer": "",
    "client-id": "",
    "client-secret": "",
    "oidc-audience": "",
    "oidc-scope": [],
    "tenant-key": "",
    "tenant-id": TENANT,
    "memcached": [],
    "memcached-expire": 86_400,
    "memcached-interval": 10,
    "ratelimit": 270.0,
    "forward-url": "",
    "store-retention": 600.0,
    "store-max-series": 1_000_000,
    "required-label": [],
    "whitelist": [],
    "whitelist-file": "",
    "elide-label": [],
    "limit-bytes": 512_000,
    "limit-receive-bytes": 131_072,
    "workers": 1,
    "log-level": "info",
    "verbose": False,
    "internal.tracing.service-name": "telemeter-server",
    "internal.tracing.endpoint": "",
    "internal.tracing.sampling-fraction": 0.1,
    "internal.tracing.endpoint-type": "agent",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_flag_is_there_with_its_default(name: str) -> None:
    assert options_of()[name] == DEFAULTS[name]


def test_the_help_has_every_flag_and_its_default() -> None:
    shown = " ".join(options_of().getUsage(width=200).split())
    for flag in Options.flags:
        assert f"--{flag.name}" in shown
        assert flag.help.endswith(".")
        assert " ".join(flag.description.split()) in shown
        assert "[default: " in flag.description


def test_as_many_workers_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert options_of("--workers", "0", "--forward-url", "http://upstream.test/")["workers"] == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {7})
    assert options_of("--workers", "0")["workers"] == 1
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert options_of("--workers", "0", "--forward-url", "http://upstream.test/")["workers"] == 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that are not what flags want."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "garbage").write_text("garbage\n")
    (folder / "empty").write_text("\n")
    (folder / "rules").write_text("up\n{down\n")
    (folder / "ec.crt").write_bytes(certificate("ec"))
    (folder / "ec.key").write_bytes(pem("ec"))
    (folder / "rsa.key").write_bytes(pem("rsa"))
    return folder


REFUSED = [
    "--store-retention 0",
    "--store-retention soon",
    "--store-max-series 0",
    "--tenant-key authorization_token",
    "--tenant-id mandant-\u00fc",
    "--tenant-id a\x00b",
    "--listen nowhere",
    "--listen-internal 9004",
    "--listen tcp:x",
    "--label no-equals-sign",
    "--label __name__=x",
    "--required-label alone",
    "--partition-label __name__",
    "--elide-label __name__",
    "--receive-label alone",
    "--receive-label __name__=x",
    "--receive-label _id=x",
    "--receive-label a=b --partition-label a",
    "--token-expire-seconds 0",
    "--token-expire-seconds soon",
    "--token-expire-seconds 9223372037",
    "--authorize tollbooth:8080",
    "--forward-url ftp://x/",
    "--ratelimit 5parsecs",
    "--whitelist {up",
    "--whitelist-file {files}/missing",
    "--whitelist-file {files}/rules",
    "--limit-bytes 0",
    "--limit-bytes many",
    "--limit-receive-bytes 1.5",
    "--log-level loud",
    "--memcached a:x",
    "--memcached localhost",
    "--elide-label a=b",
    "--elide-label a,b",
    "--partition-label a=b",
    "--required-label a=\udcff",
    "--required-label __name__=x",
    "--required-label a=" + "x" * 256,
    "--label a=\udcff",
    "--oidc-scope \u00fc",
    "--whitelist-file {files}/empty",
    '--whitelist {__name__="up",__name__="down"}',
    "--shared-key {files}/missing",
    "--shared-key {files}/garbage",
    "--shared-key {files}/ec.crt",
    "--tls-crt {files}/ec.crt",
    "--tls-key {files}/ec.key",
    "--internal-tls-crt {files}/ec.crt",
    "--internal-tls-key {files}/ec.key",
    "--tls-crt {files}/missing --tls-key {files}/ec.key",
    "--tls-crt {files}/garbage --tls-key {files}/ec.key",
    "--tls-crt {files}/ec.crt --tls-key {files}/garbage",
    "--tls-crt {files}/ec.crt --tls-key {files}/rsa.key",
    "--internal-tls-crt {files}/ec.crt --internal-tls-key {files}/rsa.key",
    "--forward-ca-file {files}/garbage",
    "--forward-ca-file {files}/empty",
    "--forward-tls-crt {files}/empty --forward-tls-key {files}/empty",
    "--authorize-ca-file {files}/missing",
    "--client-secret-file {files}/garbage",
    "--internal.tracing.sampling-fraction 7",
    "--workers -1",
    "--workers 257",
    "--workers two",
    "--workers 2",
    "--workers 2 --forward-url http://upstream.test/ --listen unix:{files}/socket",
    "--workers 2 --forward-url http://upstream.test/ --listen haproxy:unix:/s",
]


@pytest.mark.parametrize("line", REFUSED)
def test_a_bad_configuration_is_refused_in_one_line(line: str, files: Path) -> None:
    flags = line.replace("{files}", str(files)).split()
    with pytest.raises(SystemExit) as caught:
        options_of(*flags)
    message = str(caught.value)
    assert message.startswith("telemeter-server: --")
    assert "\n" not in message
    assert flags[0] in message
    assert repr(flags[1])[1:-1] in message
    assert (
        "expected" in message
        or "needs" in message
        or "belong" in message
        or "Twisted" in message
        or "exclude each other" in message
    )


@pytest.mark.parametrize("flag", ["whitelist", "whitelist-file"])
def test_what_guards_is_refused_when_it_is_empty(flag: str) -> None:
    with pytest.raises(SystemExit, match=f"--{flag} '': the value is empty, which would "):
        options_of("--whitelist", "up", f"--{flag}=")


@pytest.mark.parametrize("flag", ["required-label", "elide-label"])
def test_what_templates_leave_empty_counts_as_not_given(flag: str) -> None:
    options = options_of(f"--{flag}=")
    assert options[flag] == []
    assert options.empty == {flag}


@pytest.mark.parametrize("label", ["_id", "cluster"])
def test_clusters_do_not_share_an_identifier(label: str) -> None:
    flags = ["--partition-label", label, "--required-label", "tier=gold"]
    assert options_of(*flags)["required-label"] == [("tier", "gold")]
    with pytest.raises(SystemExit, match=f"--required-label '{label}': expected another label"):
        options_of(*flags, "--required-label", f"{label}=x")


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [("--client-secret", "hunter2", "--client-secret"), ("--oidc-scope", "a", "--oidc-scope 'a'")],
)
def test_what_only_an_issuer_is_told_needs_one(flag: str, value: str, shown: str) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of(flag, value)
    assert str(caught.value) == (
        f"telemeter-server: {shown} needs --oidc-issuer too, which was not given"
    )


# --- The embedded store ---------------------------------------------------------------------------


def test_without_a_forward_url_uploads_are_kept_for_the_retention() -> None:
    daemon = Daemon("--store-retention", "1m", "--store-max-series", "1")
    token = daemon.authorize().json["token"]
    assert daemon.upload(token).answer.status == 200
    page = daemon.ask("GET", "/federate?match[]=up", port=INTERNAL)
    assert page.text.startswith(f'# TYPE up untyped\nup{{_id="{CLUSTER}",instance=""}} 1 ')
    assert daemon.ask("GET", "/federate", port=EXTERNAL).status == 404
    assert "telemeter_store_series 1.0\n" in daemon.ask("GET", "/metrics", port=INTERNAL).text
    daemon.reactor.advance(70)
    assert "telemeter_store_series 0.0\n" in daemon.ask("GET", "/metrics", port=INTERNAL).text
    assert daemon.ask("GET", "/federate?match[]=up", port=INTERNAL).text == ""


def test_with_a_forward_url_there_is_no_store() -> None:
    daemon = Daemon("--forward-url", "http://upstream.test/w")
    assert "/federate" not in daemon.ask("GET", "/", port=INTERNAL).json["paths"]
    assert daemon.ask("GET", "/federate", port=INTERNAL).status == 404
