"""A remote-write receiver that a test can look into, and make slow."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import snappy

from telemeter.samples.proto.remote_pb2 import WriteRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Upstream:
    """What it was sent, and when it answers.

    Attributes:
        url: where to forward to.
        received: the requests so far, decoded.
        headers: the headers of each, by lower-case name.
        arrived: set as soon as a request has been read.
        may_answer: while cleared, requests are held without an answer.
        status: what it answers.
    """

    url: str = ""
    status: int = 200
    received: list[WriteRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=_set_event)

    def series(self) -> list[dict[str, str]]:
        """Return the labels of every series received so far."""
        return [
            {label.name: label.value for label in series.labels}
            for request in self.received
            for series in request.timeseries
        ]


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """Run an upstream in threads of this process."""
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        # Connections stay open, as those of real upstreams do.
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            upstream.received.append(WriteRequest.FromString(snappy.uncompress(body)))
            upstream.headers.append({name.lower(): text for name, text in self.headers.items()})
            upstream.arrived.set()
            upstream.may_answer.wait()
            self.send_response(upstream.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent: what matters is asserted."""

    class Listener(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Stay silent when a sender hangs up on a held request: tests want exactly that."""

    with Listener(("127.0.0.1", 0), Handler) as listener:
        upstream.url = f"http://127.0.0.1:{listener.server_port}/api/v1/write"
        serving = threading.Thread(target=listener.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield upstream
        finally:
            upstream.may_answer.set()
            listener.shutdown()
            serving.join()
