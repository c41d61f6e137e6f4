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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.proxy import Proxy
from chaos.scenarios import SCENARIOS, Scenario, World
from chaos.senders import Senders
from chaos.upstreams import UPSTREAMS, Upstream
from demo.__main__ import stop_on_signals
from demo.programs import start_server
from demo.stack import HOST, Program, Ready, Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLUSTERS = 16
_BEGIN, _END = "<!-- chaos -->", "<!-- /chaos -->"
_HEADINGS = (
    *("what goes wrong", "requests", "2xx", "503", "other", "no answer", "found", "missing"),
    *("longest wait", "peak memory", "peak descriptors"),
)


@dataclass
class Peak:
    """The most that a process has had, of memory in MB and of descriptors."""

    memory: float = 0.0
    descriptors: int = 0

    def look(self, program: Program) -> None:
        """Look at a process."""
        folder = Path("/proc", str(program.popen.pid))
        try:
            status = (folder / "status").read_text()
            descriptors = len(list((folder / "fd").iterdir()))
        except OSError:
            return  # between two processes
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        self.memory = max(self.memory, int(resident[0]) / 1024 if resident else 0.0)
        self.descriptors = max(self.descriptors, descriptors)


@dataclass(frozen=True)
class Row:
    """What became of a scenario."""

    name: str
    senders: Senders
    missing: int
    peak: Peak

    def cells(self) -> list[str]:
        """Return it as a row of the table."""
        statuses = self.senders.statuses
        good = sum(count for status, count in statuses.items() if 200 <= status < 300)
        other = sum(count for status, count in statuses.items() if status >= 300 and status != 503)
        found = len(self.senders.acknowledged) - self.missing
        return [
            *(self.name, str(self.senders.requests), str(good), str(statuses[503]), str(other)),
            *(str(statuses[0]), str(found), str(self.missing), f"{self.senders.longest:.1f} s"),
            *(f"{self.peak.memory:.0f} MB", str(self.peak.descriptors)),
        ]


def run(scenario: Scenario, seconds: float) -> Row:
    """Run one scenario.

    Raises:
        StackError: a program did not do what it should.
    """
    with Stack("telemeter-chaos-") as stack:
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
        with Proxy(HOST, upstream_port) as way, Proxy(HOST, cache_port) as cache:
            flags = (
                *("--forward-url", f"http://{HOST}:{way.port}{upstream.write_path}"),
                *("--memcached", f"{HOST}:{cache.port}"),
                *scenario.flags,
            )
            servers = [start_server(stack, f"server-{n}", *flags) for n in range(scenario.replicas)]
            server = servers[0].program
            ports = [int(each.url.rpartition(":")[2]) for each in servers]
            port = ports[0] if len(ports) == 1 else start_nginx(stack, ports)
            world = World(stack, server, port, way, cache, memcached, seconds)
            peak = Peak()
            is_over = threading.Event()

            def watch() -> None:
                while not is_over.wait(0.1):
                    peak.look(server)

            watching = threading.Thread(target=watch)
            watching.start()
            try:
                with Senders(port, _CLUSTERS) as senders:
                    time.sleep(seconds / 4)
                    scenario.act(world)
                    time.sleep(seconds / 4)
            finally:
                is_over.set()
                watching.join()
            missing = senders.acknowledged - found(upstream, senders)
        return Row(scenario.name, senders, len(missing), peak)


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
    seconds = given.seconds or (4.0 if given.quick else 20.0)
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
