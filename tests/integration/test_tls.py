"""TLS on every hop, with real connections: what is accepted, and what is said of what is not.

The other ends are played by the test, and show one certificate after the other to the same daemons,
which run in the reactor of the tests.
"""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Final

import pytest
import trustme
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_PEM, X509, dump_certificate
from twisted.logger import globalLogPublisher

from demo.certificates import Authority
from demo.programs import start_source
from demo.stack import HOST, Stack, fetch
from tests.fakes import Log
from tests.reactor import fixture_in_reactor, in_reactor
from tests.running import Daemon, ask, in_thread, running_agent, running_server, until

from .certificates import Pair, client_context, only_old, server_context, write_pair
from .command_line import run_twistd
from .peer import Peer, running
from .telling import authorize, upload
from .wire import encode, gauge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from twisted.logger import LogEvent

NAME = "localhost"
CLUSTER = "tls-cluster"
LONG_AGO = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)


@dataclass
class Authorities:
    """Who issues certificates.

    Attributes:
        known: whom the daemons trust.
        intermediate: whom that one lets issue certificates too.
        unknown: whom nobody trusts.
        path: the certificate of `known`, for the daemons.
    """

    known: trustme.CA
    intermediate: trustme.CA
    unknown: trustme.CA
    path: str

    def good(self, *, wanted: trustme.CA | None = None) -> ssl.SSLContext:
        """What a good server shows: for a name and for an IP address, with its whole chain."""
        return server_context(self.intermediate.issue_cert(NAME, HOST), wanted=wanted)


@pytest.fixture(scope="module")
def authorities(stack: Stack) -> Authorities:
    known = trustme.CA(organization_name="Known")
    stack.context = client_context(known)
    return Authorities(
        known,
        known.create_child_ca(),
        trustme.CA(organization_name="Unknown"),
        str(stack.write("ca.crt", known.cert_pem.bytes())),
    )


# --- the daemons, and where they go ---------------------------------------------------------------


@dataclass
class Hop:
    """A daemon's way to another server.

    Attributes:
        peer: that server.
        host: how the daemon calls it.
        authority_flag: what makes the daemon trust it.
        certificate_flag: what the daemon could show a certificate with; empty: it cannot.
        go: goes there once, and looks into this log; fires with why that failed, or with nothing if
            it did not.
    """

    peer: Peer
    host: str
    authority_flag: str
    certificate_flag: str
    go: Callable[[Log], Awaitable[str]]


async def next_event(log: Log, since: int, *messages: str) -> LogEvent:
    """Wait for an event with one of these messages, behind so many; return it."""

    def found() -> LogEvent | None:
        return next((event for event in log[since:] if event.get("log_format") in messages), None)

    event = await until(found, f"{' or '.join(messages)} in the log")
    assert event is not None
    return event


@dataclass
class Daemons:
    """An agent and a server, and how to send them on their ways."""

    server: Daemon
    agent: Daemon
    trusted: trustme.CA

    async def run_cycle(self, log: Log) -> str:
        since = len(log)
        # A cycle begins at once then.
        answer = await ask(f"{self.agent.url}/-/reload", method="POST", body=b"")
        assert answer.status == 200
        event = await next_event(log, since, "metrics uploaded", "cycle failed")
        return str(event.get("reason", ""))

    async def forward(self, log: Log) -> str:
        jwt = await authorize(self.server.url, CLUSTER, "any", self.trusted)
        since = len(log)
        body = encode([gauge("up", 1, {"_id": CLUSTER})])
        answer = await upload(self.server.url, jwt, body, self.trusted)
        if answer.status == 200:
            return ""
        assert (answer.status, answer.text) == (502, "the upstream did not answer\n")
        return str((await next_event(log, since, answer.text.strip()))["reason"])

    async def ask_whose(self, log: Log) -> str:
        since = len(log)
        url = f"{self.server.url}/authorize?id={CLUSTER}"
        headers = {"Authorization": "Bearer any"}
        answer = await ask(url, method="POST", headers=headers, trusted=self.trusted)
        if answer.status == 200:
            return ""
        assert answer.status == 503
        event = await next_event(log, since, "request")
        assert re.fullmatch(
            r"authorization is not available at present, requestid=\d+", event["reason"]
        )
        assert answer.text == event["reason"] + "\n"
        return str(event["detail"])


@pytest.fixture(scope="module")
def peers(authorities: Authorities) -> Iterator[dict[str, Peer]]:
    with ExitStack() as all_of_them:
        yield {
            name: all_of_them.enter_context(running(Peer(authorities.good())))
            for name in ("source", "server", "upstream", "authorization")
        }


@pytest.fixture(scope="module")
def pair(stack: Stack, authorities: Authorities) -> Pair:
    """What our server's listener shows to others."""
    return write_pair(stack, "external", authorities.intermediate.issue_cert(HOST))


@pytest.fixture(scope="module")
def internal_pair(stack: Stack, authorities: Authorities) -> Pair:
    """What our server's internal listener shows."""
    issuer = authorities.intermediate.create_child_ca()
    return write_pair(stack, "internal", issuer.issue_cert(HOST))


@fixture_in_reactor("module")
async def daemons(
    stack: Stack, authorities: Authorities, peers: dict[str, Peer], pair: Pair, internal_pair: Pair
) -> AsyncIterator[Daemons]:
    server = running_server(
        stack,
        *pair.flags("--tls-crt", "--tls-key"),
        *internal_pair.flags("--internal-tls-crt", "--internal-tls-key"),
        *("--forward-url", peers["upstream"].url("/write", NAME)),
        *("--forward-ca-file", authorities.path),
        *("--authorize", peers["authorization"].url("/tollbooth")),
        *("--authorize-ca-file", authorities.path),
        *("--ratelimit", "0"),
        trusted=authorities.known,
    )
    agent = running_agent(
        stack,
        *("--from", peers["source"].url()),
        *("--from-ca-file", authorities.path),
        *("--to", peers["server"].url("", NAME)),
        *("--to-ca-file", authorities.path),
        *("--id", CLUSTER),
        *("--to-token", "any"),
        *("--interval", "1h"),
    )
    log = Log()
    globalLogPublisher.addObserver(log)
    async with server as external, agent as sender:
        await next_event(log, 0, "metrics uploaded")
        globalLogPublisher.removeObserver(log)
        yield Daemons(external, sender, authorities.known)


HOPS: Final = ("source", "server", "upstream", "authorization")


@pytest.fixture
def hop(
    request: pytest.FixtureRequest,
    authorities: Authorities,
    peers: dict[str, Peer],
    daemons: Daemons,
) -> Hop:
    """A way on which nothing is wrong."""
    name: str = request.param
    peer = peers[name]
    peer.context = authorities.good()
    return {
        "source": Hop(peer, HOST, "--from-ca-file", "--tls-cert-file", daemons.run_cycle),
        "server": Hop(peer, NAME, "--to-ca-file", "", daemons.run_cycle),
        "upstream": Hop(peer, NAME, "--forward-ca-file", "--forward-tls-crt", daemons.forward),
        "authorization": Hop(
            peer, HOST, "--authorize-ca-file", "--authorize-tls-crt", daemons.ask_whose
        ),
    }[name]


# --- what is wrong there, and what is said of it --------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What another server does wrong.

    Attributes:
        context: what it shows instead.
        words: what the log says; a regular expression in which `{host}`, `{authority_flag}` and
            `{hint}`, about a certificate of ours, are yet to be filled in.
    """

    context: Callable[[Authorities], ssl.SSLContext | None]
    words: str


TRUST: Final = r"\(trust it with {authority_flag}"
FAULTS: Final = {
    "wrong name": Fault(
        lambda known: server_context(known.intermediate.issue_cert("other.test", "127.0.0.2")),
        r"wrong name: wanted {host}, the certificate is for other\.test, 127\.0\.0\.2",
    ),
    "expired": Fault(
        lambda known: server_context(known.known.issue_cert(NAME, HOST, not_after=LONG_AGO)),
        r"the certificate expired on 2020-02-03 04:05:06 UTC",
    ),
    "unknown authority": Fault(
        lambda known: server_context(known.unknown.issue_cert(NAME, HOST)),
        rf"unknown issuer: .*O=Unknown {TRUST}, or have the server send its whole chain\)",
    ),
    "missing intermediate": Fault(
        lambda known: server_context(known.intermediate.issue_cert(NAME, HOST), whole_chain=False),
        rf"unknown issuer: .*O=trustme.* {TRUST}, or have the server send its whole chain\)",
    ),
    "TLS 1.1": Fault(
        lambda known: only_old(known.good()),
        r"the server speaks no TLS of version 1\.2 or later",
    ),
    "certificate wanted": Fault(
        lambda known: known.good(wanted=known.known),
        r"the server asked for a client certificate, and there is none{hint}",
    ),
    "no TLS": Fault(
        lambda known: None,
        r"the other side does not speak TLS; should the URL begin with http://\?",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("hop", HOPS, indirect=True)
@in_reactor
async def test_a_failure_is_told_so_that_one_can_act_on_it(
    authorities: Authorities, hop: Hop, fault: str, log: Log
) -> None:
    seen = len(hop.peer.requests)
    hop.peer.context = FAULTS[fault].context(authorities)
    reason = await hop.go(log)
    flag = hop.certificate_flag
    words = FAULTS[fault].words.format(
        host=re.escape(hop.host),
        authority_flag=hop.authority_flag,
        hint=rf" \(give one with {flag}\)" if flag else "",
    )
    address = re.escape(f"{hop.host}:{hop.peer.port}")
    assert re.search(rf"no TLS with {address}: {words}$", reason), reason
    assert len(hop.peer.requests) == seen
    # And that was all that was wrong.
    hop.peer.context = authorities.good()
    assert await hop.go(log) == ""
    assert len(hop.peer.requests) > seen


@in_reactor
async def test_a_certificate_for_a_name_and_one_for_an_address_are_accepted(
    daemons: Daemons, peers: dict[str, Peer], authorities: Authorities, log: Log
) -> None:
    """Each hop goes to a name or to an address; here the certificate has no other."""
    for name, host in zip(HOPS, (HOST, NAME, NAME, HOST), strict=True):
        peers[name].context = server_context(authorities.intermediate.issue_cert(host))
    assert await daemons.run_cycle(log) == ""
    assert await daemons.forward(log) == ""


# --- certificates of ours -------------------------------------------------------------------------


@in_reactor
async def test_the_agent_shows_the_source_a_certificate(
    stack: Stack, authorities: Authorities, log: Log
) -> None:
    own = write_pair(stack, "agent", authorities.intermediate.issue_cert("agent.test"))
    with (
        running(Peer(authorities.good(wanted=authorities.known))) as source,
        running(Peer(authorities.good())) as server,
    ):
        async with running_agent(
            stack,
            *("--from", source.url()),
            *("--from-ca-file", authorities.path),
            *own.flags("--tls-cert-file", "--tls-private-key-file"),
            *("--to", server.url()),
            *("--to-ca-file", authorities.path),
            *("--to-token", "any"),
        ) as agent:
            await next_event(log, 0, "metrics uploaded")
            (request,) = source.requests
            assert request.certificate["subjectAltName"] == (("DNS", "agent.test"),)
            # It is for the source only.
            assert [request.certificate for request in server.requests] == [{}, {}]

            write_pair(stack, "agent", authorities.unknown.issue_cert("agent.test"))
            since = len(log)
            answer = await ask(f"{agent.url}/-/reload", method="POST", body=b"")
            assert answer.status == 200
            reason = (await next_event(log, since, "cycle failed"))["reason"]
            assert re.search(
                "the server did not accept our client certificate: unknown ca$", reason
            )


@in_reactor
async def test_the_server_shows_certificates_to_both(
    stack: Stack, authorities: Authorities
) -> None:
    upstream_pair = write_pair(stack, "up", authorities.known.issue_cert("upstream-client.test"))
    authorize_pair = write_pair(stack, "auth", authorities.known.issue_cert("auth-client.test"))
    wanted = authorities.known
    with (
        running(Peer(authorities.good(wanted=wanted))) as upstream,
        running(Peer(authorities.good(wanted=wanted))) as authorization,
    ):
        async with running_server(
            stack,
            *("--forward-url", upstream.url("/write")),
            *("--forward-ca-file", authorities.path),
            *upstream_pair.flags("--forward-tls-crt", "--forward-tls-key"),
            *("--authorize", authorization.url("/tollbooth")),
            *("--authorize-ca-file", authorities.path),
            *authorize_pair.flags("--authorize-tls-crt", "--authorize-tls-key"),
        ) as server:
            jwt = await authorize(server.url, CLUSTER, "any")
            body = encode([gauge("up", 1, {"_id": CLUSTER})])
            assert (await upload(server.url, jwt, body)).status == 200
        shown = [
            request.certificate["subjectAltName"]
            for request in (*authorization.requests, *upstream.requests)
        ]
        assert shown == [(("DNS", "auth-client.test"),), (("DNS", "upstream-client.test"),)]


def test_a_real_prometheus_that_wants_a_certificate(prometheus: None, stack: Stack) -> None:
    """Programs in Go tell about missing certificates in their own way."""
    with Stack() as other:
        authority = Authority(other)
        identity = authority.issue("agent")
        other.context = identity.context()
        source = start_source(other, identity=authority.issue("source"))
        flags = [
            *("--from", source.url),
            *("--from-ca-file", str(authority.path)),
            *("--match", "up"),
            *("--to", "https://127.0.0.1:9"),
            "--dry-run",
        ]
        refused = run_twistd("telemeter-client", *flags)
        certificate = ("--tls-cert-file", str(identity.certificate))
        key = ("--tls-private-key-file", str(identity.key))
        accepted = run_twistd("telemeter-client", *flags, *certificate, *key)
    assert refused.returncode == 1
    assert "the server asked for a client certificate, and there is none" in refused.stderr
    assert "(give one with --tls-cert-file)" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


def test_an_issuer_that_is_not_trusted(stack: Stack, authorities: Authorities) -> None:
    with running(Peer(authorities.good())) as issuer:
        done = run_twistd(
            "telemeter-server",
            *("--listen", f"{HOST}:{stack.free_port()}"),
            *("--listen-internal", f"{HOST}:{stack.free_port()}"),
            *("--oidc-issuer", issuer.url()),
            *("--client-id", "any"),
            *("--client-secret", "any"),
        )
    assert done.returncode == 1
    assert re.search(
        r"--oidc-issuer: .*unknown issuer: .*\(trust it with --oidc-ca-file", done.stderr
    )
    assert issuer.requests == []


# --- our own listeners ----------------------------------------------------------------------------


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def chain_shown_at(port: int, authority: trustme.CA) -> list[X509]:
    """Return the certificates that a listener shows to somebody who trusts an authority."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    authority.configure_trust(context)
    with socket.create_connection((HOST, port), timeout=10) as raw:
        raw.setblocking(True)
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.do_handshake()
        shown = connection.get_peer_cert_chain()
        connection.close()
    assert shown is not None
    return list(shown)


@pytest.mark.parametrize("which", ["external", "internal"])
@in_reactor
async def test_a_listener_shows_its_whole_chain(
    stack: Stack, daemons: Daemons, authorities: Authorities, which: str
) -> None:
    url = daemons.server.url if which == "external" else daemons.server.internal_url
    shown = await in_thread(chain_shown_at, port_of(url), authorities.known)
    pem = b"".join(dump_certificate(FILETYPE_PEM, certificate) for certificate in shown)
    assert len(shown) == {"external": 2, "internal": 3}[which]
    assert pem == (stack.folder / f"{which}.crt").read_bytes()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@in_reactor
async def test_a_listener_speaks(daemons: Daemons, authorities: Authorities, version: str) -> None:
    context = client_context(authorities.known)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    for url in (daemons.server.url, daemons.server.internal_url):
        answer = await in_thread(fetch, f"{url}/healthz", context=context)
        assert answer.status == 200


@in_reactor
async def test_a_listener_does_not_speak_tls_1_1(
    daemons: Daemons, authorities: Authorities
) -> None:
    old = only_old(client_context(authorities.known))
    with running(Peer(only_old(authorities.good()))) as peer:
        assert fetch(peer.url(), context=old).status == 200
    for url in (daemons.server.url, daemons.server.internal_url):
        with pytest.raises(OSError, match="alert protocol version"):
            await in_thread(fetch, f"{url}/healthz", context=old)


@in_reactor
async def test_who_speaks_no_tls_to_a_listener_harms_nobody(
    daemons: Daemons, authorities: Authorities
) -> None:
    for url in (daemons.server.url, daemons.server.internal_url):
        with pytest.raises((OSError, HTTPException)):
            await in_thread(fetch, f"http://{HOST}:{port_of(url)}/healthz")
        with socket.create_connection((HOST, port_of(url)), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01garbage")
        answer = await ask(f"{url}/healthz", trusted=authorities.known)
        assert answer.status == 200


def test_a_key_of_another_certificate_is_refused(stack: Stack, authorities: Authorities) -> None:
    pair = write_pair(stack, "one", authorities.known.issue_cert(HOST))
    other = write_pair(stack, "other", authorities.known.issue_cert(HOST))
    flags = Pair(pair.certificate, other.key).flags("--tls-crt", "--tls-key")
    done = run_twistd("telemeter-server", *flags)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert f"--tls-crt '{pair.certificate}'" in message
    assert "the private key does not belong to the first certificate" in message
