"""Clients that mean no good, or do not know better."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from chaos.senders import METRIC, composite
from telemeter.samples.compression import compress_block
from telemeter.samples.proto import remote_pb2

_HOST: Final = "127.0.0.1"
_CLUSTER: Final = "attacker"


def flood(port: int, seconds: float) -> None:
    """Have forty connections send requests without waiting for answers, and never read."""
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    end = time.monotonic() + seconds
    connections = []
    while time.monotonic() < end:
        with suppress(OSError):
            connection = socket.create_connection((_HOST, port), 2)
            connection.settimeout(0.2)
            connections.append(connection)
            connection.sendall(data)
        if len(connections) > 40:
            connections.pop(0).close()
    for connection in connections:
        connection.close()


def idle(port: int, seconds: float, count: int) -> None:
    """Keep connections that say nothing."""
    connections = []
    for _ in range(count):
        with suppress(OSError):
            connections.append(socket.create_connection((_HOST, port), 2))
    time.sleep(seconds)
    for connection in connections:
        connection.close()


def _head(length: str) -> bytes:
    """Return the head of a remote write under the attacker's token."""
    lines = [
        "POST /metrics/v1/receive HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {composite(_CLUSTER)}",
        "Content-Type: application/x-protobuf",
        "Content-Encoding: snappy",
        length,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _at_once(count: int, seconds: float, attack: Callable[[float], None]) -> None:
    """Make so many attacks at a time, again and again."""
    end = time.monotonic() + seconds

    def repeat() -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                attack(end)

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post(port: int, body: bytes) -> None:
    """Send a body, and read what the server says of it."""
    with socket.create_connection((_HOST, port), 5) as connection:
        connection.settimeout(20)
        connection.sendall(_head(f"Content-Length: {len(body)}\r\nConnection: close") + body)
        while connection.recv(65536):
            pass


def refused_bodies(port: int, seconds: float) -> None:
    """Send large bodies of which only the last series is wrong."""
    good = remote_pb2.WriteRequest()
    series = good.timeseries.add()
    for name, value in (("__name__", METRIC), ("_id", _CLUSTER)):
        series.labels.add(name=name, value=value)
    series.samples.add(value=1, timestamp=1)
    bad = remote_pb2.WriteRequest()
    bad.timeseries.add().labels.add(name="__name__", value=METRIC)
    body = compress_block(good.SerializeToString() * 50_000 + bad.SerializeToString())
    _at_once(8, seconds, lambda _: _post(port, body))


def many_bodies(port: int, seconds: float) -> None:
    """Begin hundreds of bodies under one token, each nearly as large as allowed, and end none."""
    connections = []
    end = time.monotonic() + seconds
    for _ in range(500):
        with suppress(OSError):
            connection = socket.create_connection((_HOST, port), 2)
            connection.settimeout(0.2)
            connections.append(connection)
            connection.sendall(_head("Content-Length: 131000") + b"x" * 130_000)
        if time.monotonic() > end:
            break
    time.sleep(max(0.0, end - time.monotonic()))
    for connection in connections:
        connection.close()


def slow_bodies(port: int, seconds: float) -> None:
    """Send bodies a byte a second."""

    def attack(end: float) -> None:
        with socket.create_connection((_HOST, port), 5) as connection:
            connection.sendall(_head("Content-Length: 1000"))
            while time.monotonic() < end:
                connection.sendall(b"x")
                time.sleep(1)

    _at_once(100, seconds, attack)


def tiny_chunks(port: int, seconds: float) -> None:
    """Send chunks of one byte, without a token."""
    data = b"1\r\nx\r\n" * 10_000

    def attack(end: float) -> None:
        with socket.create_connection((_HOST, port), 5) as connection:
            connection.settimeout(1)
            connection.sendall(
                b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            while time.monotonic() < end:
                connection.sendall(data)

    _at_once(8, seconds, attack)


def bad_samples(port: int, seconds: float) -> None:
    """Write samples of the day before yesterday, which a Prometheus refuses."""

    def attack(end: float) -> None:
        request = remote_pb2.WriteRequest()
        series = request.timeseries.add()
        for name, value in (("__name__", METRIC), ("_id", _CLUSTER), ("number", "0")):
            series.labels.add(name=name, value=value)
        series.samples.add(value=1, timestamp=int((time.time() - 48 * 3600) * 1000))
        _post(port, compress_block(request.SerializeToString()))
        time.sleep(0.05)

    _at_once(2, seconds, attack)
