"""telemeter-client: its flags, its plan and its listener; on a reactor in memory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.usage import UsageError

from telemeter.agent.app import Planner, dry_run, make_cycle_plan
from telemeter.agent.authorize import AuthorizeError
from telemeter.agent.cycle import Agent, CyclePlan
from telemeter.config.agent_options import Options
from telemeter.config.disk import Disk
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE
from telemeter.tap.client import makeService
from tests.agent.world import families_reply, token_reply, up, uploaded
from tests.fakes import (
    NOW_MS,
    UPTIME,
    Answer,
    FakeWall,
    Log,
    Peer,
    Reply,
    ask,
    has_fired,
    parse_samples,
    result_of,
    run,
    start,
)
from tests.net.test_tls import certificate, pem
from tests.tap.world import FakeReactor, started

PORT = 9002
FROM = ["--from", "http://prometheus.test:9090"]
TO = ["--to", "http://telemeter.test"]
TOKEN = ["--to-token", "the-token"]
#: A file with nothing in it.
EMPTY = str(Path(__file__).parents[1] / "__init__.py")
AT_BOTH = ["--to-auth", "http://x/a", "--to-upload", "http://x/u"]
USUAL = [*FROM, *TO, *TOKEN, "--id", "cluster"]


def options_of(*flags: str) -> Options:
    options = Options()
    options.parseOptions(list(flags))
    return options


def refusal_of(*flags: str) -> str:
    with pytest.raises(SystemExit) as caught:
        options_of(*flags)
    message = str(caught.value)
    assert message.startswith("telemeter-client: ")
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the tests names no proxies."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- Flags ----------------------------------------------------------------------------------------

DEFAULTS: dict[str, object] = {
    "listen": "localhost:9002",
    "from-token": "",
    "from-token-file": "",
    "from-ca-file": "",
    "tls-cert-file": "",
    "tls-private-key-file": "",
    "id": "",
    "to-upload": "",
    "to-receive": "",
    "spool-dir": "",
    "spool-max-bytes": 256 << 20,
    "spool-max-age": 86_400.0,
    "spool-rate": 1.0,
    "spool-order": "in-order",
    "spool-status": False,
    "stale-on-stop": False,
    "to-auth": "",
    "to-token-file": "",
    "interval": 270.0,
    "limit-bytes": 204_800,
    "match": [],
    "match-file": "",
    "label": [],
    "rename": [("ALERTS", "alerts")],
    "anonymize-labels": [],
    "anonymize-salt": "",
    "anonymize-salt-file": "",
    "log-level": "info",
    "verbose": False,
    "internal.tracing.service-name": "telemeter-client",
    "internal.tracing.endpoint": "",
    "internal.tracing.sampling-fraction": 0.1,
    "internal.tracing.endpoint-type": "agent",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_flag_is_there_with_its_default(name: str) -> None:
    assert options_of(*FROM, *TO, *TOKEN)[name] == DEFAULTS[name]


def test_the_flags_that_are_required_are_there() -> None:
    options = options_of(*USUAL)
    found = [options[name] for name in ("from", "to", "to-token", "id")]
    assert found == ["http://prometheus.test:9090", "http://telemeter.test", "the-token", "cluster"]


def test_the_help_has_every_flag_and_its_default() -> None:
    shown = " ".join(Options().getUsage(width=200).split())
    for flag in Options.flags:
        assert f"--{flag.name}" in shown
        assert " ".join(flag.description.split()) in shown
        assert "[default: " in flag.description


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*TO, *TOKEN], ["--from is required"]),
        ([*FROM, *TOKEN], ["--to, or both --to-auth and --to-upload, must be given"]),
        ([*FROM, *TOKEN, "--to-auth", "http://x/a"], ["--to-upload, must be given"]),
        ([*FROM, *TOKEN, "--to-upload", "http://x/u"], ["--to, or both"]),
        ([*FROM, *TOKEN, "--to-upload", "/u", "--to-auth", "http://x"], ["a path needs --to too"]),
        ([*FROM, *TO], ["--to-token or --to-token-file is required"]),
        ([*FROM, *TO, "--to-token", " "], ["--to-token or --to-token-file is required"]),
        ([*USUAL, "--from", "prometheus:9090"], ["--from", "'prometheus:9090'", "expected a URL"]),
        ([*USUAL, "--to", "ftp://x"], ["--to 'ftp://x'", "expected a URL"]),
        ([*USUAL, "--to-auth", "nonsense"], ["--to-auth 'nonsense'", "expected a URL"]),
        ([*USUAL, "--stale-on-stop"], ["--stale-on-stop needs --spool-dir"]),
        ([*USUAL, "--to-receive", "/r"], ["--to-receive needs --spool-dir"]),
        ([*FROM, *TO, *TOKEN, "--spool-dir", "s"], ["--spool-dir needs --id"]),
        (
            [*FROM, *TOKEN, *AT_BOTH, "--id", "c", "--spool-dir", "s"],
            ["--spool-dir needs --to, or --to-receive with a URL"],
        ),
        ([*USUAL, "--spool-dir", "s", "--spool-rate", "0"], ["--spool-rate '0'", "above 0"]),
        ([*USUAL, "--spool-max-bytes", "1MB"], ["--spool-max-bytes '1MB'", "256MiB"]),
        ([*USUAL, "--spool-order", "any"], ["--spool-order 'any'", "in-order, newest-first"]),
        (["--spool-status"], ["--spool-status needs --spool-dir"]),
        ([*USUAL, "--to-upload", "/a b"], ["--to-upload '/a b'", "expected a URL"]),
        ([*USUAL, "--interval", "0"], ["--interval '0'", "above 0"]),
        ([*USUAL, "--interval", "soon"], ["--interval 'soon'", "expected a duration"]),
        ([*USUAL, "--limit-bytes", "0"], ["--limit-bytes '0'"]),
        ([*USUAL, "--match", "{up"], ["--match '{up'"]),
        ([*USUAL, "--match", '{x=""}'], ["--match", "does not match the empty string"]),
        ([*USUAL, "--label", "x"], ["--label 'x'", "expected NAME=VALUE"]),
        ([*USUAL, "--label", "__name__=x"], ["--label '__name__=x'"]),
        ([*USUAL, "--rename", "x"], ["--rename 'x'", "expected NAME=VALUE"]),
        ([*USUAL, "--anonymize-labels", "a"], ["--anonymize-labels", "--anonymize-salt-file"]),
        ([*USUAL, "--listen", "nowhere"], ["--listen 'nowhere'"]),
        ([*USUAL, "--match-file", "/missing"], ["--match-file '/missing'", "No such file"]),
        ([*FROM, *TO, "--to-token", "", "--to-token-file", "/missing"], ["--to-token-file"]),
        ([*USUAL, "--match", "up", "--match-file="], ["--match-file ''", "not asked for"]),
        ([*USUAL, "--match-file", EMPTY], [f"--match-file {EMPTY!r}", "saw none"]),
        (
            [*USUAL, "--match-file", "/dev/null"],
            ["--match-file '/dev/null'", "it is a device, and no regular file"],
        ),
        ([*USUAL, "--match", '{__name__="up",__name__="down"}'], ["--match", "exclude each other"]),
        ([*USUAL, "--dry-run="], ["--dry-run ''", "send what is only to be looked at"]),
        ([*USUAL, "--label", f"a={'x' * 256}"], ["--label", "255 bytes, this one has 256"]),
        ([*USUAL, "--label", "a=\udcff"], ["--label", "UTF-8"]),
        ([*USUAL, "--rename", "a="], ["--rename 'a='", "a new name of 1 to 255 bytes"]),
        ([*USUAL, "--rename", f"a={'x' * 256}"], ["--rename", "1 to 255 bytes"]),
        ([*USUAL, "--id", "x" * 256], ["--id", "255 bytes, this one has 256"]),
        ([*USUAL, "--id", "\udcff"], ["--id", "UTF-8"]),
        (
            [*USUAL, "--id", "00000000-0000-0000-0000-000000000000"],
            ["--id", "an identifier of your own, not the example's"],
        ),
        ([*USUAL, "--anonymize-labels", "__name__"], ["--anonymize-labels '__name__'"]),
        ([*USUAL, "--anonymize-labels", "a,"], ["--anonymize-labels 'a,'", "expected the name"]),
        ([*USUAL, "--anonymize-labels", "a=b"], ["--anonymize-labels 'a=b'", "without a value"]),
        ([*USUAL, "--to", "http://x/upload"], ["--to 'http://x/upload'", "without /upload"]),
        ([*USUAL, "--to", "http://x/a/authorize/"], ["--to", "without /authorize"]),
        ([*USUAL, "--to", "http://u:hunter2@x/upload"], ["--to 'http://x/upload'"]),
        ([*USUAL, "--to-token", "a\nb"], ["--to-token (a secret): expected one line"]),
        ([*USUAL, "--from-token-file", "/missing"], ["--from-token-file '/missing'"]),
        ([*USUAL, "--from-ca-file", "/missing"], ["--from-ca-file '/missing'"]),
        ([*USUAL, "--to-ca-file", "/missing"], ["--to-ca-file '/missing'"]),
        ([*USUAL, "--to-ca-file", EMPTY], [f"--to-ca-file {EMPTY!r}", "is empty"]),
        ([*USUAL, "--anonymize-salt-file", "/missing"], ["--anonymize-salt-file '/missing'"]),
        ([*USUAL, "--tls-cert-file", "c"], ["--tls-cert-file 'c' needs --tls-private-key-file"]),
        ([*USUAL, "--tls-private-key-file", "k"], ["--tls-private-key-file 'k' needs"]),
        ([*USUAL, "surplus"], ["surplus"]),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(flags: list[str], words: list[str]) -> None:
    message = refusal_of(*flags)
    for word in words:
        assert word in message
    assert "the-token" not in message


def test_certificates_that_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / "crt").write_bytes(certificate("ec"))
    (tmp_path / "ec").write_bytes(pem("ec"))
    (tmp_path / "rsa").write_bytes(pem("rsa"))
    flags = ["--tls-cert-file", str(tmp_path / "crt"), "--tls-private-key-file"]
    options_of(*USUAL, *flags, str(tmp_path / "ec"))
    message = refusal_of(*USUAL, *flags, str(tmp_path / "rsa"))
    assert "does not belong to the first certificate" in message
    assert "--tls-cert-file" in message


def test_the_rename_that_is_there_by_default_can_be_replaced() -> None:
    assert options_of(*USUAL, "--rename", "")["rename"] == [("ALERTS", "alerts")]
    assert options_of(*USUAL, "--rename", "a=b,c=d")["rename"] == [("a", "b"), ("c", "d")]


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "authorize", "upload"),
    [
        (
            ["--to", "http://x", "--id", "c"],
            "http://x/authorize?id=c",
            "http://x/upload",
        ),
        (
            ["--to", "http://x/", "--id", "c"],
            "http://x/authorize?id=c",
            "http://x/upload",
        ),
        (
            ["--to", "https://x:1/sub/path/", "--id", "c"],
            "https://x:1/sub/path/authorize?id=c",
            "https://x:1/sub/path/upload",
        ),
        (
            ["--to", "http://x/sub?key=v", "--id", "c"],
            "http://x/sub/authorize?key=v&id=c",
            "http://x/sub/upload?key=v",
        ),
        (
            ["--to", "http://x", "--id", "a b&c=d+\u00fc"],
            "http://x/authorize?id=a%20b%26c%3Dd%2B%C3%BC",
            "http://x/upload",
        ),
        (["--to", "http://x"], "http://x/authorize", "http://x/upload"),
        (
            ["--to", "http://x/uploads/v1", "--id", "c"],
            "http://x/uploads/v1/authorize?id=c",
            "http://x/uploads/v1/upload",
        ),
        (
            ["--to", "http://x/upload", "--to-auth", "/authorize", "--to-upload", "/upload"],
            "http://x/authorize",
            "http://x/upload",
        ),
        (
            ["--to", "http://x/sub", "--id", "c", "--to-auth", "/auth?id=d"],
            "http://x/auth?id=d",
            "http://x/sub/upload",
        ),
        (
            ["--to", "http://x/sub", "--id", "c", "--to-upload", "/up"],
            "http://x/sub/authorize?id=c",
            "http://x/up",
        ),
        (
            [
                "--to",
                "http://x",
                "--id",
                "c",
                "--to-auth",
                "https://y/a",
                "--to-upload",
                "http://z",
            ],
            "https://y/a",
            "http://z",
        ),
        (
            ["--to-auth", "https://y/a?id=c", "--to-upload", "http://z/u"],
            "https://y/a?id=c",
            "http://z/u",
        ),
    ],
)
def test_where_to_authorize_and_to_upload(flags: list[str], authorize: str, upload: str) -> None:
    sending = options_of(*FROM, *TOKEN, *flags).config.sending
    assert sending is not None
    assert (sending.authorize_url, sending.upload_url) == (authorize, upload)


@pytest.mark.parametrize(
    ("flags", "receive"),
    [
        (["--to", "http://x"], "http://x/metrics/v1/receive"),
        (["--to", "http://x/sub/"], "http://x/sub/metrics/v1/receive"),
        (["--to", "http://x/sub", "--to-receive", "/r"], "http://x/r"),
        (["--to", "http://x", "--to-receive", "https://y/r?a=b"], "https://y/r?a=b"),
        (
            ["--to-auth", "https://y/a", "--to-upload", "http://z", "--to-receive", "http://r/r"],
            "http://r/r",
        ),
    ],
)
def test_where_to_deliver(flags: list[str], receive: str) -> None:
    spooling = ["--id", "c", "--spool-dir", "s", "--spool-max-bytes", "1GiB", "--spool-rate", "2.5"]
    spool = options_of(
        *FROM, *TOKEN, *flags, *spooling, "--spool-order", "newest-first"
    ).config.spool
    assert spool is not None
    assert spool.receive_url == receive
    assert (spool.max_bytes, spool.rate, spool.newest_first) == (1 << 30, 2.5, True)


# --- The plan -------------------------------------------------------------------------------------


class Daemon:
    """An agent on a reactor of its own, with a Prometheus and a server that it can reach."""

    def __init__(self, *flags: str) -> None:
        self.reactor = FakeReactor()
        self.options = options_of(*flags)
        self.prometheus = Peer(families_reply(up(instance="i")))
        self.authorize = Peer(token_reply(_id="cluster"))
        self.server = Peer()
        self.service: MultiService = started(
            makeService(self.options, self.reactor, FakeWall(self.reactor))
        )

    def ask(self, method: str, target: str) -> Answer:
        return ask(self.reactor.site(PORT), method, target)

    def cycle(self) -> None:
        """Let the requests of one cycle through."""
        self.reactor.connect(self.prometheus)
        while self.reactor.tcpClients:
            has_token = bool(self.authorize.received)
            self.reactor.connect(self.server if has_token else self.authorize)


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
            daemon.service.stopService()
            daemon.reactor.pump([10, 10])


def test_a_whole_cycle(tmp_path: Path) -> None:
    (tmp_path / "matches").write_text('# more\n\n{__name__="down",x="+&%"}\n')
    daemon = Daemon(
        *USUAL,
        *("--match", 'up{job=~"a|b"}', "--match-file", str(tmp_path / "matches")),
        *("--label", "region=eu,zone=1", "--rename", "up=upp"),
        *("--anonymize-labels", "instance", "--anonymize-salt", "salt"),
        *("--from-token", "prometheus-token"),
    )
    assert [(host, port) for host, port, *_ in daemon.reactor.tcpClients] == [("127.0.0.1", 9090)]
    daemon.cycle()
    asked = daemon.prometheus.only
    assert asked.headers["authorization"] == "Bearer prometheus-token"
    url = urlsplit(asked.target)
    assert url.path == "/federate"
    assert parse_qsl(url.query) == [
        ("match[]", 'up{job=~"a|b"}'),
        ("match[]", '{__name__="down",x="+&%"}'),
    ]
    assert daemon.authorize.only.target == "/authorize?id=cluster"
    assert daemon.authorize.only.headers["authorization"] == "Bearer the-token"
    hashed = base64.urlsafe_b64encode(hashlib.sha256(b"salti").digest()[:9]).decode()
    labels = {"_id": "cluster", "instance": hashed, "job": "j", "region": "eu", "zone": "1"}
    assert uploaded(daemon.server.only) == [("upp", labels, 1.0, NOW_MS)]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://p.test", "/federate"),
        ("http://p.test/", "/federate"),
        ("http://p.test/own/path", "/own/path"),
        ("http://p.test/own/", "/own"),
    ],
)
def test_the_path_of_the_source(url: str, path: str) -> None:
    daemon = Daemon(*USUAL, "--from", url)
    daemon.cycle()
    target = urlsplit(daemon.prometheus.only.target)
    assert target.path == path
    assert parse_qsl(target.query) == [("match[]", '{__name__="up"}')]


def test_a_query_of_the_source_stays() -> None:
    daemon = Daemon(*USUAL, "--from", "http://p.test/f?a=b&match[]=x", "--match", "up")
    daemon.cycle()
    query = urlsplit(daemon.prometheus.only.target).query
    assert parse_qsl(query) == [("a", "b"), ("match[]", "x"), ("match[]", "up")]


def test_the_limit_of_the_answer(log: Log) -> None:
    daemon = Daemon(*USUAL, "--limit-bytes", "10")
    daemon.cycle()
    (event,) = log.of("cycle failed")
    assert "--limit-bytes" in event["reason"]


def test_the_interval() -> None:
    daemon = Daemon(*USUAL, "--interval", "30s")
    daemon.cycle()
    daemon.reactor.advance(29)
    assert daemon.reactor.tcpClients == []
    daemon.reactor.advance(1)
    daemon.cycle()
    assert len(daemon.server.received) == 2


def test_secrets_in_files_are_read_without_their_line_breaks(tmp_path: Path) -> None:
    for name in ("from", "to", "salt"):
        (tmp_path / name).write_text(f" {name}-secret \r\n")
    daemon = Daemon(
        *FROM,
        *TO,
        *("--id", "cluster", "--to-token-file", str(tmp_path / "to")),
        *("--from-token-file", str(tmp_path / "from")),
        *("--anonymize-labels", "instance", "--anonymize-salt-file", str(tmp_path / "salt")),
    )
    daemon.cycle()
    assert daemon.prometheus.only.headers["authorization"] == "Bearer from-secret"
    assert daemon.authorize.only.headers["authorization"] == "Bearer to-secret"
    ((_, labels, _, _),) = uploaded(daemon.server.only)
    digest = hashlib.sha256(b"salt-secreti").digest()[:9]
    assert labels["instance"] == base64.urlsafe_b64encode(digest).decode()


def plan_of(options: Options, reactor: FakeReactor, previous: CyclePlan | None = None) -> CyclePlan:
    return make_cycle_plan(options.read_config(), reactor, FakeWall(reactor), previous)


def test_a_plan_keeps_the_token_of_the_one_before_it() -> None:
    options = options_of(*USUAL)
    first = plan_of(options, FakeReactor())
    second = plan_of(options, FakeReactor(), first)
    assert second.tokens is first.tokens
    other = plan_of(options_of(*USUAL, "--to-token", "other"), FakeReactor(), first)
    assert other.tokens is not first.tokens
    elsewhere = plan_of(options_of(*USUAL, "--to", "http://other.test"), FakeReactor(), first)
    assert elsewhere.tokens is not first.tokens


def test_a_new_plan_asks_for_tokens_as_it_is_told_to(tmp_path: Path) -> None:
    # Through an agent that trusts what is in --to-ca-file now.
    options = options_of(*USUAL)
    old, new = FakeReactor(), FakeReactor()
    plan = plan_of(options, new, plan_of(options, old))
    asking = start(plan.tokens.get())
    assert (len(old.tcpClients), len(new.tcpClients)) == (0, 1)
    old.advance(60)  # the clock of the store
    with pytest.raises(AuthorizeError):
        result_of(asking)


def test_rotated_files_are_used_from_the_next_cycle_on(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    options = options_of(*FROM, *TO, "--to-token-file", str(path))
    reactor = FakeReactor()
    planner = Planner(options, reactor, FakeWall(reactor))
    plan = planner.plan
    assert run(planner.current()) is plan
    path.write_text("second, and longer")
    changed = run(planner.current())
    assert changed is not plan
    assert changed.tokens is not plan.tokens
    assert len(log.of("changed files are used from now on")) == 1
    path.write_text("")
    assert run(planner.current()) is changed
    assert run(planner.current()) is changed
    (event,) = log.of("changed files are not used yet")
    assert "--to-token-file" in event["reason"]


class StuckDisk(Disk):
    """A disk that answers when it is told to."""

    def __init__(self, reactor: FakeReactor) -> None:
        super().__init__(reactor, 10)
        self.answers: list[Deferred[None]] = []

    async def signature(self, *arguments: Any) -> Any:
        self.answers.append(Deferred())
        await self.answers[-1]
        return await super().signature(*arguments)


def test_a_disk_that_hangs_costs_no_cycle(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    reactor = FakeReactor()
    options = options_of(*FROM, *TO, "--to-token-file", str(path))
    planner = Planner(options, reactor, FakeWall(reactor))
    planner.disk = disk = StuckDisk(reactor)
    before = planner.plan
    path.write_text("second, and longer")
    cycle = start(planner.current())
    assert not has_fired(cycle)
    disk.answers[-1].errback(UsageError("it hangs"))
    assert result_of(cycle) is before
    (event,) = log.of("changed files are not used yet")
    assert event["reason"] == "it hangs"
    # A reload waits for that, and then reads all; the cycle begins with what it has read.
    cycle = start(planner.current())
    reload = start(planner.reload(Agent(before, FakeReactor(), SYSTEM_WALL_CLOCK)))
    assert not has_fired(reload)
    disk.answers[-1].errback(UsageError("it hangs"))
    assert result_of(reload) == {"selectors": 1}
    assert result_of(cycle) is planner.plan
    assert planner.plan is not before
    # One that is cancelled, as by a stop, holds up no other.
    given_up = start(planner.current())
    given_up.cancel()
    with pytest.raises(CancelledError):
        result_of(given_up)
    cycle = start(planner.current())
    disk.answers[-1].callback(None)
    assert result_of(cycle) is planner.plan


def test_a_rotated_file_is_used_whatever_was_done_to_the_others(tmp_path: Path, log: Log) -> None:
    token, matches, salt = (tmp_path / name for name in ("token", "matches", "salt"))
    token.write_text("first")
    matches.write_text("up\n")
    salt.write_text("pepper")
    options = options_of(
        *(*FROM, *TO, "--to-token-file", str(token), "--match-file", str(matches)),
        *("--anonymize-labels", "instance", "--anonymize-salt-file", str(salt)),
    )
    reactor = FakeReactor()
    planner = Planner(options, reactor, FakeWall(reactor))
    plan = planner.plan
    # Somebody is at work on them, and has not said yet that all should be read again.
    matches.write_text("up{")
    salt.unlink()
    token.write_text("second, and longer")
    changed = run(planner.current())
    assert changed.tokens is not plan.tokens
    assert len(log.of("changed files are used from now on")) == 1
    assert log.of("changed files are not used yet") == []
    # Told to read all, it says what is wrong.
    with pytest.raises(UsageError, match="--anonymize-salt-file"):
        run(planner.reload(Agent(changed, FakeReactor(), SYSTEM_WALL_CLOCK)))
    assert planner.plan is changed
    matches.write_text("up\n")
    salt.write_text("salt")
    run(planner.reload(Agent(changed, FakeReactor(), SYSTEM_WALL_CLOCK)))
    assert planner.plan is not changed


# --- The listener ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/healthz/ready", 200),
        ("GET", "/federate", 200),
        ("GET", "/debug/", 200),
        ("POST", "/-/reload", 200),
        ("GET", "/-/reload", 405),
        ("POST", "/federate", 405),
        ("POST", "/upload", 404),
        ("GET", "/nowhere", 404),
    ],
)
def test_what_is_there(method: str, target: str, status: int) -> None:
    assert Daemon(*USUAL).ask(method, target).status == status


def test_the_index_names_what_is_there() -> None:
    daemon = Daemon(*USUAL)
    for path in daemon.ask("GET", "/").json["paths"]:
        assert daemon.ask("GET", path).status in (200, 405)


def test_the_default_address() -> None:
    servers = Daemon(*USUAL).reactor.tcpServers
    assert [(port, interface) for port, _, _, interface in servers] == [(9002, "127.0.0.1")]


def test_no_listener_if_none_is_wanted() -> None:
    daemon = Daemon(*USUAL, "--listen", "")
    assert daemon.reactor.tcpServers == []
    daemon.cycle()
    assert len(daemon.server.received) == 1


def test_federate_shows_what_was_sent_last() -> None:
    daemon = Daemon(*USUAL)
    assert daemon.ask("GET", "/federate").body == b""
    daemon.cycle()
    samples = parse_samples(daemon.ask("GET", "/federate").text)
    labels = {"_id": "cluster", "instance": "i", "job": "j"}
    assert samples == {("up", frozenset(labels.items())): 1.0}


def test_reload_begins_a_cycle_with_what_is_in_the_files_now(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "matches"
    path.write_text("up\n")
    daemon = Daemon(*USUAL, "--match-file", str(path))
    daemon.cycle()
    path.write_text("down\n")
    assert daemon.ask("POST", "/-/reload").status == 200
    assert [event["selectors"] for event in log.of("reloaded")] == [1]
    daemon.cycle()
    queries = [parse_qsl(urlsplit(got.target).query) for got in daemon.prometheus.received]
    assert queries == [[("match[]", "up")], [("match[]", "down")]]
    assert len(daemon.authorize.received) == 1


@pytest.mark.parametrize("content", ["{up\n", "", "\n# up\n"])
def test_a_reload_that_fails_changes_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "matches"
    path.write_text("up\n")
    daemon = Daemon(*USUAL, "--match-file", str(path))
    daemon.cycle()
    path.write_text(content)
    answer = daemon.ask("POST", "/-/reload")
    assert answer.status == 500
    assert f"--match-file {str(path)!r}" in answer.text
    assert daemon.reactor.tcpClients == []
    daemon.reactor.advance(270)
    daemon.cycle()
    assert len(daemon.server.received) == 2
    queries = [parse_qsl(urlsplit(got.target).query) for got in daemon.prometheus.received]
    assert queries == [[("match[]", "up")]] * 2


def test_what_is_said_at_the_start(log: Log) -> None:
    Daemon(
        *("--from", "http://user:secret@p.test/?secret", "--to", "http://user:secret@t.test"),
        *("--to-token", "secret"),
    )
    (event,) = log.of("starting telemeter-client")
    assert event["from"] == "http://p.test/"
    assert event["upload"] == "http://t.test/upload"
    assert event["authorize"] == "http://t.test/authorize"
    text = "".join(log.lines)
    assert "secret" not in text
    warnings = [line for line in log.lines if " level=warn " in line]
    assert len(warnings) == 2
    assert "--anonymize-labels" in warnings[0]
    assert "--id" in warnings[1]


def test_a_careful_configuration_is_not_warned_of(log: Log) -> None:
    Daemon(*USUAL, "--anonymize-labels", "instance", "--anonymize-salt", "s")
    assert not [line for line in log.lines if " level=warn " in line]


def test_a_stop_during_a_cycle(log: Log) -> None:
    daemon = Daemon(*USUAL)
    assert daemon.reactor.tcpClients
    stopping: Any = daemon.service.stopService()
    assert not has_fired(stopping)
    daemon.reactor.advance(9)
    assert has_fired(stopping)
    assert daemon.reactor.getDelayedCalls() == []
    assert log.of("cycle failed") == []


# --- A dry run ------------------------------------------------------------------------------------

DRY = [*FROM, *TO, "--dry-run"]


def test_a_dry_run_prints_and_sends_nothing(capsys: pytest.CaptureFixture[str], log: Log) -> None:
    reactor = FakeReactor()
    flags = ["--label", "region=eu", "--anonymize-labels", "instance", "--anonymize-salt", "secret"]
    running = start(dry_run(options_of(*DRY, *flags).config, reactor, FakeWall(reactor)))
    old = up(at=NOW_MS - 25 * 3600 * 1000)
    reactor.connect(Peer(families_reply(up(instance="127.0.0.1:9391"), old)))
    result_of(running)
    assert reactor.tcpClients == []
    ((name, labels),) = parse_samples(capsys.readouterr().out)
    assert name == "up"
    assert dict(labels).keys() == {"instance", "job", "region"}
    assert dict(labels)["instance"] != "127.0.0.1:9391"
    (event,) = log.of("dry run: nothing was sent")
    assert (event["collected"], event["left"]) == (2, 1)
    assert "secret" not in "".join(log.lines)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--to", "http://x/upload"],
        ["--to-token-file", "/missing"],
        ["--to-ca-file", "/missing"],
        ["--to-upload", "/upload"],
    ],
)
def test_a_dry_run_needs_only_what_collecting_needs(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    reactor = FakeReactor()
    running = start(
        dry_run(options_of(*FROM, "--dry-run", *flags).config, reactor, FakeWall(reactor))
    )
    reactor.connect(Peer(families_reply(up(instance="i"))))
    result_of(running)
    assert "up{" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--match-file", "/missing"], ["--anonymize-labels", "a"]])
def test_a_dry_run_needs_all_that_collecting_needs(flags: list[str]) -> None:
    refusal_of(*FROM, "--dry-run", *flags)
    refusal_of("--dry-run")


def test_a_dry_run_that_fails_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    reactor = FakeReactor()
    url = "http://user:secret@prometheus.test:9090/?secret"
    running = start(dry_run(options_of(*DRY, "--from", url).config, reactor, FakeWall(reactor)))
    reactor.connect(Peer(Reply(401)))
    with pytest.raises(SystemExit) as caught:
        result_of(running)
    message = str(caught.value)
    assert message.startswith("telemeter-client: --from http://prometheus.test:9090/: ")
    assert "401" in message
    assert "secret" not in message
    assert capsys.readouterr().out == ""


def test_an_empty_dry_run_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reactor = FakeReactor()
    running = start(dry_run(options_of(*DRY).config, reactor, FakeWall(reactor)))
    reactor.connect(Peer(Reply(200, b"", {"Content-Type": PROTOBUF_CONTENT_TYPE})))
    result_of(running)
    assert capsys.readouterr().out == ""
    assert reactor.seconds() == UPTIME
