"""The scenarios: what goes wrong while senders write, and when it is over."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.hostile import (
    bad_samples,
    flood,
    idle,
    many_bodies,
    refused_bodies,
    slow_bodies,
    tiny_chunks,
)
from chaos.impostors import expired, nonsense
from chaos.proxy import NO_FAULT, Fault, Proxy
from chaos.upstreams import Upstream
from demo.faketime import FakeTime
from demo.stack import Program, Stack


@dataclass
class World:
    """What a scenario can do something to.

    Attributes:
        stack: starts programs again.
        server: the server.
        port: where it listens for clients.
        upstream: the way to the upstream.
        store: the program that takes what is forwarded.
        cache: the way to memcached.
        memcached: the program.
        authorizer: the way to the authorization server.
        clock: the wall clock of the server, if the scenario sets it.
        seconds: how long a fault lasts.
    """

    stack: Stack
    server: Program
    port: int
    upstream: Proxy
    store: Upstream
    cache: Proxy
    memcached: Program
    authorizer: Proxy
    clock: FakeTime
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
        authorizes: whether there is an authorization server.
        sets_clock: whether the server has a wall clock of its own.
    """

    name: str
    act: Callable[[World], None]
    flags: Sequence[str] = field(default=())
    is_quick: bool = False
    replicas: int = 1
    upstream: str = "victoria-metrics"
    authorizes: bool = False
    sets_clock: bool = False


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


def _attack(attack: Callable[[int, float], None]) -> Callable[[World], None]:
    """Return what attacks the server from outside."""
    return lambda world: attack(world.port, world.seconds)


def _other_upstream(world: World, url: str, *flags: str) -> None:
    """Have the server forward somewhere else for a while."""
    program = world.server
    usual = program.argv
    at = usual.index("--forward-url") + 1
    for argv in ([*usual[:at], url, *usual[at + 1 :], *flags], usual):
        program.stop()
        program.argv = argv
        world.stack.start_again(program)
        time.sleep(world.seconds / 2)


def _unknown_name(world: World) -> None:
    _other_upstream(world, "http://nobody.invalid/api/v1/write")


def _nonsense(world: World) -> None:
    with nonsense() as port:
        _other_upstream(world, f"http://127.0.0.1:{port}/api/v1/write")


def _expired(world: World) -> None:
    with expired(world.stack.folder) as (port, authority):
        url = f"https://localhost:{port}/api/v1/write"
        _other_upstream(world, url, "--forward-ca-file", str(authority))


def _kill_upstream(world: World) -> None:
    program = world.store.program
    time.sleep(world.seconds / 4)
    program.signal(signal.SIGKILL)
    program.popen.wait(20)
    time.sleep(world.seconds / 4)
    world.stack.start_again(program, world.store.ready)
    time.sleep(world.seconds / 2)


def _stop_worker(world: World) -> None:
    """Stop a worker, as a debugger does, until the parent has replaced it."""
    stopped = _children(world.server)[0]
    os.kill(stopped, signal.SIGSTOP)
    what = "the parent to replace a worker that is stopped"
    world.stack.wait(lambda: stopped not in _children(world.server), what, world.server)
    time.sleep(world.seconds / 4)


def _no_descriptors(world: World) -> None:
    """Allow the server no more descriptors than it has, and connect."""
    pid = world.server.popen.pid
    has = len(list(Path("/proc", str(pid), "fd").iterdir()))
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (has + 5, usual[1]))
    idle(world.port, world.seconds, 300)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


def _full_disk(world: World) -> None:
    """Have all that the server writes into files fail, which is its log."""
    pid = world.server.popen.pid
    usual = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, usual[1]))
    time.sleep(world.seconds)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, usual)


def _steps_of_the_clock(world: World) -> None:
    for hours in (2, -2, 0):
        world.clock.set(hours * 3600)
        time.sleep(world.seconds / 3)


def _authorizer(fault: Fault) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.authorizer.fault = fault
        time.sleep(world.seconds)
        world.authorizer.fault = NO_FAULT

    return act


#: Known tokens are asked about again and again.
_ASKING = (
    *("--authorize-cache-expire", "1s", "--authorize-refused-expire", "1s"),
    *("--memcached-expire", "1"),
)

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
    Scenario("a flood of requests", _attack(flood), is_quick=True),
    Scenario(
        "600 idle connections, 100 may be",
        _attack(lambda port, seconds: idle(port, seconds, 600)),
        ("--max-connections", "100"),
    ),
    Scenario("upstream: its name is not known", _unknown_name),
    Scenario("upstream: its certificate has expired", _expired),
    Scenario("upstream: answers with nonsense", _nonsense),
    Scenario("Prometheus as the upstream: kill -9", _kill_upstream, upstream="prometheus"),
    Scenario(
        "authorization server: hangs", _authorizer(Fault(is_hole=True)), _ASKING, authorizes=True
    ),
    Scenario(
        "authorization server: refuses connections",
        _authorizer(Fault(is_closed=True)),
        _ASKING,
        authorizes=True,
    ),
    Scenario("workers: one is stopped", _stop_worker, ("--workers", "2")),
    Scenario("no descriptors are left", _no_descriptors),
    Scenario("the disk is full", _full_disk),
    Scenario("the clock is set, two hours ahead and back", _steps_of_the_clock, sets_clock=True),
    Scenario("large bodies that are refused at their end", _attack(refused_bodies)),
    Scenario("500 bodies under one token that never end", _attack(many_bodies)),
    Scenario("100 bodies at a byte a second", _attack(slow_bodies)),
    Scenario("chunks of one byte", _attack(tiny_chunks)),
    Scenario(
        "a sender whose samples the upstream refuses", _attack(bad_samples), upstream="prometheus"
    ),
]
