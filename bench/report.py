"""The page of results, from results."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from bench import agent
from bench.plan import KINDS, RULES, SERIES_FOR_RULES
from bench.plot import Line, Panel
from bench.subjects import FALLBACK, NGINX, TELEMETER, VMAGENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.agent import Comparison
    from bench.measure import Result
    from bench.processes import Machine
    from bench.subjects import Subject

BEGIN: Final = "<!-- measured: what follows is written by make bench -->"
END: Final = "<!-- measured: end -->"

#: What the requests are called in the tables.
_PATHS: Final = {"upload": "`/upload`", "receive": "`/metrics/v1/receive`"}


@dataclass(frozen=True)
class Measured:
    """All that a run has found.

    Attributes:
        requests, large, rules: the results of the plan's groups of these names.
        agent: what the agent's cycles cost.
        machine: what they were found on.
        others: how many processors other programs kept busy meanwhile.
        day: when that was.
    """

    requests: Sequence[Sequence[Result]]
    large: Sequence[Sequence[Result]]
    rules: Sequence[Sequence[Result]]
    agent: Sequence[Comparison]
    machine: Machine
    others: float
    day: str

    def by_series(self) -> list[Result]:
        """Return the results between which the number of series differs."""
        return [result for group in (*self.requests, *self.large) for result in group]


def replace_measured(page: str, text: str) -> str:
    """Put a new text between the page's two comments.

    Raises:
        ValueError: the page does not have each of them once, and in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before + after:
        raise ValueError(f"the page must have the lines {BEGIN} and {END}, each once")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def markdown(measured: Measured, plot: str) -> str:
    """Return the part of the page that is measured.

    Args:
        measured: the results.
        plot: where the page finds the plot.
    """
    machine = measured.machine
    parts = [
        f"Measured on {measured.day}: {machine.processors} processors ({machine.cpu}), "
        f"Python {machine.python}. Meanwhile other programs kept {measured.others:.1f} processors "
        "busy.",
        "### Requests",
        _requests_table(measured.requests),
        "### By number of series and of rules",
        f"![Cost by number of series, and by number of rules]({plot})",
        f"Microseconds of processor time for each series, with {RULES} rules:",
        _series_table(measured.by_series()),
        f"Milliseconds of processor time for a request of {SERIES_FOR_RULES} series, `telemeter`:",
        _rules_table(measured.rules),
        "### The agent's cycle",
        agent.render(measured.agent),
    ]
    return "\n\n".join(parts)


def panels(measured: Measured) -> list[Panel]:
    """Return the plots: cost by number of series, and by number of rules."""
    by_series = [
        Line(f"{subject.name}, {_path(kind)}", [(r.case.series, _cost_of_series(r)) for r in some])
        for subject in (TELEMETER, FALLBACK, VMAGENT, NGINX)
        for kind, some in _by_kind(measured.by_series(), subject)
        # Of the limit one line is enough, its two are the same.
        if subject is not NGINX or kind == "receive"
    ]
    by_rules = [
        Line(f"{TELEMETER.name}, {_path(kind)}", [(r.case.rules, r.cpu_ms) for r in some])
        for kind, some in _by_kind(_flat(measured.rules), TELEMETER)
    ]
    return [
        Panel("Cost by number of series", "series in a request", "\u00b5s / series", by_series),
        Panel(
            f"Cost by number of rules, {SERIES_FOR_RULES} series",
            "rules in the whitelist",
            "ms / request",
            by_rules,
        ),
    ]


def _path(kind: str) -> str:
    return _PATHS[kind].strip("`")


def _flat(groups: Iterable[Sequence[Result]]) -> list[Result]:
    return [result for group in groups for result in group]


def _by_kind(results: Iterable[Result], subject: Subject) -> list[tuple[str, list[Result]]]:
    """Return the results of a subject by kind, each kind's by number of series and of rules."""

    def order(result: Result) -> tuple[int, int, int]:
        case = result.case
        return (KINDS.index(case.kind), case.series, case.rules)

    mine = sorted((r for r in results if r.case.subject.name == subject.name), key=order)
    return [(kind, list(some)) for kind, some in groupby(mine, key=lambda r: r.case.kind)]


def _cost_of_series(result: Result) -> float:
    return 1000 * result.cpu_ms / result.case.series


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a Markdown table whose first columns, so many, are texts and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _requests_table(groups: Sequence[Sequence[Result]]) -> str:
    rows = []
    for group in groups:
        for number, result in enumerate(group):
            case = result.case
            request = f"{_PATHS[case.kind]}, {case.series} series" if number == 0 else ""
            rows.append(
                (
                    request,
                    case.subject.name,
                    f"{result.cpu_ms:.2f}",
                    f"{result.cost_relative_to(group[0]):.2g}",
                    f"{result.median(lambda turn: turn.rate):.0f}",
                    f"{result.median(lambda turn: turn.p50_ms):.1f}",
                    f"{result.median(lambda turn: turn.p99_ms):.1f}",
                    f"{result.peak_bytes / 1e6:.0f}",
                    f"{result.median(lambda turn: turn.forwards):.2f}",
                )
            )
    header = (
        "request",
        "program",
        "processor ms / request",
        "relative",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "peak memory MB",
        "forwards / request",
    )
    return _table(header, rows, texts=2)


def _pivot(
    rows: Iterable[tuple[str, list[Result]]],
    column: Callable[[Result], int],
    cost: Callable[[Result], float],
) -> tuple[list[int], list[tuple[str, ...]]]:
    """Return the columns that any row has, and each row's texts for them."""
    rows = list(rows)
    columns = sorted({column(result) for _, some in rows for result in some})
    texts = []
    for name, some in rows:
        found = {column(result): cost(result) for result in some}
        texts.append((name, *(f"{found[c]:.2f}" if c in found else "" for c in columns)))
    return columns, texts


def _series_table(results: Sequence[Result]) -> str:
    rows = [
        (f"{subject.name}, {_PATHS[kind]}", some)
        for subject in (TELEMETER, FALLBACK, VMAGENT, NGINX)
        for kind, some in _by_kind(results, subject)
    ]
    columns, texts = _pivot(rows, lambda r: r.case.series, _cost_of_series)
    return _table(["program", *(f"{series} series" for series in columns)], texts)


def _rules_table(groups: Sequence[Sequence[Result]]) -> str:
    rows = [(_PATHS[kind], some) for kind, some in _by_kind(_flat(groups), TELEMETER)]
    columns, texts = _pivot(rows, lambda r: r.case.rules, lambda r: r.cpu_ms)
    return _table(["request", *(f"{rules} rules" for rules in columns)], texts)
