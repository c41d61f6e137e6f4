"""The scenarios: what goes wrong while senders write, and when it is over."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.proxy import NO_FAULT, Fault, Proxy
from demo.stack import Program, Stack


@dataclass
class World:
    """What a scenario can do something to.

    Attributes:
        stack: starts programs again.
        server: the server.
        port: where it listens for clients.
        upstream: the way to the upstream.
        cache: the way to memcached.
        memcached: the program.
        seconds: how long a fault lasts.
    """

    stack: Stack
    server: Program
    port: int
    upstream: Proxy
    cache: Proxy
    memcached: Program
    seconds: float


@dataclass(frozen=True)
class Scenario:
    """A fault.

    Attributes:
        name: in the table.
        act: does it, and ends it.
        flags: further flags of the server.
        is_quick: whether it is among those that CI runs.
        replicas: how many servers there are; several are behind an nginx.
        upstream: the program that takes what is forwarded.
    """

    name: str
    act: Callable[[World], None]
    flags: Sequence[str] = field(default=())
    is_quick: bool = False
    replicas: int = 1
    upstream: str = "victoria-metrics"


def _upstream(fault: Fault) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.upstream.fault = fault
        time.sleep(world.seconds)
        world.upstream.fault = NO_FAULT

    return act


def _cache(fault: Fault) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.cache.fault = fault
        time.sleep(world.seconds)
        world.cache.fault = NO_FAULT

    return act


def _nothing(world: World) -> None:
    time.sleep(world.seconds)


def _end_and_start(number: signal.Signals) -> Callable[[World], None]:
    def act(world: World) -> None:
        time.sleep(world.seconds / 4)
        world.server.stopped = True
        world.server.signal(number)
        world.server.popen.wait(20)
        world.stack.start_again(world.server)
        time.sleep(world.seconds / 2)

    return act


def _children(program: Program) -> list[int]:
    pid = str(program.popen.pid)
    return [int(child) for child in Path("/proc", pid, "task", pid, "children").read_text().split()]


def _kill_workers(world: World) -> None:
    for _ in range(2):
        time.sleep(world.seconds / 4)
        for pid in _children(world.server)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    time.sleep(world.seconds / 2)


def _kill_memcached(world: World) -> None:
    time.sleep(world.seconds / 4)
    world.memcached.stopped = True
    world.memcached.signal(signal.SIGKILL)
    time.sleep(world.seconds)


def _reload_storm(world: World) -> None:
    end = time.monotonic() + world.seconds
    while time.monotonic() < end:
        world.server.signal(signal.SIGHUP)
        time.sleep(0.002)


def _flood(world: World) -> None:
    """Forty connections that send requests without waiting for answers, and never read."""
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
    end = time.monotonic() + world.seconds
    connections = []
    while time.monotonic() < end:
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", world.port), 2)
            connection.settimeout(0.2)
            connections.append(connection)
            connection.sendall(data)
        if len(connections) > 40:
            connections.pop(0).close()
    for connection in connections:
        connection.close()


def _idle_connections(world: World) -> None:
    """More connections than there may be, that say nothing."""
    connections = []
    for _ in range(600):
        with suppress(OSError):
            connections.append(socket.create_connection(("127.0.0.1", world.port), 2))
    time.sleep(world.seconds)
    for connection in connections:
        connection.close()


SCENARIOS = [
    Scenario("nothing", _nothing, is_quick=True),
    Scenario("upstream: 0.3 s late, both ways", _upstream(Fault(latency=0.3))),
    Scenario("upstream: 2 kB/s", _upstream(Fault(bytes_per_second=2000))),
    Scenario("upstream: hangs", _upstream(Fault(is_hole=True)), is_quick=True),
    Scenario("upstream: refuses connections", _upstream(Fault(is_closed=True)), is_quick=True),
    Scenario("upstream: resets within answers", _upstream(Fault(reset_after=400)), is_quick=True),
    Scenario("upstream: damaged answers", _upstream(Fault(corrupt=0.3))),
    Scenario("memcached: hangs", _cache(Fault(is_hole=True))),
    Scenario("memcached: damaged answers", _cache(Fault(corrupt=1.0)), is_quick=True),
    Scenario("memcached: kill -9", _kill_memcached),
    Scenario("server: SIGTERM, started again", _end_and_start(signal.SIGTERM), is_quick=True),
    Scenario("server: kill -9, started again", _end_and_start(signal.SIGKILL), is_quick=True),
    Scenario(
        "two replicas behind nginx, kill -9 of one", _end_and_start(signal.SIGKILL), replicas=2
    ),
    Scenario(
        "Prometheus as the upstream: hangs", _upstream(Fault(is_hole=True)), upstream="prometheus"
    ),
    Scenario("workers: kill -9", _kill_workers, ("--workers", "2"), is_quick=True),
    Scenario("a storm of SIGHUP", _reload_storm),
    Scenario("a flood of requests", _flood, is_quick=True),
    Scenario("600 idle connections, 100 may be", _idle_connections, ("--max-connections", "100")),
]
