"""What the record of the fleet costs: python -m bench.fleet --clusters 100000.

The record is filled in a process of its own, so that its memory is what the process has grown by.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Final

from telemeter.fleet.attempt import Attempt, Path
from telemeter.fleet.database import FleetDatabase
from telemeter.fleet.record import FleetRecord
from telemeter.fleet.render import row_value
from telemeter.fleet.totals import State
from telemeter.fleet.view import Query, View
from telemeter.loop.clocks import Elapsed, Moment, Wall
from telemeter.samples.proto import remote_pb2
from telemeter.server.fleet_keeper import WRITTEN_TOGETHER

#: How many attempts each cluster makes: more than are kept of it.
_ROUNDS: Final = 9
_PAGE: Final = 50
_NOW: Final = Moment(Elapsed(1_000_000.0), Wall(1_700_000_000.0))
_REASON: Final = b"metric up: a required label is missing: _id='%d'"


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured.

    Attributes:
        clusters: how many the record held.
        bytes_per_cluster: the growth of the process's resident memory, divided by them.
        attempt_microseconds: what recording an attempt takes.
        page_milliseconds: what finding and rendering a page takes, by what is asked for.
        slice_milliseconds: the longest time without a pause while pages were found.
        gather_microseconds: the processor time that it takes to gather a cluster for the database,
        write_microseconds: to write it over its row, in a thread,
        read_seconds: and to read the whole record from there.
    """

    clusters: int
    bytes_per_cluster: float
    attempt_microseconds: float
    page_milliseconds: dict[str, float]
    slice_milliseconds: float
    gather_microseconds: float
    write_microseconds: float
    read_seconds: float


QUERIES: Final = {
    "by state": Query(),
    "by identifier": Query("id", False),
    "by kept series": Query("kept"),
    "refused only": Query(states=frozenset({State.REFUSED})),
    "identifier contains 77": Query("id", False, "77"),
}


def measure(clusters: int) -> Result:
    """Measure with so many clusters, in a process of its own."""
    command = [sys.executable, "-m", "bench.fleet", "--clusters", str(clusters), "--inside"]
    root = File(__file__).parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=600)
    return Result(**json.loads(done.stdout))


def _measure_inside(clusters: int) -> Result:
    attempts = _attempts(clusters)
    record = FleetRecord(clusters, _NOW)
    record.record(next(attempts))
    before = _resident_bytes()
    seconds, count = 0.0, 0
    for attempt in attempts:
        start = time.perf_counter()
        record.record(attempt)
        seconds += time.perf_counter() - start
        count += 1
    grown = _resident_bytes() - before
    pages, longest = {}, 0.0
    for name, query in QUERIES.items():
        pages[name], pause = _page(record, query, 0)
        longest = max(longest, pause)
    pages["the last page"], pause = _page(record, Query(), clusters - _PAGE)
    longest = max(longest, pause)
    kept = _keep(record, clusters)
    return Result(clusters, grown / clusters, seconds / count * 1e6, pages, longest, *kept)


def _keep(record: FleetRecord, clusters: int) -> tuple[float, float, float]:
    """Return what a database takes: to gather, to write (microseconds each), to read (seconds)."""
    with TemporaryDirectory() as folder:
        database = FleetDatabase(f"{folder}/fleet.sqlite")
        database.open()
        _write(record, database, clusters)
        gather, write = _write(record, database, clusters)  # over the rows that there are now
        start = time.process_time()
        rows, _ = database.load(0.0, clusters, 0)
        FleetRecord(clusters, _NOW).restore(rows, _NOW.elapsed)
        read = time.process_time() - start
        database.close()
    return gather / clusters * 1e6, write / clusters * 1e6, read


def _write(record: FleetRecord, database: FleetDatabase, clusters: int) -> tuple[float, float]:
    """Write all clusters; return the seconds to gather them, and to write them."""
    record.keep_track()
    start = time.process_time()
    gathered = sorted(record.take_unsaved(clusters))
    between = time.process_time()
    for begin in range(0, clusters, WRITTEN_TOGETHER):
        database.save_clusters(gathered[begin : begin + WRITTEN_TOGETHER])
    return between - start, time.process_time() - between


def _page(record: FleetRecord, query: Query, begin: int) -> tuple[float, float]:
    """How long a page takes, and the longest step of it, in milliseconds."""
    view = View(record, query, _NOW.elapsed)
    start = last = time.perf_counter()
    longest = 0.0
    for _ in view.prepare(begin + _PAGE):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    rows = [row_value(record.row(slot, _NOW)) for slot in view.slots(begin, begin + _PAGE)]
    json.dumps(rows)
    end = time.perf_counter()
    return (end - start) * 1000, max(longest, end - last) * 1000


def _attempts(clusters: int) -> Iterator[Attempt]:
    """Return attempts of a fleet: every tenth is refused, each drops a few series."""
    dice = random.Random(1)
    numbers = [dice.getrandbits(128) for _ in range(clusters)]
    for turn in range(_ROUNDS):
        for index, number in enumerate(numbers):
            name = f"{number:032x}"
            made = Attempt(
                f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}".encode(),
                Elapsed(_NOW.elapsed - (_ROUNDS - turn) * 270 + index / clusters * 270),
                Path.UPLOAD,
                200,
                0.002,
                agent=b"telemeter-client/0.1.0 (%d)" % (index % 10),
                expires=Wall(_NOW.wall + 86_400.0 + index),
            )
            if (index + turn) % 10 == 0:
                made.status, made.reason = 400, _REASON % index
            else:
                made.measured = True
                made.received, made.kept, made.dropped = 226 + index % 99, 220, 6
                made.examples = _examples(name, index)
            yield made


def _examples(name: str, index: int) -> tuple[bytes, ...]:
    """Two dropped series, with the labels that series usually have."""
    examples = []
    for metric in ("node_load15", "process_cpu_seconds_total"):
        series = remote_pb2.TimeSeries()
        labels = {"__name__": metric, "_id": name, "instance": f"10.0.{index % 256}.7:9100"}
        for label, value in {**labels, "job": "node"}.items():
            series.labels.add(name=label, value=value)
        examples.append(series.SerializeToString())
    return tuple(examples)


def _resident_bytes() -> int:
    for line in File("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(prog="bench.fleet")
    parser.add_argument("--clusters", type=int, default=100_000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(asdict(_measure_inside(given.clusters))))
    else:
        print(json.dumps(asdict(measure(given.clusters)), indent=2))


if __name__ == "__main__":
    main()
