"""An agent with a spool, as a process: nothing is lost, and it says what waits."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from chaos.gaps import CYCLES, SCENARIOS, Scenario, run
from demo.programs import start_agent, start_builtin_source, start_server, twistd
from demo.stack import Program, Stack, fetch
from tests.samples.build import STALE_NAN, bits

from .conftest import need_command
from .upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture(scope="module")
def node_exporter(prometheus: None) -> None:
    """Need Debian's node_exporter."""
    need_command("prometheus-node-exporter", "prometheus-node-exporter")


@pytest.mark.parametrize("scenario", SCENARIOS[:1], ids=lambda each: each.name)
def test_no_gap(node_exporter: None, scenario: Scenario) -> None:
    """The server is away for 30 cycles, the agent is killed six times; `make chaos` has more."""
    row = run(scenario)
    assert (row.missing, row.invented) == (0, 0)
    assert row.kills == 6
    assert row.collections > CYCLES
    assert row.samples > 1000


def flags_of(stack: Stack, source: Program, to: str, name: str) -> Sequence[str]:
    """The flags of an agent with a spool."""
    return (
        *("--from", source.url, "--to", to, "--id", name, "--to-token", "secret"),
        *("--interval", "500ms", "--spool-dir", f"{stack.folder}/{name}"),
    )


def status_of(stack: Stack, name: str) -> subprocess.CompletedProcess[str]:
    """What --spool-status says."""
    argv = twistd("telemeter-client", "--spool-dir", f"{stack.folder}/{name}", "--spool-status")
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=stack.folder)


def test_what_waits(stack: Stack, upstream: Upstream) -> None:
    source = start_builtin_source(stack)
    nobody = f"http://127.0.0.1:{stack.free_port()}"
    flags = flags_of(stack, source, nobody, "waiting")
    agent = start_agent(stack, "agent", *flags)
    three = re.compile(r"^collections ([3-9]|\d\d)$", re.MULTILINE)
    stack.wait(lambda: three.search(status_of(stack, "waiting").stdout), "three", agent)
    said = status_of(stack, "waiting")
    assert said.returncode == 0
    date = r"\S+ \(\d+ s ago\)\n"
    assert re.fullmatch(rf"collections \d+\nbytes \d+\noldest {date}newest {date}", said.stdout)
    ready = fetch(f"{agent.url}/healthz/ready?verbose").text
    assert re.search(r"^spool: \d+ collections wait, the oldest is \d+ s old$", ready, re.MULTILINE)
    second = subprocess.run(
        twistd("telemeter-client", "--listen", "", *flags),
        capture_output=True,
        text=True,
        check=False,
        cwd=stack.folder,
    )
    assert second.returncode == 1
    expected = f"--spool-dir '{stack.folder}/waiting': another agent uses this folder"
    assert second.stderr.splitlines()[-1] == f"telemeter-client: {expected}"


def test_a_folder_without_a_spool(stack: Stack) -> None:
    said = status_of(stack, "nothing")
    assert said.returncode == 1
    expected = f"telemeter-client: --spool-dir '{stack.folder}/nothing': there is no spool.sqlite"
    assert said.stderr.splitlines() == [f"{expected} in it"]


def test_at_the_end_of_an_agent_its_series_end(stack: Stack, upstream: Upstream) -> None:
    source = start_builtin_source(stack, "stopping-source")
    server = start_server(stack, "server", "--forward-url", upstream.url)
    flags = flags_of(stack, source, server.url, "stopping")
    agent = start_agent(stack, "stopping-agent", *flags, "--stale-on-stop")
    stack.wait(lambda: "metrics delivered" in agent.output(), "a delivery", agent)
    agent.stop()
    ended = {
        series.labels[0].value
        for series in upstream.received[-1].timeseries
        if bits(series.samples[0].value) == bits(STALE_NAN)
    }
    began = {labels["__name__"] for labels in upstream.series() if labels["_id"] == "stopping"}
    assert ended == began
    assert "up" in ended
