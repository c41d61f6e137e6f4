"""A telemeter-server whose fleet is large already: the daemon's own service, with a filled record.

python -m tests.browser.full_server CLUSTERS FLAGS...
"""

from __future__ import annotations

import random
import sys
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorCore
from twisted.logger import globalLogBeginner

from telemeter.config.server_options import Options
from telemeter.fleet.attempt import Attempt, Path
from telemeter.fleet.record import FleetRecord
from telemeter.loop.clocks import Elapsed, Moment, Wall
from telemeter.observe.log import make_observer
from telemeter.samples.proto import remote_pb2
from telemeter.tap.server import makeService

_AGENTS = (b"telemeter-client/0.1.0", b"Go-http-client/1.1", b"Prometheus/2.53.1")
_PROBLEMS = (
    (400, b'metric up: label _id must be "a", it is "b"'),
    (413, b"the body must be under 512000 bytes (--limit-bytes), it has 812345 bytes"),
    (502, b"the upstream could not be reached: connection refused"),
)


def fill(record: FleetRecord, clusters: int, now: Moment) -> None:
    """Let so many clusters have made attempts; always the same ones.

    A few have done so for an hour, many for some minutes: that takes no time.
    """
    longest = 56 if clusters < 10_000 else 4
    dice = random.Random(7)
    series = remote_pb2.TimeSeries()
    for name, value in (("__name__", "node_load15"), ("instance", "a:9100"), ("job", "node")):
        series.labels.add(name=name, value=value)
    example = series.SerializeToString()
    base = [(dice.getrandbits(128), dice.random(), dice.randint(90, 400)) for _ in range(clusters)]
    in_time = sorted(enumerate(base), key=lambda each: -(each[0] % 240))
    for ago in range(longest, -1, -4):
        for index, (number, luck, kept) in in_time:
            if luck < 0.03 and ago < min(25, longest):
                continue  # silent for a while
            at = now.elapsed - ago * 60 - index % 240
            attempt = Attempt(
                _name(number, index),
                Elapsed(at),
                Path.UPLOAD if luck < 0.9 else Path.RECEIVE,
                200,
                0.002 + luck / 50,
                agent=_AGENTS[index % 3],
                expires=Wall(now.wall + 80000 * luck),
                measured=True,
                received=kept + index % 5,
                kept=kept,
                dropped=index % 5,
                drift=None if luck >= 0.9 else 437 if 0.03 < luck < 0.05 else -(index % 30),
                examples=(example,) if index % 5 else (),
            )
            if 0.05 < luck < 0.08 and ago < 8:
                attempt.status, attempt.reason = _PROBLEMS[index % 3]
                attempt.measured = attempt.status == 502
            record.record(attempt)


def _name(number: int, index: int) -> bytes:
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{index:012d}".encode()


class _FullRecord(FleetRecord):
    clusters = 0

    def __init__(self, max_clusters: int, began: Moment, silent_after: float) -> None:
        super().__init__(max_clusters, began, silent_after)
        fill(self, self.clusters, began)


def main() -> None:
    """Run until SIGTERM."""
    _FullRecord.clusters = int(sys.argv[1])
    options = Options()
    options.parseOptions(sys.argv[2:])
    globalLogBeginner.beginLoggingTo([make_observer(sys.stderr, "info")])
    with patch("telemeter.server.fleet.FleetRecord", _FullRecord):
        service = makeService(options)
    service.privilegedStartService()
    service.startService()
    core = IReactorCore(reactor)
    core.addSystemEventTrigger("before", "shutdown", service.stopService)
    core.run()


if __name__ == "__main__":
    main()
