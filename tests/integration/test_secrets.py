"""No secret is in a list of processes, in a log or in an error message.

Everything runs at its most talkative, first well, and then with every other server refusing or
failing in turn; those answer with all that they were sent. Each secret can be recognized, also in
base64 or percent-encoded, and each has been where it belongs.
"""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

import pytest

from demo.keys import signing_key
from demo.programs import Server, listen_address, start_agent, start_server, twistd
from demo.stack import HOST, Answer, LogFollower, Program, Ready, Stack, fetch, parse_logfmt
from telemeter import __version__
from telemeter.auth.composite import make_composite
from telemeter.config import server_options
from telemeter.tap import authorizer, client, token

from .command_line import run_twistd
from .peer import Peer, Reply, Request, as_all_servers, running
from .wire import UPLOAD_HEADERS, encode, gauge, token_in, write_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telemeter.config.flag_parser import Flags

CLUSTER: Final = "quiet-cluster"
CLIENT: Final = "a client"
USER: Final = "a-user"


def _made_up(name: str) -> str:
    return f"{name}-{secrets.token_hex(10)}"


#: Given in files, or never given at all: these must not be in a list of processes either.
IN_FILES: Final = {
    name: _made_up(name)
    for name in ("cluster-token", "from-token", "salt", "access-token", "unknown-token")
} | {"client-secret": f"{_made_up('client+/%&: secret')}"}
#: Given in URLs, for which there are no files.
IN_URLS: Final = {
    name: _made_up(name)
    for name in ("from-password", "to-password", "forward-password", "authorize-password")
}
#: Given in the environment.
IN_ENVIRONMENT: Final = {"proxy-password": _made_up("proxy-password")}
SECRETS: Final = {**IN_FILES, **IN_URLS, **IN_ENVIRONMENT}


def forms(secret: str) -> set[str]:
    """Return how a secret may look, wherever in a base64 text it begins."""
    plain = {secret, quote(secret, safe=""), quote_plus(secret)}
    found = set(plain)
    for text in plain:
        for before in range(3):
            whole = text[: len(text) - (len(text) + before) % 3]
            encoded = base64.b64encode(("?" * before + whole).encode()).decode()
            found.add(encoded[4 if before else 0 :])
    return found


def leaks(texts: dict[str, str], hidden: dict[str, str]) -> list[str]:
    """Return what is told of secrets, and where."""
    return [
        f"{name} in {where}: {line}"
        for where, text in texts.items()
        for name, secret in hidden.items()
        for line in text.splitlines()
        if any(form in line for form in forms(secret))
    ]


# --- the other servers ----------------------------------------------------------------------------


@dataclass
class Others:
    """All other servers, played by the test.

    Attributes:
        trouble: what some of them answer at present, by path.
        granted: how many access tokens were given.
    """

    peer: Peer
    trouble: dict[str, int] = field(default_factory=dict)
    granted: int = 0

    def answer(self, request: Request) -> Reply:
        """Answer as it should be, or with everything that came."""
        path = "CONNECT" if request.method == "CONNECT" else request.path
        if path not in self.trouble:
            return self._answer_well(request)
        came = {"headers": dict(request.headers), "body": request.body.decode("latin-1")}
        echo = json.dumps({"error": json.dumps(came), "error_description": str(came), **came})
        return Reply(self.trouble[path], echo.encode(), "application/json")

    def _answer_well(self, request: Request) -> Reply:
        url = self.peer.url()
        fields: dict[str, object]
        if request.path == "/.well-known/openid-configuration":
            fields = {"issuer": url, "token_endpoint": f"{url}/token"}
        elif request.path == "/token":
            self.granted += 1
            token = f"{SECRETS['access-token']}-{self.granted}"
            fields = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        else:
            return as_all_servers(request)
        return Reply(200, json.dumps(fields).encode(), "application/json")


@pytest.fixture(scope="module")
def others() -> Iterator[Others]:
    with running(Peer()) as peer:
        others = Others(peer)
        peer.answer = others.answer
        yield others


# --- our programs ---------------------------------------------------------------------------------


@dataclass
class Everything:
    """All programs, and what they have said to whoever asked them.

    Attributes:
        by_files: a server with secrets in files; it shows access tokens.
        by_urls: one with passwords in URLs; it forwards through a proxy.
        agents: one of each kind too; the second goes through a proxy.
        authorizer: the stub, which only the test asks.
        said: the answers of all of them, but for those whose purpose is to hand out a secret.
        jwts: what the servers have issued.
    """

    stack: Stack
    others: Others
    by_files: Server
    by_urls: Server
    agents: list[Program]
    authorizer: Program
    said: dict[str, str] = field(default_factory=dict)
    jwts: list[str] = field(default_factory=list)

    def ask(self, url: str, token: str = "", body: bytes | None = None, **headers: str) -> Answer:
        """Ask one of our programs; a GET without a body, else a POST."""
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        if token:
            fields["Authorization"] = f"Bearer {token}"
        method = "GET" if body is None else "POST"
        answer = fetch(url, method=method, body=body, headers=fields, seconds=30)
        if answer.status != 200 or method == "GET":
            self.said[f"answer {len(self.said)} of {url}"] = f"{answer.headers}\n{answer.text}"
        return answer

    def authorize(self, server: Server, token: str) -> int:
        """Exchange a token for a JWT, and keep that."""
        answer = self.ask(f"{server.url}/authorize?id={CLUSTER}", token, b"")
        if answer.status == 200:
            self.jwts.append(token_in(answer.body))
        return answer.status

    def upload(self, server: Server, jwt: str) -> int:
        body = encode([gauge("up", 1, {"_id": CLUSTER})])
        headers = {name.replace("-", "_"): text for name, text in UPLOAD_HEADERS.items()}
        return self.ask(f"{server.url}/upload", jwt, body, **headers).status

    def write(self, server: Server, token: str) -> int:
        return self.ask(
            f"{server.url}/metrics/v1/receive",
            token,
            write_body(CLUSTER, "up"),
            Content_Type="application/x-protobuf",
            Content_Encoding="snappy",
        ).status

    def run_cycle(self, agent: Program) -> str:
        """Have an agent begin a cycle; return why it failed, or nothing if it did not."""
        log = LogFollower(agent.log)
        log.new_lines()
        assert self.ask(f"{agent.url}/-/reload", body=b"").status == 200

        def outcome() -> dict[str, str] | None:
            lines = map(parse_logfmt, log.new_lines())
            ends = ("metrics uploaded", "cycle failed")
            return next((line for line in lines if line.get("msg") in ends), None)

        event = self.stack.wait(outcome, "the end of a cycle", agent)
        assert event is not None
        return event.get("reason", "")

    def logs(self) -> dict[str, str]:
        return {f"the log of {each.name}": each.output() for each in self.stack.programs}


@pytest.fixture(scope="module")
def everything(stack: Stack, others: Others) -> Everything:
    for name, secret in IN_FILES.items():
        stack.write(name, f"{secret}\n")
    stack.write("tokens", json.dumps([{"token": SECRETS["cluster-token"]}]))
    peer = others.peer
    address = f"{HOST}:{peer.port}"
    proxy = f"http://{USER}:{SECRETS['proxy-password']}@{address}"
    environment = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}

    def url(name: str, host: str, path: str, scheme: str = "http") -> str:
        return f"{scheme}://{USER}:{SECRETS[name]}@{host}{path}"

    by_files = start_server(
        stack,
        "server-by-files",
        *("--authorize", peer.url("/tollbooth")),
        *("--forward-url", peer.url("/write")),
        *("--oidc-issuer", peer.url()),
        *("--client-id", CLIENT),
        *("--client-secret-file", str(stack.folder / "client-secret")),
        *("--shared-key", str(stack.write("shared-key", signing_key()))),
        *("--tenant-key", "tenant"),
        *("--authorize-cache-expire", "0"),
        *("--authorize-refused-expire", "0"),
        *("--ratelimit", "0"),
        "--verbose",
    )
    by_urls = start_server(
        stack,
        "server-by-urls",
        *("--authorize", url("authorize-password", address, "/tollbooth")),
        *("--forward-url", url("forward-password", "upstream.test", "/write")),
        *("--shared-key", str(stack.folder / "shared-key")),
        *("--authorize-cache-expire", "0"),
        *("--authorize-refused-expire", "0"),
        *("--ratelimit", "0"),
        "--proxy-from-environment",
        "--verbose",
        environment=environment,
    )
    shared = [
        *("--id", CLUSTER),
        *("--to-token-file", str(stack.folder / "cluster-token")),
        *("--anonymize-labels", "instance"),
        *("--anonymize-salt-file", str(stack.folder / "salt")),
        "--verbose",
    ]
    agents = [
        start_agent(
            stack,
            "agent-by-files",
            *("--from", peer.url()),
            *("--from-token-file", str(stack.folder / "from-token")),
            *("--to", by_files.url),
            *shared,
        ),
        start_agent(
            stack,
            "agent-by-urls",
            *("--from", url("from-password", address, "/federate")),
            *("--to-auth", url("to-password", "telemeter.test", "/authorize")),
            *("--to-upload", url("to-password", "telemeter.test", "/upload")),
            *shared,
            environment=environment,
        ),
        start_agent(
            stack,
            "agent-by-tunnel",
            *("--from", peer.url()),
            *("--to", url("to-password", "telemeter.test", "/", "https")),
            *shared,
            environment=environment,
        ),
    ]
    listen, authorizer_url = listen_address(stack)
    tokens = ("--tokens", str(stack.folder / "tokens"))
    authorizer = stack.start(
        "authorizer",
        twistd("telemeter-authorizer", "--listen", listen, *tokens, "--verbose"),
        authorizer_url,
        Ready("/", 405),
    )
    return Everything(stack, others, by_files, by_urls, agents, authorizer)


# --- what happens ---------------------------------------------------------------------------------


def all_goes_well(everything: Everything) -> None:
    token = SECRETS["cluster-token"]
    for agent in everything.agents[:2]:
        assert everything.run_cycle(agent) == ""
    for server in (everything.by_files, everything.by_urls):
        assert everything.authorize(server, token) == 200
        assert everything.upload(server, everything.jwts[-1]) == 200
        assert everything.write(server, make_composite(CLUSTER, token)) == 200
    question = {"cluster_id": CLUSTER, "authorization_token": token}
    body, json_type = json.dumps(question).encode(), "application/json"
    url = everything.authorizer.url
    assert fetch(url, method="POST", body=body, headers={"Content-Type": json_type}).status == 201


def strangers_come(everything: Everything) -> None:
    """Requests that our own programs refuse."""
    unknown, token = SECRETS["unknown-token"], SECRETS["cluster-token"]
    everything.others.trouble = {"/tollbooth": 401}
    composite = make_composite(CLUSTER, unknown)
    broken = base64.b64encode(f"{{'authorization_token': '{unknown}'}}".encode()).decode()
    for server in (everything.by_files, everything.by_urls):
        assert everything.authorize(server, unknown) == 401
        for jwt in (unknown, f"{everything.jwts[0]}x", f"{everything.jwts[0][:-9]}{unknown}"):
            assert everything.upload(server, jwt) == 401
        assert everything.write(server, composite) == 401
        for malformed in (unknown, broken, composite[:-7], f"{composite}{composite}"):
            assert everything.write(server, malformed) == 400
        everything.ask(f"{server.url}/upload", body=b"", Authorization=f"Basic {unknown}")
        everything.ask(f"{server.url}/upload", token, b"", Content_Type=f"text/{unknown}")
        everything.ask(f"{server.url}/nothing/here?token={unknown}", unknown)
        everything.ask(f"{server.url}/authorize?id=x&token={unknown}", token, unknown.encode())
    everything.others.trouble = {}
    question = {"cluster_id": CLUSTER, "authorization_token": unknown}
    for body in (json.dumps(question), json.dumps(question)[:-1], f"[{json.dumps(unknown)}]"):
        url = everything.authorizer.url
        everything.ask(url, unknown, body.encode(), Content_Type="application/json")


def others_are_in_trouble(everything: Everything, status: int) -> None:
    """What our programs ask others for is refused, with all that they said in the answer."""
    trouble = everything.others.trouble
    token = SECRETS["cluster-token"]
    composite = make_composite(CLUSTER, token)
    servers = (everything.by_files, everything.by_urls)
    for path in ("/federate", "/authorize", "/upload"):
        trouble[path] = status
        for agent in everything.agents[:2]:
            everything.run_cycle(agent)
        trouble.clear()
    trouble["CONNECT"] = status
    assert "the proxy" in everything.run_cycle(everything.agents[2])
    trouble.clear()
    for server in servers:
        trouble["/write"] = status
        assert everything.upload(server, everything.jwts[0]) != 200
        assert everything.write(server, composite) != 200
        trouble.clear()
        trouble["/tollbooth"] = status
        assert everything.authorize(server, token) != 200
        assert everything.write(server, composite) != 200
        trouble.clear()


def the_issuer_is_in_trouble(everything: Everything, status: int) -> None:
    everything.others.trouble = {"/write": 401, "/token": status}
    everything.upload(everything.by_files, everything.jwts[0])
    everything.others.trouble = {}


def others_hang_up(everything: Everything) -> None:
    """Nobody answers at all."""
    token = SECRETS["cluster-token"]
    everything.others.peer.hang_up = True
    for agent in everything.agents:
        assert everything.run_cycle(agent) != ""
    for server in (everything.by_files, everything.by_urls):
        assert everything.authorize(server, token) == 503
        assert everything.upload(server, everything.jwts[0]) == 502
    everything.others.peer.hang_up = False


@pytest.fixture(scope="module")
def afterwards(everything: Everything) -> Everything:
    """All of that has happened, and the programs still run."""
    all_goes_well(everything)
    strangers_come(everything)
    for status in (400, 401, 403, 407, 429, 500):
        others_are_in_trouble(everything, status)
    the_issuer_is_in_trouble(everything, 401)
    others_hang_up(everything)
    for server in (everything.by_files, everything.by_urls):
        for page in ("/", "/metrics", "/debug/stacks", "/debug/profile?seconds=0.1"):
            everything.ask(server.internal_url + page)
    for agent in everything.agents:
        for page in ("/", "/metrics", "/federate", "/debug/stacks", "/debug/profile?seconds=0.1"):
            everything.ask(agent.url + page)
    return everything


# --- what is told of it ---------------------------------------------------------------------------


def test_each_secret_was_in_use(afterwards: Everything) -> None:
    came = "\n".join(
        f"{request.headers} {request.body!r}" for request in afterwards.others.peer.requests
    )
    used = {name for name, secret in SECRETS.items() if any(form in came for form in forms(secret))}
    # The salt stays at home, a JWT takes the place of the password in --to, and strangers' tokens
    # go no further than where they are asked about.
    assert set(SECRETS) - used == {"salt", "to-password"}
    assert afterwards.others.granted > 1
    assert len(set(afterwards.jwts)) > 1


def test_each_server_and_proxy_is_told_which_program_asks(afterwards: Everything) -> None:
    """Part of what is said here, where all programs ask all others, because nothing is secret."""
    asked = {
        (
            request.headers.get("user-agent", ""),
            "a tunnel" if request.method == "CONNECT" else request.path,
        )
        for request in afterwards.others.peer.requests
    }
    by_program = {
        "client": {"/federate", "/authorize", "/upload", "a tunnel"},
        "server": {"/.well-known/openid-configuration", "/token", "/tollbooth", "/write"},
    }
    assert asked == {
        (f"telemeter-{name}/{__version__}", path)
        for name, paths in by_program.items()
        for path in paths
    }


def test_no_log_tells_a_secret(afterwards: Everything) -> None:
    logs = afterwards.logs()
    assert all("level=debug" in log for log in logs.values())
    signatures = {f"JWT {jwt[:9]}": jwt.rpartition(".")[2] for jwt in afterwards.jwts}
    assert leaks(logs, SECRETS | signatures) == []
    # The beginning of a JWT, whoever issued it.
    assert [log for log in logs.values() if "eyJ" in log] == []


def test_no_answer_tells_a_secret(afterwards: Everything) -> None:
    assert len(afterwards.said) > 50
    key = (afterwards.stack.folder / "shared-key").read_text().splitlines()[1]
    assert leaks(afterwards.said, SECRETS | {"key": key}) == []


def test_no_list_of_processes_tells_a_secret(afterwards: Everything) -> None:
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines[str(path)] = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue  # It has ended.
    for program in afterwards.stack.programs:
        assert "telemeter-" in lines[f"/proc/{program.popen.pid}/cmdline"]
    assert leaks(lines, IN_FILES | IN_ENVIRONMENT) == []


# --- bad configurations ---------------------------------------------------------------------------

SERVER: Final = server_options.Options
AGENT: Final = client.Options
AUTHORIZER: Final = authorizer.Options
TO: Final = "--id x --to http://127.0.0.1:9"
WORD: Final = "hush-hush-hush-hush"

#: Command lines that are refused. `{file}` is a file, with the content that follows.
REFUSED: Final = [
    (SERVER, f"--oidc-issuer http://127.0.0.1:9 --client-secret {WORD}", ""),
    (SERVER, f"--oidc-issuer http://user:{WORD}@127.0.0.1:9", ""),
    (SERVER, f"--forward-url http://user:{WORD}@127.0.0.1:port/", ""),
    (SERVER, f"--forward-url http://user:{WORD}/{WORD}@127.0.0.1/", ""),
    (SERVER, f"--forward-url user:{WORD}@127.0.0.1/", ""),
    (SERVER, f"--authorize htps://user:{WORD}@127.0.0.1/", ""),
    (SERVER, f"--client-secret = {WORD}", ""),
    (SERVER, "--client-secret-file {file}", f"one\n{WORD}\n"),
    (SERVER, "--shared-key {file}", f"-----BEGIN PRIVATE KEY-----\n{WORD}\n"),
    (SERVER, "--tls-crt {file} --tls-key {file}", f"-----BEGIN PRIVATE KEY-----\n{WORD}"),
    (AGENT, f"{TO} --from http://user:{WORD}@127.0.0.1:99999", ""),
    (AGENT, f"{TO} --from http://127.0.0.1:9 --to-token {WORD} surplus", ""),
    (AGENT, f"{TO} --from http://127.0.0.1:9 --to-token-file {{file}}", f"one\n{WORD}"),
    (AUTHORIZER, "--tokens {file}", f'[{{"token": "{WORD}"}}, {{"{WORD}": 1}}]'),
    (AUTHORIZER, "--tokens {file}", f'[{{"token": "{WORD}'),
]


@pytest.mark.parametrize(("options", "line", "content"), REFUSED)
def test_a_refused_configuration_tells_no_secret(
    options: type[Flags], line: str, content: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(SystemExit) as caught:
        options().parseOptions(line.format(file=path).split())
    message = str(caught.value)
    assert message.startswith((f"{options.program}: --", f"{options.program}: expected flags only"))
    assert leaks({line: message}, {"a secret": WORD}) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (SERVER, "--proxy-from-environment"),
        (AGENT, f"{TO} --from http://127.0.0.1:9 --to-token any"),
    ],
)
def test_a_refused_proxy_tells_no_password(
    options: type[Flags], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{WORD}/{WORD}@proxy.test:8080")
    with pytest.raises(SystemExit, match="HTTPS_PROXY") as caught:
        options().parseOptions(line.split())
    assert leaks({line: str(caught.value)}, {"a password": WORD}) == []


def test_a_dry_run_that_fails_tells_no_password(tmp_path: Path) -> None:
    password = SECRETS["from-password"]
    flags = f"{TO} --from http://user:{password}@127.0.0.1:9 --dry-run --verbose"
    done = run_twistd("telemeter-client", *flags.split(), folder=tmp_path)
    assert done.returncode == 1
    assert "--from http://127.0.0.1:9" in done.stderr
    assert leaks({"output": done.stdout + done.stderr}, SECRETS) == []


@pytest.mark.parametrize(
    "flags", ["--authorization-token-file {file}", f"--authorization-token {WORD}"]
)
def test_the_maker_of_tokens_tells_no_secret(
    flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(f"{WORD}\xff".encode("latin-1"))
    try:
        status = token.main(["--cluster-id", "x", *flags.format(file=path).split()])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    assert status != 0
    said = "".join(capsys.readouterr())
    assert "--authorization-token-file" in said
    assert leaks({flags: said}, {"a secret": WORD}) == []
