"""The demo with TLS and a check of who it is on every hop, as it would run between companies.

    source Prometheus --> agent --> two servers --> gateway --> destination Prometheus
                                         |
                                         +--------> gateway --> authorization server

- Every program has a certificate of the demo's own authority, and trusts no other.
- A Prometheus answers only those who show such a certificate: so does the agent to the source.
- The agent shows its cluster's token, and the servers' own tokens from then on.
- The servers show access tokens of an OpenID Connect issuer. A gateway before the destination, and
  one before the authorization server, lets nobody pass without one.
- Secrets are in files, so no list of processes shows any.
"""

from __future__ import annotations

import secrets
import shlex
import ssl
import sys
import urllib.parse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from demo import issuer
from demo.certificates import Authority, Identity
from demo.keys import signing_key
from demo.programs import (
    query,
    start_agent,
    start_authorizer,
    start_destination,
    start_server,
    start_source,
    wait_for_samples,
)
from demo.scenario import AGENT_FLAGS, CLUSTER, INTERVAL, SALT, SERVER_FLAGS, TOKEN, Parts, Reporter
from demo.stack import HOST, Program, Ready, Stack, StackError, fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.programs import Server

CLIENT: Final = "telemeter-server"
AUDIENCE: Final = "https://metrics.example.com/"
#: Short, so that one sees tokens being renewed: after three quarters of it.
TOKEN_SECONDS: Final = 60
_ROOT: Final = Path(__file__).parents[1]


def start_all(stack: Stack, report: Reporter) -> Parts:
    """Start every program of the demo, in the order in which they need one another."""
    if not issuer.is_installed():
        report.say("installing the issuer's package with npm")
        issuer.install()
    authority = Authority(stack)
    operator = authority.issue("operator")
    stack.context = operator.context()
    client_secret = secrets.token_urlsafe()
    report.say(f"all files are in {stack.folder}, and so the commands run there")

    def tell(program: Program, what: str, *files: str) -> None:
        report.started_program(program, what)
        report.command_line(program)
        for name in files:
            report.more(f"{name}:", *(stack.folder / name).read_text().splitlines(), "")

    source = start_source(stack, identity=authority.issue("source"))
    tell(source, "source Prometheus", "source.yml", "source.web.yml")
    destination = start_destination(stack, identity=authority.issue("destination"))
    tell(destination, "destination Prometheus", "destination.web.yml")
    authorizer = start_authorizer(stack, TOKEN, identity=authority.issue("authorizer"))
    tell(authorizer, "authorization server (stub)")
    oidc = issuer.start_issuer(
        stack,
        authority.issue("issuer"),
        client=CLIENT,
        secret=client_secret,
        audience=AUDIENCE,
        seconds=TOKEN_SECONDS,
    )
    tell(oidc, "OpenID Connect issuer")
    gates = {}
    for guarded in (destination, authorizer):
        name = f"{guarded.name}-gateway"
        gates[guarded.name] = start_gateway(stack, name, guarded, oidc, authority.issue(name))
        tell(gates[guarded.name], f"gateway to the {guarded.name}")

    stack.write("shared.key", signing_key())
    stack.write("client.secret", client_secret)
    servers = []
    for number, does in enumerate(("issues the token", "takes the uploads"), 1):
        name = f"server-{number}"
        flags = server_flags(stack, authority.issue(name), gates, oidc)
        servers.append(start_server(stack, name, *flags))
        tell(servers[-1].program, f"telemeter-server {number} ({does})")
    first, second = servers

    wait_for_samples(stack, source)
    report.say("the source has samples, and its alert fires")
    mine = authority.issue("agent")
    agent = start_agent(
        stack,
        "agent",
        *("--from", source.url),
        *("--from-ca-file", str(mine.authority)),
        *("--tls-cert-file", str(mine.certificate)),
        *("--tls-private-key-file", str(mine.key)),
        *("--to-auth", f"{first.url}/authorize?id={CLUSTER}"),
        *("--to-upload", f"{second.url}/upload"),
        *("--to-ca-file", str(mine.authority)),
        *("--to-token-file", str(stack.write("cluster.token", TOKEN))),
        *("--anonymize-salt-file", str(stack.write("salt", SALT))),
        *AGENT_FLAGS,
        identity=mine,
    )
    tell(agent, f"telemeter-client (every {INTERVAL})")
    return Parts(
        source,
        agent,
        second.program,
        partial(query, destination.url, context=stack.context),
        views={
            "what arrived:": curl(operator, query_url(destination, f'{{_id="{CLUSTER}"}}')),
            "what was sent:": curl(operator, f"{agent.url}/federate"),
            "where it is from:": curl(operator, query_url(source, "up")),
        },
        checks=[
            *(passes_nobody(stack, gate) for gate in gates.values()),
            passed(gates["authorizer"], "POST /", "authorization"),
            passed(gates["destination"], "POST /api/v1/write", "remote write"),
            *(knows_tokens(stack, server) for server in servers),
            wants_a_certificate(source, mine),
        ],
    )


def server_flags(
    stack: Stack, identity: Identity, gates: dict[str, Program], oidc: Program
) -> list[str]:
    """Return the flags of a server."""
    own = [str(identity.certificate), str(identity.key)]
    authority = str(identity.authority)
    return [
        *("--tls-crt", own[0], "--tls-key", own[1]),
        *("--internal-tls-crt", own[0], "--internal-tls-key", own[1]),
        *("--authorize", f"{gates['authorizer'].url}/"),
        *("--authorize-ca-file", authority),
        *("--forward-url", f"{gates['destination'].url}/api/v1/write"),
        *("--forward-ca-file", authority),
        *("--oidc-issuer", oidc.url),
        *("--oidc-ca-file", authority),
        *("--oidc-audience", AUDIENCE),
        *("--client-id", CLIENT),
        *("--client-secret-file", str(stack.folder / "client.secret")),
        *("--shared-key", str(stack.folder / "shared.key")),
        *SERVER_FLAGS,
    ]


def start_gateway(
    stack: Stack, name: str, guarded: Program, oidc: Program, identity: Identity
) -> Program:
    """Start a gateway before another program."""
    port = stack.free_port()
    argv = [
        *(sys.executable, "-m", "demo.gateway"),
        *("--port", str(port)),
        *("--to", guarded.url),
        *("--issuer", oidc.url),
        *("--audience", AUDIENCE),
        *("--crt", str(identity.certificate)),
        *("--key", str(identity.key)),
        *("--ca-file", str(identity.authority)),
    ]
    environment = {"PYTHONPATH": str(_ROOT)}
    return stack.start(name, argv, f"https://{HOST}:{port}", Ready("/", 401), environment)


def query_url(program: Program, expression: str) -> str:
    """Return the URL of a query at a Prometheus."""
    return f"{program.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"


def curl(identity: Identity, url: str) -> str:
    """Return the command that asks for a URL with an identity."""
    own = f"--cert {identity.certificate} --key {identity.key}"
    return f"curl --cacert {identity.authority} {own} {shlex.quote(url)}"


# --- what must be so besides ----------------------------------------------------------------------


def passes_nobody(stack: Stack, gate: Program) -> Callable[[], str]:
    """Check that a gateway refuses a request without a token."""

    def check() -> str:
        answer = fetch(f"{gate.url}/", method="POST", body=b"", context=stack.context)
        if answer.status != 401:
            raise StackError(f"{gate.name}: expected 401 without a token, saw {answer.status}")
        return f"{gate.name}: refuses a request without an access token ({answer.text.strip()})"

    return check


def passed(gate: Program, what: str, meaning: str) -> Callable[[], str]:
    """Check that requests of the servers have passed a gateway."""

    def check() -> str:
        start = f"passed on {what}: client {CLIENT}"
        count = sum(line.startswith(start) for line in gate.output().splitlines())
        if not count:
            raise StackError(f"no request of {CLIENT} has passed:\n{gate.tail()}")
        return (
            f"{gate.name}: requests with a good access token, for {meaning}: {count} "
            "(checked: signature, issuer, audience, times)"
        )

    return check


def knows_tokens(stack: Stack, server: Server) -> Callable[[], str]:
    """Check that a server gets access tokens, and show how many it got."""

    def check() -> str:
        page = fetch(f"{server.internal_url}/metrics", context=stack.context).text
        metric = 'client_api_requests_total{client="oauth",code="200",method="post"}'
        found = [line for line in page.splitlines() if line.startswith(metric)]
        if not found:
            raise StackError(f"it has got no access token:\n{server.program.tail()}")
        return f"{server.program.name}: gets access tokens from the issuer: {found[0]}"

    return check


def wants_a_certificate(source: Program, identity: Identity) -> Callable[[], str]:
    """Check that a Prometheus answers nobody without a certificate."""

    def check() -> str:
        context = ssl.create_default_context(cafile=str(identity.authority))
        try:
            fetch(f"{source.url}/federate", context=context)
        except OSError:
            return f"{source.name}: refuses whoever shows no certificate"
        raise StackError(f"{source.name} answers without a certificate")

    return check
