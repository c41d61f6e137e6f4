"""The programs of the whole path: Telemeter's daemons, and a Prometheus at both ends."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.stack import HOST, Program, Ready, Stack, StackError, fetch

if TYPE_CHECKING:
    from collections.abc import Mapping

# --- Telemeter ------------------------------------------------------------------------------------


def twistd(plugin: str, *flags: str) -> list[str]:
    """Return the command line of a daemon in the foreground, run by this Python's own twistd."""
    command = Path(sys.executable).with_name("twistd")
    return [str(command), "-n", "--pidfile=", plugin, *flags]


def start_authorizer(stack: Stack, *tokens: str, name: str = "authorizer") -> Program:
    """Start the stub authorization server; it knows these tokens."""
    listen = f"{HOST}:{stack.free_port()}"
    known = stack.write(f"{name}.tokens.json", json.dumps([{"token": token} for token in tokens]))
    argv = twistd("telemeter-authorizer", "--listen", listen, "--tokens", str(known))
    # It takes POST and nothing else.
    return stack.start(name, argv, f"http://{listen}", Ready("/", 405))


@dataclass
class Server:
    """A running telemeter-server and its two URLs."""

    program: Program
    url: str
    internal_url: str


def start_server(stack: Stack, name: str, *flags: str) -> Server:
    """Start a telemeter-server on two free ports with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    internal = f"{HOST}:{stack.free_port()}"
    argv = twistd("telemeter-server", "--listen", listen, "--listen-internal", internal, *flags)
    program = stack.start(name, argv, f"http://{listen}")
    return Server(program, f"http://{listen}", f"http://{internal}")


def start_agent(stack: Stack, name: str, *flags: str) -> Program:
    """Start a telemeter-client on a free port with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    argv = twistd("telemeter-client", "--listen", listen, *flags)
    return stack.start(name, argv, f"http://{listen}")


def anonymized(salt: str, value: str) -> str:
    """Return what an agent with that salt must put in place of a label's value."""
    digest = hashlib.sha256((salt + value).encode()).digest()
    return base64.urlsafe_b64encode(digest[:9]).decode().rstrip("=")


# --- Prometheus -----------------------------------------------------------------------------------

# The alert always fires, so that the source has a series ALERTS; its label `_elide` is the one that
# the server is told to remove.
_ALERT = """\
groups:
  - name: alerts
    rules:
      - alert: AlwaysFiring
        expr: vector(1)
        labels:
          severity: info
          _elide: "yes"
"""


def start_prometheus(
    stack: Stack, name: str, configuration: str, *flags: str, port: int | None = None
) -> Program:
    """Start a Prometheus with that configuration file's text, on a free port if none is given."""
    listen = f"{HOST}:{port or stack.free_port()}"
    argv = [
        "prometheus",
        f"--config.file={stack.write(f'{name}.yml', configuration)}",
        f"--storage.tsdb.path={stack.folder / f'{name}.data'}",
        f"--web.listen-address={listen}",
        *flags,
    ]
    return stack.start(name, argv, f"http://{listen}", Ready("/-/ready"))


def start_source(stack: Stack, name: str = "source", more_rules: str = "") -> Program:
    """Start the Prometheus to federate from: it scrapes itself and an alert of it always fires.

    Args:
        stack: what the program belongs to.
        name: the program's name.
        more_rules: further groups of rules, as in a rule file below `groups:`.
    """
    port = stack.free_port()
    rules = stack.write(f"{name}.rules.yml", _ALERT + more_rules)
    configuration = f"""\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files:
  - {rules}
scrape_configs:
  - job_name: prometheus
    static_configs:
      - targets: ["{HOST}:{port}"]
"""
    return start_prometheus(stack, name, configuration, port=port)


def wait_for_samples(stack: Stack, source: Program) -> None:
    """Wait until the source has scraped itself and its alert fires: about five seconds."""
    stack.wait(
        lambda: query(source.url, "ALERTS") and query(source.url, "up == 1"),
        f"{source.name} to have scraped itself and evaluated its alert",
        source,
    )


def start_destination(stack: Stack, name: str = "destination") -> Program:
    """Start the Prometheus that takes remote write and scrapes nothing."""
    return start_prometheus(stack, name, "", "--web.enable-remote-write-receiver")


@dataclass(frozen=True)
class Series:
    """One series of an instant query's result; the value is kept as Prometheus wrote it."""

    labels: Mapping[str, str]
    value: str

    def __str__(self) -> str:
        """The series as Prometheus writes it in its text format."""
        name = self.labels.get("__name__", "")
        pairs = [f'{key}="{value}"' for key, value in self.labels.items() if key != "__name__"]
        return f"{name}{{{', '.join(pairs)}}} {self.value}"


def query(url: str, expression: str) -> list[Series]:
    """Run an instant query at the Prometheus with that URL.

    Raises:
        OSError: no answer came.
        StackError: Prometheus refused the query.
    """
    parameters = urllib.parse.urlencode({"query": expression})
    answer = fetch(f"{url}/api/v1/query?{parameters}")
    if answer.status != 200:
        raise StackError(f"query {expression!r} at {url}: {answer.status} {answer.text}")
    result = json.loads(answer.body)["data"]["result"]
    return [Series(item["metric"], item["value"][1]) for item in result]
