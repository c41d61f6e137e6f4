"""What a cycle of the agent costs, by the compiled transforms and by the straightforward ones.

Run it as `python -m bench.agent`. A local server stands for Prometheus and for telemeter-server, in
a process of its own, so that only the agent's processor time is counted. Both ways take turns in
one process; their memory is measured in a fresh process each.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from telemeter.agent.authorize import TokenExchange
from telemeter.agent.collect import FederationSource
from telemeter.agent.cycle import Agent, CyclePlan
from telemeter.agent.upload import Destination
from telemeter.convert.collect import Transforms
from telemeter.convert.engine import CollectConverter
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, milliseconds
from telemeter.net.client import make_agent
from telemeter.net.treq_agent import TreqAgent
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, Family, encode_families
from telemeter.samples.proto.metrics_pb2 import UNTYPED

_LABELS = {"_id": "7b1e7e9c-1c1f-4bd5-9a3c-0f0e7c1a2b3d"}
_PER_FAMILY = 20
_LIMIT = 1 << 30
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Cost:
    """What one way of transforming costs.

    Attributes:
        transform_ms: processor milliseconds of the transforms alone, the median.
        cycle_ms: those of a whole cycle: collect, transform, compress, upload.
        peak_bytes: by how much the resident memory grows in the first cycle.
    """

    transform_ms: float
    cycle_ms: float
    peak_bytes: int


@dataclass(frozen=True)
class Comparison:
    """Both ways on the same response.

    Attributes:
        series: how many series the response has.
        response_bytes: how long it is.
        anonymizing: whether the values of a label are replaced by hashes.
        reference: the straightforward way.
        compiled: the compiled one.
    """

    series: int
    response_bytes: int
    anonymizing: bool
    reference: Cost
    compiled: Cost


def measure(
    series: int = 5000, rounds: int = 15, *, anonymizing: bool = False, peaks: bool = True
) -> Comparison:
    """Compare both ways.

    Args:
        series: how many series the source answers with.
        rounds: how many cycles of each way are measured, after one that is not.
        anonymizing: whether the values of a label are replaced by hashes.
        peaks: whether memory is measured too; otherwise it is 0.
    """
    with _serving(series) as (url, size):
        both = _ask_worker("times", url, rounds, anonymizing)
        costs = {
            way: Cost(
                median(both[way]["transform"]),
                median(both[way]["cycle"]),
                _ask_worker(way, url, 1, anonymizing)["peak"] if peaks else 0,
            )
            for way in _WAYS
        }
    return Comparison(series, size, anonymizing, costs["reference"], costs["compiled"])


def make_response(series: int, now_ms: int) -> bytes:
    """Return what a Prometheus of OpenShift answers, at about 345 bytes a series."""
    numbers = random.Random(series)
    families = []
    for start in range(0, series, _PER_FAMILY):
        family = Family(name=f"openshift_some_metric_{start}", type=UNTYPED)
        for at in range(start, min(start + _PER_FAMILY, series)):
            metric = family.metric.add(timestamp_ms=now_ms - numbers.randrange(30_000))
            metric.untyped.value = numbers.random()
            for name, value in _labels_of(at, numbers):
                metric.label.add(name=name, value=value)
        families.append(family)
    return encode_families(families)


def _labels_of(at: int, numbers: random.Random) -> list[tuple[str, str]]:
    return [
        ("container", "kube-rbac-proxy-main"),
        ("endpoint", "https-metrics"),
        ("instance", f"10.0.{at % 20}.{at % 1000}:9391"),
        ("job", "kube-state-metrics"),
        ("namespace", "openshift-monitoring"),
        ("node", f"ip-10-0-{at % 20}-{at % 100}.ec2.internal"),
        ("pod", f"kube-state-metrics-{numbers.randrange(1 << 32):08x}-abcde"),
        ("prometheus", "openshift-monitoring/k8s"),
        ("service", "kube-state-metrics"),
        ("uid", f"{numbers.randrange(1 << 60):015x}"),
    ]


# --- The other side -------------------------------------------------------------------------------


@contextmanager
def _serving(series: int) -> Iterator[tuple[str, int]]:
    """Have the server run; its URL, and the size of what it answers."""
    process = _start("serve", str(series))
    try:
        assert process.stdout is not None
        port, size = map(int, process.stdout.readline().split())
        yield f"http://127.0.0.1:{port}", size
    finally:
        process.terminate()
        process.communicate()


def _serve(series: int) -> None:
    response = make_response(series, milliseconds(SYSTEM_WALL_CLOCK.now()))
    token = json.dumps({"token": "a", "expiresInSeconds": 86400, "labels": _LABELS}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(response, PROTOBUF_CONTENT_TYPE)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(token if self.path == "/authorize" else b"", "application/json")

        def _answer(self, body: bytes, content_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, len(response), flush=True)
    server.serve_forever()


# --- The agent ------------------------------------------------------------------------------------


_WAYS = ("reference", "compiled")


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.agent", "--part", *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask_worker(what: str, url: str, rounds: int, anonymizing: bool) -> Any:
    process = _start("work", what, url, str(rounds), "1" if anonymizing else "")
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the agent's measurement ended with status {process.returncode}")
    return json.loads(output)


def _work(what: str, url: str, rounds: int, anonymizing: bool) -> None:
    async def run(reactor: Any) -> None:
        plans = {way: _make_plan(reactor, url, way, anonymizing) for way in _WAYS}
        if what == "times":
            print(json.dumps(await _times(reactor, plans, rounds)))
        else:
            before = _reset_peak()
            await Agent(plans[what], reactor, SYSTEM_WALL_CLOCK).cycle(plans[what])
            print(json.dumps({"peak": _memory("VmHWM") - before}))

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


def _make_plan(reactor: Any, url: str, way: str, anonymizing: bool) -> CyclePlan:
    transforms = Transforms(
        {}, {"ALERTS": "alerts"}, frozenset(["instance"] if anonymizing else []), b"salt"
    )
    source = TreqAgent(make_agent(reactor, "federate_from", "bench"))
    to = TreqAgent(make_agent(reactor, "federate_to", "bench"))
    return CyclePlan(
        FederationSource(
            source, reactor, f"{url}/federate", token="", limit=_LIMIT, timeout=_TIMEOUT
        ),
        CollectConverter(transforms, use_compiled=way == "compiled"),
        TokenExchange(to, reactor, SYSTEM_WALL_CLOCK, f"{url}/authorize", "a"),
        Destination(to, reactor, SYSTEM_WALL_CLOCK, f"{url}/upload", _TIMEOUT),
        _TIMEOUT,
    )


async def _times(
    reactor: Any, plans: dict[str, CyclePlan], rounds: int
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {
        way: {"cycle": [], "transform": []} for way in plans
    }
    body, decode = await plans["reference"].source.collect()
    for at in range(rounds + 1):
        for way, plan in plans.items():
            began = time.process_time()
            await Agent(plan, reactor, SYSTEM_WALL_CLOCK).cycle(plan)
            cycle = time.process_time() - began
            began = time.process_time()
            plan.transformer.convert(body, decode, milliseconds(SYSTEM_WALL_CLOCK.now())).labelled(
                _LABELS
            )
            transform = time.process_time() - began
            if at:
                found[way]["cycle"].append(cycle * 1000)
                found[way]["transform"].append(transform * 1000)
    return found


def _reset_peak() -> int:
    """Forget the greatest resident memory so far; return the present one, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status says nothing of {name}")


# --- The table ------------------------------------------------------------------------------------


def render(comparisons: Sequence[Comparison]) -> str:
    """Return a table of them, in Markdown."""
    lines = [
        "| series | anonymizing | processor time | reference ms | compiled ms | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    parts: list[tuple[str, Callable[[Cost], float]]] = [
        ("transforms", lambda cost: cost.transform_ms),
        ("whole cycle", lambda cost: cost.cycle_ms),
    ]
    for each in comparisons:
        start = f"| {each.series} | {'yes' if each.anonymizing else 'no'} |"
        for name, get in parts:
            slow, fast = get(each.reference), get(each.compiled)
            lines.append(f"{start} {name} | {slow:.1f} | {fast:.1f} | 1/{slow / fast:.1f} |")
    lines += [
        "",
        "| series | anonymizing | response MB | peak, reference | peak, compiled |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in comparisons:
        size = each.response_bytes
        peaks = [
            f"{cost.peak_bytes / 1e6:.1f} MB = {cost.peak_bytes / size:.1f} responses"
            for cost in (each.reference, each.compiled)
        ]
        anonymizing = "yes" if each.anonymizing else "no"
        lines.append(
            f"| {each.series} | {anonymizing} | {size / 1e6:.1f} | {peaks[0]} | {peaks[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table; or be a part of a measurement."""
    parser = argparse.ArgumentParser(prog="python -m bench.agent", description=__doc__)
    parser.add_argument("--series", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is None:
        print(
            render(
                [
                    measure(options.series, options.rounds, anonymizing=anonymizing)
                    for anonymizing in (False, True)
                ]
            )
        )
        return
    part, *rest = options.part
    if part == "serve":
        _serve(int(rest[0]))
    else:
        what, url, rounds, anonymizing = rest
        _work(what, url, int(rounds), bool(anonymizing))


if __name__ == "__main__":
    main()
