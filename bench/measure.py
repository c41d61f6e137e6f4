"""Measures the cases of a plan: starts what they need, loads it, and reads what it took."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench import load, nginx, processes
from bench.bodies import Bodies, cluster_id, make_series
from bench.subjects import Surroundings
from demo.keys import signing_key
from demo.programs import start_authorizer, start_server
from demo.stack import Stack, StackError, fetch
from telemeter.auth.composite import make_composite
from telemeter.loop.clocks import SYSTEM_WALL_CLOCK, milliseconds
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.load import Load
    from bench.plan import Case, Group, Plan
    from bench.subjects import Running
    from demo.stack import Program

#: What the authorization server knows.
_SECRET: Final = "benchmark"
_CLUSTERS: Final = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of a case has shown.

    Attributes:
        cpu_ms: milliseconds of processor time for each request, all processes of the subject.
        rate: requests in a second.
        forwards: how many requests the upstream got for each.
        p50_ms, p99_ms: how long an answer took, for one half and for 99 of 100.
    """

    cpu_ms: float
    rate: float
    forwards: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """What was found out about a case.

    Attributes:
        case: the case.
        turns: its turns; those of other results of the same group with the same index took place
            right before or after.
        peak_bytes: the most memory of the subject's processes.
    """

    case: Case
    turns: tuple[Turn, ...]
    peak_bytes: int

    def median(self, figure: Callable[[Turn], float]) -> float:
        """Return the median of a figure over the turns."""
        return statistics.median(figure(turn) for turn in self.turns)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of processor time for each request."""
        return self.median(lambda turn: turn.cpu_ms)

    def cost_relative_to(self, other: Result) -> float:
        """Return how many times as much processor time a request takes as with another subject."""
        pairs = zip(self.turns, other.turns, strict=True)
        return statistics.median(mine.cpu_ms / theirs.cpu_ms for mine, theirs in pairs)


class Bench:
    """Everything around the subjects, and the clusters that send."""

    def __init__(self, stack: Stack, say: Callable[[str], None]) -> None:
        """Start what all subjects work with.

        Args:
            stack: what it belongs to.
            say: takes a line for every figure as soon as it is there.
        """
        self._stack = stack
        self._say = say
        self._clusters = [cluster_id(number) for number in range(_CLUSTERS)]
        self._numbers = itertools.count(1)
        authorizer = f"{start_authorizer(stack, _SECRET).url}/"
        key = stack.write("shared.key", signing_key())
        self._around = Surroundings(nginx.start_upstream(stack), authorizer, key)
        self._tokens = self._exchange_tokens()

    def _exchange_tokens(self) -> list[str]:
        """Get every cluster a token that all servers with the key accept."""
        flags = ("--authorize", self._around.authorizer, "--shared-key", str(self._around.key))
        server = start_server(self._stack, "token-server", *flags)
        headers = {"Authorization": f"Bearer {_SECRET}"}
        tokens = []
        for cluster in self._clusters:
            answer = fetch(f"{server.url}/authorize?id={cluster}", method="POST", headers=headers)
            if answer.status != 200:
                raise StackError(f"/authorize: {answer.status} {answer.text}")
            tokens.append(json.loads(answer.body)["token"])
        server.program.stop()
        return tokens

    def run(self, plan: Plan) -> Iterator[Sequence[Result]]:
        """Measure each group of the plan, and give its results."""
        for group in plan.groups:
            yield self._measure(group, plan)

    def _measure(self, group: Group, plan: Plan) -> Sequence[Result]:
        with Stack("telemeter-bench-") as stack:
            bodies = {
                series: Bodies(make_series(series), milliseconds(SYSTEM_WALL_CLOCK.now()))
                for series in {case.series for case in group}
            }
            prepared = [self._prepare(stack, case, bodies[case.series]) for case in group]
            for each in prepared:
                each.work(plan.warm_up_seconds)
            for _ in range(plan.rounds):
                for each in prepared:
                    each.take_turn(plan.seconds)
            results = [each.result() for each in prepared]
        for result in results:
            self._say(_summary(result))
        return results

    def _prepare(self, stack: Stack, case: Case, bodies: Bodies) -> _Prepared:
        name = f"subject-{next(self._numbers)}"
        running = case.subject.start(stack, name, self._around, case.rules)
        folder = stack.folder / f"{name}.requests"
        # As many clusters as connections: wrk keeps all requests in memory.
        clusters = list(zip(self._clusters, self._tokens, strict=True))[: case.connections]
        requests = [
            self._request(case, running.url, cluster, token, bodies) for cluster, token in clusters
        ]
        load.write_requests(folder, requests)
        return _Prepared(case, stack, running, self._around.upstream, folder)

    def _request(self, case: Case, url: str, cluster: str, token: str, bodies: Bodies) -> bytes:
        """One cluster's request."""
        if case.kind == "upload":
            path, body = "/upload", bodies.upload(cluster)
            content_type = PROTOBUF_CONTENT_TYPE
        else:
            path, body = case.subject.receive_path, bodies.write(cluster)
            content_type, token = "application/x-protobuf", make_composite(cluster, _SECRET)
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": content_type,
            "Content-Encoding": "snappy",
        }
        return load.http_post(url, path, headers, body)


class _Prepared:
    """A case whose subject runs and whose requests are written."""

    def __init__(
        self,
        case: Case,
        stack: Stack,
        running: Running,
        upstream: Program,
        requests: Path,
    ) -> None:
        self._case = case
        self._stack = stack
        self._running = running
        self._upstream = upstream
        self._requests = requests
        self._turns: list[Turn] = []

    def work(self, seconds: float) -> Load:
        """Make requests for so many seconds, and wait until all is done."""
        try:
            seen = load.run(self._running.url, self._requests, self._case.connections, seconds)
        except StackError as error:
            self._stack.check()
            case = self._case
            what = f"{case.subject.name}, {case.kind}, {case.series} series"
            raise StackError(f"{what}: {error}\n{self._running.program.tail()}") from None
        self._running.settle()
        return seen

    def take_turn(self, seconds: float) -> None:
        """Load the subject for so many seconds, and note what it took."""
        root = self._running.program.popen.pid
        taken = nginx.requests_taken(self._upstream)
        began = processes.cpu_seconds(root)
        seen = self.work(seconds)
        cpu_ms = 1000 * (processes.cpu_seconds(root) - began)
        # The second question is counted as well.
        forwarded = nginx.requests_taken(self._upstream) - taken - 1
        turn = Turn(
            cpu_ms / seen.requests,
            seen.requests / seen.seconds,
            forwarded / seen.requests,
            seen.p50_ms,
            seen.p99_ms,
        )
        self._turns.append(turn)

    def result(self) -> Result:
        """Return what the turns have shown; nothing may have been lost on the way.

        Raises:
            StackError: requests were answered, and nothing was forwarded.
        """
        if not all(turn.forwards > 0 for turn in self._turns):
            name = self._case.subject.name
            raise StackError(f"{name} answers without forwarding\n{self._running.program.tail()}")
        peak = processes.peak_bytes(self._running.program.popen.pid)
        return Result(self._case, tuple(self._turns), peak)


def _summary(result: Result) -> str:
    case = result.case
    return (
        f"{case.kind}, {case.series} series, {case.rules} rules, {case.subject.name}: "
        f"{result.cpu_ms:.2f} ms of processor time for a request, "
        f"{result.median(lambda turn: turn.rate):.0f} requests/s"
    )
