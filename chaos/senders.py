"""Senders that remember what they were promised."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Self

from telemeter.samples.compression import compress_block
from telemeter.samples.proto import remote_pb2

METRIC = "chaos"
_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


def composite(cluster: str) -> str:
    """Return the token of a cluster."""
    question = {"authorization_token": "any", "cluster_id": cluster}
    return base64.b64encode(json.dumps(question).encode()).decode()


def body(cluster: str, number: str) -> bytes:
    """Return a remote write with one series that no other request has."""
    request = remote_pb2.WriteRequest()
    series = request.timeseries.add()
    for name, value in (("__name__", METRIC), ("_id", cluster), ("number", number)):
        series.labels.add(name=name, value=value)
    series.samples.add(value=1, timestamp=int(time.time() * 1000))
    return compress_block(request.SerializeToString())


class Senders:
    """Clusters that write remotely, each one request after the other, until they are stopped.

    Attributes:
        acknowledged: what was answered with 2xx, as cluster and number.
        statuses: how often which status came; 0: no answer.
        longest: the longest that one waited for an answer, in seconds.
    """

    def __init__(self, port: int, count: int) -> None:
        self.acknowledged: set[tuple[str, str]] = set()
        self.statuses: Counter[int] = Counter()
        self.longest = 0.0
        self._port = port
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send, args=(f"c{number}",)) for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        """Return how many requests were made."""
        return sum(self.statuses.values())

    def _send(self, cluster: str) -> None:
        connection: http.client.HTTPConnection | None = None
        headers = {
            "Authorization": f"Bearer {composite(cluster)}",
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
        }
        number = 0
        while not self._is_over.wait(_PAUSE_SECONDS):
            number += 1
            began = time.monotonic()
            status = 0
            with suppress(OSError, http.client.HTTPException):
                if connection is None:
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", self._port, timeout=_SECONDS
                    )
                connection.request(
                    "POST", "/metrics/v1/receive", body(cluster, str(number)), headers
                )
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            if not status and connection is not None:
                connection.close()
                connection = None
            with self._lock:
                self.statuses[status] += 1
                self.longest = max(self.longest, time.monotonic() - began)
                if 200 <= status < 300:
                    self.acknowledged.add((cluster, str(number)))
        if connection is not None:
            connection.close()
