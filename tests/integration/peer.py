"""A server that a test plays itself: it shows what it is told to, and remembers what it is sent."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from demo.stack import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """What a peer was sent.

    Attributes:
        method: the HTTP method.
        target: what came behind it: a path with its query, or to a proxy a whole URL.
        headers: by lower-case name.
        body: all of it.
        certificate: what the client showed over TLS, as `ssl` decodes it; empty: nothing.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    certificate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path without the query, also of a whole URL."""
        return urlsplit(self.target).path

    @property
    def authorization(self) -> str:
        """The header of that name."""
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class Reply:
    """What a peer answers."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; version=0.0.4"


Answers: TypeAlias = Callable[[Request], Reply]


def as_all_servers(request: Request) -> Reply:
    """Answer as a Prometheus, an authorization server, a telemeter-server and an upstream do."""
    if request.method == "GET":
        series = f'# TYPE up gauge\nup{{instance="127.0.0.1:9090"}} 1 {int(time.time() * 1000)}\n'
        return Reply(200, series.encode())
    if request.path in ("/authorize", "/tollbooth"):
        fields = {"token": "a-token", "expiresInSeconds": 3600, "account_id": "an-account"}
        return Reply(200, json.dumps(fields).encode(), "application/json")
    return Reply()


@dataclass
class Peer:
    """A running server of the test.

    Attributes:
        port: where it listens, ...
        host: ... and at which address.
        context: what it shows to those who connect from now on; None: it speaks no TLS.
        answer: what it answers.
        hang_up: whether it closes its connections instead.
        says_close: whether it says beforehand that it closes them after its answer.
        requests: what it was sent so far.
    """

    context: ssl.SSLContext | None = None
    answer: Answers = as_all_servers
    hang_up: bool = False
    says_close: bool = True
    port: int = 0
    host: str = HOST
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str = "", host: str = "") -> str:
        """Return the URL of a path, with another name for where it listens if one is given."""
        host = host or self.host
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.context else 'http'}://{host}:{self.port}{path}"


@contextmanager
def running(peer: Peer) -> Iterator[Peer]:
    """Run a peer in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        # Every request has a connection, and so a handshake, of its own.
        timeout = _SECONDS

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): text for name, text in self.headers.items()}
            connection = self.connection
            shown = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
            request = Request(self.command, self.path, headers, body, shown or {})
            peer.requests.append(request)
            if peer.hang_up:
                return
            reply = peer.answer(request)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            if peer.says_close:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_CONNECT = do_GET

        def log_message(self, *_: object) -> None:
            """Stay silent: what matters is asserted."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in peer.host else socket.AF_INET

        def finish_request(self, request: Any, client_address: Any) -> None:
            if peer.context is None:
                super().finish_request(request, client_address)
                return
            request.settimeout(_SECONDS)
            with peer.context.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as secured:
                if _shake_hands(secured):
                    super().finish_request(secured, client_address)

        def handle_error(self, *_: object) -> None:
            """Stay silent about clients that hang up."""

    with Listener((peer.host, 0), Handler) as listener:
        peer.port = listener.server_port
        serving = threading.Thread(target=listener.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield peer
        finally:
            listener.shutdown()
            serving.join()


def _shake_hands(connection: ssl.SSLSocket) -> bool:
    """Tell whether the handshake succeeds; if not, make sure that the client learns why."""
    try:
        connection.do_handshake()
    except ssl.SSLError:
        # Closing while something is unread would reset the connection before the alert is read.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
        return False
    return True
