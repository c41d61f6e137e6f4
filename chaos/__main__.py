"""The bad day: `python -m chaos` or `make chaos`.

Each scenario has a server of its own, a real memcached, and a real VictoriaMetrics as its upstream,
with a proxy in between that can break things. Sixteen clusters write, and remember what they were
promised. When the fault is over, the upstream is asked what it has: not one acknowledged sample may
be missing. Prints a table; with `--page` it is written into a page, between its two comments.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from chaos.proxy import Proxy
from chaos.scenarios import SCENARIOS, Scenario, World
from chaos.senders import Senders
from chaos.upstreams import UPSTREAMS, Upstream
from demo.__main__ import stop_on_signals
from demo.faketime import FakeTime, clean_up
from demo.programs import start_authorizer, start_server
from demo.stack import HOST, Program, Ready, Stack, StackError, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CLUSTERS = 16
_HEALTH_SECONDS = 20.0
_BEGIN, _END = "<!-- chaos -->", "<!-- /chaos -->"
_HEADINGS = (
    *("what goes wrong", "requests", "2xx", "503", "other", "no answer", "found", "missing"),
    *("longest wait", "health at worst", "peak memory", "peak descriptors"),
)


class Watch:
    """The most that a process has had, and the longest that its health took.

    Attributes:
        memory: in MB.
        descriptors: how many.
        health: how many seconds /healthz took at most; while no one listens, it does not count.
    """

    def __init__(self, program: Program, health_url: str) -> None:
        self.memory = 0.0
        self.descriptors = 0
        self.health = 0.0
        self._program = program
        self._url = health_url
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(look,))
            for look in (self._look_at_process, self._ask_for_health)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._is_over.wait(0.1):
            with suppress(OSError):  # between two processes
                look()

    def _look_at_process(self) -> None:
        folder = Path("/proc", str(self._program.popen.pid))
        status = (folder / "status").read_text()
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        self.memory = max(self.memory, int(resident[0]) / 1024 if resident else 0.0)
        self.descriptors = max(self.descriptors, len(list((folder / "fd").iterdir())))

    def _ask_for_health(self) -> None:
        began = time.monotonic()
        try:
            fetch(self._url, seconds=_HEALTH_SECONDS)
        except TimeoutError:
            self.health = _HEALTH_SECONDS
            return
        self.health = max(self.health, time.monotonic() - began)


@dataclass(frozen=True)
class Row:
    """What became of a scenario."""

    name: str
    senders: Senders
    missing: int
    watch: Watch

    def cells(self) -> list[str]:
        """Return it as a row of the table."""
        statuses = self.senders.statuses
        good = sum(count for status, count in statuses.items() if 200 <= status < 300)
        other = sum(count for status, count in statuses.items() if status >= 300 and status != 503)
        found = len(self.senders.acknowledged) - self.missing
        return [
            *(self.name, str(self.senders.requests), str(good), str(statuses[503]), str(other)),
            *(str(statuses[0]), str(found), str(self.missing), f"{self.senders.longest:.1f} s"),
            *(f"{self.watch.health:.1f} s", f"{self.watch.memory:.0f} MB"),
            str(self.watch.descriptors),
        ]


def run(scenario: Scenario, seconds: float) -> Row:
    """Run one scenario.

    Raises:
        StackError: a program did not do what it should.
    """
    with Stack("telemeter-chaos-") as stack, ExitStack() as ways:

        def way_to(port: int) -> Proxy:
            return ways.enter_context(Proxy(HOST, port))

        upstream_port, cache_port = stack.free_port(), stack.free_port()
        upstream = UPSTREAMS[scenario.upstream](stack, upstream_port)
        memcached = Program(
            "memcached",
            ["memcached", "-u", "nobody", "-l", HOST, "-p", str(cache_port)],
            "",
            stack.folder / "memcached.log",
            {},
        )
        stack.programs.append(memcached)
        way, cache = way_to(upstream_port), way_to(cache_port)
        authorizer = cache
        flags = [
            *("--forward-url", f"http://{HOST}:{way.port}{upstream.write_path}"),
            *("--memcached", f"{HOST}:{cache.port}"),
            *scenario.flags,
        ]
        if scenario.authorizes:
            program = start_authorizer(stack, "any")
            authorizer = way_to(int(program.url.rpartition(":")[2]))
            flags += ["--authorize", f"http://{HOST}:{authorizer.port}"]
        clock = FakeTime(stack.folder / "clock")
        environment = clock.environment if scenario.sets_clock else None
        servers = [
            start_server(stack, f"server-{number}", *flags, environment=environment)
            for number in range(scenario.replicas)
        ]
        server = servers[0].program
        ports = [int(each.url.rpartition(":")[2]) for each in servers]
        port = ports[0] if len(ports) == 1 else start_nginx(stack, ports)
        world = World(
            stack, server, port, way, upstream, cache, memcached, authorizer, clock, seconds
        )
        health_url = f"{servers[0].internal_url}/healthz"
        with Watch(server, health_url) as watch, Senders(port, _CLUSTERS) as senders:
            time.sleep(seconds / 4)
            scenario.act(world)
            time.sleep(seconds / 4)
        missing = senders.acknowledged - found(upstream, senders)
        server.stop()
        clean_up()
        return Row(scenario.name, senders, len(missing), watch)


def start_nginx(stack: Stack, ports: Sequence[int]) -> int:
    """Start an nginx in front of several servers; return its port."""
    port = stack.free_port()
    servers = "".join(f"server {HOST}:{each} max_fails=1 fail_timeout=1s; " for each in ports)
    config = stack.write(
        "nginx.conf",
        f"""daemon off; pid {stack.folder}/nginx.pid; error_log stderr;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; client_body_temp_path {stack.folder}; proxy_temp_path {stack.folder};
            upstream servers {{ {servers} keepalive 64; }}
            server {{
                listen {HOST}:{port};
                location / {{
                    proxy_pass http://servers; proxy_http_version 1.1;
                    proxy_set_header Connection ""; proxy_set_header Host $host;
                }}
            }}
        }}""",
    )
    nginx = ["nginx", "-p", str(stack.folder), "-c", str(config)]
    stack.start("nginx", nginx, f"http://{HOST}:{port}", Ready("/healthz"))
    return port


def found(upstream: Upstream, senders: Senders) -> set[tuple[str, str]]:
    """Return what the upstream has, once it shows all that was acknowledged, or in the end."""
    deadline = time.monotonic() + 15
    while True:
        there = upstream.series()
        if senders.acknowledged <= there or time.monotonic() > deadline:
            return there
        time.sleep(0.5)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of a page."""
    cells = [list(_HEADINGS), ["---"] * len(_HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def write_page(page: Path, rows: Sequence[Row], seconds: float) -> None:
    """Write the table into a page, between its two comments."""
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    how = f"Each fault lasted {seconds:g} seconds; {_CLUSTERS} clusters wrote all the time."
    page.write_text(f"{before}{_BEGIN}\n{how}\n\n{table(rows)}\n{_END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; return 1 if an acknowledged sample is missing."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some of the scenarios, shorter")
    parser.add_argument("--page", type=Path, help="the page to write the table into")
    parser.add_argument("--seconds", type=float, help="how long each fault lasts")
    parser.add_argument("--only", default="", help="only scenarios with this in their names")
    given = parser.parse_args(arguments)
    stop_on_signals()
    seconds = given.seconds or 4.0
    rows = []
    for scenario in SCENARIOS:
        is_quick = scenario.is_quick or bool(given.only)
        if given.only not in scenario.name or (given.quick and not is_quick):
            continue
        print(f"{scenario.name} ...", file=sys.stderr, flush=True)
        try:
            rows.append(run(scenario, seconds))
        except StackError as error:
            print(f"{scenario.name}: {error}", file=sys.stderr)
            return 1
    print(table(rows))
    if given.page is not None:
        write_page(given.page, rows, seconds)
    missing = sum(row.missing for row in rows)
    if missing:
        print(f"{missing} acknowledged samples are missing", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
