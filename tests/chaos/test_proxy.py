"""The proxy that breaks things does break them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from chaos.proxy import Fault, Proxy

SENT = b"x" * 1000


class Echo:
    """A server that sends back what comes."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with closing(connection):
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy
    echo.close()


def answer(proxy: Proxy, seconds: float = 10) -> bytes:
    """What comes back; what is cut off ends with the reason."""
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), seconds) as connection:
            connection.sendall(SENT)
            while len(got) < len(SENT) and (data := connection.recv(65536)):
                got += data
    except TimeoutError:
        got += b" late"
    except OSError:
        got += b" reset"
    return got


def test_without_a_fault_all_passes(proxy: Proxy) -> None:
    assert answer(proxy) == SENT


def test_late(proxy: Proxy) -> None:
    proxy.fault = Fault(latency=0.1)
    began = time.monotonic()
    assert answer(proxy) == SENT
    assert time.monotonic() - began >= 0.2


def test_slow(proxy: Proxy) -> None:
    proxy.fault = Fault(bytes_per_second=5000)
    began = time.monotonic()
    assert answer(proxy) == SENT
    assert time.monotonic() - began >= 0.4


def test_reset(proxy: Proxy) -> None:
    proxy.fault = Fault(reset_after=10)
    got = answer(proxy)
    assert got.removesuffix(b" reset") != SENT
    assert len(got) < len(SENT)


def test_damaged(proxy: Proxy) -> None:
    proxy.fault = Fault(corrupt=1)
    got = answer(proxy)
    assert (len(got), got != SENT) == (len(SENT), True)


def test_hole_and_its_end(proxy: Proxy) -> None:
    proxy.fault = Fault(is_hole=True)
    assert answer(proxy, 0.3) == b" late"
    proxy.fault = Fault()
    assert answer(proxy) == SENT


def test_closed(proxy: Proxy) -> None:
    proxy.fault = Fault(is_closed=True)
    assert answer(proxy) in (b" reset", b"")
