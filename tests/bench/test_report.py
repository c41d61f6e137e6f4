"""The page that results become."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plan
from bench.agent import Comparison, Cost
from bench.measure import Result, Turn
from bench.plan import Case, Kind
from bench.processes import Machine
from bench.report import BEGIN, END, Measured, markdown, panels, replace_measured
from bench.subjects import NGINX, TELEMETER, VMAGENT, Subject

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def result(subject: Subject, kind: Kind, series: int, *costs: float, rules: int = 626) -> Result:
    turns = tuple(Turn(cost, 100.0, 0.25, 1.5, 9.5) for cost in costs)
    return Result(Case(subject, kind, series, rules), turns, 70_400_000)


def measured() -> Measured:
    cost = Cost(2.0, 4.0, 3_000_000)
    return Measured(
        requests=[
            [
                result(TELEMETER, "upload", 226, 1.0, 9.0, 2.0),
                result(NGINX, "upload", 226, 1, 1, 1),
            ],
            [result(TELEMETER, "receive", 226, 3), result(VMAGENT, "receive", 226, 6)],
        ],
        large=[[result(TELEMETER, "upload", 50_000, 400.0)]],
        rules=[[result(TELEMETER, "upload", 904, 2.5, rules=n) for n in (5000, 25)]],
        agent=[Comparison(5000, 1_000_000, False, cost, cost)],
        machine=Machine("Some CPU", 2, "3.11.7"),
        others=0.25,
        day="2026-01-02",
    )


def test_figures_are_medians_and_ratios_are_of_neighbours() -> None:
    slow, fast = result(TELEMETER, "upload", 1, 2, 30, 4), result(NGINX, "upload", 1, 1, 10, 4)
    assert slow.cpu_ms == 4
    assert slow.cost_relative_to(fast) == 2


def test_the_tables_hold_the_figures() -> None:
    lines = markdown(measured(), "plot.svg").splitlines()
    assert lines[0] == (
        "Measured on 2026-01-02: 2 processors (Some CPU), Python 3.11.7. Meanwhile other programs "
        "kept 0.2 processors busy."
    )
    assert "| `/upload`, 226 series | telemeter | 2.00 | 1 | 100 | 1.5 | 9.5 | 70 | 0.25 |" in lines
    assert "|  | nginx | 1.00 | 0.5 | 100 | 1.5 | 9.5 | 70 | 0.25 |" in lines
    assert "|  | vmagent | 6.00 | 2 | 100 | 1.5 | 9.5 | 70 | 0.25 |" in lines
    assert "| program | 226 series | 50000 series |" in lines
    assert "| telemeter, `/upload` | 8.85 | 8.00 |" in lines
    assert "| telemeter, `/metrics/v1/receive` | 13.27 |  |" in lines
    assert "| request | 25 rules | 5000 rules |" in lines
    assert "| `/upload` | 2.50 | 2.50 |" in lines
    assert any(line.startswith("| 5000 | no | whole cycle | 4.0 | 4.0 |") for line in lines)
    assert any("(plot.svg)" in line for line in lines)


def test_the_plots_hold_the_figures() -> None:
    by_series, by_rules = panels(measured())
    lines = {line.name: line.points for line in by_series.lines}
    assert lines["telemeter, /upload"] == [(226, pytest.approx(8.85, abs=0.01)), (50_000, 8)]
    assert [(line.name, line.points) for line in by_rules.lines] == [
        ("telemeter, /upload", [(25, 2.5), (5000, 2.5)])
    ]


def test_only_what_is_measured_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_measured(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replace_measured(replace_measured(page, "one"), "two") == replace_measured(page, "two")


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_place_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        replace_measured(page, "new")


def test_our_page_has_its_place() -> None:
    assert "new" in replace_measured(PAGE.read_text(), "new")


@pytest.mark.parametrize("which", [plan.full(), plan.quick()])
def test_a_plan_fills_every_table(which: plan.Plan) -> None:
    groups = [
        [result(c.subject, c.kind, c.series, 1.0, rules=c.rules) for c in group]
        for group in which.groups
    ]
    found = iter(groups)
    everything = Measured(
        [next(found) for _ in which.requests],
        [next(found) for _ in which.large],
        [next(found) for _ in which.rules],
        measured().agent,
        measured().machine,
        0.0,
        "2026-01-02",
    )
    text = markdown(everything, "plot.svg")
    for case in (case for group in which.groups for case in group):
        assert case.subject.name in text
        assert f"{case.series} series" in text
        assert f"{case.rules} rules" in text
    assert all(panel.lines for panel in panels(everything))
    # The first of each row is what the others are compared with.
    assert all(group[0].subject is TELEMETER for group in which.requests)
