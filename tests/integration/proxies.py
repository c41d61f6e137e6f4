"""A real proxy with a log, and targets for requests that may go through it."""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import trustme

from demo.stack import HOST, LogFollower, Program, Ready, Stack, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

# It means this machine, like localhost; but to a NO_PROXY it is an address like any other.
ANY_ADDRESS = "0.0.0.0"

_REQUEST = re.compile(r"Request \(file descriptor [0-9]+\): (.*)")


def name_of_this_machine() -> str:
    """Return a name that leads here; not localhost, for which no proxy is ever used."""
    for name in (socket.gethostname(), socket.getfqdn()):
        try:
            socket.getaddrinfo(name, None, socket.AF_INET)
        except OSError:
            continue
        if name.partition(".")[0] != "localhost":
            return name
    return ANY_ADDRESS


NAME = name_of_this_machine()


# --- targets --------------------------------------------------------------------------------------


@dataclass
class Target:
    """A server that answers everything, and remembers what it was asked.

    Attributes:
        scheme: http or https.
        port: where it listens.
        answer: the body of its answers.
        requests: the request lines so far.
        headers: the headers of each, by lower-case name.
    """

    scheme: str
    port: int = 0
    answer: bytes = b"the answer"
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def url(self, path: str, host: str = NAME) -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"


@contextmanager
def running_target(certificate: trustme.LeafCert | None = None) -> Iterator[Target]:
    """Run a target in threads of this process, over TLS if there is a certificate."""
    target = Target("https" if certificate else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10.0

        def do_GET(self) -> None:
            target.requests.append(self.requestline)
            target.headers.append({name.lower(): text for name, text in self.headers.items()})
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(target.answer)))
            self.end_headers()
            self.wfile.write(target.answer)

        def log_message(self, *_: object) -> None:
            """Stay silent: what matters is asserted."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Stay silent about clients that do not like the certificate."""

    with Listener(("", 0), Handler) as listener:
        target.port = listener.server_port
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            # The handshake is left to each connection's own thread.
            listener.socket = context.wrap_socket(
                listener.socket, server_side=True, do_handshake_on_connect=False
            )
        serving = threading.Thread(target=listener.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield target
        finally:
            listener.shutdown()
            serving.join()


# --- tinyproxy ------------------------------------------------------------------------------------


@dataclass
class TinyProxy:
    """A running tinyproxy.

    Attributes:
        program: the program.
        address: HOST:PORT.
    """

    program: Program
    address: str
    _follower: LogFollower = field(init=False)
    _markers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._follower = LogFollower(self.program.log)

    def requests(self, stack: Stack) -> list[str]:
        """Return the request lines that it has logged since the last call.

        So that none is missing that is still on its way into the log, it is sent one more, and is
        waited for until it has logged that.
        """
        marker = f"GET /marker-{next(self._markers)} HTTP/1.1"
        fetch(f"http://{self.address}{marker.split()[1]}")
        lines: list[str] = []

        def complete() -> bool:
            lines.extend(self._follower.new_lines())
            return any(marker in line for line in lines)

        stack.wait(complete, f"{marker!r} in the log", self.program)
        found = [request[1] for line in lines if (request := _REQUEST.search(line))]
        return [line for line in found if not line.startswith("GET /")]


def start_tinyproxy(stack: Stack, name: str, user: str = "", password: str = "") -> TinyProxy:
    """Start a tinyproxy on a free port; with a user, it wants the password."""
    port = stack.free_port()
    lines = [f"Port {port}", f"Listen {HOST}", "Timeout 30", "LogLevel Info"]
    if user:
        lines.append(f"BasicAuth {user} {password}")
    configuration = stack.write(f"{name}.conf", "\n".join(lines) + "\n")
    argv = ["tinyproxy", "-d", "-c", str(configuration)]
    # It is no server: it refuses what is not for others, or first of all wants the password.
    ready = Ready("/", 407 if user else 400)
    address = f"{HOST}:{port}"
    return TinyProxy(stack.start(name, argv, f"http://{address}", ready), address)
