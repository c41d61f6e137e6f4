"""The long run: `python -m chaos.soak`, a part of `make chaos`.

A server gets remote writes of 226 series for minutes or hours, at half of what it and this machine
can do, and forwards them to a real VictoriaMetrics. Memory and descriptors must not grow, and
answers not become slower. Prints a table; with `--page` it is written into a page, between its two
comments.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from chaos.senders import METRIC, composite
from chaos.trend import Trend, fit, percentile
from chaos.upstreams import VictoriaMetrics
from demo.__main__ import stop_on_signals
from demo.programs import start_server
from demo.stack import HOST, Program, Stack, StackError
from telemeter.samples.compression import compress_block
from telemeter.samples.proto import remote_pb2

_CONNECTIONS: Final = 16
_SERIES: Final = 226
_BEGIN, _END = "<!-- soak -->", "<!-- /soak -->"
#: For how long the capacity is measured, in seconds.
_CAPACITY_SECONDS: Final = 5.0
#: The share of the run in which memory may still grow: buffers, caches and tables fill.
_WARM_UP: Final = 0.3
_PARTS: Final = 5
#: By how many MB memory may surely grow after that, for all of the rest.
_MOST_GROWTH_MB: Final = 4.0
_MOST_DESCRIPTORS: Final = 4
#: How much slower the last part may be than the first, and what is no matter, in seconds.
_MOST_SLOWER: Final = 3.0
_FAST_ENOUGH: Final = 0.05


def _request(cluster: str) -> bytes:
    request = remote_pb2.WriteRequest()
    for number in range(_SERIES):
        series = request.timeseries.add()
        for name, value in (
            *(("__name__", METRIC), ("_id", cluster), ("instance", "10.0.12.7:9100")),
            *(("job", "node-exporter"), ("number", str(number))),
        ):
            series.labels.add(name=name, value=value)
        series.samples.add(value=number + 0.5, timestamp=int(time.time() * 1000))
    return compress_block(request.SerializeToString())


class Load:
    """Clusters that write at a rate, each one request after the other.

    Attributes:
        waits: when each request was made, on the clock of elapsed time, and how long it took.
        failures: how many were answered with something else than 2xx, or not at all.
    """

    def __init__(self, port: int, rate: float = 0.0) -> None:
        """Make it.

        Args:
            port: of the server.
            rate: requests a second, of all together; 0: as many as possible.
        """
        self.waits: list[tuple[float, float]] = []
        self.failures = 0
        self._port = port
        self._pause = _CONNECTIONS / rate if rate else 0.0
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number,)) for number in range(_CONNECTIONS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        cluster = f"c{number}"
        body = _request(cluster)
        headers = {
            "Authorization": f"Bearer {composite(cluster)}",
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
        }
        connection = http.client.HTTPConnection(HOST, self._port, timeout=30)
        due = time.monotonic() + self._pause * number / _CONNECTIONS
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            status = 0
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/metrics/v1/receive", body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            self.waits.append((began, time.monotonic() - began))
            if not 200 <= status < 300:
                self.failures += 1
                connection.close()
            due = max(due + self._pause, began)
        connection.close()


@dataclass
class Soak:
    """What was seen.

    Attributes:
        seconds: how long it ran.
        rate: requests a second.
        requests: how many were made.
        failures: how many were not answered with 2xx.
        memory: seconds since the beginning and MB, after the warm-up.
        descriptors: the same for descriptors.
        p99: of each part of the run, in seconds.
    """

    seconds: float
    rate: float
    requests: int = 0
    failures: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)
    descriptors: list[tuple[float, float]] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    @property
    def growth(self) -> Trend:
        """MB a second."""
        return fit(self.memory)

    def faults(self) -> list[str]:
        """Return what is not as it should be."""
        found = []
        if self.failures:
            found.append(f"{self.failures} requests were not answered with 2xx")
        rest = self.seconds * (1 - _WARM_UP)
        if self.growth.surely_above(_MOST_GROWTH_MB / rest):
            found.append(f"memory grows by {self.growth.slope * 3600:.0f} MB an hour")
        first, last = self.descriptors[0][1], self.descriptors[-1][1]
        if last > first + _MOST_DESCRIPTORS:
            found.append(f"descriptors grew from {first:.0f} to {last:.0f}")
        if self.p99[-1] > max(_FAST_ENOUGH, _MOST_SLOWER * self.p99[0]):
            found.append(f"p99 went from {self.p99[0]:.3f} to {self.p99[-1]:.3f} s")
        return found

    def table(self) -> str:
        """Return it as a table of a page."""
        growth, descriptors = self.growth, fit(self.descriptors)
        p99 = ", ".join(f"{each * 1000:.0f}" for each in self.p99)
        return "\n".join(
            [
                "| what | seen |",
                "| --- | --- |",
                f"| length, rate | {self.seconds:.0f} s, {self.rate:.0f} requests a second |",
                f"| requests, not answered with 2xx | {self.requests:,}, {self.failures} |",
                f"| memory at the end | {self.memory[-1][1]:.1f} MB |",
                f"| memory, slope | {growth.slope * 3600:+.1f} ± {growth.error * 3600:.1f} "
                "MB an hour |",
                f"| descriptors at the end | {self.descriptors[-1][1]:.0f} |",
                f"| descriptors, slope | {descriptors.slope * 3600:+.1f} ± "
                f"{descriptors.error * 3600:.1f} an hour |",
                f"| p99 of each fifth | {p99} ms |",
            ]
        )


def run(seconds: float) -> Soak:
    """Let a server run under load.

    Raises:
        StackError: a program did not do what it should.
    """
    with Stack("telemeter-soak-") as stack:
        upstream_port = stack.free_port()
        upstream = VictoriaMetrics(stack, upstream_port)
        url = f"http://{HOST}:{upstream_port}{upstream.write_path}"
        server = start_server(stack, "server", "--forward-url", url)
        port = int(server.url.rpartition(":")[2])
        with Load(port) as load:
            time.sleep(_CAPACITY_SECONDS)
        soak = Soak(seconds, len(load.waits) / _CAPACITY_SECONDS / 2)
        began = time.monotonic()
        with Load(port, soak.rate) as load:
            while (since := time.monotonic() - began) < seconds:
                if since > seconds * _WARM_UP:
                    _look(server.program, since, soak)
                time.sleep(1)
        soak.requests, soak.failures = len(load.waits), load.failures
        for part in range(_PARTS):
            low, high = (began + seconds * each / _PARTS for each in (part, part + 1))
            soak.p99.append(percentile([took for at, took in load.waits if low <= at < high], 0.99))
        return soak


def _look(program: Program, since: float, soak: Soak) -> None:
    """Take down what a process has."""
    folder = Path("/proc", str(program.popen.pid))
    status = (folder / "status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    soak.memory.append((since, int(resident) / 1024))
    soak.descriptors.append((since, float(len(list((folder / "fd").iterdir())))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return 1 if something grew or failed."""
    parser = argparse.ArgumentParser(prog="chaos.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long")
    parser.add_argument("--page", type=Path, help="the page to write the table into")
    given = parser.parse_args(arguments)
    stop_on_signals()
    print(f"a long run of {given.seconds:g} s ...", file=sys.stderr, flush=True)
    try:
        soak = run(given.seconds)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    print(soak.table())
    if given.page is not None:
        before, _, rest = given.page.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        given.page.write_text(f"{before}{_BEGIN}\n{soak.table()}\n{_END}{after}")
    for fault in soak.faults():
        print(fault, file=sys.stderr)
    return 1 if soak.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
