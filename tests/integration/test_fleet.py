"""The record of the fleet, in one process and with workers."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from demo.programs import start_server
from demo.stack import fetch
from tests.reactor import in_reactor
from tests.running import ask, running_server

from . import telling
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from demo.programs import Server
    from demo.stack import Stack

    from .upstream import Upstream


@pytest.mark.parametrize("workers", [1, 2])
def test_what_clusters_attempt_is_on_record(stack: Stack, upstream: Upstream, workers: int) -> None:
    server = start_server(
        stack,
        f"server-{workers}",
        *("--workers", str(workers), "--ratelimit", "0"),
        *("--forward-url", upstream.url, "--whitelist", 'up{job="a"}'),
    )
    for number in range(6):
        cluster = f"cluster-{number}"
        jwt = authorize(server.url, cluster, "token")
        families = [gauge("up", 1, {"_id": cluster, "job": job}) for job in "ab"]
        assert upload(server.url, jwt, encode(families)).status == 200
    jwt = authorize(server.url, "cluster-0", "token")
    assert upload(server.url, jwt, encode([gauge("up", 1, {"_id": "other"})])).status == 400

    def clusters() -> Any:
        answer = json.loads(fetch(f"{server.internal_url}/api/v1/clusters").body)
        return answer["items"] if answer["items"][0:1] and answer["total"] == 6 else None

    def refused_first() -> Any:
        items = clusters()
        return items if items and items[0]["state"] == "refused" else None

    first, *others = stack.wait(refused_first, "all attempts on record", server.program)
    assert (first["id"], first["status"]) == ("cluster-0", 400)
    assert all((each["kept"], each["dropped"]) == (1, 1) for each in others)
    detail = json.loads(fetch(f"{server.internal_url}/api/v1/clusters/cluster-0").body)
    assert [each["status"] for each in detail["attempts"]] == [400, 200]
    (dropped,) = detail["dropped_examples"]
    assert dropped["rules"][0]["misses"][0]["value"] == "b"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_record_survives_a_stop_and_a_kill(
    stack: Stack, upstream: Upstream, workers: int
) -> None:
    """A stop writes the whole record; a kill loses its last seconds only."""
    database = stack.folder / f"fleet-{workers}.sqlite"

    def start(name: str) -> Server:
        return start_server(
            stack,
            f"{name}-{workers}",
            *("--workers", str(workers), "--ratelimit", "0"),
            *("--fleet-database", f"sqlite:{database}", "--forward-url", upstream.url),
        )

    def send(server: Server, cluster: str) -> None:
        jwt = authorize(server.url, cluster, "token")
        body = encode([gauge("up", 1, {"_id": cluster})])
        assert upload(server.url, jwt, body).status == 200

        def is_known() -> bool:
            return fetch(f"{server.internal_url}/api/v1/clusters/{cluster}").status == 200

        stack.wait(is_known, f"{cluster} on record", server.program)

    def known(server: Server) -> dict[str, Any]:
        answer = json.loads(fetch(f"{server.internal_url}/api/v1/clusters?sort=id").body)
        return {each["id"]: round(each["last_upload"]) for each in answer["items"]}

    first = start("first")
    send(first, "a")
    before = known(first)
    first.program.stop()

    second = start("second")
    assert known(second) == before
    send(second, "b")
    before = known(second)

    def is_written() -> bool:
        with closing(sqlite3.connect(database)) as reader:
            ((clusters,),) = reader.execute("SELECT count(*) FROM cluster")
        return bool(clusters == 2)

    stack.wait(is_written, "b in the database", second.program, seconds=60)
    second.program.signal(signal.SIGKILL)
    second.program.popen.wait()

    third = start("third")
    assert known(third) == before
    fleet = json.loads(fetch(f"{third.internal_url}/api/v1/fleet").body)
    assert fleet["database"] == {"behind_since": None}
    assert sum(minute["uploads"] for minute in fleet["history"]) >= 1
    third.program.stop()


@in_reactor
async def test_the_series_that_the_server_keeps_are_shown(stack: Stack) -> None:
    async with running_server(stack, "--ratelimit", "0") as server:
        jwt = await telling.authorize(server.url, "c", "token")
        body = encode([gauge("up", 7, {"_id": "c"})])
        assert (await telling.upload(server.url, jwt, body)).status == 200
        detail = json.loads((await ask(f"{server.internal_url}/api/v1/clusters/c")).body)
    (series,) = detail["series"]["items"]
    assert (series["labels"], series["value"]) == ({"__name__": "up", "_id": "c"}, "7")
