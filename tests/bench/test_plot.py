"""The plot is an SVG that shows its lines."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.plot import Line, Panel, render

SVG = "{http://www.w3.org/2000/svg}"


def panel(*lines: Line) -> Panel:
    return Panel("a & b", "series", "<ms>", lines)


def drawn(*lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(render([panel(*lines)]))


def test_texts_are_escaped_and_there() -> None:
    texts = [each.text for each in drawn(Line("x < y", [(10, 1), (100, 2)])).iter(f"{SVG}text")]
    assert {"a & b", "series", "<ms>", "x < y"} <= set(texts)


def test_a_flat_line_is_level_and_within_the_plot() -> None:
    paths = list(drawn(Line("flat", [(226, 3.3), (50_000, 3.3)])).iter(f"{SVG}path"))
    line = next(each.get("d", "") for each in paths if "L" in each.get("d", ""))
    (x, y), (other_x, other_y) = (map(float, p.split()) for p in line.lstrip("M").split("L"))
    assert y == other_y
    assert 0 < x < other_x < 480
    assert 0 < y < 320


def test_tenfold_is_the_same_distance_everywhere() -> None:
    marks = drawn(Line("steep", [(1, 1), (10, 10), (100, 100)])).iter(f"{SVG}circle")
    levels = [float(mark.get("cy", "")) for mark in marks][:3]
    assert levels[0] - levels[1] == pytest.approx(levels[1] - levels[2], abs=0.3)
    assert levels[0] > levels[1]


def test_one_point_is_enough_and_none_is_not() -> None:
    drawn(Line("one", [(5, 5)]))
    with pytest.raises(ValueError, match="nothing to plot: a & b"):
        drawn()


def test_panels_stand_side_by_side() -> None:
    one = render([panel(Line("one", [(5, 5)]))])
    two = render([panel(Line("one", [(5, 5)]))] * 2)
    widths = [int(ElementTree.fromstring(text).get("width", "")) for text in (one, two)]
    assert widths[1] - widths[0] == 480


def test_it_is_readable_in_the_dark() -> None:
    assert "prefers-color-scheme: dark" in render([panel(Line("one", [(5, 5)]))])
