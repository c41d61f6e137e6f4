"""The agent leaves no gap: `python -m chaos.gaps`, a part of `make chaos`.

A real Prometheus watches a real node_exporter. An agent with a spool collects from it through a
recorder, which remembers every answer, and delivers to our server, and so to a real store. The way
or the server fails for thirty cycles, and the agent is killed again and again. In the end the store
is asked for every sample of every collection: all must be there, each once, and nothing else.

A collection that the agent had when it was killed may not have been kept yet: of those, one for
each kill may be missing. Prints a table; with `--page` it is written into a page, between its two
comments.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from chaos.proxy import NO_FAULT, Fault, Proxy
from demo.__main__ import stop_on_signals
from demo.programs import start_agent, start_prometheus, start_server
from demo.stack import HOST, Program, Ready, Stack, StackError, fetch
from telemeter.samples.compression import compress_block
from telemeter.samples.family import (
    PROTOBUF_CONTENT_TYPE,
    VALUE_FIELD,
    decode_families,
    encode_families,
)
from telemeter.samples.proto import remote_pb2

CYCLES: Final = 30
_CLUSTER: Final = "cluster-1"
_SELECTOR: Final = '{job="node"}'
_BEGIN, _END = "<!-- gaps -->", "<!-- /gaps -->"
_HEADINGS: Final = (
    *("what goes wrong", "store", "collections", "kills of the agent", "samples", "found"),
    *("missing", "invented", "caught up within"),
)

Labels: TypeAlias = frozenset[tuple[str, str]]
#: Labels, milliseconds since the epoch, and the value.
Sample: TypeAlias = tuple[Labels, int, str]


def _text(value: float) -> str:
    """Return a value with as many digits as every store keeps; VictoriaMetrics rounds the last."""
    return f"{value:.12g}"


@dataclass
class Collection:
    """An answer that the agent got.

    Attributes:
        at: when, on the clock of elapsed time.
        samples: what was in it.
    """

    at: float
    samples: set[Sample]


class Recorder:
    """What stands between the agent and its Prometheus, and remembers all answers.

    Attributes:
        port: where it listens.
        age_ms: by how many milliseconds samples are made older.
    """

    def __init__(self, url: str) -> None:
        self.age_ms = 0
        self._url = url
        self._answers: list[tuple[float, bytes]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = recorder.ask(self.path)
                self.send_response(200)
                self.send_header("Content-Type", PROTOBUF_CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                at = time.monotonic()
                self.wfile.write(body)
                recorder.note(at, body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ask(self, path: str) -> bytes:
        """Return what the Prometheus answers, made older."""
        answer = fetch(f"{self._url}{path}", headers={"Accept": PROTOBUF_CONTENT_TYPE})
        families = decode_families(answer.body)
        for family in families:
            for metric in family.metric:
                metric.timestamp_ms -= self.age_ms
        return encode_families(families)

    def note(self, at: float, body: bytes) -> None:
        """Remember an answer."""
        self._answers.append((at, body))

    @property
    def count(self) -> int:
        """How many answers there were with anything in them."""
        return sum(bool(body) for _, body in self._answers)

    def collections(self) -> list[Collection]:
        """Return all answers that were not empty."""
        return [Collection(at, _samples(body)) for at, body in self._answers if body]


def _samples(body: bytes) -> set[Sample]:
    found = set()
    for family in decode_families(body):
        for metric in family.metric:
            labels = {pair.name: pair.value for pair in metric.label}
            value = getattr(metric, VALUE_FIELD[family.type]).value
            series = frozenset({**labels, "__name__": family.name, "_id": _CLUSTER}.items())
            found.add((series, metric.timestamp_ms, _text(value)))
    return found


# --- Stores ---------------------------------------------------------------------------------------


class _Store:
    """A program that takes remote writes.

    Attributes:
        write_url: where.
    """

    write_url: str

    def samples(self) -> list[Sample]:
        """Return all that it has of the cluster."""
        raise NotImplementedError


class PrometheusStore(_Store):
    """A Prometheus, which takes samples out of order only within a window."""

    def __init__(self, stack: Stack, window: str = "") -> None:
        storage = f"storage: {{tsdb: {{out_of_order_time_window: {window}}}}}" if window else ""
        receiver = "--web.enable-remote-write-receiver"
        program = start_prometheus(stack, "store", f"{storage}\n", receiver)
        self._url = program.url
        self.write_url = f"{program.url}/api/v1/write"

    def samples(self) -> list[Sample]:
        query = urllib.parse.urlencode({"query": f'{{_id="{_CLUSTER}"}}[6h]'})
        result = json.loads(fetch(f"{self._url}/api/v1/query?{query}", seconds=30).body)
        return [
            (frozenset(series["metric"].items()), round(at * 1000), _text(float(value)))
            for series in result["data"]["result"]
            for at, value in series["values"]
        ]


class VictoriaStore(_Store):
    """A VictoriaMetrics, which takes samples in any order."""

    def __init__(self, stack: Stack) -> None:
        port = stack.free_port()
        self._url = f"http://{HOST}:{port}"
        self.write_url = f"{self._url}/api/v1/write"
        command = [
            "victoria-metrics",
            f"-httpListenAddr={HOST}:{port}",
            f"-storageDataPath={stack.folder}/victoria",
            "-retentionPeriod=2d",
            "-search.latencyOffset=0",
            "-dedup.minScrapeInterval=1ms",  # what was sent twice
        ]
        stack.start("victoria-metrics", command, self._url, Ready("/health"))

    def samples(self) -> list[Sample]:
        fetch(f"{self._url}/internal/force_flush")
        query = urllib.parse.urlencode({"match[]": f'{{_id="{_CLUSTER}"}}', "reduce_mem_usage": 0})
        answer = fetch(f"{self._url}/api/v1/export?{query}", seconds=30)
        return [
            (frozenset(series["metric"].items()), at, _text(float("nan" if v is None else v)))
            for series in map(json.loads, answer.text.splitlines())
            for at, v in zip(series["timestamps"], series["values"], strict=True)
        ]


class Neighbour:
    """Another cluster, whose samples of the present arrive in the store all the time."""

    def __init__(self, write_url: str) -> None:
        self._url = write_url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _write(self) -> None:
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
        while not self._is_over.wait(0.5):
            request = remote_pb2.WriteRequest()
            series = request.timeseries.add()
            series.labels.add(name="__name__", value="live")
            series.labels.add(name="_id", value="neighbour")
            series.samples.add(value=1.0, timestamp=int(time.time() * 1000))
            body = compress_block(request.SerializeToString())
            fetch(self._url, method="POST", body=body, headers=headers)


# --- Scenarios ------------------------------------------------------------------------------------


@dataclass
class World:
    """What a scenario can do something to.

    Attributes:
        stack: starts programs again.
        server: our server.
        agent: the agent.
        way: the way from the agent to the server.
        recorder: the way from the agent to its Prometheus.
        kills: when the agent was killed.
        over: when the fault was over.
    """

    stack: Stack
    server: Program
    agent: Program
    way: Proxy
    recorder: Recorder
    random: random.Random = field(default_factory=lambda: random.Random(7))
    kills: list[float] = field(default_factory=list)
    over: float = 0.0

    def wait_for(self, collections: int) -> None:
        """Wait until the agent has collected so many times more."""
        wanted = self.recorder.count + collections
        self.stack.wait(lambda: self.recorder.count >= wanted, f"{collections} cycles", self.agent)

    def kill_agent(self) -> None:
        """Kill the agent at some instant, and start it again."""
        time.sleep(self.random.uniform(0, 0.5))
        self.agent.stopped = True
        self.agent.signal(signal.SIGKILL)
        self.agent.popen.wait(20)
        self.kills.append(time.monotonic())
        self.stack.start_again(self.agent)
        self.agent.stopped = False

    def cycles_with_kills(self) -> None:
        """Let thirty cycles pass, in which the agent is killed five times."""
        for _ in range(5):
            self.wait_for(CYCLES // 5)
            self.kill_agent()

    def end(self) -> None:
        """Take note that the fault is over.

        What is left of the wait after the last failure, some minutes in the worst case, is not
        spent here: a reload ends it.
        """
        self.over = time.monotonic()
        self.recorder.age_ms = 0
        self.agent.signal(signal.SIGHUP)

    def waiting(self) -> int:
        """Return how many collections wait on disk; -1: the agent does not say."""
        try:
            page = fetch(f"{self.agent.url}/metrics").text
        except OSError:
            return -1
        for line in page.splitlines():
            if line.startswith("federate_spool_entries "):
                return int(float(line.split()[1]))
        return -1


@dataclass(frozen=True)
class Scenario:
    """A fault.

    Attributes:
        name: in the table.
        act: does it, and ends it.
        store: starts what takes the samples in the end.
        store_name: in the table.
        flags: further flags of the agent.
        age_ms: how old samples are made that are collected while it lasts.
        is_refused: whether the store refuses those.
    """

    name: str
    act: Callable[[World], None]
    store: Callable[[Stack], _Store] = PrometheusStore
    store_name: str = "Prometheus"
    flags: Sequence[str] = ()
    age_ms: int = 0
    is_refused: bool = False


def _server_away(world: World) -> None:
    world.server.stopped = True
    world.server.signal(signal.SIGKILL)
    world.server.popen.wait(20)
    world.cycles_with_kills()
    world.stack.start_again(world.server)
    world.server.stopped = False
    world.end()
    world.wait_for(2)
    world.kill_agent()


def _bad_way(world: World) -> None:
    faults = (
        Fault(bytes_per_second=20_000),
        Fault(is_closed=True),
        Fault(reset_after=60),
        Fault(latency=0.2),
        Fault(is_hole=True),
    )
    for fault in faults:
        world.way.fault = fault
        world.wait_for(CYCLES // len(faults))
        world.kill_agent()
    world.way.fault = NO_FAULT
    world.end()


def _answers_lost(world: World) -> None:
    world.way.fault = Fault(loses_answers=True)
    world.cycles_with_kills()
    world.way.fault = NO_FAULT
    world.end()


_TWO_HOURS_MS: Final = 2 * 3600 * 1000

SCENARIOS: Final = (
    Scenario("the server is away for 30 cycles", _server_away),
    Scenario(
        "the same, and what is collected meanwhile is two hours old",
        _server_away,
        lambda stack: PrometheusStore(stack, "3h"),
        "Prometheus, out_of_order_time_window 3h",
        age_ms=_TWO_HOURS_MS,
    ),
    Scenario(
        "the same, to a store that does not take what is so old",
        _server_away,
        age_ms=_TWO_HOURS_MS,
        is_refused=True,
    ),
    Scenario(
        "the server is away for 30 cycles, newest first",
        _server_away,
        VictoriaStore,
        "VictoriaMetrics",
        ("--spool-order", "newest-first"),
    ),
    Scenario("the way is throttled, closed, reset, late, a black hole", _bad_way),
    Scenario("answers are lost after the server has forwarded", _answers_lost),
)


@dataclass(frozen=True)
class Row:
    """What became of a scenario.

    Attributes:
        scenario: it.
        collections: how many there were.
        kills: how often the agent was killed.
        samples: how many different samples the store must have.
        missing: how many of them it has not.
        invented: how many it has that were never collected, or has twice.
        seconds: how long it took until nothing waited any more, once the fault was over.
    """

    scenario: Scenario
    collections: int
    kills: int
    samples: int
    missing: int
    invented: int
    seconds: float

    def cells(self) -> list[str]:
        """Return it as a row of the table."""
        return [
            *(self.scenario.name, self.scenario.store_name, str(self.collections), str(self.kills)),
            *(f"{self.samples:,}", f"{self.samples - self.missing:,}", str(self.missing)),
            *(str(self.invented), f"{self.seconds:.0f} s"),
        ]


def run(scenario: Scenario) -> Row:
    """Run one scenario.

    Raises:
        StackError: a program did not do what it should.
    """
    with Stack("telemeter-gaps-") as stack:
        store = scenario.store(stack)
        server = start_server(stack, "server", "--forward-url", store.write_url)
        source = _start_source(stack)
        with (
            Recorder(source.url) as recorder,
            Proxy(HOST, int(server.url.rpartition(":")[2])) as way,
            Neighbour(store.write_url),
        ):
            recorder.age_ms = scenario.age_ms
            agent = start_agent(
                stack,
                "agent",
                *("--from", f"http://{HOST}:{recorder.port}", "--match", _SELECTOR),
                *("--to", f"http://{HOST}:{way.port}", "--id", _CLUSTER, "--to-token", "secret"),
                *("--interval", "500ms", "--limit-bytes", "50000000"),
                *("--spool-dir", f"{stack.folder}/spool", "--spool-rate", "20", *scenario.flags),
            )
            world = World(stack, server.program, agent, way, recorder)
            world.wait_for(3)
            scenario.act(world)
            stack.wait(lambda: world.waiting() == 0, "the backlog to be delivered", agent, 120)
            seconds = time.monotonic() - world.over
            world.wait_for(2)
            stack.wait(lambda: world.waiting() == 0, "the last to be delivered", agent)
            agent.stop()
            return _compared(scenario, world, store, seconds)


def _start_source(stack: Stack) -> Program:
    port = stack.free_port()
    url = f"http://{HOST}:{port}"
    exporter = ["prometheus-node-exporter", f"--web.listen-address={HOST}:{port}"]
    stack.start("node-exporter", exporter, url, Ready("/metrics"))
    jobs = f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{HOST}:{port}']}}]}}]"
    source = start_prometheus(stack, "source", f"global: {{scrape_interval: 1s}}\n{jobs}\n")
    query = urllib.parse.urlencode({"match[]": _SELECTOR})
    stack.wait(lambda: fetch(f"{source.url}/federate?{query}").body, "samples", source)
    return source


def _compared(scenario: Scenario, world: World, store: _Store, seconds: float) -> Row:
    collections = world.recorder.collections()
    collected = set().union(*(each.samples for each in collections))
    # The last before a kill was perhaps not kept yet.
    doubtful = {
        id(max((each for each in collections if each.at <= kill), key=lambda each: each.at))
        for kill in world.kills
    }
    certain = [each.samples for each in collections if id(each) not in doubtful]
    expected: set[Sample] = set().union(*certain)
    if scenario.is_refused:
        newest = max(at for _, at, _ in expected)
        expected = {sample for sample in expected if sample[1] > newest - _TWO_HOURS_MS // 2}
    there: list[Sample] = []
    deadline = time.monotonic() + 15  # a store may need a moment until it shows everything
    while time.monotonic() < deadline:
        there = store.samples()
        if expected <= set(there):
            break
        time.sleep(0.5)
    found = set(there)
    invented = len(found - collected) + len(there) - len(found)
    return Row(
        scenario,
        len(collections),
        len(world.kills),
        len(expected),
        len(expected - found),
        invented,
        seconds,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of a page."""
    cells: list[list[Any]] = [list(_HEADINGS), ["---"] * len(_HEADINGS)]
    cells += [row.cells() for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Write the table into a page, between its two comments."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table(rows)}\n{_END}{after}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; return 1 if a sample is missing, or there is one too many."""
    parser = argparse.ArgumentParser(prog="chaos.gaps", description=__doc__)
    parser.add_argument("--page", type=Path, help="the page to write the table into")
    parser.add_argument("--only", default="", help="only scenarios with this in their names")
    given = parser.parse_args(arguments)
    stop_on_signals()
    rows = []
    for scenario in SCENARIOS:
        if given.only not in scenario.name:
            continue
        print(f"{scenario.name} ...", file=sys.stderr, flush=True)
        try:
            rows.append(run(scenario))
        except StackError as error:
            print(f"{scenario.name}: {error}", file=sys.stderr)
            return 1
    print(table(rows))
    if given.page is not None:
        write_page(given.page, rows)
    wrong = sum(row.missing + row.invented for row in rows)
    if wrong:
        print(f"{wrong} samples are missing or too many", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
