"""Which caller gets which status: the table in docs/security.md is the test."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from telemeter.samples.compression import compress_block, compress_framed
from telemeter.samples.family import encode_families
from telemeter.samples.proto import remote_pb2
from tests.fakes import NOW_MS, Reply
from tests.web.server import CLUSTER, Server, agent_headers, up

PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")


def rows() -> Iterator[tuple[str, str, list[str]]]:
    """The rows of the table: methods, path, and the status for each identity."""
    table = PAGE.read_text().partition("<!-- access -->")[2].partition("<!-- /access -->")[0]
    lines = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    for methods, path, *statuses in lines[2:]:
        yield methods, path.strip("`"), statuses


def identities() -> list[str]:
    table = PAGE.read_text().partition("<!-- access -->")[2]
    return table.strip().splitlines()[0].strip("| ").split(" | ")[2:]


def composite(token: str) -> str:
    question = {"authorization_token": token, "cluster_id": CLUSTER}
    return base64.b64encode(json.dumps(question).encode()).decode()


class World:
    """A server, and what each identity shows it."""

    def __init__(self) -> None:
        self.server = Server()
        expired = self.server.token()
        self.server.clock.advance(86_401)
        self.tokens = {
            "nobody": None,
            "nonsense": "nonsense",
            "a bearer token": "cluster-secret",
            "a JWT": self.server.token(),
            "an expired JWT": expired,
            "a composite token": composite("good"),
            "a refused one": composite("bad"),
        }

    def ask(self, method: str, path: str, identity: str) -> int:
        headers: dict[str, str | bytes] = {}
        token = self.tokens[identity]
        body = None
        if method == "POST" and path == "/upload":
            headers = agent_headers("")
            body = compress_framed(encode_families([up(at=NOW_MS + 86_401_000)]))
        elif method == "POST" and path == "/metrics/v1/receive":
            headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
            body = written()
        headers.pop("Authorization", None)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if identity == "a refused one":
            self.server.tollbooth.reply = Reply(401)
        target = f"{path}?id={CLUSTER}" if path == "/authorize" else path
        return self.server.ask(method, target, headers, body).status


def written() -> bytes:
    request = remote_pb2.WriteRequest()
    series = request.timeseries.add()
    for name, value in (("__name__", "up"), ("_id", CLUSTER)):
        series.labels.add(name=name, value=value)
    series.samples.add(value=1, timestamp=NOW_MS)
    return compress_block(request.SerializeToString())


CELLS: Final = [
    (method, path, identity, int(status))
    for methods, path, statuses in rows()
    for method in (METHODS if methods == "any" else methods.split(", "))
    for identity, status in zip(identities(), statuses, strict=True)
]


@pytest.mark.parametrize(("method", "path", "identity", "status"), CELLS)
def test_every_cell_has_its_status(method: str, path: str, identity: str, status: int) -> None:
    assert World().ask(method, path, identity) == status


def test_the_table_is_whole() -> None:
    """Every path of the listener for clients, with every method."""
    server = Server()
    for route in server.routes:
        methods = {method for method, path, *_ in CELLS if path == route.path}
        assert methods == set(METHODS), route.path
    assert {identity for _, _, identity, _ in CELLS} == set(World().tokens)
