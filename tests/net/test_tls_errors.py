"""TLS handshakes with real certificates: which succeed, and what is said of those that fail."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL.SSL import X509VerificationCodes as Codes
from service_identity import VerificationError
from twisted.internet.error import ConnectingCancelledError, ConnectionLost
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from zope.interface import implementer

from telemeter.net.errors import ProxyError, explain
from telemeter.net.handshake import TLSError, WatchedConnection
from telemeter.net.reloadable import ReloadableServerContext
from telemeter.net.tls import ClientPolicy, server_options
from tests.fakes import Log
from tests.net.network import End, Ends, Pipe

HOST = "server.test"

CA = trustme.CA(organization_name="Root", organization_unit_name="One")
OTHER_CA = trustme.CA(organization_name="Root", organization_unit_name="Two")
INTERMEDIATE = CA.create_child_ca()


def pem(*blobs: trustme.Blob) -> bytes:
    return b"".join(blob.bytes() for blob in blobs)


def shown_by(certificate: trustme.LeafCert, *, chain: bool = True) -> CertificateOptions:
    """What a server shows: a certificate, and what it needs of its chain."""
    shown = certificate.cert_chain_pems if chain else certificate.cert_chain_pems[:1]
    return server_options(pem(*shown), pem(certificate.private_key_pem))


@implementer(IOpenSSLContextFactory)
class Particular:
    """A server with particular ideas; what it shows is always a good certificate."""

    def __init__(
        self,
        *,
        minimum: int = SSL.TLS1_2_VERSION,
        maximum: int = SSL.TLS1_3_VERSION,
        ciphers: bytes = b"ALL:@SECLEVEL=0",
        wants_certificate: bool = False,
    ) -> None:
        certificate = CA.issue_cert(HOST, "192.0.2.7")
        self.asked: list[bytes] = []
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(minimum)
        self._context.set_max_proto_version(maximum)
        self._context.set_cipher_list(ciphers)
        self._context.set_tlsext_servername_callback(self._note_name)
        certificate.configure_cert(self._context)
        if wants_certificate:
            CA.configure_trust(self._context)
            self._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)

    def getContext(self) -> SSL.Context:
        return self._context

    def _note_name(self, connection: SSL.Connection) -> None:
        self.asked += [name] if (name := connection.get_servername()) else []


def policy(ca: trustme.CA = CA, own: trustme.LeafCert | None = None) -> ClientPolicy:
    """A policy as the daemons make it."""
    return ClientPolicy(
        pem(ca.cert_pem),
        pem(*own.cert_chain_pems) if own else b"",
        pem(own.private_key_pem) if own else b"",
        authority_flag="--ca-file",
        certificate_flag="--cert-file",
    )


@dataclass
class Handshake:
    """A client and a server that try to speak TLS, each saying hello."""

    server: IOpenSSLContextFactory
    policy: ClientPolicy = field(default_factory=policy)
    host: str = HOST
    clock: Clock = field(default_factory=Clock)
    ends: tuple[End, End] = field(init=False)

    def __post_init__(self) -> None:
        creator = self.policy.creatorForNetloc(self.host.encode(), 8443)
        clients, servers = Ends(), Ends()
        pipe = Pipe(
            TLSMemoryBIOFactory(creator, True, clients, clock=self.clock).buildProtocol(None),
            TLSMemoryBIOFactory(self.server, False, servers, clock=self.clock).buildProtocol(None),
        )
        self.ends = (clients.made[0], servers.made[0])
        self.ends[0].send(b"a secret question")
        self.ends[1].send(b"an answer")
        moved = True
        while moved:
            self.clock.advance(0)
            moved = pipe.carry()

    @property
    def succeeded(self) -> bool:
        client, server = self.ends
        return client.received == b"an answer" and server.received == b"a secret question"

    @property
    def problem(self) -> str:
        """What a log says; nothing has been sent to a server that is not the right one."""
        client, server = self.ends
        assert client.received == b""
        assert server.received == b""
        assert isinstance(client.lost, TLSError)
        return explain(client.lost)


# --- What succeeds ---


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["server.test"], "server.test"),
        (["server.test"], "SERVER.test"),
        (["server.test"], "server.test."),
        (["other.test", "server.test"], "server.test"),
        (["*.server.test"], "one.server.test"),
        (["192.0.2.7"], "192.0.2.7"),
        (["server.test", "2001:db8::7"], "2001:db8:0:0::7"),
    ],
)
def test_a_certificate_for_the_host(names: list[str], host: str) -> None:
    assert Handshake(shown_by(CA.issue_cert(*names)), host=host).succeeded


def test_a_chain_with_an_intermediate() -> None:
    certificate = INTERMEDIATE.issue_cert(HOST)
    assert len(certificate.cert_chain_pems) == 2
    assert Handshake(shown_by(certificate)).succeeded


def test_what_is_trusted_need_not_be_a_root() -> None:
    leaf = INTERMEDIATE.issue_cert(HOST)
    shown = shown_by(leaf, chain=False)
    for trusted in (INTERMEDIATE.cert_pem, leaf.cert_chain_pems[0]):
        assert Handshake(shown, ClientPolicy(pem(trusted))).succeeded
    # That one certificate is trusted says nothing about others of its issuer.
    other = shown_by(INTERMEDIATE.issue_cert(HOST))
    problem = Handshake(other, ClientPolicy(pem(leaf.cert_chain_pems[0]))).problem
    assert "unknown issuer: " in problem
    # What is trusted must still be for the host, and in force.
    assert "wrong name" in Handshake(shown, ClientPolicy(pem(leaf.cert_chain_pems[0])), "x").problem
    old = CA.issue_cert(HOST, not_after=Y2020)
    problem = Handshake(shown_by(old), ClientPolicy(pem(old.cert_chain_pems[0]))).problem
    assert "the certificate expired on 2020-02-03" in problem


def test_the_authorities_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are trusted also where there are others; OpenSSL takes this variable in their place."""
    system = tmp_path / "system.pem"
    system.write_bytes(pem(CA.cert_pem))
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    server = shown_by(CA.issue_cert(HOST))
    assert Handshake(server, ClientPolicy()).succeeded
    assert Handshake(server, policy(OTHER_CA)).succeeded
    assert Handshake(shown_by(OTHER_CA.issue_cert(HOST)), policy(OTHER_CA)).succeeded


def test_the_server_is_told_which_host_is_meant() -> None:
    server = Particular()
    for host in (HOST, f"{HOST}.", "192.0.2.7"):
        assert Handshake(server, host=host).succeeded
    assert server.asked == [b"server.test", b"server.test"]


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_client_certificate(version: int) -> None:
    own = INTERMEDIATE.issue_cert("client.test")
    assert Handshake(mutual(version), policy(own=own)).succeeded


# --- The certificate is not accepted ---

Y2020, Y2990 = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2990, 2, 3, 4, 5, 6, tzinfo=UTC)
TRUST = re.escape("(trust it with --ca-file")


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (
            shown_by(CA.issue_cert(HOST, not_after=Y2020)),
            r"the certificate expired on 2020-02-03 04:05:06 UTC",
        ),
        (
            shown_by(CA.issue_cert(HOST, not_before=Y2990)),
            r"the certificate is not valid before 2990-02-03 04:05:06 UTC",
        ),
        (
            shown_by(CA.issue_cert("other.test", "192.0.2.8", "2001:db8::8")),
            r"wrong name: wanted server\.test, the certificate is for "
            r"other\.test, 192\.0\.2\.8, 2001:db8::8",
        ),
        (
            shown_by(CA.issue_cert(*(f"{number}.test" for number in range(10)))),
            r"wrong name: wanted server\.test, the certificate is for 0\.test, .*, 7\.test "
            r"and 2 more",
        ),
        (
            shown_by(CA.issue_cert(common_name=HOST)),
            r"wrong name: wanted server\.test, the certificate is for no host: it has no "
            r"subjectAltName, only the subject CN=server\.test,.*",
        ),
        (
            shown_by(OTHER_CA.issue_cert(HOST)),
            r"unknown issuer: OU=Two,O=Root " + TRUST + r", or have the server send its whole "
            r"chain\)",
        ),
        (
            shown_by(OTHER_CA.create_child_ca().issue_cert(HOST)),
            r"unknown issuer: OU=Two,O=Root " + TRUST + r"\)",
        ),
        (
            shown_by(INTERMEDIATE.issue_cert(HOST), chain=False),
            r"unknown issuer: OU=Testing CA #\S+,O=trustme v\S+ " + TRUST + ", or have the server "
            r"send its whole chain\)",
        ),
    ],
    ids=[
        "expired",
        "not yet valid",
        "other names",
        "many other names",
        "no names",
        "unknown issuer",
        "unknown root of a chain",
        "missing intermediate",
    ],
)
def test_a_certificate_that_is_not_accepted(server: CertificateOptions, expected: str) -> None:
    problem = Handshake(server).problem
    assert re.fullmatch(rf"no TLS with server\.test:8443: {expected}", problem), problem


def test_an_unknown_root_that_the_server_sends() -> None:
    leaf = OTHER_CA.issue_cert(HOST)
    chain = pem(*leaf.cert_chain_pems, OTHER_CA.cert_pem)
    problem = Handshake(server_options(chain, pem(leaf.private_key_pem))).problem
    assert problem.endswith("unknown issuer: OU=Two,O=Root (trust it with --ca-file)")


def test_a_self_signed_certificate() -> None:
    own = server_options(pem(CA.cert_pem), pem(CA.private_key_pem))
    problem = Handshake(own, policy(OTHER_CA)).problem
    assert problem.endswith(
        "the certificate is self-signed and not known here (trust it with --ca-file)"
    )


def test_without_a_flag_there_is_the_system() -> None:
    problem = Handshake(shown_by(CA.issue_cert(HOST)), ClientPolicy()).problem
    assert "OU=One,O=Root (trust it in the system's certificate store" in problem


@pytest.mark.parametrize(("host", "shown"), [("192.0.2.7", "192.0.2.7"), ("::7", "[::7]")])
def test_an_address_that_the_certificate_does_not_have(host: str, shown: str) -> None:
    # A name that looks like the address is no address.
    server = shown_by(CA.issue_cert("192.0.2.8", "::8", HOST))
    assert Handshake(server, host=host).problem == (
        f"no TLS with {shown}:8443: wrong name: wanted {host}, the certificate is for "
        f"{HOST}, 192.0.2.8, ::8"
    )


LEAF = x509.load_pem_x509_certificate(pem(CA.issue_cert(HOST, not_after=Y2020).cert_chain_pems[0]))


@pytest.mark.parametrize(
    ("code", "depth", "expected"),
    [
        (Codes.ERR_INVALID_PURPOSE, 0, "the certificate is not meant for servers"),
        (66, 0, "the certificate has a key that is too weak"),
        (Codes.ERR_CERT_REVOKED, 0, "the certificate is refused by OpenSSL with code 23"),
        (
            Codes.ERR_CERT_HAS_EXPIRED,
            1,
            f"the certificate of the issuer {LEAF.subject.rfc4514_string()} "
            "expired on 2020-02-03 04:05:06 UTC",
        ),
        (
            Codes.ERR_INVALID_CA,
            2,
            f"the certificate of the issuer {LEAF.subject.rfc4514_string()} "
            "is used to issue others, but is not that of an authority",
        ),
    ],
)
def test_what_openssl_has_against_a_certificate(code: int, depth: int, expected: str) -> None:
    connection = policy().connection(HOST, 8443)
    certificate = crypto.X509.from_cryptography(LEAF)
    assert not connection.peer.verify(connection, certificate, code, depth, 0)
    assert connection.peer.problem == expected


def test_what_cannot_be_checked_is_not_accepted(log: Log) -> None:
    log.errors_are_fine = True
    certificate = CA.issue_cert(HOST)
    # No such name can be in a certificate; service-identity does not even compare it.
    problem = Handshake(shown_by(certificate), host="server|test").problem
    assert problem == "no TLS with server|test:8443: the certificate cannot be checked"
    assert any('msg="cannot check a certificate"' in line for line in log.errors)


def test_one_policy_tells_its_connections_apart() -> None:
    shared = policy()
    assert "expired" in Handshake(shown_by(CA.issue_cert(HOST, not_after=Y2020)), shared).problem
    assert Handshake(shown_by(CA.issue_cert(HOST)), shared).succeeded
    assert "wrong name" in Handshake(shown_by(CA.issue_cert("other.test")), shared).problem
    assert Handshake(shown_by(CA.issue_cert(HOST)), shared).succeeded


def test_a_name_is_shown_without_control_characters_and_not_at_any_length() -> None:
    certificate = CA.issue_cert(
        common_name="\x1b[31m\n" + "n" * 58,
        organization_name="o" * 64,
        organization_unit_name="u" * 64,
    )
    problem = Handshake(shown_by(certificate)).problem
    assert problem.isprintable()
    assert problem.endswith("...")
    assert "?[31m?n" in problem


# --- The server wants a client certificate ---


def mutual(version: int) -> Particular:
    """A server that speaks one version, and wants a certificate of `CA`."""
    return Particular(minimum=version, maximum=version, wants_certificate=True)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_client_certificate(version: int) -> None:
    assert Handshake(mutual(version)).problem == (
        "no TLS with server.test:8443: the server asked for a client certificate, and there is "
        "none (give one with --cert-file)"
    )


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_client_certificate_that_the_server_does_not_accept(version: int) -> None:
    own = OTHER_CA.issue_cert("client.test")
    assert Handshake(mutual(version), policy(own=own)).problem == (
        "no TLS with server.test:8443: the server did not accept our client certificate: unknown ca"
    )


def test_a_server_that_hangs_up_for_want_of_a_client_certificate() -> None:
    """In TLS 1.3 the client is done first, and the alert may be lost with the connection."""
    peer = policy().connection(HOST, 8443).peer
    end = SSL.SysCallError(-1, "Unexpected EOF")
    assert peer.explain(end, established=True) is None
    peer.asked = True
    assert str(peer.explain(end, established=True)) == (
        "no TLS with server.test:8443: the connection was lost after the server asked for a client "
        "certificate, and there is none (give one with --cert-file)"
    )


# --- The other side speaks something else ---


def talk(*answers: bytes) -> str:
    """What is said of a server that sends these bytes and hangs up."""
    clock, clients, far = Clock(), Ends(), End()
    creator = policy().creatorForNetloc(HOST.encode(), 8443)
    pipe = Pipe(TLSMemoryBIOFactory(creator, True, clients, clock=clock).buildProtocol(None), far)
    for answer in answers:
        far.send(answer)
        pipe.carry()
    far.hang_up()
    pipe.carry()
    error = clients.made[0].lost
    assert isinstance(error, TLSError)
    return explain(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\0" * 100,
        b"\x16\x03\x03\xff\xff" + b"x" * 100,
    ],
)
def test_a_server_that_does_not_speak_tls(answer: bytes) -> None:
    assert talk(answer) == (
        "no TLS with server.test:8443: the other side does not speak TLS; "
        "should the URL begin with http://?"
    )


@pytest.mark.parametrize("answers", [(), (b"\x16\x03\x03",)])
def test_a_server_that_hangs_up(answers: tuple[bytes, ...]) -> None:
    assert talk(*answers) == (
        "no TLS with server.test:8443: the connection was lost during the handshake"
    )


def test_a_server_that_is_too_old() -> None:
    old = Particular(minimum=SSL.TLS1_VERSION, maximum=SSL.TLS1_1_VERSION)
    assert Handshake(old).problem == (
        "no TLS with server.test:8443: the server speaks no TLS of version 1.2 or later"
    )


def test_no_cipher_in_common() -> None:
    # The server's key is one for ECDSA.
    rsa_only = Particular(maximum=SSL.TLS1_2_VERSION, ciphers=b"ECDHE-RSA-AES256-GCM-SHA384")
    assert "it has no cipher in common with us" in Handshake(rsa_only).problem


def alert(number: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([number])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (40, "the server refused the handshake: it has no cipher in common with us"),
        (49, "the server ended the handshake: access denied"),
        (71, "the server refused the handshake: our ciphers are too weak for it"),
        (80, "the server ended the handshake: internal error"),
        (112, "the server knows no host of this name"),
    ],
)
def test_an_alert(number: int, expected: str) -> None:
    assert talk(alert(number)) == f"no TLS with server.test:8443: {expected}"


# --- Around it ---


def test_a_connection_keeps_the_certificate_that_it_began_with() -> None:
    context = ReloadableServerContext(shown_by(CA.issue_cert(HOST)))
    assert Handshake(context).succeeded
    context.reload(shown_by(CA.issue_cert("other.test")))
    assert "the certificate is for other.test" in Handshake(context).problem


def connections() -> set[int]:
    """All client connections that there are, by identity."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if isinstance(each, WatchedConnection)}


def test_nothing_is_kept_of_failed_handshakes() -> None:
    server, shared = shown_by(CA.issue_cert("other.test")), policy()
    before = connections()
    alive = shared.connection(HOST, 8443)
    assert connections() - before == {id(alive)}
    for _ in range(3):
        assert "wrong name" in Handshake(server, shared).problem
    assert connections() - before == {id(alive)}


def test_a_connection_is_in_no_cycle() -> None:
    connection = policy().connection(HOST, 8443)
    reference = weakref.ref(connection)
    gc.disable()
    try:
        del connection
        assert reference() is None
    finally:
        gc.enable()


def test_an_error_of_an_agent_is_explained_without_wrapping() -> None:
    error = TLSError("no TLS with x:443: why", [])
    for wrapped in (
        ResponseNeverReceived([Failure(error)]),
        ResponseFailed([Failure(ConnectionLost()), Failure(error)]),
        ResponseNeverReceived([Failure(ResponseFailed([Failure(error)]))]),
    ):
        assert explain(wrapped) == "no TLS with x:443: why"
    assert explain(ResponseNeverReceived([Failure(ProxyError("the proxy"))])) == "the proxy"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SSL.Error([("SSL routines", "", "Some Reason")]), "TLS failed: some reason"),
        (SSL.Error([]), "TLS failed: no reason was given"),
        (SSL.Error(), "TLS failed: no reason was given"),
        (SSL.SysCallError(-1, "Unexpected EOF"), "TLS failed: unexpected eof"),
        (VerificationError([]), "wrong name: the certificate is for another host"),
        (ConnectingCancelledError(None), "no answer in time"),
    ],
)
def test_errors_of_other_policies(error: Exception, expected: str) -> None:
    assert explain(error) == expected
