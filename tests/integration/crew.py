"""A server with workers, seen from outside: which processes there are, and who answers whom."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from demo.programs import Server, start_server
from demo.stack import Stack, answers, fetch

from .wire import UPLOAD_HEADERS, encode, gauge, token_in, write_body, write_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 15.0
_ESTABLISHED = "01"


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process has."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found


@dataclass(frozen=True)
class Said:
    """An answer to a request of a `Client`."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One connection to a server."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = (
            HTTPConnection(parts.hostname, parts.port, timeout=_SECONDS)
            if context is None
            else HTTPSConnection(parts.hostname, parts.port, timeout=_SECONDS, context=context)
        )
        self._connection.connect()
        self._connection.auto_open = 0
        self.port: int = self._connection.sock.getsockname()[1]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Said:
        """Make a request."""
        self._connection.request(method, path, body, dict(headers or {}))
        answer = self._connection.getresponse()
        return Said(answer.status, dict(answer.headers.items()), answer.read())

    def begin_upload(self, jwt: str) -> None:
        """Send the head of an upload whose body never comes."""
        self._connection.putrequest("POST", "/upload")
        for name, value in {**UPLOAD_HEADERS, "Authorization": f"Bearer {jwt}"}.items():
            self._connection.putheader(name, value)
        self._connection.putheader("Content-Length", "1000")
        self._connection.endheaders()

    @property
    def certificate(self) -> bytes:
        """What the server shows."""
        connection = self._connection.sock
        assert isinstance(connection, ssl.SSLSocket)
        return connection.getpeercert(binary_form=True) or b""

    def authorize(self, cluster: str) -> str:
        """Exchange any token for a JWT."""
        path = f"/authorize?id={cluster}"
        answer = self.ask("POST", path, b"", {"Authorization": "Bearer any"})
        assert answer.status == 200, answer.body
        return token_in(answer.body)

    def upload(self, jwt: str, cluster: str, *names: str, **labels: str) -> Said:
        """Upload a sample for each name."""
        body = encode([gauge(name, 1, {"_id": cluster, **labels}) for name in names])
        return self.ask(
            "POST", "/upload", body, {**UPLOAD_HEADERS, "Authorization": f"Bearer {jwt}"}
        )

    def write(self, cluster: str, secret: str) -> Said:
        """Write a sample remotely."""
        headers = write_headers(cluster, secret)
        return self.ask("POST", "/metrics/v1/receive", write_body(cluster), headers)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


@dataclass
class Crew:
    """A server with workers.

    Attributes:
        stack: what it belongs to.
        server: the server.
        temporary: where it could make temporary files, ...
        untouched: ... and the state of that folder, if it makes none.
    """

    stack: Stack
    server: Server
    temporary: Path
    untouched: int
    _clients: list[Client] = field(default_factory=list)

    @property
    def parent(self) -> int:
        """The process that twistd started."""
        return self.server.program.popen.pid

    def pids(self) -> list[int]:
        """The workers' processes."""
        children = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text()
        return [int(pid) for pid in children.split() if alive(int(pid))]

    def nothing_was_written(self) -> bool:
        """Return whether it has never made a temporary file."""
        return self.temporary.stat().st_mtime_ns == self.untouched

    def wait_until_ready(self) -> None:
        """Wait until all workers serve."""
        url = f"{self.server.internal_url}/healthz/ready"
        what = "the workers to be ready"
        self.stack.wait(lambda: answers(url, 200, self.stack.context), what, self.server.program)

    def client(self) -> Client:
        """Connect to the server."""
        client = Client(self.server.url, self.stack.context)
        self._clients.append(client)
        return client

    def client_of_each(self) -> list[Client]:
        """Connect until each worker has a connection; return one for each."""
        found: dict[int, Client] = {}
        pids = self.pids()

        def all_found() -> bool:
            client = self.client()
            assert client.ask("GET", "/healthz").status == 200
            found[self.owner(client, pids)] = client
            return len(found) == len(pids)

        self.stack.wait(all_found, f"connections to {pids}", self.server.program)
        return [found[pid] for pid in pids]

    def owner(self, client: Client, pids: list[int]) -> int:
        """Return which process has the other end of a connection that it has accepted."""
        port = urlsplit(self.server.url).port
        assert port
        ends = (f":{port:04X}", f":{client.port:04X}")
        inodes = {
            fields[9]
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
            if (fields[1][8:], fields[2][8:], fields[3]) == (*ends, _ESTABLISHED)
        }
        (pid,) = (pid for pid in pids if inodes & _sockets(pid))
        return pid

    def reload(self) -> tuple[int, str]:
        """Have the files be read again; return the status and what was said."""
        url = f"{self.server.internal_url}/-/reload"
        answer = fetch(url, method="POST", body=b"", seconds=20, context=self.stack.context)
        return answer.status, answer.text

    def close(self) -> None:
        """Let all connections go."""
        for client in self._clients:
            client.close()
        self._clients.clear()


def start_crew(stack: Stack, *flags: str, environment: Mapping[str, str] | None = None) -> Crew:
    """Start a server with two workers, with these additions to its environment; wait for both."""
    name = f"server-{len(stack.programs)}"
    temporary = stack.folder / f"{name}.tmp"
    temporary.mkdir()
    untouched = temporary.stat().st_mtime_ns
    environment = {**(environment or {}), "TMPDIR": str(temporary)}
    server = start_server(stack, name, "--workers", "2", *flags, environment=environment)
    crew = Crew(stack, server, temporary, untouched)
    crew.wait_until_ready()
    return crew
