"""What is measured: Telemeter's server in several forms, a peer, and a limit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench import nginx
from bench.bodies import whitelist
from demo.programs import start_server
from demo.stack import HOST, POLL_SECONDS, Program, Ready, Stack, StackError, fetch

if TYPE_CHECKING:
    from pathlib import Path

#: Larger than any body here: the limits are not what is measured.
_LIMIT_BYTES: Final = 128 << 20


@dataclass(frozen=True)
class Surroundings:
    """What the subjects work with, and none of them owns.

    Attributes:
        upstream: where samples go.
        authorizer: the URL of the authorization server.
        key: the file with the key that signs the clusters' tokens.
    """

    upstream: Program
    authorizer: str
    key: Path


@dataclass(frozen=True)
class Running:
    """A subject that has been started.

    Attributes:
        program: its process.
        url: where it takes requests.
        settle: returns as soon as nothing is left to do for what was acknowledged.
    """

    program: Program
    url: str
    settle: Callable[[], None] = lambda: None


Start = Callable[[Stack, str, Surroundings, int], Running]


@dataclass(frozen=True)
class Subject:
    """Something that can be measured.

    Attributes:
        name: in the tables.
        start: starts it, in a stack and under a name there, with so many rules in its whitelist.
        receive_path: where it takes remote write.
        takes_uploads: whether it takes the agents' uploads too.
    """

    name: str
    start: Start
    receive_path: str = "/metrics/v1/receive"
    takes_uploads: bool = True


def _telemeter(*flags: str, environment: dict[str, str] | None = None) -> Start:
    def start(stack: Stack, name: str, around: Surroundings, rules: int) -> Running:
        lines = [f'{{__name__="{metric}"}}\n' for metric in whitelist(rules)]
        server = start_server(
            stack,
            name,
            *("--authorize", around.authorizer),
            *("--shared-key", str(around.key)),
            *("--forward-url", f"{around.upstream.url}/api/v1/receive"),
            *("--whitelist-file", str(stack.write(f"{name}.whitelist", "".join(lines)))),
            *("--ratelimit", "0"),
            *("--limit-bytes", str(_LIMIT_BYTES)),
            *("--limit-receive-bytes", str(_LIMIT_BYTES)),
            *("--log-level", "warn"),
            *flags,
            environment=environment,
        )
        return Running(server.program, server.url)

    return start


def _vmagent(stack: Stack, name: str, around: Surroundings, rules: int) -> Running:
    listen = f"{HOST}:{stack.free_port()}"
    url = f"http://{listen}"
    names = "|".join(re.escape(metric) for metric in whitelist(rules))
    keep = f"- action: keep\n  source_labels: [__name__]\n  regex: '{names}'\n"
    argv = [
        "vmagent",
        f"-httpListenAddr={listen}",
        f"-remoteWrite.url={around.upstream.url}/api/v1/receive",
        f"-remoteWrite.urlRelabelConfig={stack.write(f'{name}.relabel.yml', keep)}",
        f"-remoteWrite.tmpDataPath={stack.folder / f'{name}.data'}",
        f"-maxInsertRequestSize={_LIMIT_BYTES}",
    ]
    program = stack.start(name, argv, url, Ready("/health"))
    return Running(program, url, lambda: _wait_for_queue(stack, program, around.upstream))


#: It keeps what does not fill a block for a second.
_IDLE_SECONDS: Final = 1.2
_QUEUE_SECONDS: Final = 60.0


def _wait_for_queue(stack: Stack, vmagent: Program, upstream: Program) -> None:
    """Wait until vmagent has forwarded what it has acknowledged, without asking it too often."""
    taken, since = nginx.requests_taken(upstream), time.monotonic()
    deadline = since + _QUEUE_SECONDS
    while time.monotonic() < since + _IDLE_SECONDS or _pending(vmagent):
        stack.check()
        if time.monotonic() > deadline:
            raise StackError(f"vmagent's queue is not empty after a minute\n{vmagent.tail()}")
        time.sleep(POLL_SECONDS)
        now_taken = nginx.requests_taken(upstream)
        if now_taken != taken + 1:  # besides this question
            since = time.monotonic()
        taken = now_taken


def _pending(vmagent: Program) -> bool:
    metrics = fetch(f"{vmagent.url}/metrics").text
    pending = re.search(r"^vmagent_remotewrite_pending_data_bytes\S* (\S+)$", metrics, re.MULTILINE)
    return pending is not None and float(pending[1]) > 0


def _proxy(stack: Stack, name: str, around: Surroundings, rules: int) -> Running:
    program = nginx.start_proxy(stack, name, around.upstream)
    return Running(program, program.url)


TELEMETER: Final = Subject("telemeter", _telemeter())
TWO_WORKERS: Final = Subject("telemeter, 2 workers", _telemeter("--workers", "2"))
ALL_CORES: Final = Subject("telemeter, all cores", _telemeter("--workers", "0"))
FALLBACK: Final = Subject(
    "telemeter, Python alone", _telemeter(environment={"TELEMETER_TRANSCODER": "python"})
)
VMAGENT: Final = Subject("vmagent", _vmagent, "/api/v1/write", takes_uploads=False)
NGINX: Final = Subject("nginx", _proxy)
