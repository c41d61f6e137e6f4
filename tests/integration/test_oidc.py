"""The server gets its access tokens from a real, certified provider: npm's oidc-provider.

The upstream and the authorization server are played by the test. They check every token as such
servers do: a JWT by its signature, issuer, audience and times, any other by asking the provider.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
import urllib.parse
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from demo.issuer import PACKAGE, WELL_KNOWN, install, is_installed
from demo.stack import HOST, Program, Ready, Stack, StackError, fetch
from tests.reactor import in_reactor
from tests.running import (
    DEADLINE_SECONDS,
    Daemon,
    Reply,
    ask,
    counted,
    reactor,
    running_server,
    until,
)

from .command_line import run_twistd
from .conftest import need_command
from .telling import authorize, upload, write
from .wire import encode, gauge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.fakes import Log

CLUSTER: Final = "oidc-cluster"
CLIENT: Final = "telemeter client"
# Recognizable wherever it might turn up, and with what must be encoded on its way.
SECRET: Final = "recognizable+/%&: secret"

#: Whom tokens are for: those for SHORT are JWTs and hold for this many seconds.
SHORT: Final = "https://short.test/write"
SHORT_SECONDS: Final = 5
OPAQUE: Final = "urn:test:opaque"


@pytest.fixture(scope="module")
def modules() -> None:
    """Have the provider's package installed."""
    need_command("node", "nodejs")
    need_command("npm", "npm")
    if is_installed():
        return
    try:
        install()
    except StackError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@dataclass
class Provider:
    """A running provider.

    Attributes:
        program: the process.
        issuer: its URL.
        key: signs its JWTs.
    """

    program: Program
    issuer: str
    key: rsa.RSAPrivateKey


@pytest.fixture(scope="module")
def provider(modules: None, stack: Stack) -> Provider:
    port = stack.free_port()
    key = rsa.generate_private_key(65537, 2048)
    jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    del jwk["key_ops"]  # The provider both signs and verifies with it.
    configuration = {
        "host": HOST,
        "port": port,
        "clients": [{"client_id": CLIENT, "client_secret": SECRET}],
        "jwks": {"keys": [jwk]},
        "audiences": {
            SHORT: {"format": "jwt", "seconds": SHORT_SECONDS},
            OPAQUE: {"format": "opaque", "seconds": 600},
        },
    }
    path = stack.write("provider.json", json.dumps(configuration))
    argv = ["node", str(PACKAGE / "provider.mjs"), str(path)]
    issuer = f"http://{HOST}:{port}"
    return Provider(stack.start("provider", argv, issuer, Ready(WELL_KNOWN)), issuer, key)


@dataclass
class Guarded:
    """An upstream and an authorization server that want an access token.

    Attributes:
        url: where to forward to.
        authorize_url: where to ask whose a cluster is.
        accepted: the tokens of the requests that were accepted, by path.
        refused: why others were not.
    """

    provider: Provider
    url: str = ""
    authorize_url: str = ""
    accepted: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def tokens(self) -> list[str]:
        """The tokens that the upstream has accepted, in their order, each once."""
        return list(dict.fromkeys(self.accepted.get("/write", ())))

    def why_not(self, authorization: str) -> str:
        """Why a request is not accepted, by its header; empty if it is."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return "no token"
        try:
            claims = self._claims(token)
        except jwt.InvalidTokenError as error:
            return str(error)
        if not claims.get("active", True):
            return "not active"
        if claims["aud"] not in (SHORT, OPAQUE) or claims["client_id"] != CLIENT:
            return "for or from somebody else"
        return ""

    def _claims(self, token: str) -> dict[str, Any]:
        claims: dict[str, Any]
        if token.count(".") == 2:
            claims = jwt.decode(
                token,
                self.provider.key.public_key(),
                algorithms=["RS256"],
                audience=SHORT,
                issuer=self.provider.issuer,
            )
            return claims
        pair = ":".join(map(urllib.parse.quote_plus, (CLIENT, SECRET)))
        answer = fetch(
            f"{self.provider.issuer}/token/introspection",
            method="POST",
            body=urllib.parse.urlencode({"token": token}).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        assert answer.status == 200, answer.text
        claims = json.loads(answer.body)
        return claims


@pytest.fixture(scope="module")
def guarded(provider: Provider) -> Iterator[Guarded]:
    with running(Guarded(provider)) as guarded:
        yield guarded


@contextmanager
def running(guarded: Guarded) -> Iterator[Guarded]:
    """Run it in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            authorization = self.headers["Authorization"] or ""
            reason = guarded.why_not(authorization)
            if reason:
                guarded.refused.append(f"{self.path}: {reason}")
                self._answer(401, b'{"reason": "the access token is not good"}')
            else:
                token = authorization.removeprefix("Bearer ")
                guarded.accepted.setdefault(self.path, []).append(token)
                self._answer(200, b'{"account_id": "account-1"}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent: what matters is asserted."""

    with ThreadingHTTPServer((HOST, 0), Handler) as listener:
        guarded.url = f"http://{HOST}:{listener.server_port}/write"
        guarded.authorize_url = f"http://{HOST}:{listener.server_port}/authorize"
        serving = threading.Thread(target=listener.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield guarded
        finally:
            listener.shutdown()
            serving.join()


@dataclass
class Telemeter:
    """A server that shows tokens, and those who send to it."""

    server: Daemon
    _jwt: str = ""

    async def upload(self) -> Reply:
        """Upload one sample, as an agent that has been authorized."""
        self._jwt = self._jwt or await authorize(self.server.url, CLUSTER, "cluster-token")
        body = encode([gauge("up", 1, {"_id": CLUSTER})])
        return await upload(self.server.url, self._jwt, body)

    async def write(self, cluster: str) -> Reply:
        """Write one sample remotely."""
        return await write(self.server.url, cluster, "cluster-token")


def tokens_asked() -> int:
    """Return how many tokens the provider has given to servers of this process."""
    return counted("client_api_requests_total", client="oauth", code="200", method="post")


_NUMBERS = itertools.count()


def secret_file(stack: Stack, text: str) -> Path:
    """Write a client secret to a file that no other test uses."""
    return stack.write(f"client-{next(_NUMBERS)}.secret", text)


@asynccontextmanager
async def running_telemeter(
    stack: Stack, guarded: Guarded, audience: str, *flags: str
) -> AsyncIterator[Telemeter]:
    """Run a server that gets its access tokens from the provider."""
    async with running_server(
        stack,
        *("--forward-url", guarded.url),
        *("--authorize", guarded.authorize_url),
        *("--oidc-issuer", guarded.provider.issuer),
        *("--client-id", CLIENT),
        *("--client-secret-file", str(secret_file(stack, f"{SECRET}\n"))),
        *("--oidc-audience", audience),
        *("--ratelimit", "0"),
        *flags,
    ) as server:
        yield Telemeter(server)


def assert_nothing_is_told(log: Log, guarded: Guarded) -> None:
    """Fail if the log, with all its levels, holds the secret or a token."""
    tokens = {token for tokens in guarded.accepted.values() for token in tokens}
    secrets = tokens | {SECRET, urllib.parse.quote_plus(SECRET), urllib.parse.quote(SECRET)}
    written = "\n".join(log.lines)
    assert "msg=request" in written
    assert not [secret for secret in secrets if secret in written]


async def another_token(telemeter: Telemeter, guarded: Guarded) -> None:
    """Upload until the upstream sees a token that it has not seen."""
    seen = len(guarded.tokens())
    end = reactor.seconds() + DEADLINE_SECONDS
    while len(guarded.tokens()) == seen:
        assert reactor.seconds() < end, "no other token"
        answer = await telemeter.upload()
        assert answer.status == 200, answer.text


@in_reactor
async def test_every_hop_is_shown_tokens_which_are_renewed(stack: Stack, guarded: Guarded) -> None:
    guarded.accepted.clear()
    before = tokens_asked()
    async with running_telemeter(stack, guarded, SHORT) as telemeter:
        for _ in range(3):
            await another_token(telemeter, guarded)
        assert (await telemeter.write("another-cluster")).status == 200
    assert len(guarded.accepted["/write"]) > 3
    # Agents are authorized with one, and remote write with another.
    assert len(set(guarded.accepted["/authorize"])) == 2
    # One request a token, however many requests are made with it.
    shown = set(guarded.accepted["/write"]) | set(guarded.accepted["/authorize"])
    assert tokens_asked() - before - len(shown) in (0, 1)


@in_reactor
async def test_a_provider_that_goes_and_comes_back(
    stack: Stack, guarded: Guarded, provider: Provider, log: Log
) -> None:
    async with running_telemeter(stack, guarded, SHORT) as telemeter:
        await telemeter.write("known-cluster")
        await another_token(telemeter, guarded)
        provider.program.stop(0)
        # A token that still holds is enough.
        answer = await telemeter.upload()
        assert answer.status == 200
        end = reactor.seconds() + DEADLINE_SECONDS
        while answer.status == 200:
            assert reactor.seconds() < end, "there are still tokens"
            answer = await telemeter.upload()
        assert (answer.status, answer.header("Retry-After")) == (502, "30")
        assert "no access token" in answer.text
        assert provider.issuer not in answer.text
        answer = await telemeter.write("unknown-cluster")
        assert (answer.status, answer.header("Retry-After")) == (503, "30")
        answer = await telemeter.write("known-cluster")
        assert (answer.status, answer.header("Retry-After")) == (502, "30")
        url = f"{telemeter.server.url}/authorize?id=a"
        answer = await ask(url, method="POST", headers={"Authorization": "Bearer any"})
        assert (answer.status, answer.header("Retry-After")) == (503, "30")
        assert provider.issuer not in answer.text
        await until(lambda: "cannot connect" in "\n".join(log.lines), "the reason in the log")
        stack.start_again(provider.program, Ready(WELL_KNOWN))
        end = reactor.seconds() + DEADLINE_SECONDS
        while (await telemeter.upload()).status != 200:
            assert reactor.seconds() < end, "no tokens again"
        assert (await telemeter.write("unknown-cluster")).status == 200
    assert_nothing_is_told(log, guarded)


@in_reactor
async def test_a_token_that_the_provider_has_forgotten(
    stack: Stack, guarded: Guarded, provider: Provider, log: Log
) -> None:
    before = tokens_asked()
    async with running_telemeter(stack, guarded, OPAQUE) as telemeter:
        assert (await telemeter.upload()).status == 200
        old = guarded.accepted["/write"][-1]
        assert "." not in old
        provider.program.stop(0)
        stack.start_again(provider.program, Ready(WELL_KNOWN))
        guarded.refused.clear()
        assert (await telemeter.upload()).status == 200
    assert guarded.refused == ["/write: not active"]
    assert guarded.accepted["/write"][-1] != old
    assert tokens_asked() - before == 2
    assert_nothing_is_told(log, guarded)


@in_reactor
async def test_a_wrong_secret_is_told_and_can_be_corrected(
    stack: Stack, guarded: Guarded, log: Log
) -> None:
    path = secret_file(stack, f"{SECRET}-old")
    flags = ("--client-secret-file", str(path))
    async with running_telemeter(stack, guarded, SHORT, *flags) as telemeter:
        answer = await telemeter.write(CLUSTER)
        assert (answer.status, answer.header("Retry-After")) == (503, "30")
        await until(lambda: "invalid_client" in "\n".join(log.lines), "the reason in the log")
        path.write_text(SECRET)
        reload = f"{telemeter.server.internal_url}/-/reload"
        assert (await ask(reload, method="POST", body=b"")).status == 200
        assert (await telemeter.write(CLUSTER)).status == 200
    assert_nothing_is_told(log, guarded)


@in_reactor
async def test_an_audience_that_the_provider_does_not_know(
    stack: Stack, guarded: Guarded, log: Log
) -> None:
    async with running_telemeter(stack, guarded, "https://unknown.test/") as telemeter:
        assert (await telemeter.write(CLUSTER)).status == 503
        await until(lambda: "invalid_target" in "\n".join(log.lines), "the reason in the log")
    assert_nothing_is_told(log, guarded)


@pytest.mark.parametrize("fault", ["down", "other"])
def test_a_server_does_not_start_without_its_issuer(
    fault: str, stack: Stack, provider: Provider
) -> None:
    issuer, words = {
        "down": (f"http://{HOST}:{stack.free_port()}", "cannot connect"),
        "other": (f"{provider.issuer}/", f"saw '{provider.issuer}'"),
    }[fault]
    done = run_twistd(
        "telemeter-server",
        *("--listen", f"{HOST}:{stack.free_port()}"),
        *("--listen-internal", f"{HOST}:{stack.free_port()}"),
        *("--forward-url", f"http://{HOST}:9/"),
        *("--oidc-issuer", issuer),
        *("--client-id", CLIENT),
        *("--client-secret-file", str(stack.write("unused.secret", SECRET))),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "--oidc-issuer" in done.stderr
    assert words in done.stderr, last
    assert "Traceback" not in done.stderr
