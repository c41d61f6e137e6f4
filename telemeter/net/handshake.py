"""TLS handshakes of clients, and in words why they fail.

OpenSSL's errors carry neither names nor dates. They are noted while certificates are verified, by
an object that belongs to one connection and keeps words only.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL.SSL import X509VerificationCodes as Codes
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.logger import Logger

from telemeter.net.errors import ExplainedError, openssl_reasons

log = Logger()

_NAMES_SHOWN: Final = 8
_LONGEST_NAME: Final = 200

_UNKNOWN_ISSUER: Final = (
    Codes.ERR_UNABLE_TO_GET_ISSUER_CERT,
    Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
    Codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
    Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN,
)
_OTHER_PROBLEMS: Final = {
    Codes.ERR_CERT_SIGNATURE_FAILURE: "has a wrong signature",
    Codes.ERR_INVALID_CA: "is used to issue others, but is not that of an authority",
    Codes.ERR_INVALID_PURPOSE: "is not meant for servers",
    66: "has a key that is too weak",  # X509_V_ERR_EE_KEY_TOO_SMALL
    67: "has a key that is too weak",  # X509_V_ERR_CA_KEY_TOO_SMALL
    68: "is signed with a digest that is too weak",  # X509_V_ERR_CA_MD_TOO_WEAK
}
_NO_TLS: Final = (
    "wrong version number",
    "unknown protocol",
    "packet length too long",
    "data length too long",
    "record layer failure",
    "bad record type",
)
_ALERT: Final = re.compile(r"(?:alert |^tlsv1 (?=unrecognized))(.+)")
_WANTED_CERTIFICATE: Final = (
    "certificate required",
    "handshake failure",
    "bad certificate",
    "certificate unknown",
    "no certificate",
)
_REFUSED_CERTIFICATE: Final = (
    *_WANTED_CERTIFICATE,
    "unknown ca",
    "certificate expired",
    "certificate revoked",
    "unsupported certificate",
    "access denied",
    "decrypt error",
)
_OTHER_ALERTS: Final = {
    "protocol version": "the server speaks no TLS of version 1.2 or later",
    "handshake failure": "the server refused the handshake: it has no cipher in common with us",
    "insufficient security": "the server refused the handshake: our ciphers are too weak for it",
    "unrecognized name": "the server knows no host of this name",
}


class TLSError(ExplainedError, SSL.Error):
    """A TLS connection failed; the text says with whom, and why.

    Its arguments are those of OpenSSL's error, which Twisted looks into.
    """

    def __init__(self, words: str, queue: list[Any]) -> None:
        super().__init__(queue)
        self._words = words

    def __str__(self) -> str:
        return self._words


class Peer:
    """The handshake of a connection: whom it is for, and what was noted of it.

    Attributes:
        host: the name or address that the certificate must be for.
        is_address: whether it is an IP address.
        address: HOST:PORT for messages.
        problem: why the certificate was not accepted; None: nothing is known against it.
        asked: whether the server asked for a client certificate.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        has_certificate: bool = False,
        authority_flag: str = "",
        certificate_flag: str = "",
    ) -> None:
        """Make one, for one connection.

        Args:
            host: a host name or an IP address.
            port: for messages.
            has_certificate: whether we have a certificate to show.
            authority_flag: the flag that names further authorities to trust, for messages.
            certificate_flag: the flag that names our certificate, for messages.
        """
        # A dot at the end only says that a name is complete; no certificate has it.
        self.host = host.rstrip(".")
        self.is_address = isIPAddress(host) or isIPv6Address(host)
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.problem: str | None = None
        self.asked = False
        self._has_certificate = has_certificate
        self._authority_flag = authority_flag
        self._certificate_flag = certificate_flag

    def verify(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
    ) -> bool:
        """OpenSSL's question, for every certificate of the chain, whether to accept it.

        Args:
            connection: not used: a reference to it from here would be a cycle.
            certificate: the one in question.
            code: what OpenSSL has against it.
            depth: how far it is from the server's own, which has 0.
            ok: whether OpenSSL accepts it.
        """
        try:
            read = certificate.to_cryptography()
            if not ok:
                self.problem = self._against(read, code, depth)
            elif depth == 0:
                self._check_name(read)
        except Exception:  # OpenSSL takes no exception; and nothing is accepted unchecked
            log.failure("cannot check a certificate", peer=self.address)
            self.problem = "the certificate cannot be checked"
        return bool(ok) and self.problem is None

    def explain(self, error: SSL.Error, *, established: bool) -> TLSError | None:
        """Return what a failure means; None: nothing known here, or nothing of the handshake.

        Args:
            error: as OpenSSL gave it.
            established: whether our side had finished the handshake.
        """
        words = self._words(error, established)
        if words is None:
            return None
        queue = error.args[0] if error.args and not _is_end(error) else None
        return TLSError(
            f"no TLS with {self.address}: {words}",
            queue or [("", "", "the connection was lost")],
        )

    def _words(self, error: SSL.Error, established: bool) -> str | None:
        reasons = openssl_reasons(error)
        alert = next((found[1] for each in reasons if (found := _ALERT.search(each))), "")
        wanted = self.asked and not self._has_certificate
        missing = "the server asked for a client certificate, and there is none"
        if self._certificate_flag:
            missing += f" (give one with {self._certificate_flag})"
        if self.problem is not None:
            return self.problem
        if _is_end(error):
            if not established:
                return "the connection was lost during the handshake"
            return f"the connection was lost after {missing}" if wanted else None
        if alert == "certificate required" or (wanted and alert in _WANTED_CERTIFICATE):
            return missing
        if self.asked and alert in _REFUSED_CERTIFICATE:
            return f"the server did not accept our client certificate: {alert}"
        if established:
            return None
        if alert:
            return _OTHER_ALERTS.get(alert, f"the server ended the handshake: {alert}")
        if "unsupported protocol" in reasons:
            return _OTHER_ALERTS["protocol version"]
        if any(each in _NO_TLS for each in reasons):
            return "the other side does not speak TLS; should the URL begin with http://?"
        return f"the handshake failed: {'; '.join(reasons) or 'OpenSSL gives no reason'}"

    def _against(self, certificate: x509.Certificate, code: int, depth: int) -> str:
        which = "the certificate"
        if depth > 0:
            which += f" of the issuer {_shown(certificate.subject.rfc4514_string())}"
        if code == Codes.ERR_CERT_HAS_EXPIRED:
            return f"{which} expired on {_date(certificate.not_valid_after_utc)}"
        if code == Codes.ERR_CERT_NOT_YET_VALID:
            return f"{which} is not valid before {_date(certificate.not_valid_before_utc)}"
        trust = "trust it in the system's certificate store"
        if self._authority_flag:
            trust = f"trust it with {self._authority_flag}"
        if code == Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
            return f"{which} is self-signed and not known here ({trust})"
        if code in _UNKNOWN_ISSUER:
            issuer = _shown(certificate.issuer.rfc4514_string())
            if depth == 0:
                trust += ", or have the server send its whole chain"
            return f"unknown issuer: {issuer} ({trust})"
        return f"{which} {_OTHER_PROBLEMS.get(code, f'is refused by OpenSSL with code {code}')}"

    def _check_name(self, certificate: x509.Certificate) -> None:
        wanted = IPAddress_ID(self.host) if self.is_address else DNS_ID(self.host)
        try:
            verify_service_identity(extract_patterns(certificate), [wanted], [])
        except (VerificationError, CertificateError):
            names = _names(certificate)
            self.problem = f"wrong name: wanted {self.host}, the certificate is for {names}"


class WatchedConnection(SSL.Connection):
    """A client's TLS connection whose failures are `TLSError` where there are words for them."""

    def __init__(self, context: SSL.Context, peer: Peer) -> None:
        super().__init__(context, None)
        self.peer = peer
        self._established = False
        if not peer.is_address:
            self.set_tlsext_host_name(peer.host.encode("ascii"))
        self.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, peer.verify)

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except SSL.WantReadError:
            raise
        except SSL.Error as error:
            raise self._explained(error) from None
        self._established = True

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        try:
            return super().recv(bufsiz, flags)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            raise
        except SSL.Error as error:
            raise self._explained(error) from None

    def _explained(self, error: SSL.Error) -> SSL.Error:
        return self.peer.explain(error, established=self._established) or error


def note_request(connection: SSL.Connection, where: int, _: int) -> None:
    """Note that a server asks for a certificate: an info callback of OpenSSL's contexts."""
    if (
        where & SSL.SSL_CB_LOOP
        and isinstance(connection, WatchedConnection)
        and b"certificate request" in connection.get_state_string()
    ):
        connection.peer.asked = True


def _is_end(error: SSL.Error) -> bool:
    """Return whether the connection ended, rather than that something wrong came."""
    reasons = openssl_reasons(error)
    return (
        isinstance(error, SSL.SysCallError)
        or not reasons
        or reasons[-1].startswith("unexpected eof")
    )


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _shown(name: str) -> str:
    """Return a name that somebody else chose, fit for a log line."""
    text = "".join(each if each.isprintable() else "?" for each in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _names(certificate: x509.Certificate) -> str:
    """Return the hosts that a certificate is for."""
    names: list[str] = []
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        names += found.get_values_for_type(x509.DNSName)
        names += map(str, found.get_values_for_type(x509.IPAddress))
    if not names:
        subject = _shown(certificate.subject.rfc4514_string())
        return f"no host: it has no subjectAltName, only the subject {subject}"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(_shown, names[:_NAMES_SHOWN])) + more
