"""A real HAProxy in front, which passes on where clients are by the PROXY protocol."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING

import pytest
import trustme

from demo.programs import twistd
from demo.stack import HOST, Program, Stack, answers, parse_logfmt

from .certificates import client_context, write_pair
from .conftest import need_command
from .upstream import running_upstream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

CLIENT = "127.0.0.5"
#: How HAProxy is told to send each form of the header.
FORMS = {
    "line": "send-proxy",
    "binary": "send-proxy-v2",
    "vectors": "send-proxy-v2 proxy-v2-options crc32c,authority",
}


@dataclass
class Balanced:
    """A server, and the ports of HAProxy that lead to it, by the form of the header."""

    server: Program
    port: int
    ports: dict[str, int]
    context: ssl.SSLContext | None = None

    def ask(self, form: str, path: str) -> int:
        """Ask as a client at 127.0.0.5; return the status."""
        address, port = (CLIENT, 0), self.ports[form]
        connection: HTTPConnection = (
            HTTPConnection(HOST, port, timeout=10, source_address=address)
            if self.context is None
            else HTTPSConnection(
                HOST, port, timeout=10, source_address=address, context=self.context
            )
        )
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def lines(self, **fields: str) -> list[dict[str, str]]:
        """Return the lines of the server's log with these fields."""
        lines = map(parse_logfmt, self.server.output().splitlines())
        return [line for line in lines if fields.items() <= line.items()]


@pytest.fixture(scope="module")
def haproxy() -> str:
    """Need Debian's HAProxy; return its path."""
    return need_command("haproxy", "haproxy", "/usr/sbin")


def start_haproxy(
    stack: Stack, command: str, name: str, port: int, mode: str, check: str
) -> dict[str, int]:
    """Start a HAProxy in front of a server; return its ports."""
    ports = {form: stack.free_port() for form in FORMS}
    health = stack.free_port()
    sections = [
        f"""
frontend {form}
  bind {HOST}:{ports[form]}
  default_backend {form}
backend {form}
{check}
  server telemeter {HOST}:{port} check inter 200ms {words}
"""
        for form, words in FORMS.items()
    ]
    dead = " or ".join(f"{{ nbsrv({form}) lt 1 }}" for form in FORMS)
    configuration = f"""\
defaults
  mode {mode}
  timeout connect 10s
  timeout client 30s
  timeout server 30s
frontend health
  mode http
  bind {HOST}:{health}
  monitor-uri /healthz/ready
  monitor fail if {dead}
{"".join(sections)}"""
    path = stack.write(f"{name}.cfg", configuration)
    argv = [command, "-db", "-f", str(path)]
    # Ready means that its health checks of every form have succeeded.
    stack.start(name, argv, f"http://{HOST}:{health}")
    return ports


def start_server(stack: Stack, name: str, *flags: str) -> tuple[Program, int]:
    """Start a server that wants a header; return it and its port."""
    port, internal = stack.free_port(), f"{HOST}:{stack.free_port()}"
    listen = f"haproxy:tcp:{port}:interface={HOST}"
    argv = twistd("telemeter-server", "--listen", listen, "--listen-internal", internal, *flags)
    return stack.start(name, [*argv, "--verbose"], f"http://{internal}"), port


@pytest.fixture(scope="module")
def plain(stack: Stack, haproxy: str) -> Balanced:
    server, port = start_server(stack, "server")
    check = "  option httpchk GET /healthz/ready"
    return Balanced(server, port, start_haproxy(stack, haproxy, "haproxy", port, "http", check))


@pytest.fixture(scope="module")
def secure(stack: Stack, haproxy: str) -> Iterator[Balanced]:
    """TLS goes through HAProxy to the workers of a server."""
    ca = trustme.CA()
    pair = write_pair(stack, "server", ca.issue_cert(HOST))
    with running_upstream() as upstream:
        server, port = start_server(
            stack,
            "secure-server",
            *pair.flags("--tls-crt", "--tls-key"),
            *("--workers", "2", "--forward-url", upstream.url),
        )
        ports = start_haproxy(stack, haproxy, "secure-haproxy", port, "tcp", "")
        yield Balanced(server, port, ports, client_context(ca))
        server.stop()


@pytest.mark.parametrize("form", FORMS)
def test_the_log_says_where_the_client_is(plain: Balanced, form: str) -> None:
    assert plain.ask(form, f"/nowhere/{form}") == 404
    (line,) = plain.lines(path=f"/nowhere/{form}")
    assert line["peer"] == CLIENT


def test_health_checks_come_from_the_balancer(plain: Balanced, stack: Stack) -> None:
    def of_all() -> list[dict[str, str]]:
        lines = plain.lines(path="/healthz/ready", status="200")
        return lines if len(lines) >= len(FORMS) else []

    lines = stack.wait(of_all, "a health check in each form", plain.server)
    assert {line["peer"] for line in lines} == {HOST}


@pytest.mark.parametrize("form", FORMS)
def test_tls_and_workers_behind_it(secure: Balanced, stack: Stack, form: str) -> None:
    assert secure.ask(form, f"/nowhere/{form}") == 404
    (line,) = stack.wait(
        lambda: secure.lines(path=f"/nowhere/{form}"), "the line in the log", secure.server
    )
    assert line["peer"] == CLIENT
    assert line["worker"] in ("0", "1")


@pytest.mark.parametrize("name", ["plain", "secure"])
def test_who_comes_directly_is_hung_up_on(
    name: str, stack: Stack, request: pytest.FixtureRequest
) -> None:
    balanced: Balanced = request.getfixturevalue(name)
    with socket.create_connection((HOST, balanced.port), 10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            if not connection.recv(100):
                raise ConnectionResetError
    (line,) = stack.wait(
        lambda: balanced.lines(msg="connection without a PROXY protocol header closed"),
        "the line in the log",
        balanced.server,
    )
    assert line["peer"] == HOST
    assert line["reason"] == ("expected a header of version 1 or 2, saw 'GET /healthz HTT'...")
    assert not answers(f"http://{HOST}:{balanced.port}/healthz", 200)
