"""What the embedded store costs: `python -m bench.store --series 1000000`.

Memory is how much larger the process has become, in a process of its own; time is its processor
time. Series look like those of
a cluster: eight to a metric name, seven labels, 1,000 series in a cluster.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import parse_selector
from telemeter.store import records
from telemeter.store.federation import Encoding, Federation, Messages, Text
from telemeter.store.store import Store

SERIES_OF_CLUSTER: Final = 1000
_SERIES_OF_NAME: Final = 8
_NOW_MS: Final = 1_700_000_000_000
_WAYS: Final = ("upload", "write")
_FORMATS: Final[dict[str, Any]] = {"text": Text, "protobuf": Messages}


@dataclass(frozen=True, slots=True)
class Federated:
    """What it costs to show all series.

    Attributes:
        encoding: the format.
        seconds: how long it takes, with a reader that is never slow.
        size: of the answer, in bytes.
        extra_bytes: the most memory that it takes besides, with none of the answer kept.
        longest_seconds: the longest that one piece takes.
    """

    encoding: str
    seconds: float
    size: int
    extra_bytes: int
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class StoreCost:
    """What a store of so many series costs.

    Attributes:
        way: how they came: `upload`, or `write` for remote write.
        series: how many there are.
        clusters: of how many clusters.
        label_bytes: the names and values of a series' labels, on average.
        bytes_beyond_labels: what a series takes in memory beside those.
        reported_bytes: what `telemeter_store_bytes` says of a series.
        insert_seconds: how long it takes to put in a series.
        update_seconds: how long it takes to bring a series up to date.
        federated: by format.
        compiled: whether the compiled module is used.
    """

    way: str
    series: int
    clusters: int
    label_bytes: float
    bytes_beyond_labels: float
    reported_bytes: float
    insert_seconds: float
    update_seconds: float
    federated: tuple[Federated, ...]
    compiled: bool


def measure(series: int, way: str) -> StoreCost:
    """Measure in a process of its own.

    Args:
        series: how many; a multiple of `SERIES_OF_CLUSTER`.
        way: `upload` or `write`.
    """
    argv = [sys.executable, "-m", "bench.store", "--here", "--series", str(series), "--way", way]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    federated = tuple(Federated(**each) for each in found.pop("federated"))
    return StoreCost(**found, federated=federated)


def _measure_here(series: int, way: str) -> StoreCost:
    clock = Clock()
    clock.advance(_NOW_MS / 1000)
    store = Store(clock, 600, series)
    clusters = series // SERIES_OF_CLUSTER
    payload, label_bytes = _payload("cluster-00000")
    _fill(Store(clock, 600, series), clock, way, payload, 1)  # what is made once
    before = _resident()
    insert = _fill(store, clock, way, payload, clusters)
    grown = _resident() - before
    update = _fill(store, clock, way, payload, clusters)
    return StoreCost(
        way,
        store.series,
        clusters,
        label_bytes,
        grown / series - label_bytes,
        store.size / series,
        insert / series,
        update / series,
        tuple(_federate(store, name) for name in _FORMATS),
        records.__file__.endswith(".so"),
    )


def _payload(cluster: str) -> tuple[bytes, float]:
    request = remote_pb2.WriteRequest()
    label_bytes = 0
    for number in range(SERIES_OF_CLUSTER):
        labels = {
            "__name__": f"container_network_receive_bytes_{number // _SERIES_OF_NAME:04}_total",
            "_id": cluster,
            "instance": "10.128.0.17:9100",
            "job": "node-exporter",
            "namespace": "openshift-monitoring",
            "pod": f"node-exporter-{number % _SERIES_OF_NAME:05}",
            "service": "node-exporter",
        }
        label_bytes += sum(len(name) + len(value) for name, value in labels.items())
        series = request.timeseries.add()
        for name, value in labels.items():
            series.labels.add(name=name, value=value)
        series.samples.add(value=number * 1.5, timestamp=_NOW_MS)
    return request.SerializeToString(), label_bytes / SERIES_OF_CLUSTER


def _fill(store: Store, clock: Clock, way: str, payload: bytes, clusters: int) -> float:
    """Put series into a store; returns the seconds that it takes."""
    took = 0.0
    for number in range(clusters):
        cluster = f"cluster-{number:05}"
        own = payload.replace(b"cluster-00000", cluster.encode())
        began = time.process_time()
        if way == "upload":
            _settle(store.forward(cluster, own, SERIES_OF_CLUSTER), clock)
        else:
            _settle(store.send(cluster, own), clock)
        took += time.process_time() - began
    return took


def _settle(coroutine: Coroutine[Deferred[Any], Any, Any], clock: Clock) -> None:
    done = Deferred.fromCoroutine(coroutine)
    while not done.called:
        clock.advance(0)
    done.addErrback(lambda failure: failure.raiseException())


def _federate(store: Store, name: str) -> Federated:
    encoding: Encoding = _FORMATS[name]()
    selector = parse_selector('{__name__=~".+"}')
    _reset_peak()
    before = _resident()
    size = 0
    longest = 0.0
    last = began = time.process_time()
    for piece in Federation(store, [selector], encoding).pieces():
        size += len(piece)
        now = time.process_time()
        longest = max(longest, now - last)
        last = now
    return Federated(name, time.process_time() - began, size, max(0, _peak() - before), longest)


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    """Return a field of this process' status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def main() -> None:
    """Measure, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--way", choices=_WAYS)
    parser.add_argument("--here", action="store_true", help="in this process, as JSON")
    given = parser.parse_args()
    if given.here:
        print(json.dumps(asdict(_measure_here(given.series, given.way))))
        return
    for way in [given.way] if given.way else _WAYS:
        cost = measure(given.series, way)
        print(
            f"{way}: {cost.series} series of {cost.clusters} clusters: {cost.label_bytes:.0f} "
            f"bytes of labels, {cost.bytes_beyond_labels:.0f} beyond them "
            f"({cost.reported_bytes:.0f} reported in all); "
            f"insert {cost.insert_seconds * 1e6:.1f} us, update "
            f"{cost.update_seconds * 1e6:.1f} us a series; compiled: {cost.compiled}"
        )
        for each in cost.federated:
            print(
                f"  {each.encoding}: {each.seconds:.2f} s, {each.size / 1e6:.0f} MB, extra memory "
                f"{each.extra_bytes / 1e6:.1f} MB, longest piece "
                f"{each.longest_seconds * 1e3:.1f} ms"
            )


if __name__ == "__main__":
    main()
