"""Asks for URLs one after the other, as the daemons do, and prints what came of it as JSON.

    python -m tests.integration.ask CA_FILE URL...

The proxies come from the environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from telemeter.net.body import read_body
from telemeter.net.client import make_agent, make_pool
from telemeter.net.errors import explain
from telemeter.net.proxy import Proxies
from telemeter.net.tls import ClientPolicy

SECONDS = 10.0


async def ask(reactor: Any, authorities: str, *urls: str) -> None:
    """Ask for each URL; connections are used again."""
    pool = make_pool(reactor)
    agent = make_agent(
        reactor,
        "ask",
        "ask",
        pool=pool,
        policy=ClientPolicy(Path(authorities).read_bytes(), authority_flag="--ca-file"),
        proxies=Proxies.from_environment(os.environ),
    )

    async def get(url: str) -> str:
        response = await agent.request(b"GET", url.encode())
        body = await read_body(response, 100_000)
        return f"{response.code} {body.decode()}"

    results = []
    for url in urls:
        answer = Deferred.fromCoroutine(get(url)).addTimeout(SECONDS, reactor)
        try:
            results.append(await answer)
        except Exception as error:
            results.append(explain(error))
    print(json.dumps(results))
    await pool.closeCachedConnections()


if __name__ == "__main__":
    react(lambda reactor, *argv: Deferred.fromCoroutine(ask(reactor, *argv)), sys.argv[1:])
