"""The server gets its access tokens from a real, certified provider: npm's oidc-provider.

The upstream and the authorization server are played by the test. They check every token as such
servers do: a JWT by its signature, issuer, audience and times, any other by asking the provider.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from demo.issuer import PACKAGE, WELL_KNOWN, install, is_installed
from demo.programs import Server, start_server
from demo.stack import HOST, Answer, Program, Ready, Stack, StackError, fetch
from tests.fakes import parse_samples

from .command_line import run_twistd
from .conftest import need_command
from .wire import authorize, encode, gauge, upload, write_body, write_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    stack: Stack
    server: Server
    _jwt: str = ""

    def upload(self) -> Answer:
        """Upload one sample, as an agent that has been authorized."""
        self._jwt = self._jwt or authorize(self.server.url, CLUSTER, "cluster-token")
        return upload(self.server.url, self._jwt, encode([gauge("up", 1, {"_id": CLUSTER})]))

    def write(self, cluster: str) -> Answer:
        """Write one sample remotely."""
        return fetch(
            f"{self.server.url}/metrics/v1/receive",
            method="POST",
            body=write_body(cluster),
            headers=write_headers(cluster, "cluster-token"),
        )

    def wait(self, probe: Callable[[], Any], what: str) -> Any:
        return self.stack.wait(probe, what, self.server.program)

    def tokens_asked(self) -> float:
        """How many tokens the server has been given by the provider."""
        page = fetch(f"{self.server.internal_url}/metrics").text
        labels = {"client": "oauth", "code": "200", "method": "post"}
        key = ("client_api_requests_total", frozenset(labels.items()))
        return parse_samples(page).get(key, 0.0)


def start(stack: Stack, guarded: Guarded, name: str, audience: str, *flags: str) -> Telemeter:
    """Start a server with the most talkative log."""
    server = start_server(
        stack,
        name,
        *("--forward-url", guarded.url),
        *("--authorize", guarded.authorize_url),
        *("--oidc-issuer", guarded.provider.issuer),
        *("--client-id", CLIENT),
        *("--client-secret-file", str(stack.write(f"{name}.secret", f"{SECRET}\n"))),
        *("--oidc-audience", audience),
        *("--ratelimit", "0"),
        *("--log-level", "debug"),
        *flags,
    )
    return Telemeter(stack, server)


@pytest.fixture(scope="module")
def short(stack: Stack, guarded: Guarded) -> Telemeter:
    return start(stack, guarded, "short", SHORT)


def assert_nothing_is_told(telemeter: Telemeter, guarded: Guarded) -> None:
    """The server's log holds neither the secret nor a token."""
    tokens = {token for tokens in guarded.accepted.values() for token in tokens}
    secrets = tokens | {SECRET, urllib.parse.quote_plus(SECRET), urllib.parse.quote(SECRET)}
    written = telemeter.server.program.output()
    assert "msg=request" in written
    assert not [secret for secret in secrets if secret in written]


def wait_for_another_token(telemeter: Telemeter, guarded: Guarded) -> None:
    """Upload until the upstream sees a token that it has not seen."""
    seen = len(guarded.tokens())

    def uploaded() -> bool:
        answer = telemeter.upload()
        assert answer.status == 200, answer.text
        return len(guarded.tokens()) > seen

    telemeter.wait(uploaded, "another token")


def test_every_hop_is_shown_tokens_which_are_renewed(short: Telemeter, guarded: Guarded) -> None:
    for _ in range(3):
        wait_for_another_token(short, guarded)
    assert short.write("another-cluster").status == 200
    assert len(guarded.accepted["/write"]) > 3
    # Agents are authorized with one, and remote write with another.
    assert len(set(guarded.accepted["/authorize"])) == 2
    # One request a token, however many requests are made with it.
    shown = set(guarded.accepted["/write"]) | set(guarded.accepted["/authorize"])
    assert short.tokens_asked() - len(shown) in (0, 1)


def test_a_provider_that_goes_and_comes_back(
    short: Telemeter, guarded: Guarded, provider: Provider
) -> None:
    short.write("known-cluster")
    wait_for_another_token(short, guarded)
    provider.program.stop(0)
    # A token that still holds is enough.
    assert short.upload().status == 200
    refusal = short.wait(
        lambda: answer if (answer := short.upload()).status != 200 else None, "no more tokens"
    )
    assert (refusal.status, refusal.headers["Retry-After"]) == (502, "30")
    assert "no access token" in refusal.text
    assert provider.issuer not in refusal.text
    refusal = short.write("unknown-cluster")
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "30")
    refusal = short.write("known-cluster")
    assert (refusal.status, refusal.headers["Retry-After"]) == (502, "30")
    url = f"{short.server.url}/authorize?id=a"
    refusal = fetch(url, method="POST", headers={"Authorization": "Bearer any"})
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "30")
    assert provider.issuer not in refusal.text
    short.wait(lambda: "cannot connect" in short.server.program.output(), "the reason")
    short.stack.start_again(provider.program, Ready(WELL_KNOWN))
    short.wait(lambda: short.upload().status == 200, "tokens again")
    assert short.write("unknown-cluster").status == 200
    assert_nothing_is_told(short, guarded)


def test_a_token_that_the_provider_has_forgotten(
    stack: Stack, guarded: Guarded, provider: Provider
) -> None:
    telemeter = start(stack, guarded, "opaque", OPAQUE)
    assert telemeter.upload().status == 200
    old = guarded.accepted["/write"][-1]
    assert "." not in old
    provider.program.stop(0)
    stack.start_again(provider.program, Ready(WELL_KNOWN))
    guarded.refused.clear()
    assert telemeter.upload().status == 200
    assert guarded.refused == ["/write: not active"]
    assert guarded.accepted["/write"][-1] != old
    assert telemeter.tokens_asked() == 2
    assert_nothing_is_told(telemeter, guarded)


def test_a_wrong_secret_is_told_and_can_be_corrected(stack: Stack, guarded: Guarded) -> None:
    path = stack.write("corrected.secret", f"{SECRET}-old")
    flags = ("--client-secret-file", str(path))
    telemeter = start(stack, guarded, "wrong", SHORT, *flags)
    refusal = telemeter.write(CLUSTER)
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "30")
    telemeter.wait(lambda: "invalid_client" in telemeter.server.program.output(), "the reason")
    stack.write("corrected.secret", SECRET)
    reload = fetch(f"{telemeter.server.internal_url}/-/reload", method="POST", body=b"")
    assert reload.status == 200
    assert telemeter.write(CLUSTER).status == 200
    assert_nothing_is_told(telemeter, guarded)


def test_an_audience_that_the_provider_does_not_know(stack: Stack, guarded: Guarded) -> None:
    telemeter = start(stack, guarded, "audience", "https://unknown.test/")
    assert telemeter.write(CLUSTER).status == 503
    telemeter.wait(lambda: "invalid_target" in telemeter.server.program.output(), "the reason")
    assert_nothing_is_told(telemeter, guarded)


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
