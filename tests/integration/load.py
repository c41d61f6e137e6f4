"""Requests without a pause, as many clients make them, while something else happens."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .wire import UPLOAD_HEADERS, encode, gauge, token_in, write_body, write_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.stack import Stack

CLUSTER = "busy-cluster"
TOKEN = "any"
_SECONDS = 10.0
# So that the server, not the test, has most of the processor.
_PAUSE_SECONDS = 0.002


class Client:
    """A connection to a server, which is never opened again once it is closed."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = HTTPSConnection(
            parts.hostname, parts.port, timeout=_SECONDS, context=context
        )
        self._connection.connect()
        self._connection.auto_open = 0

    @property
    def certificate(self) -> str:
        """What tells the certificate that the server shows from others."""
        connection = self._connection.sock
        assert isinstance(connection, ssl.SSLSocket)
        return fingerprint(connection.getpeercert(binary_form=True) or b"")

    def authorize(self) -> str:
        """Exchange the cluster's token for a JWT."""
        path = f"/authorize?id={CLUSTER}"
        return token_in(self._post(path, b"", {"Authorization": f"Bearer {TOKEN}"}))

    def upload(self) -> None:
        """Do as an agent does that has just been started."""
        headers = {**UPLOAD_HEADERS, "Authorization": f"Bearer {self.authorize()}"}
        self._post("/upload", encode([gauge("busy", 1, {"_id": CLUSTER})]), headers)

    def write(self) -> None:
        """Write remotely."""
        body = write_body(CLUSTER, "busy")
        self._post("/metrics/v1/receive", body, write_headers(CLUSTER, TOKEN))

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise HTTPException(f"POST {path}: {answer.status} {text.decode()}")
        return text


def fingerprint(certificate: bytes) -> str:
    """Return what tells a certificate (DER) from others."""
    return hashlib.sha256(certificate).hexdigest()[:16]


@dataclass
class Load:
    """What several clients do all the time.

    Attributes:
        url: the server.
        context: whom they trust.
        done: how many requests went well, by the name of the client.
        failures: what did not.
    """

    url: str
    context: ssl.SSLContext
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _seen: dict[str, None] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def seen(self) -> list[str]:
        """The certificates of new connections, each once, in the order of their first sight."""
        return list(self._seen)

    def wait_for_more(self, stack: Stack) -> None:
        """Wait until each client has made further requests from their beginning to their end."""
        before = Counter(self.done)
        stack.wait(
            lambda: all(self.done[name] >= before[name] + 3 for name in _CLIENTS) or self.failures,
            f"more requests than {before}",
        )
        assert not self.failures

    def run(self, name: str) -> None:
        """Be one of the clients until it is over, or something fails."""
        try:
            {"lasting": self._lasting, "new": self._new}[name.split()[0]](name)
        except (OSError, HTTPException, AssertionError) as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")

    def stop(self) -> None:
        """Have the clients end after the requests that they are making."""
        self._over.set()

    def _lasting(self, name: str) -> None:
        client = Client(self.url, self.context)
        while not self._over.wait(_PAUSE_SECONDS):
            self._request(client, name)
        client.close()

    def _new(self, name: str) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            client = Client(self.url, self.context)
            self._seen.setdefault(client.certificate)
            self._request(client, name)
            client.close()

    def _request(self, client: Client, name: str) -> None:
        (client.upload if name.endswith("upload") else client.write)()
        self.done[name] += 1


# A lasting connection, or a new one for each time.
_CLIENTS = ("lasting upload", "lasting write", "new upload", "new write")


@contextmanager
def running_load(stack: Stack, url: str, context: ssl.SSLContext) -> Iterator[Load]:
    """Have clients at work; at the end, no request of theirs may have failed."""
    load = Load(url, context)
    threads = [threading.Thread(target=load.run, args=(name,)) for name in _CLIENTS]
    for thread in threads:
        thread.start()
    try:
        load.wait_for_more(stack)
        yield load
        load.wait_for_more(stack)
    finally:
        load.stop()
        for thread in threads:
            thread.join()
    assert load.failures == []
