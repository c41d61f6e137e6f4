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

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.endpoints import quoteStringArgument

from demo.stack import HOST, Program, Ready, Stack, StackError, fetch
from telemeter.samples.series import number_text

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from demo.certificates import Identity

# --- Telemeter ------------------------------------------------------------------------------------


def twistd(plugin: str, *flags: str) -> list[str]:
    """Return the command line of a daemon in the foreground, run by this Python's own twistd."""
    command = Path(sys.executable).with_name("twistd")
    return [str(command), "-n", "--pidfile=", plugin, *flags]


def listen_address(stack: Stack, identity: Identity | None = None) -> tuple[str, str]:
    """Return what `--listen` takes for a free port, over TLS if there is an identity, and the URL.

    The programs that have no flags for TLS take one of Twisted's endpoint descriptions.
    """
    port = stack.free_port()
    if identity is None:
        return f"{HOST}:{port}", f"http://{HOST}:{port}"
    key, certificate = (quoteStringArgument(str(p)) for p in (identity.key, identity.certificate))
    endpoint = f"ssl:{port}:interface={HOST}:privateKey={key}:certKey={certificate}"
    return endpoint, f"https://{HOST}:{port}"


def start_authorizer(
    stack: Stack, *tokens: str, name: str = "authorizer", identity: Identity | None = None
) -> Program:
    """Start the stub authorization server, with TLS if it has an identity; it knows the tokens."""
    listen, url = listen_address(stack, identity)
    known = stack.write(f"{name}.tokens.json", json.dumps([{"token": token} for token in tokens]))
    argv = twistd("telemeter-authorizer", "--listen", listen, "--tokens", str(known))
    # It takes POST and nothing else.
    return stack.start(name, argv, url, Ready("/", 405))


@dataclass
class Server:
    """A running telemeter-server and its two URLs."""

    program: Program
    url: str
    internal_url: str


def start_server(
    stack: Stack, name: str, *flags: str, environment: Mapping[str, str] | None = None
) -> Server:
    """Start a telemeter-server on two free ports with these further flags."""
    listen = f"{HOST}:{stack.free_port()}"
    internal = f"{HOST}:{stack.free_port()}"
    argv = twistd("telemeter-server", "--listen", listen, "--listen-internal", internal, *flags)
    url = f"{'https' if '--tls-crt' in flags else 'http'}://{listen}"
    internal_url = f"{'https' if '--internal-tls-crt' in flags else 'http'}://{internal}"
    return Server(stack.start(name, argv, url, environment=environment), url, internal_url)


def start_agent(
    stack: Stack,
    name: str,
    *flags: str,
    identity: Identity | None = None,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Start a telemeter-client on a free port with these further flags.

    Args:
        stack: what the program belongs to.
        name: the program's name.
        flags: further flags.
        identity: what its listener shows; None: no TLS there.
        environment: additions to its environment.
    """
    listen, url = listen_address(stack, identity)
    argv = twistd("telemeter-client", "--listen", listen, *flags)
    return stack.start(name, argv, url, environment=environment)


def anonymized(salt: str, value: str) -> str:
    """Return what an agent with that salt must put in place of a label's value."""
    digest = hashlib.sha256((salt + value).encode()).digest()
    return base64.urlsafe_b64encode(digest[:9]).decode().rstrip("=")


def start_builtin_source(stack: Stack, name: str = "source") -> Program:
    """Start what shows figures of this machine as a Prometheus would."""
    listen, url = listen_address(stack)
    argv = twistd("telemeter-demo-source", "--listen", listen, "--instance", listen)
    program = stack.start(name, argv, url)
    stack.wait(lambda: federated(url, "up"), f"{name} to have looked at this machine", program)
    return program


def federated(url: str, selector: str) -> list[Series]:
    """Return the series at the /federate of a URL that a selector selects.

    Raises:
        OSError: no answer came.
        StackError: it was refused.
    """
    answer = fetch(f"{url}/federate?{urllib.parse.urlencode({'match[]': selector})}")
    if answer.status != 200:
        raise StackError(f"{selector!r} at {url}/federate: {answer.status} {answer.text}")
    return [
        Series({"__name__": sample.name, **sample.labels}, number_text(sample.value))
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


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
    stack: Stack,
    name: str,
    configuration: str,
    *flags: str,
    port: int | None = None,
    identity: Identity | None = None,
) -> Program:
    """Start a Prometheus.

    Args:
        stack: what the program belongs to.
        name: the program's name.
        configuration: the text of its configuration file.
        flags: further flags.
        port: where it listens; None: on a free port.
        identity: what it shows over TLS, and then it wants such a thing of whoever asks it; None:
            it speaks no TLS.
    """
    listen = f"{HOST}:{port or stack.free_port()}"
    argv = [
        "prometheus",
        f"--config.file={stack.write(f'{name}.yml', configuration)}",
        f"--storage.tsdb.path={stack.folder / f'{name}.data'}",
        f"--web.listen-address={listen}",
        *flags,
    ]
    if identity is None:
        return stack.start(name, argv, f"http://{listen}", Ready("/-/ready"))
    web = f"""\
tls_server_config:
  cert_file: {identity.certificate}
  key_file: {identity.key}
  min_version: TLS12
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {identity.authority}
"""
    argv.append(f"--web.config.file={stack.write(f'{name}.web.yml', web)}")
    return stack.start(name, argv, f"https://{listen}", Ready("/-/ready"))


def start_source(
    stack: Stack, name: str = "source", more_rules: str = "", *, identity: Identity | None = None
) -> Program:
    """Start the Prometheus to federate from: it scrapes itself and an alert of it always fires.

    Args:
        stack: what the program belongs to.
        name: the program's name.
        more_rules: further groups of rules, as in a rule file below `groups:`.
        identity: as for `start_prometheus`.
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
    if identity is not None:
        configuration += f"""\
    scheme: https
    tls_config:
      cert_file: {identity.certificate}
      key_file: {identity.key}
      ca_file: {identity.authority}
"""
    return start_prometheus(stack, name, configuration, port=port, identity=identity)


def wait_for_samples(stack: Stack, source: Program) -> None:
    """Wait until the source has scraped itself and its alert fires: about five seconds."""
    stack.wait(
        lambda: all(query(source.url, what, stack.context) for what in ("ALERTS", "up == 1")),
        f"{source.name} to have scraped itself and evaluated its alert",
        source,
    )


def start_destination(
    stack: Stack, name: str = "destination", *, identity: Identity | None = None
) -> Program:
    """Start the Prometheus that takes remote write and scrapes nothing."""
    receiver = "--web.enable-remote-write-receiver"
    return start_prometheus(stack, name, "", receiver, identity=identity)


@dataclass(frozen=True)
class Series:
    """One series of an instant query's result; the value is kept as Prometheus wrote it."""

    labels: Mapping[str, str]
    value: str

    def __str__(self) -> str:
        """Return the series as Prometheus writes it in its text format."""
        name = self.labels.get("__name__", "")
        pairs = [f'{key}="{value}"' for key, value in self.labels.items() if key != "__name__"]
        return f"{name}{{{', '.join(pairs)}}} {self.value}"


def query(url: str, expression: str, context: ssl.SSLContext | None = None) -> list[Series]:
    """Run an instant query at the Prometheus with that URL.

    Args:
        url: of the Prometheus.
        expression: what to ask.
        context: whom to trust and what to show if the URL is https.

    Raises:
        OSError: no answer came.
        StackError: Prometheus refused the query.
    """
    parameters = urllib.parse.urlencode({"query": expression})
    answer = fetch(f"{url}/api/v1/query?{parameters}", context=context)
    if answer.status != 200:
        raise StackError(f"query {expression!r} at {url}: {answer.status} {answer.text}")
    result = json.loads(answer.body)["data"]["result"]
    return [Series(item["metric"], item["value"][1]) for item in result]
