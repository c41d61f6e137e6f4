"""A target to scrape that changes with every scrape and remembers what it served to whom."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import accumulate
from typing import TYPE_CHECKING

from google.protobuf.proto import serialize_length_prefixed

from telemeter.samples.proto.metrics_pb2 import (
    Bucket,
    BucketSpan,
    Exemplar,
    Histogram,
    LabelPair,
    Metric,
    MetricFamily,
    MetricType,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# One scrape: the value of each series, as text.
Scrape = dict[frozenset[tuple[str, str]], str]

PROTOBUF = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)


@dataclass
class Exporter:
    """What it has served.

    Attributes:
        address: HOST:PORT to scrape.
        served: the scrapes in text so far, by the name in the User-Agent.
    """

    address: str = ""
    served: dict[str, list[Scrape]] = field(default_factory=lambda: defaultdict(list))


def _scrape(number: int) -> Scrape:
    """Return the content of a scrape; the number tells it from all others."""
    series: dict[str, list[tuple[Mapping[str, str], str]]] = {
        "fixture_scrapes_total": [({}, str(number))],
        "fixture_size_bucket": [
            ({"le": "0.5"}, str(number)),
            ({"le": "+Inf"}, str(3 * number)),
        ],
        "fixture_size_sum": [({}, str(number / 8))],
        "fixture_size_count": [({}, str(3 * number))],
        "fixture_value": [
            ({"case": "infinity"}, "+Inf"),
            ({"case": "negative infinity"}, "-Inf"),
            ({"case": "nan"}, "NaN"),
            ({"case": "smallest"}, "5e-324"),
            ({"case": "largest"}, "1.7976931348623157e+308"),
            ({"case": "many digits"}, f"{number}.123456789012"),
            ({"case": "alternating"}, str((-1) ** number)),
        ],
        "fixture_text": [
            ({"text": 'line\nend, quote" and \\'}, "1"),
            ({"text": "żółw 🐢"}, "2"),
            ({"text": "x" * 1000}, "3"),
            ({"text": "spaces  and\ttabs ", "pod": "a"}, "4"),
        ],
    }
    # A series that comes and goes.
    if number % 4:
        series["fixture_sometimes"] = [({}, str(number))]
    return {
        frozenset({"__name__": name, **labels}.items()): value
        for name, found in series.items()
        for labels, value in found
    }


def _as_text(scrape: Scrape) -> bytes:
    lines = []
    for labels, value in scrape.items():
        pairs = dict(labels)
        name = pairs.pop("__name__")
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in pairs.items())
        lines.append(f"{name}{{{shown}}} {value}\n" if shown else f"{name} {value}\n")
    return "".join(lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _as_protobuf(number: int) -> bytes:
    """Return a native histogram, and a classic one with an exemplar; both grow with the number."""
    deltas = [number, -number // 2, number // 4]
    native = Histogram(
        sample_count=2 * number + sum(accumulate(deltas)),  # as many as are in buckets
        sample_sum=0.1 * number,
        schema=2,
        zero_threshold=0.001,
        zero_count=number,
        positive_span=[BucketSpan(offset=-2, length=2), BucketSpan(offset=3, length=1)],
        positive_delta=deltas,
        negative_span=[BucketSpan(offset=0, length=1)],
        negative_delta=[number],
    )
    exemplar = Exemplar(
        label=[LabelPair(name="trace_id", value=f"trace-{number}")], value=0.25 + number
    )
    exemplar.timestamp.FromMilliseconds(int(time.time() * 1000))
    classic = Histogram(
        sample_count=number,
        sample_sum=0.2 * number,
        bucket=[
            Bucket(upper_bound=0.5, cumulative_count=number, exemplar=exemplar),
            Bucket(upper_bound=float("inf"), cumulative_count=number),
        ],
    )
    families = [
        MetricFamily(name=name, type=MetricType.HISTOGRAM, metric=[Metric(histogram=histogram)])
        for name, histogram in (("fixture_native", native), ("fixture_classic", classic))
    ]
    body = BytesIO()
    for family in families:
        serialize_length_prefixed(family, body)
    return body.getvalue()


@contextmanager
def running_exporter() -> Iterator[Exporter]:
    """Serve scrapes from threads of this process, in text at /metrics, else in protobuf."""
    exporter = Exporter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scraper = self.headers["User-Agent"].partition("/")[0]
            text = self.path == "/metrics"
            with lock:
                served = exporter.served[scraper if text else self.path]
                number = len(served) + 1
                served.append(_scrape(number) if text else {})
            body = _as_text(served[number - 1]) if text else _as_protobuf(number)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4" if text else PROTOBUF)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
                self._wait_until_it_is_taken()
            except OSError:
                with lock:  # it comes again: the scraper gave up, as it may on a busy machine
                    del served[number - 1 :]

        def _wait_until_it_is_taken(self) -> None:
            """Wait for the scraper to close; raises OSError if it had closed before."""
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(10)
            self.connection.recv(1)

        def log_message(self, *_: object) -> None:
            """Stay silent: what matters is asserted."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        exporter.address = f"127.0.0.1:{listener.server_port}"
        serving = threading.Thread(target=listener.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield exporter
        finally:
            listener.shutdown()
            serving.join()
