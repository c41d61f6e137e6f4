"""telemeter-reload: where it asks, and what it makes of the answer."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from telemeter.config.flag_parser import Flags
from telemeter.config.server_options import Options as ServerOptions
from telemeter.tap.client import Options as ClientOptions
from telemeter.tap.reload_command import (
    Address,
    _FailedError,
    _NotAskedError,
    address_of,
    ask,
    main,
)


def server(*flags: str) -> Flags:
    options = ServerOptions()
    options.read(flags)
    return options


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9004", Address("127.0.0.1", 9004)),
        ("0.0.0.0:9004", Address("127.0.0.1", 9004)),
        ("[::1]:9004", Address("::1", 9004)),
        ("[::]:9004", Address("::1", 9004)),
        ("tcp:9004", Address("127.0.0.1", 9004)),
        ("tcp:9004:interface=127.0.0.3", Address("127.0.0.3", 9004)),
        ("tcp6:9004:interface=\\:\\:1", Address("::1", 9004)),
        ("unix:/run/a b.sock", Address(path="/run/a b.sock")),
        ("unix:address=/run/x:mode=600", Address(path="/run/x")),
    ],
)
def test_the_flags_say_where(listen: str, address: Address) -> None:
    options = server("--listen-internal", listen)
    assert address_of(options, "listen-internal", "internal-tls-crt") == address


def test_by_default_too() -> None:
    found = address_of(server(), "listen-internal", "internal-tls-crt")
    assert (found.host in ("127.0.0.1", "::1"), found.port) == (True, 9004)
    options = ClientOptions()
    options.read([])
    assert address_of(options, "listen", "").port == 9002


def test_a_certificate_means_tls_whatever_is_in_its_file() -> None:
    options = server("--listen-internal", "127.0.0.1:1", "--internal-tls-crt", "/no/such/file")
    assert address_of(options, "listen-internal", "internal-tls-crt").tls


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "haproxy:tcp:9004"])
def test_what_nobody_can_connect_to(listen: str) -> None:
    with pytest.raises(_NotAskedError, match="nothing to connect to"):
        address_of(server("--listen-internal", listen), "listen-internal", "internal-tls-crt")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (Address("127.0.0.1", 1), "http://127.0.0.1:1"),
        (Address("::1", 1, tls=True), "https://[::1]:1"),
        (Address(path="/run/x"), "/run/x"),
    ],
)
def test_messages_show_where(address: Address, shown: str) -> None:
    assert str(address) == shown


class Peer(threading.Thread):
    """Takes one connection and answers it with what it is given."""

    def __init__(self, listener: socket.socket, answer: bytes, context: ssl.SSLContext | None):
        super().__init__()
        self.request = b""
        self._listener = listener
        self._answer = answer
        self._context = context

    def run(self) -> None:
        connection, _ = self._listener.accept()
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            connection.settimeout(10)
            self.request = connection.recv(4096)
            connection.sendall(self._answer)


def answer_of(
    answer: bytes, listener: socket.socket, address: Address, context: ssl.SSLContext | None = None
) -> str:
    """Return why a daemon did not reload, or nothing; it answers as given."""
    peer = Peer(listener, answer, context)
    peer.start()
    try:
        ask(address)
    except _FailedError as error:
        return str(error)
    finally:
        peer.join(10)
        assert peer.request.startswith(b"POST /-/reload HTTP/1.1\r\n")
    return ""


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http("200 OK", b"reloaded\n"), ""),
        (http("500 No", b"not reloaded: --flag 'x'\n"), "not reloaded: --flag 'x'"),
        (http("500 No", b"a\x1b[31m\nts=1"), "a?[31m?ts=1"),
        (http("404 Not Found", b"what?\n"), "expected a telemeter daemon, saw status 404: 'what?'"),
        (http("200 OK", b"<html>"), "expected a telemeter daemon, saw status 200: '<html>'"),
        (http("500 No", b""), "expected a telemeter daemon, saw status 500: ''"),
        (b"", "no usable answer: the connection was closed without one"),
        (b"nonsense\r\n\r\n", "no usable answer: expected HTTP, saw 'nonsense'"),
        (b"\x16\3\xff\r\n\r\n", "no usable answer: expected HTTP, saw '\\x16\\x03\\xff'"),
        (b"x" * 65, f"no usable answer: expected HTTP, saw '{'x' * 64}'..."),
        (b"\r\n\r\n", "no usable answer: expected HTTP, saw ''"),
        (
            b"HTTP/1.1 999999 No\r\n\r\n",
            "no usable answer: expected HTTP, saw 'HTTP/1.1 999999 No'",
        ),
        (b"HTTP/9 200 OK\r\n\r\n", "no usable answer: expected HTTP/1.1, saw 'HTTP/9'"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000, "no usable answer: got more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", "no usable answer: it ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nrel", "expected a telemeter daemon, "),
    ],
)
def test_answers(listener: socket.socket, answer: bytes, reason: str) -> None:
    address = Address("127.0.0.1", listener.getsockname()[1])
    said = answer_of(answer, listener, address)
    assert said.startswith(reason) if reason else said == ""


def test_a_daemon_that_speaks_no_tls(listener: socket.socket) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    peer = threading.Thread(target=answer)
    peer.start()
    with pytest.raises(_FailedError) as caught:
        ask(Address("127.0.0.1", listener.getsockname()[1], tls=True))
    peer.join(10)
    assert re.fullmatch("no usable answer: expected TLS: [a-z ]+", str(caught.value))


def test_over_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert answer_of(http("200 OK", b"reloaded\n"), listener, Address(path=path)) == ""


def test_over_tls_whoever_has_signed_the_certificate(listener: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("another.test").configure_cert(context)
    address = Address("127.0.0.1", listener.getsockname()[1], tls=True)
    assert answer_of(http("200 OK", b"reloaded\n"), listener, address, context) == ""


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for address in (Address("127.0.0.1", port), Address(path=str(tmp_path / "s"))):
        with pytest.raises(_FailedError, match="nobody listens there"):
            ask(address, patience=0.2)


def test_a_daemon_that_has_yet_to_listen_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    failures: list[BaseException] = []

    def reload() -> None:
        try:
            ask(Address(path=path), patience=20)
        except BaseException as error:
            failures.append(error)

    asking = threading.Thread(target=reload)
    asking.start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.settimeout(10)
        listener.listen()
        peer = Peer(listener, http("200 OK", b"reloaded\n"), None)
        peer.start()
        peer.join(10)
    asking.join(20)
    assert failures == []


# --- The program ----------------------------------------------------------------------------------


def test_without_a_listener_there_is_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setenv("MAINPID", "1234")
    assert main(["telemeter-client", "--listen="]) == 0
    assert sent == [(1234, signal.SIGHUP)]
    assert "--listen is empty: sent SIGHUP, see the log" in capsys.readouterr().err


@pytest.mark.parametrize("pid", [None, "", "0", "-1", "x"])
def test_if_there_is_somebody_to_send_it_to(
    pid: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MAINPID", raising=False)
    if pid is not None:
        monkeypatch.setenv("MAINPID", pid)
    assert main(["telemeter-client", "--listen="]) == 1
    assert "MAINPID names no process" in capsys.readouterr().err


def test_flags_that_the_daemon_would_refuse_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="--listen-internal 'nowhere'"):
        main(["telemeter-server", "--listen-internal", "nowhere"])


@pytest.mark.parametrize(("words", "status"), [([], 2), (["x"], 2), (["-h"], 0), (["--help"], 0)])
def test_usage(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    said = capsys.readouterr()
    assert "Usage: telemeter-reload" in (said.err if status else said.out)
