"""The senders of remote write, configured as docs/remote-write.md says, and what they write to."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from demo.programs import start_prometheus
from demo.stack import HOST, Program, Ready, Stack

PAGE = Path(__file__).parents[2] / "docs" / "remote-write.md"
HEALTH = Ready("/health")


def from_page(language: str, start: str, values: dict[str, str]) -> str:
    """Return the code block of the page that starts so, with values in place of its examples.

    Each example must be in the block exactly once: what the page shows is what runs.
    """
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = (block for block in blocks if block.startswith(start))
    for example, value in values.items():
        assert text.count(example) == 1, f"{example} in:\n{text}"
        text = text.replace(example, value)
    return str(text)


def make_token(stack: Stack, cluster: str, secret: str) -> Path:
    """Make a token for a cluster with the page's command; return the file it is in."""
    folder = stack.folder / f"{cluster}.{secret}"
    folder.mkdir()
    (folder / "cluster.token").write_text(secret + "\n")
    command = from_page("sh", "telemeter-token", {"my-cluster": shlex.quote(cluster)})
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, check=True)
    return folder / "telemeter.token"


def remote_write(name: str, url: str, cluster: str, token: Path, *more: str) -> str:
    """Return the page's entry of a Prometheus' remote_write, with further lines added."""
    examples = {
        "name: telemeter\n": f"name: {name}\n",
        "https://telemeter.example.com": url,
        "/etc/prometheus/telemeter.token": str(token),
        "my-cluster": cluster,
    }
    text = from_page("yaml", "remote_write:\n", examples).removeprefix("remote_write:\n")
    return text + "".join(f"    {line}\n" for line in more)


def start_sender(
    stack: Stack, name: str, target: str, entries: list[str], *flags: str, path: str = "/metrics"
) -> Program:
    """Start a Prometheus that scrapes itself and a target every second, and writes remotely."""
    port = stack.free_port()
    configuration = f"""\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: itself
    static_configs:
      - targets: ["{HOST}:{port}"]
  - job_name: fixture
    metrics_path: {path}
    static_configs:
      - targets: ["{target}"]
remote_write:
{"".join(entries)}"""
    # At the end it may be stopped later than what it writes to.
    deadline = "--storage.remote.flush-deadline=1s"
    return start_prometheus(stack, name, configuration, deadline, *flags, port=port)


def start_vmagent(
    stack: Stack, name: str, target: str, urls: list[str], cluster: str, token: Path
) -> Program:
    """Start a vmagent that scrapes a target every second, and writes to several servers."""
    listen = f"{HOST}:{stack.free_port()}"
    configuration = f"""\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: agent
    static_configs:
      - targets: ["{target}"]
"""
    first, *others = [f"{url}/metrics/v1/receive" for url in urls]
    examples = {
        "prometheus.yml": str(stack.write(f"{name}.yml", configuration)),
        "https://telemeter.example.com/metrics/v1/receive": first,
        "/etc/vmagent/telemeter.token": str(token),
        "my-cluster": cluster,
    }
    argv = [
        *shlex.split(from_page("sh", "vmagent", examples).replace("\\\n", "")),
        *(f"-remoteWrite.url={url}" for url in others),
        f"-remoteWrite.tmpDataPath={stack.folder / f'{name}.data'}",
        "-remoteWrite.showURL",
        f"-httpListenAddr={listen}",
    ]
    return stack.start(name, argv, f"http://{listen}", HEALTH)


def start_victoria(stack: Stack, name: str) -> Program:
    """Start a VictoriaMetrics, which keeps what it gets twice in twice."""
    listen = f"{HOST}:{stack.free_port()}"
    argv = [
        "victoria-metrics",
        f"-httpListenAddr={listen}",
        f"-storageDataPath={stack.folder / f'{name}.data'}",
    ]
    return stack.start(name, argv, f"http://{listen}", HEALTH)
