"""Certificates, keys and tokens are replaced while everything runs, and nobody notices.

Four clients make requests all the time, two of them over connections that last. When a test ends,
none of their requests may have failed.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from demo.keys import signing_key
from demo.programs import Server, start_agent, start_server
from demo.stack import HOST, Answer, LogFollower, Program, Stack, fetch
from telemeter.config.reload import WATCH_SECONDS
from tests.fakes import parse_samples

from .certificates import chain_of, client_context, server_context, write_pair
from .load import CLUSTER, Client, Load, fingerprint, running_load
from .peer import Peer, Request, running
from .upstream import running_upstream
from .wire import encode, gauge, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The rest is for a busy machine.
NOTICED_SECONDS = WATCH_SECONDS + 10


def fingerprint_of(certificate: trustme.LeafCert) -> str:
    leaf = load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    return fingerprint(leaf.public_bytes(Encoding.DER))


@dataclass
class Rotating:
    """A server of which everything can be replaced.

    Its files are `server.crt`, `server.key`, `first.key`, `second.key`, `whitelist` and `ca.crt`.
    """

    stack: Stack
    server: Server
    authority: trustme.CA

    def show_another(self) -> str:
        """Replace the certificate and its key; return what tells the new one from others."""
        certificate = self.authority.issue_cert(HOST)
        write_pair(self.stack, "server", certificate)
        return fingerprint_of(certificate)

    def reload(self) -> Answer:
        url = f"{self.server.internal_url}/-/reload"
        return fetch(url, method="POST", body=b"", context=self.stack.context)

    def hang_up(self) -> None:
        self.server.program.signal(signal.SIGHUP)

    def wait(self, probe: Callable[[], object], what: str) -> None:
        self.stack.wait(probe, what, self.server.program)

    @property
    def succeeded(self) -> float:
        """What the metric says of the last time that the files were read: 1 or 0."""
        return self.metric("telemeter_config_last_reload_successful")

    def metric(self, name: str) -> float:
        page = fetch(f"{self.server.internal_url}/metrics", context=self.stack.context).text
        return parse_samples(page)[name, frozenset()]

    def wait_until_shown(self, certificate: str, load: Load) -> float:
        """Wait until new connections see a certificate; return after how many seconds they do."""
        started = time.monotonic()
        self.stack.wait(
            lambda: load.seen[-1] == certificate or load.failures,
            "the new certificate",
            self.server.program,
            NOTICED_SECONDS,
        )
        return time.monotonic() - started

    def new_token(self) -> str:
        assert self.stack.context
        client = Client(self.server.url, self.stack.context)
        token = client.authorize()
        client.close()
        return token

    def status_of(self, token: str) -> int:
        """Upload with a token."""
        body = encode([gauge("one", 1, {"_id": CLUSTER})])
        return upload(self.server.url, token, body, self.stack.context).status


@pytest.fixture(scope="module")
def rotating(stack: Stack) -> Iterator[Rotating]:
    authority = trustme.CA()
    stack.context = client_context(authority)
    pair = write_pair(stack, "server", authority.issue_cert(HOST))
    key = signing_key()
    with running_upstream() as upstream:
        server = start_server(
            stack,
            "server",
            *pair.flags("--tls-crt", "--tls-key"),
            *pair.flags("--internal-tls-crt", "--internal-tls-key"),
            *("--shared-key", str(stack.write("first.key", key))),
            *("--shared-key", str(stack.write("second.key", key))),
            *("--whitelist-file", str(stack.write("whitelist", "busy\none\n"))),
            *("--forward-url", upstream.url),
            *("--forward-ca-file", str(stack.write("ca.crt", authority.cert_pem.bytes()))),
            *("--ratelimit", "0"),
        )
        yield Rotating(stack, server, authority)


@pytest.fixture
def load(rotating: Rotating) -> Iterator[Load]:
    assert rotating.stack.context
    with running_load(rotating.stack, rotating.server.url, rotating.stack.context) as load:
        yield load


# --- the server -----------------------------------------------------------------------------------


def test_a_new_certificate_is_noticed(rotating: Rotating, load: Load) -> None:
    wanted = rotating.show_another()
    rotating.wait_until_shown(wanted, load)
    assert load.seen[1:] == [wanted]
    # Those who were connected before see the old one until they go.
    load.wait_for_more(rotating.stack)
    assert rotating.succeeded == 1


def test_a_signal_makes_a_new_certificate_be_noticed_at_once(
    rotating: Rotating, load: Load
) -> None:
    wanted = rotating.show_another()
    rotating.hang_up()
    assert rotating.wait_until_shown(wanted, load) < WATCH_SECONDS - 1
    assert load.seen[1:] == [wanted]


def test_a_certificate_without_its_key_is_not_used(rotating: Rotating, load: Load) -> None:
    stack = rotating.stack
    another = rotating.authority.issue_cert(HOST)
    stack.write("server.crt", chain_of(another))
    refused = rotating.reload()
    assert refused.status == 500
    assert "--tls-crt" in refused.text
    assert "does not belong" in refused.text
    load.wait_for_more(stack)
    assert len(load.seen) == 1
    stack.write("server.key", another.private_key_pem.bytes())
    assert rotating.reload().status == 200
    assert rotating.succeeded == 1
    rotating.wait_until_shown(fingerprint_of(another), load)


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def test_a_new_signing_key(rotating: Rotating, load: Load) -> None:
    stack = rotating.stack
    old_key, new_key = (stack.folder / "first.key").read_bytes(), signing_key()
    old = rotating.new_token()
    assert rotating.status_of(old) == 200

    # The new one signs, and the old one still counts.
    stack.write("first.key", new_key)
    rotating.hang_up()
    rotating.wait(lambda: kid(rotating.new_token()) != kid(old), "tokens of the new key")
    new = rotating.new_token()
    assert rotating.status_of(old) == 200
    assert rotating.status_of(new) == 200
    load.wait_for_more(stack)

    # The old one is gone.
    stack.write("second.key", new_key)
    rotating.hang_up()
    rotating.wait(lambda: rotating.status_of(old) == 401, "the old key to be gone")
    assert rotating.status_of(new) == 200
    assert kid(rotating.new_token()) == kid(new)
    load.wait_for_more(stack)

    # It may come back to verify only.
    stack.write("second.key", old_key)
    rotating.hang_up()
    rotating.wait(lambda: rotating.status_of(old) == 200, "the old key to be back")
    assert kid(rotating.new_token()) == kid(new)


@pytest.mark.parametrize(
    ("name", "content", "flag", "by_signal"),
    [
        ("server.crt", "garbage", "--tls-crt", False),
        ("server.key", "garbage", "--tls-key", False),
        ("first.key", "garbage", "--shared-key", True),
        ("second.key", None, "--shared-key", False),
        ("whitelist", "busy\n{__name__=\n", "--whitelist-file", True),
        ("ca.crt", "garbage", "--forward-ca-file", False),
    ],
)
def test_a_broken_file_changes_nothing(
    rotating: Rotating, load: Load, name: str, content: str | None, flag: str, by_signal: bool
) -> None:
    stack = rotating.stack
    path = stack.folder / name
    reason = f"{flag} '{path}'"
    good = path.read_bytes()
    token = rotating.new_token()
    success_time = rotating.metric("telemeter_config_last_reload_success_timestamp_seconds")
    if content is None:
        path.unlink()
    else:
        stack.write(name, content)
    if by_signal:
        log = LogFollower(rotating.server.program.log)
        log.new_lines()
        rotating.hang_up()
        rotating.wait(lambda: reason in "".join(log.new_lines()), "the reason in the log")
    else:
        refused = rotating.reload()
        assert refused.status == 500
        assert refused.text.startswith("not reloaded, the old configuration stays: --")
        assert reason in refused.text
    assert rotating.succeeded == 0
    assert rotating.status_of(token) == 200
    assert kid(rotating.new_token()) == kid(token)
    load.wait_for_more(stack)

    stack.write(name, good)
    if by_signal:
        rotating.hang_up()
        rotating.wait(lambda: rotating.succeeded == 1, "the reload")
    else:
        assert rotating.reload().status == 200
        assert rotating.succeeded == 1
    now = rotating.metric("telemeter_config_last_reload_success_timestamp_seconds")
    assert now > success_time


# --- the agent ------------------------------------------------------------------------------------


class Volume:
    """A folder as Kubernetes mounts secrets: all its files change at once, behind two links."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._versions = 0

    def publish(self, **files: bytes) -> None:
        """Replace all files by these; the underscores of their names are dots."""
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir()
        for name, content in files.items():
            (version / name.replace("_", ".")).write_bytes(content)
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")
        for name in files:
            path = self.folder / name.replace("_", ".")
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")

    def path(self, name: str) -> str:
        return str(self.folder / name)


@dataclass
class World:
    """An agent, and what it talks to: played by the test."""

    stack: Stack
    source: Peer
    server: Peer
    volume: Volume
    agent: Program

    def wait_for_requests(self, peer: Peer, what: Callable[[Request], bool], text: str) -> None:
        """Wait for a request that comes after this moment."""
        seen = len(peer.requests)
        self.stack.wait(lambda: any(map(what, peer.requests[seen:])), text, self.agent)


def files(
    authority: trustme.CA, own: trustme.LeafCert, from_token: str, to_token: str
) -> dict[str, bytes]:
    return {
        "ca_crt": authority.cert_pem.bytes(),
        "own_crt": own.cert_chain_pems[0].bytes(),
        "own_key": own.private_key_pem.bytes(),
        "from_token": from_token.encode(),
        "to_token": to_token.encode(),
    }


def test_the_agent_takes_up_what_has_changed(stack: Stack, tmp_path: Path) -> None:
    one, other = trustme.CA(), trustme.CA()
    volume = Volume(tmp_path / "volume")
    volume.publish(**files(one, one.issue_cert("first.test"), "from-1", "to-1"))
    good = server_context(one.issue_cert(HOST), wanted=one)
    with running(Peer(good)) as source, running(Peer(server_context(one.issue_cert(HOST)))) as to:
        agent = start_agent(
            stack,
            "agent",
            *("--from", source.url()),
            *("--from-ca-file", volume.path("ca.crt")),
            *("--from-token-file", volume.path("from.token")),
            *("--tls-cert-file", volume.path("own.crt")),
            *("--tls-private-key-file", volume.path("own.key")),
            *("--to", to.url()),
            *("--to-ca-file", volume.path("ca.crt")),
            *("--to-token-file", volume.path("to.token")),
            *("--interval", "300ms"),
        )
        world = World(stack, source, to, volume, agent)

        def comes(peer: Peer, token: str, name: str = "") -> None:
            def fits(request: Request) -> bool:
                shown = dict(request.certificate.get("subjectAltName", ()))
                return request.authorization == f"Bearer {token}" and shown.get("DNS", "") == name

            world.wait_for_requests(peer, fits, f"{token} from {name!r}")

        # As it was started.
        comes(source, "from-1", "first.test")
        stack.wait(lambda: to.requests, "the first request for the server", agent)
        assert to.requests[0].authorization == "Bearer to-1"
        assert all(request.authorization != "Bearer to-1" for request in to.requests[1:])

        # Tokens, and the certificate to show.
        volume.publish(**files(one, one.issue_cert("second.test"), "from-2", "to-2"))
        comes(source, "from-2", "second.test")
        stack.wait(
            lambda: any(request.authorization == "Bearer to-2" for request in to.requests),
            "the new token for the server",
            agent,
        )

        # The authority: first the others change, then the agent hears of it.
        source.context = server_context(other.issue_cert(HOST), wanted=other)
        to.context = server_context(other.issue_cert(HOST))
        stack.wait(lambda: "unknown issuer" in agent.output(), "a failed cycle", agent)
        volume.publish(**files(other, other.issue_cert("third.test"), "from-3", "to-3"))
        comes(source, "from-3", "third.test")
        comes(to, "a-token")

        # What cannot be read is not used; and once it can, it is.
        volume.publish(**files(other, other.issue_cert("fourth.test"), "from-4", ""))
        stack.wait(lambda: "--to-token-file" in agent.output(), "the reason", agent)
        comes(source, "from-3", "third.test")
        volume.publish(**files(other, other.issue_cert("fifth.test"), "from-5", "to-5"))
        comes(source, "from-5", "fifth.test")
        agent.stop()
    assert "msg=reloaded" not in agent.output()
