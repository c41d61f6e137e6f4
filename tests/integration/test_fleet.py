"""The record of the fleet, in one process and with workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from demo.programs import start_server
from demo.stack import fetch
from tests.reactor import in_reactor
from tests.running import ask, running_server

from . import telling
from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
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


@in_reactor
async def test_the_series_that_the_server_keeps_are_shown(stack: Stack) -> None:
    async with running_server(stack, "--ratelimit", "0") as server:
        jwt = await telling.authorize(server.url, "c", "token")
        body = encode([gauge("up", 7, {"_id": "c"})])
        assert (await telling.upload(server.url, jwt, body)).status == 200
        detail = json.loads((await ask(f"{server.internal_url}/api/v1/clusters/c")).body)
    (series,) = detail["series"]["items"]
    assert (series["labels"], series["value"]) == ({"__name__": "up", "_id": "c"}, "7")
