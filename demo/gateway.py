"""A gateway that nobody passes without a good access token: `python -m demo.gateway --help`.

It stands for what guards a remote-write receiver or an authorization server in real life. It looks
at the access token of every request as such a guard does: a JWT, with the signature, the issuer,
the audience and the times that it must have. Then it passes the request on.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jwt

from demo.certificates import Identity
from demo.issuer import WELL_KNOWN
from demo.stack import HOST, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

# Not for whom the request is passed on to.
_OWN_HEADERS: Final = {"authorization", "connection", "content-length", "host"}
_IDLE_SECONDS: Final = 60.0


@dataclass
class Guard:
    """Knows whose access tokens are good."""

    issuer: str
    audience: str
    keys: jwt.PyJWKClient

    def client_of(self, authorization: str) -> str:
        """Return which client an Authorization header is of.

        Raises:
            jwt.PyJWTError: its token is not good, and why.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            raise jwt.InvalidTokenError("no access token")
        claims = jwt.decode(
            token,
            self.keys.get_signing_key_from_jwt(token).key,
            algorithms=["RS256"],
            audience=self.audience,
            issuer=self.issuer,
            options={"require": ["exp", "iss", "aud", "client_id"]},
        )
        return str(claims["client_id"])


def make_guard(issuer: str, audience: str, context: ssl.SSLContext) -> Guard:
    """Ask an issuer where its keys are; raises OSError if it cannot be asked."""
    found = json.loads(fetch(issuer + WELL_KNOWN, context=context).body)
    return Guard(issuer, audience, jwt.PyJWKClient(found["jwks_uri"], ssl_context=context))


def serve(port: int, to: str, guard: Guard, identity: Identity) -> None:
    """Pass requests on, for ever."""
    outgoing = identity.context()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_SECONDS

        def do_POST(self) -> None:
            self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_GET(self) -> None:
            self._pass_on(None)

        def _pass_on(self, body: bytes | None) -> None:
            what = f"{self.command} {self.path}"
            try:
                client = guard.client_of(self.headers.get("Authorization", ""))
            except jwt.PyJWTError as error:
                print(f"refused {what}: {error}", flush=True)
                self._answer(401, "text/plain", f"{error}\n".encode())
                return
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _OWN_HEADERS
            }
            try:
                answer = fetch(
                    to + self.path,
                    method=self.command,
                    body=body,
                    headers=headers,
                    context=outgoing,
                )
            except OSError as error:
                print(f"cannot pass on {what}: {error}", flush=True)
                self._answer(502, "text/plain", b"no answer\n")
                return
            print(f"passed on {what}: client {client}, answer {answer.status}", flush=True)
            self._answer(answer.status, answer.headers.get_content_type(), answer.body)

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent: every request says itself what became of it."""

    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(identity.certificate, identity.key)
    with ThreadingHTTPServer((HOST, port), Handler) as listener:
        # The handshake is left to each connection's own thread.
        listener.socket = shown.wrap_socket(
            listener.socket, server_side=True, do_handshake_on_connect=False
        )
        listener.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a gateway; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.gateway", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True, help="where to listen")
    parser.add_argument("--to", required=True, help="URL of the server to pass requests on to")
    parser.add_argument("--issuer", required=True, help="whose tokens are good")
    parser.add_argument("--audience", required=True, help="whom they must be for")
    parser.add_argument("--crt", type=Path, required=True, help="certificate to show to everybody")
    parser.add_argument("--key", type=Path, required=True, help="its private key")
    parser.add_argument("--ca-file", type=Path, required=True, help="authorities to trust")
    given = parser.parse_args(arguments)
    identity = Identity(given.crt, given.key, given.ca_file)
    guard = make_guard(given.issuer, given.audience, identity.context())
    serve(given.port, given.to.rstrip("/"), guard, identity)
    return 0


if __name__ == "__main__":
    sys.exit(main())
