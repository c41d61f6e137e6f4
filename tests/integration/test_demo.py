"""The demo where there is nothing but Python, and its source."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from demo.programs import federated, start_builtin_source
from demo.stack import fetch
from telemeter.samples.family import decode_families

if TYPE_CHECKING:
    from demo.stack import Stack

ROOT = Path(__file__).parents[2]


def demo(*flags: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    argv = [sys.executable, "-m", "demo", *flags]
    return subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def test_nothing_but_python_is_needed(tmp_path: Path) -> None:
    for command in ("sh", "setpriv"):
        (tmp_path / command).symlink_to(f"/usr/bin/{command}")
    done = demo("--once", path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "source (figures of this machine)" in done.stdout
    for claim in ("is anonymized", "is renamed to alerts", "_elide is removed"):
        assert claim in done.stdout
    assert done.stdout.endswith("everything has arrived\n")


def test_a_prometheus_that_is_asked_for_and_missing_is_named(tmp_path: Path) -> None:
    done = demo("--once", "--source", "prometheus", path=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "the demo needs more: apt-get install prometheus\n",
    )


def test_tls_cannot_go_with_our_own_source() -> None:
    done = demo("--once", "--source", "builtin", "--tls")
    assert done.returncode == 2
    assert "--tls needs a Prometheus" in done.stderr


def test_the_source_tells_of_this_machine(stack: Stack) -> None:
    source = start_builtin_source(stack)
    (total,) = federated(source.url, "node_memory_MemTotal_bytes")
    assert float(total.value) == psutil.virtual_memory().total
    assert total.labels["job"] == "demo-source"
    assert total.labels["instance"] == source.url.removeprefix("http://")
    cpus = federated(source.url, 'node_cpu_seconds_total{mode="user"}')
    assert [each.labels["cpu"] for each in cpus] == [str(n) for n in range(psutil.cpu_count())]
    names = {each.labels["__name__"] for each in federated(source.url, '{__name__=~".+"}')}
    assert {"up", "ALERTS", "node_load1", "node_network_receive_bytes_total"} <= names
    page = fetch(f"{source.url}/metrics").text
    assert {line.split()[2] for line in page.splitlines() if line.startswith("#")} == names
    accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
    headers = {"Accept": accept + "encoding=delimited"}
    answer = fetch(f"{source.url}/federate?match[]=up", headers=headers)
    (family,) = decode_families(answer.body)
    assert family.metric[0].timestamp_ms / 1000 == pytest.approx(time.time(), abs=10)
    stack.wait(
        lambda: (
            fetch(f"{source.url}/federate?match[]=up").text.split()[-1]
            != str(family.metric[0].timestamp_ms)
        ),
        "newer figures",
        source,
    )
