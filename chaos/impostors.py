"""Upstreams that are none: they answer with nonsense, or show a certificate that has expired."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOST: Final = "127.0.0.1"
_PIECE: Final = 16384
#: What each connection gets, one after the other; the last one goes on for ever. None of them says
#: 200: that would be a promise, whatever came behind it.
_NONSENSE: Final = (
    b"\x00\xff\x00\xff" * 100,
    b"HTTP/1.1 2",
    b"HTTP/1.1 503 No\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 999999 \r\n\r\n",
    b"HTTP/1.1 503 No\r\nX: ",
)


@contextmanager
def _listening(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """Serve every connection in a thread, with its number; yields the port."""
    listening = socket.create_server((_HOST, 0), backlog=128)

    def accept() -> None:
        number = 0
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=guarded, args=(connection, number), daemon=True).start()
                number += 1

    def guarded(connection: socket.socket, number: int) -> None:
        with suppress(OSError), connection:
            connection.settimeout(10)
            serve(connection, number)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()


@contextmanager
def nonsense() -> Iterator[int]:
    """Answer what is no HTTP, or hardly; yields the port."""

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(_PIECE)
        text = _NONSENSE[number % len(_NONSENSE)]
        connection.sendall(text)
        while text == _NONSENSE[-1]:  # a header without end
            connection.sendall(b"y" * _PIECE)

    with _listening(serve) as port:
        yield port


@contextmanager
def expired(folder: Path) -> Iterator[tuple[int, Path]]:
    """Show a certificate that expired yesterday; yields the port and the file of its authority."""
    certificate = _write_expired(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket, _: int) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(_PIECE)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with _listening(serve) as port:
        yield port, certificate


def _write_expired(folder: Path) -> Path:
    """Write a certificate with its key into a file; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - 30 * day)
        .not_valid_after(now - day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "expired.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path
