"""Remote write by real senders: what they scraped arrives, every sample of it, and once.

One Prometheus writes to all servers, each a remote_write of its own with its own cluster; a vmagent
writes to two. What the Prometheus has stored itself is what must arrive. The faults are caused
while it runs, and the last tests look at the whole run.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from demo.programs import Server, start_authorizer, start_prometheus, start_server
from demo.stack import Program, Ready, Stack, fetch

from .command_line import run_twistd
from .exporter import Exporter, running_exporter
from .samples import (
    Samples,
    ask,
    counted,
    relabeled,
    same,
    same_decimals,
    stored,
    wait_until_same,
    without_nan,
)
from .senders import (
    PAGE,
    make_token,
    remote_write,
    start_sender,
    start_victoria,
    start_vmagent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "secret-of-all-clusters"
AGENT = "agents-cluster"
SCRAPES = 30
FEATURES = "--enable-feature=exemplar-storage,native-histograms"
# The stub authorization server takes POST and nothing else.
AUTHORIZER = Ready("/", 405)

# The servers, by what they forward to.
TO_PROMETHEUS = ("plain", "filtered", "killed")
TO_VICTORIA = ("victoria", "restarted", "needy")
FLAGS = {
    "filtered": (
        *("--whitelist", '{__name__=~"fixture_.+",case!="nan",text!~"x+"}'),
        *("--whitelist", "up"),
        *("--elide-label", "instance"),
        *("--elide-label", "pod"),
    ),
    "needy": ("--authorize-cache-expire", "0"),
}
# What the sender has behind the server's address, before the path: such requests are redirected.
SLASHES = {"victoria": "/", "killed": "/x/.."}


@dataclass
class System:
    """The programs of all tests.

    Attributes:
        exporter: what the senders scrape, besides themselves.
        prometheus: where some servers forward to.
        victoria: where the others forward to.
        needed: the authorization server that the server `needy` asks about every request.
        servers: by name, which is the name of the sender's remote_write and the cluster too.
        sender: the Prometheus that writes to all of them.
        rich: a Prometheus that writes to `plain` what only newer ones have.
        agent: the vmagent that writes to `plain` and `needy`.
    """

    exporter: Exporter
    prometheus: Program
    victoria: Program
    needed: Program
    servers: dict[str, Server]
    sender: Program
    rich: Program
    agent: Program

    def destination(self, name: str) -> Program:
        """Return what a server forwards to."""
        return self.prometheus if name in TO_PROMETHEUS else self.victoria


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    with running_exporter() as exporter:
        yield exporter


@pytest.fixture(scope="module")
def system(
    prometheus: None, victoria_metrics: None, stack: Stack, exporter: Exporter
) -> Iterator[System]:
    receiver = start_prometheus(
        stack,
        "prometheus",
        "",
        "--web.enable-remote-write-receiver",
        FEATURES,
    )
    victoria = start_victoria(stack, "victoria")
    authorizer = start_authorizer(stack, SECRET)
    needed = start_authorizer(stack, SECRET, name="needed-authorizer")
    servers = {
        name: start_server(
            stack,
            f"server-{name}",
            *("--authorize", f"{(needed if name == 'needy' else authorizer).url}/"),
            *("--forward-url", f"{url}/api/v1/write"),
            *FLAGS.get(name, ()),
        )
        for names, url in ((TO_PROMETHEUS, receiver.url), (TO_VICTORIA, victoria.url))
        for name in names
    }
    plain = servers["plain"].url
    tokens = {name: make_token(stack, name, SECRET) for name in servers}
    entries = [
        *(
            remote_write(name, server.url + SLASHES.get(name, ""), name, tokens[name])
            for name, server in servers.items()
        ),
        remote_write("foreign", plain, "somebody-else", tokens["plain"]),
        remote_write("unknown", plain, "nobody", make_token(stack, "nobody", "never-heard-of")),
    ]
    sender = start_sender(stack, "sender", exporter.address, entries)
    rich_entry = remote_write(
        "rich",
        plain,
        "rich",
        make_token(stack, "rich", SECRET),
        "send_exemplars: true",
        "send_native_histograms: true",
        "metadata_config: {send_interval: 1s}",
    )
    rich = start_sender(
        stack, "rich-sender", exporter.address, [rich_entry], FEATURES, path="/protobuf"
    )
    agent = start_vmagent(
        stack,
        "vmagent",
        exporter.address,
        [plain, f"{servers['needy'].url}/"],
        AGENT,
        make_token(stack, AGENT, SECRET),
    )
    yield System(exporter, receiver, victoria, needed, servers, sender, rich, agent)
    # What they write to is still there, so they end at once.
    for program in (sender, rich, agent):
        program.stop()


def metric(program: Server | Program, name: str, **labels: str) -> float:
    url = program.internal_url if isinstance(program, Server) else program.url
    return counted(url, name, **labels)


def redirects(server: Server) -> float:
    """Return how many requests were told the right path."""
    return metric(server, "http_requests_total", code="307", handler="receive", method="post")


def received(system: System, name: str, at: float) -> Samples:
    """Return what has arrived through a server, as far as its destination can keep it."""
    found = stored(system.destination(name).url, f'{{_id="{name}"}}', at)
    return without_nan(found) if name in TO_VICTORIA else found


def wait_until_all_arrived(stack: Stack, system: System, name: str) -> Samples:
    """Wait until all that the sender has at this moment has arrived, and nothing else."""
    at = time.time()

    def look() -> tuple[Samples, Samples]:
        wanted = relabeled(stored(system.sender.url, '{job=~".+"}', at), {"_id": name})
        found = received(system, name, at)
        return (without_nan(wanted) if name in TO_VICTORIA else wanted), found

    return wait_until_same(
        stack,
        look,
        f"the samples through the server {name}",
        equal=same_decimals if name in TO_VICTORIA else same,
        guilty=system.servers[name].program,
    )


def wait_for_more(stack: Stack, program: Server | Program, name: str, **labels: str) -> None:
    """Wait until a counter is higher than at this moment."""
    before = metric(program, name, **labels)
    what = f"{name}{labels} to grow"
    stack.wait(lambda: metric(program, name, **labels) > before, what)


@pytest.mark.parametrize(
    ("entry", "status", "reason"),
    [("foreign", "400", "foreign_id"), ("unknown", "401", "unauthorized")],
)
def test_what_is_refused_does_not_arrive(
    stack: Stack, system: System, entry: str, status: str, reason: str
) -> None:
    plain = system.servers["plain"]
    wait_for_more(stack, plain, "http_requests_total", code=status, handler="receive")
    wait_for_more(stack, plain, "telemeter_receive_requests_refused_total", reason=reason)
    failed = "prometheus_remote_storage_samples_failed_total"
    wait_for_more(stack, system.sender, failed, remote_name=entry)
    assert stored(system.prometheus.url, '{_id=~"somebody-else|nobody"}', time.time()) == {}


def test_a_token_is_asked_about_seldom(stack: Stack, system: System) -> None:
    plain = system.servers["plain"]
    wait_for_more(stack, plain, "http_requests_total", code="401", handler="receive")
    wait_for_more(stack, plain, "cache_reads_total", result="hit")
    # The tokens of three senders.
    assert metric(plain, "client_api_requests_total", client="authorize", code="201") <= 3
    asked = metric(plain, "client_api_requests_total", client="authorize", code="401")
    assert asked < metric(plain, "http_requests_total", code="401", handler="receive")
    needy = system.servers["needy"]
    assert metric(needy, "cache_reads_total", result="hit") == 0


@pytest.mark.parametrize(
    ("name", "number"), [("restarted", signal.SIGTERM), ("killed", signal.SIGKILL)]
)
def test_a_server_that_is_restarted_loses_nothing(
    stack: Stack, system: System, name: str, number: signal.Signals
) -> None:
    server = system.servers[name]
    wait_for_more(stack, server, "telemeter_forward_requests_total", result="success")
    server.program.signal(number)
    assert server.program.popen.wait(15) == -number
    retried = "prometheus_remote_storage_samples_retried_total"
    wait_for_more(stack, system.sender, retried, remote_name=name)
    stack.start_again(server.program)
    wait_until_all_arrived(stack, system, name)


def test_an_authorization_server_that_is_down_loses_nothing(stack: Stack, system: System) -> None:
    needy = system.servers["needy"]
    wait_for_more(stack, needy, "telemeter_forward_requests_total", result="success")
    system.needed.stop()
    retried = "prometheus_remote_storage_samples_retried_total"
    wait_for_more(stack, system.sender, retried, remote_name="needy")
    wait_for_more(stack, system.agent, "vmagent_remotewrite_requests_total", status_code="503")
    bearer = make_token(stack, "by-hand", SECRET).read_text().strip()
    answer = fetch(
        f"{needy.url}/metrics/v1/receive",
        method="POST",
        headers={"Authorization": f"Bearer {bearer}"},
    )
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert metric(needy, "telemeter_receive_requests_refused_total", reason="unavailable") > 0
    stack.start_again(system.needed, AUTHORIZER)
    wait_until_all_arrived(stack, system, "needy")
    failed = "prometheus_remote_storage_samples_failed_total"
    assert metric(system.sender, failed, remote_name="needy") == 0


def test_exemplars_native_histograms_and_metadata(stack: Stack, system: System) -> None:
    plain, rich = system.servers["plain"], system.rich

    def histograms(url: str, at: float, more: str = "") -> dict[int, object]:
        query = f'fixture_native{{job="fixture"{more}}}[10m]'
        found = ask(url, "query", query=query, time=f"{at:.3f}")["result"]
        return {round(s * 1000): value for item in found for s, value in item["histograms"]}

    def exemplars(url: str, at: float, more: str = "") -> dict[str, object]:
        query = f'fixture_classic_bucket{{job="fixture"{more}}}'
        found = ask(url, "query_exemplars", query=query, start=f"{at - 600}", end=f"{at}")
        return {
            exemplar["labels"]["trace_id"]: (
                item["seriesLabels"]["le"],
                exemplar["value"],
                exemplar["timestamp"],
            )
            for item in found
            for exemplar in item["exemplars"]
        }

    def both_arrived() -> bool:
        return all(
            len(find(rich.url, at)) >= 5
            and find(rich.url, at) == find(system.prometheus.url, at, ',_id="rich"')
            for find in (histograms, exemplars)
        )

    stack.wait(lambda: len(histograms(rich.url, time.time())) >= 5, "native histograms", rich)
    at = time.time()
    stack.wait(both_arrived, "native histograms and exemplars to arrive", plain.program)
    wait_for_more(stack, plain, "telemeter_receive_metadata_requests_total")


def test_only_what_is_whitelisted_arrives_and_without_elided_labels(
    stack: Stack, system: System
) -> None:
    at = time.time()

    def look() -> tuple[Samples, Samples]:
        wanted = stored(system.sender.url, '{__name__=~"fixture_.+",case!="nan",text!~"x+"}', at)
        wanted |= stored(system.sender.url, "up", at)
        return (
            relabeled(wanted, {"_id": "filtered"}, remove=("instance", "pod")),
            received(system, "filtered", at),
        )

    filtered = system.servers["filtered"]
    wanted = wait_until_same(stack, look, "the whitelisted samples", guilty=filtered.program)
    assert len(wanted) > 10
    assert metric(filtered, "telemeter_receive_series_dropped_total") > 100


def test_the_page_tells_of_flags_and_metrics_that_exist(system: System) -> None:
    page = PAGE.read_text()
    server_help = re.sub(r"-\s+", "-", run_twistd("telemeter-server", "--help").stdout)
    flags = set(re.findall(r"`--([a-z-]+)", page)) - {"to-token-file"}
    assert [flag for flag in sorted(flags) if f"--{flag}" not in server_help] == []
    text = fetch(f"{system.servers['plain'].internal_url}/metrics").text
    names = set(re.findall(r"^\| `([a-z_]+_total)", page, re.MULTILINE))
    assert len(names) > 8
    assert [name for name in sorted(names) if f"\n# TYPE {name} " not in text] == []
    at_senders = set(re.findall(r"`((?:prometheus_remote|vmagent)_\w+)`", page))
    texts = fetch(f"{system.sender.url}/metrics").text + fetch(f"{system.agent.url}/metrics").text
    assert len(at_senders) == 4
    assert [name for name in sorted(at_senders) if f"\n{name}{{" not in texts] == []


# --- the whole run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_run(stack: Stack, system: System) -> None:
    """Wait until there were enough scrapes by both senders."""

    def scrapes() -> bool:
        by_sender = stored(system.sender.url, "up", time.time())
        return (
            min(map(len, by_sender.values()), default=0) >= SCRAPES
            and len(system.exporter.served["vm_promscrape"]) >= SCRAPES
        )

    stack.wait(scrapes, f"{SCRAPES} scrapes", seconds=60)


@pytest.mark.parametrize(
    "name", [name for name in (*TO_PROMETHEUS, *TO_VICTORIA) if name != "filtered"]
)
def test_every_sample_arrives_once(stack: Stack, system: System, long_run: None, name: str) -> None:
    samples = wait_until_all_arrived(stack, system, name)
    assert len(samples) > 500
    assert max(map(len, samples.values())) >= SCRAPES
    if name in (*SLASHES, "needy"):  # there vmagent's path has two slashes
        assert redirects(system.servers[name]) > 0


@pytest.mark.parametrize("name", ["plain", "needy"])
def test_every_sample_of_vmagent_arrives_once(
    stack: Stack, system: System, long_run: None, name: str
) -> None:
    served = list(system.exporter.served["vm_promscrape"])
    wanted: Samples = {}
    for scrape in served:
        for labels, value in scrape.items():
            if name == "plain" or value != "NaN":
                found = wanted.setdefault(labels, [])
                found.append((len(found), value))
    url = system.destination(name).url
    added = {"_id": AGENT, "job": "agent", "instance": system.exporter.address}

    def look() -> tuple[Samples, Samples]:
        found = stored(url, f'{{_id="{AGENT}",__name__=~"fixture_.+"}}', time.time())
        if name == "needy":
            found = without_nan(found)
        labelled = relabeled(wanted, added)
        # In the order of their times, and no more than had been served by then.
        return labelled, {
            labels: [
                (at, value) for at, (_, value) in enumerate(found[labels][: len(labelled[labels])])
            ]
            if labels in labelled
            else samples
            for labels, samples in found.items()
        }

    program = system.servers[name].program
    wait_until_same(stack, look, "the samples of vmagent", equal=same_decimals, guilty=program)


def test_what_vmagent_writes_twice_is_the_same_at_both_ends(
    stack: Stack, system: System, long_run: None
) -> None:
    at = time.time()

    def look() -> tuple[Samples, Samples]:
        one, other = (
            without_nan(stored(program.url, f'{{_id="{AGENT}"}}', at))
            for program in (system.prometheus, system.victoria)
        )
        return one, other

    wait_until_same(stack, look, "the same samples of vmagent", equal=same_decimals)


def test_both_ends_know_when_a_series_pauses(stack: Stack, system: System, long_run: None) -> None:
    """Stale markers arrive, also those that the servers were not there for at first."""
    at = time.time()
    name, job = "fixture_sometimes", 'job="fixture"'
    (scrapes,) = stored(system.sender.url, f"up{{{job}}}", at).values()
    (samples,) = stored(system.sender.url, f"{name}{{{job}}}", at).values()
    there = {moment for moment, _ in samples}
    # On a busy machine a scrape may fail behind a pause, which is no new one.
    pauses = {
        moment
        for (before, _), (moment, _) in pairwise(scrapes)
        if before in there and moment not in there
    }
    assert len(pauses) >= SCRAPES // 4

    def marked(server: str) -> set[int]:
        """Return when a series ended; VictoriaMetrics shows it as a NaN."""
        selector = f'{name}{{{job},_id="{server}"}}'
        found = stored(system.victoria.url, selector, at).values()
        return {moment for samples in found for moment, value in samples if value == "NaN"}

    def all_marked() -> bool:
        return all(marked(server) == pauses for server in TO_VICTORIA)

    stack.wait(all_marked, f"the pauses {pauses} at {system.victoria.name}")

    def shown(url: str, more: str = "") -> list[object]:
        """Return how the series looks on a graph: a marked pause is a gap."""
        start = scrapes[0][0] / 1000
        query, end = f"{name}{{{job}{more}}}", f"{at:.3f}"
        found = ask(url, "query_range", query=query, start=f"{start:.3f}", end=end, step="0.5")
        return [series["values"] for series in found["result"]]

    def all_shown() -> bool:
        wanted = shown(system.sender.url)
        return all(
            shown(system.prometheus.url, f',_id="{server}"') == wanted
            for server in ("plain", "killed")
        )

    stack.wait(all_shown, f"the pauses at {system.prometheus.name}")
