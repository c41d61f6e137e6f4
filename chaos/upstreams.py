"""Real upstreams, which are asked in the end what they have."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING, Final, Protocol

from chaos.senders import METRIC
from demo.stack import HOST, Program, Ready, Stack, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Upstream(Protocol):
    """A program that takes remote writes.

    Attributes:
        write_path: where it takes them.
        program: it.
        ready: how to see that it is ready.
    """

    write_path: str
    program: Program
    ready: Ready

    def series(self) -> set[tuple[str, str]]:
        """Return what it has of the senders, as cluster and number."""


def _numbered(labels: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(each["_id"], each["number"]) for each in labels}


class VictoriaMetrics:
    """A VictoriaMetrics."""

    write_path = "/api/v1/write"
    ready = Ready("/health")

    def __init__(self, stack: Stack, port: int) -> None:
        self._url = f"http://{HOST}:{port}"
        command = [
            "victoria-metrics",
            f"-httpListenAddr={HOST}:{port}",
            f"-storageDataPath={stack.folder}/data",
            "-retentionPeriod=1d",
            "-search.latencyOffset=0",
        ]
        self.program = stack.start("victoria-metrics", command, self._url, self.ready)

    def series(self) -> set[tuple[str, str]]:
        fetch(f"{self._url}/internal/force_flush")
        query = urllib.parse.urlencode({"match[]": METRIC})
        lines = fetch(f"{self._url}/api/v1/export?{query}").text.splitlines()
        return _numbered([json.loads(line)["metric"] for line in lines])


class Prometheus:
    """A Prometheus."""

    write_path = "/api/v1/write"
    ready = Ready("/-/ready")

    def __init__(self, stack: Stack, port: int) -> None:
        self._url = f"http://{HOST}:{port}"
        command = [
            "prometheus",
            f"--config.file={stack.write('prometheus.yml', '')}",
            f"--storage.tsdb.path={stack.folder}/data",
            f"--web.listen-address={HOST}:{port}",
            "--web.enable-remote-write-receiver",
        ]
        self.program = stack.start("prometheus", command, self._url, self.ready)

    def series(self) -> set[tuple[str, str]]:
        query = urllib.parse.urlencode({"match[]": METRIC})
        return _numbered(json.loads(fetch(f"{self._url}/api/v1/series?{query}").body)["data"])


UPSTREAMS: Final[Mapping[str, Callable[[Stack, int], Upstream]]] = {
    "victoria-metrics": VictoriaMetrics,
    "prometheus": Prometheus,
}
