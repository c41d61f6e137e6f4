"""The whole path on real input: what a Prometheus has arrives at another, as configured."""

from __future__ import annotations

import base64
import json
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from demo.keys import signing_key
from demo.programs import (
    Series,
    Server,
    anonymized,
    query,
    start_agent,
    start_authorizer,
    start_destination,
    start_prometheus,
    start_server,
    start_source,
    wait_for_samples,
)
from demo.stack import LogFollower, Program, Stack, fetch, parse_logfmt

from .wire import authorize, encode, gauge, upload

if TYPE_CHECKING:
    from collections.abc import Iterable

CLUSTER = "e2e-cluster"
WRITER = "writer-cluster"
TOKEN = "secret-cluster-token"
FROM_TOKEN = "secret-prometheus-token"
SALT = "secret-salt"
COMPOSITE = base64.b64encode(
    json.dumps({"authorization_token": TOKEN, "cluster_id": WRITER}).encode()
).decode()

# Values that are easily lost on the way.
SPECIAL_VALUES = {
    "special:infinity": "+Inf",
    "special:negative_infinity": "-Inf",
    "special:nan": "NaN",
    "special:negative_zero": "-0",
}
SPECIAL_RULES = """\
  - name: special
    rules:
      - {record: "special:infinity", expr: "vector(1) / 0"}
      - {record: "special:negative_infinity", expr: "vector(-1) / 0"}
      - {record: "special:nan", expr: "vector(0) / 0"}
      - {record: "special:negative_zero", expr: "vector(-0)"}
"""


@dataclass
class System:
    """The programs that most tests share."""

    source: Program
    destination: Program
    authorizer: Program
    first: Server
    second: Server
    agent: Program


@pytest.fixture(scope="module")
def system(prometheus: None, stack: Stack) -> System:
    """Start everything, with the most talkative logs; the agent uses both servers."""
    source = start_source(stack, more_rules=SPECIAL_RULES)
    destination = start_destination(stack)
    authorizer = start_authorizer(stack, TOKEN)
    whitelist = '# everything but the Go runtime\n\n{__name__!~"go_.*"}\n'
    flags = [
        *("--authorize", f"{authorizer.url}/"),
        *("--shared-key", str(stack.write("shared.key", signing_key()))),
        *("--forward-url", f"{destination.url}/api/v1/write"),
        *("--whitelist-file", str(stack.write("whitelist", whitelist))),
        *("--elide-label", "_elide"),
        *("--label", "via=telemeter"),
        *("--required-label", "tier=gold"),
        *("--ratelimit", "0"),
        *("--log-level", "debug"),
    ]
    first = start_server(stack, "server-1", *flags)
    second = start_server(stack, "server-2", *flags)
    start_writer(stack, source, first)
    wait_for_samples(stack, source)
    agent = start_agent(
        stack,
        "agent",
        *("--from", source.url),
        *("--from-token", FROM_TOKEN),
        *("--id", CLUSTER),
        *("--to-auth", f"{first.url}/authorize?id={CLUSTER}"),
        *("--to-upload", f"{second.url}/upload"),
        *("--to-token-file", str(stack.write("to-token", TOKEN + "\n"))),
        *("--interval", "1s"),
        *("--limit-bytes", "1000000"),
        *("--match", '{__name__=~".+"}'),
        *("--label", "region=eu"),
        *("--rename", "ALERTS=alerts"),
        *("--anonymize-labels", "instance"),
        *("--anonymize-salt-file", str(stack.write("salt", SALT))),
        *("--log-level", "debug"),
    )
    return System(source, destination, authorizer, first, second, agent)


def start_writer(stack: Stack, source: Program, server: Server) -> None:
    """Start a Prometheus that needs no agent: it writes to the server by itself."""
    configuration = f"""\
global:
  scrape_interval: 1s
  external_labels:
    _id: {WRITER}
scrape_configs:
  - job_name: other
    static_configs:
      - targets: ["{source.url.removeprefix("http://")}"]
        labels: {{_elide: "yes"}}
remote_write:
  - url: {server.url}/metrics/v1/receive
    authorization:
      credentials: {COMPOSITE}
    queue_config:
      batch_send_deadline: 1s
"""
    # At the end it is stopped after the server, and would wait for that for a minute.
    start_prometheus(stack, "writer", configuration, "--storage.remote.flush-deadline=1s")


def start_agent_of(stack: Stack, system: System, cluster: str, to: str, *flags: str) -> Program:
    """Start a further agent, with an interval of a second."""
    return start_agent(
        stack,
        cluster,
        *("--from", system.source.url),
        *("--id", cluster),
        *("--to", to),
        *("--to-token", TOKEN),
        *("--interval", "1s"),
        *flags,
    )


def by_labels(found: Iterable[Series]) -> dict[frozenset[tuple[str, str]], str]:
    return {frozenset(series.labels.items()): series.value for series in found}


def as_it_must_arrive(series: Series) -> Series:
    """Say what becomes of a series of the source."""
    labels = {name: value for name, value in series.labels.items() if name != "_elide"}
    if labels["__name__"] == "ALERTS":
        labels["__name__"] = "alerts"
    if "instance" in labels:
        labels["instance"] = anonymized(SALT, labels["instance"])
    labels |= {"_id": CLUSTER, "tier": "gold", "region": "eu", "via": "telemeter"}
    return Series(labels, series.value)


def test_every_series_arrives_transformed_and_nothing_else(stack: Stack, system: System) -> None:
    def wanted() -> dict[frozenset[tuple[str, str]], str]:
        found = query(system.source.url, '{__name__!~"go_.*", __name__=~".+"}')
        return by_labels(map(as_it_must_arrive, found))

    def arrived() -> dict[frozenset[tuple[str, str]], str]:
        return by_labels(query(system.destination.url, f'{{_id="{CLUSTER}"}}'))

    # A series may be new at the source: the next cycle brings it.
    stack.wait(
        lambda: wanted().keys() == arrived().keys(),
        "the destination to have the same series as the source",
        system.second.program,
    )
    there = arrived()
    assert len(there) > 300
    for series in query(
        system.source.url, '{__name__=~"up|ALERTS|prometheus_build_info|special:.+"}'
    ):
        labels = frozenset(as_it_must_arrive(series).labels.items())
        assert there[labels] == series.value, series


def test_special_values_arrive_as_they_are(stack: Stack, system: System) -> None:
    def arrived() -> dict[str, str]:
        found = query(system.destination.url, f'{{__name__=~"special:.+", _id="{CLUSTER}"}}')
        return {series.labels["__name__"]: series.value for series in found}

    stack.wait(lambda: arrived() == SPECIAL_VALUES, f"{SPECIAL_VALUES}", system.agent)


def test_a_token_of_one_server_is_accepted_by_the_other(stack: Stack, system: System) -> None:
    jwt = authorize(system.first.url, "by-hand", TOKEN)
    family = gauge("by_hand", 42, {"_id": "by-hand", "tier": "gold"})
    answer = upload(system.second.url, jwt, encode([family]))
    assert answer.status == 200, answer.text
    (found,) = stack.wait(lambda: query(system.destination.url, "by_hand"), "the series by_hand")
    assert found.value == "42"


def test_a_prometheus_writes_without_an_agent(stack: Stack, system: System) -> None:
    found = stack.wait(
        lambda: query(system.destination.url, f'up{{_id="{WRITER}"}}'),
        "the series that the writer sends",
        system.first.program,
    )
    assert [(series.labels.get("_elide"), series.value) for series in found] == [(None, "1")]
    assert query(system.destination.url, f'{{__name__=~"go_.*", _id="{WRITER}"}}') == []


def test_the_agent_shows_what_it_sent(stack: Stack, system: System) -> None:
    wait_for_uploads(stack, system.agent, 1)
    text = fetch(f"{system.agent.url}/federate").text
    (alert,) = (line for line in text.splitlines() if line.startswith("alerts{"))
    assert f'_id="{CLUSTER}"' in alert
    assert 'region="eu"' in alert
    assert anonymized(SALT, system.source.url.removeprefix("http://")) in text


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_:][\w:]*)", text, re.MULTILINE))


def test_the_agent_counts(stack: Stack, system: System) -> None:
    wait_for_uploads(stack, system.agent, 1)
    text = fetch(f"{system.agent.url}/metrics").text
    assert metric_names(text) >= {
        "federate_samples",
        "federate_filtered_samples",
        "federate_requests_total",
        "federate_requests_failed_total",
        "metricsclient_http_requests_total",
    }
    assert re.search(r"^federate_samples [1-9]", text, re.MULTILINE)


def test_the_servers_count_and_tell_it_inside_only(stack: Stack, system: System) -> None:
    wait_for_uploads(stack, system.agent, 1)
    text = fetch(f"{system.second.internal_url}/metrics").text
    assert metric_names(text) >= {
        "http_requests_total",
        "telemeter_v1_forward_samples_total",
        "telemeter_v1_forward_requests_total",
        "telemeter_elide_transform_dropped_total",
        "client_api_requests_total",
        "process_resident_memory_bytes",
    }
    assert re.search(r"^telemeter_v1_forward_samples_total [1-9]", text, re.MULTILINE)
    assert fetch(f"{system.second.url}/metrics").status == 404
    assert fetch(f"{system.second.url}/debug/").status == 404


def wait_for_uploads(stack: Stack, agent: Program, count: int) -> None:
    """Wait until that many cycles of an agent have ended well since now, or since its start."""
    follower = LogFollower(agent.log)
    seen: list[str] = []

    def enough() -> bool:
        seen.extend(line for line in follower.new_lines() if 'msg="metrics uploaded"' in line)
        return len(seen) >= count

    stack.wait(enough, f"{count} uploads of {agent.name}", agent)
    fields = parse_logfmt(seen[-1])
    assert int(fields["samples"]) > 0
    assert int(fields["families"]) > 0
    assert int(fields["bytes"]) > 0
    assert int(fields["filtered"]) >= 0


def test_reload(stack: Stack, system: System) -> None:
    match = stack.write("match", '{__name__="up"}\n')
    flags = ("--match-file", str(match))
    agent = start_agent_of(stack, system, "reload", system.first.url, *flags)

    def wait_for(name: str) -> None:
        expression = f'{name}{{_id="reload"}}'
        stack.wait(lambda: query(system.destination.url, expression), expression, agent)

    wait_for("up")
    stack.write("match", "# two now\n{__name__='up'}\nprometheus_build_info\n")
    agent.signal(signal.SIGHUP)
    wait_for("prometheus_build_info")

    stack.write("match", "prometheus_tsdb_head_series\n{__name__=\n")
    refused = fetch(f"{agent.url}/-/reload", method="POST", body=b"")
    assert refused.status == 500
    assert "--match-file" in refused.text
    assert "line 2" in refused.text
    agent.signal(signal.SIGHUP)  # Refused as well; the agent lives on with what it had.
    stack.wait(lambda: "line 2" in agent.output(), "the refusal in the log", agent)
    wait_for_uploads_from_now(stack, agent)
    assert "prometheus_build_info" in fetch(f"{agent.url}/federate").text
    assert query(system.destination.url, 'prometheus_tsdb_head_series{_id="reload"}') == []

    assert fetch(f"{agent.url}/-/reload").status == 405
    stack.write("match", "prometheus_tsdb_head_series\n")
    assert fetch(f"{agent.url}/-/reload", method="POST", body=b"").status == 200
    wait_for("prometheus_tsdb_head_series")
    assert agent.stop() == -signal.SIGTERM


def wait_for_uploads_from_now(stack: Stack, agent: Program) -> None:
    """Wait until a cycle that starts after this moment has ended well."""
    uploads = agent.output().count('msg="metrics uploaded"')
    # The first to end may have started before.
    wait_for_uploads(stack, agent, uploads + 2)


def test_the_agent_recovers_when_its_server_was_killed(stack: Stack, system: System) -> None:
    # Without --shared-key a new server has a new key: the agent's token is worth nothing then.
    server = start_server(
        stack,
        "short-lived",
        *("--authorize", f"{system.authorizer.url}/"),
        *("--forward-url", f"{system.destination.url}/api/v1/write"),
        *("--ratelimit", "0"),
    )
    agent = start_agent_of(stack, system, "recovery", server.url)
    wait_for_uploads(stack, agent, 1)
    server.program.stop(seconds=0)
    stack.wait(lambda: 'msg="cycle failed"' in agent.output(), "a failed cycle", agent)
    stack.start_again(server.program)
    wait_for_uploads_from_now(stack, agent)
    failed = [line for line in agent.output().splitlines() if 'msg="cycle failed"' in line]
    assert parse_logfmt(failed[0])["level"] == "error"
    assert parse_logfmt(failed[0])["stage"] == "upload"
    assert parse_logfmt(failed[0])["reason"]


def test_every_log_line_is_logfmt(system: System) -> None:
    for program in (system.agent, system.first.program, system.second.program, system.authorizer):
        for line in program.output().splitlines():
            assert parse_logfmt(line).keys() >= {"ts", "level", "component", "msg"}, line
