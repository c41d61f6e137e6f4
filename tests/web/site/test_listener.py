"""Listeners: how they accept those who connect."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from telemeter.web.site.listener import Listener
from telemeter.web.site.routing import Route, make_site
from tests.reactor import in_reactor, reactor

HOST = "127.0.0.1"
BURST = 150


@in_reactor
async def test_of_a_burst_few_are_accepted_in_one_turn() -> None:
    site = make_site([Route("/", lambda _: b"x")], reactor, connections=BURST)
    endpoint = TCP4ServerEndpoint(reactor, 0, BURST, HOST)
    listener = Listener(reactor, endpoint, site, flag="listen", address="any", program="any")
    listener.startService()
    port: Any = listener.port
    address = (HOST, port.getHost().port)
    with ExitStack() as stack:
        for _ in range(BURST):
            stack.enter_context(socket.create_connection(address, 5))
        counts = [0]
        while counts[-1] < BURST:
            await deferLater(reactor, 0, lambda: None)
            counts.append(len(site.channels))
    accepted = [after - before for before, after in pairwise(counts)]
    assert max(accepted) == 16
    await listener.stopService()
