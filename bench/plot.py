"""Line plots as SVG, by hand: both axes logarithmic, readable in light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 480  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 46, 48
_PLOT_HEIGHT: Final = 260
_LEGEND_LINE: Final = 20

# Colours that stay apart for the colour-blind, and marks for who sees none.
_STYLE: Final = """\
svg { font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; }
text { fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.line { fill: none; stroke-width: 2; }
.c0 { stroke: #0072b2; fill: #0072b2; }
.c1 { stroke: #d55e00; fill: #d55e00; }
.c2 { stroke: #009e73; fill: #009e73; }
.c3 { stroke: #a35a8c; fill: #a35a8c; }
.c4 { stroke: #7a6a00; fill: #7a6a00; }
.c5 { stroke: #57606a; fill: #57606a; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; }
  text { fill: #e6edf3; }
  .grid { stroke: #30363d; }
  .c0 { stroke: #56b4e9; fill: #56b4e9; }
  .c1 { stroke: #ff9e4a; fill: #ff9e4a; }
  .c2 { stroke: #3fd4a4; fill: #3fd4a4; }
  .c3 { stroke: #e08fc2; fill: #e08fc2; }
  .c4 { stroke: #f0e442; fill: #f0e442; }
  .c5 { stroke: #9ea7b3; fill: #9ea7b3; }
}
"""
_COLOURS: Final = 6
_DASHES: Final = ("", "7 4", "2 4")


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        name: in the legend.
        points: x and y, both above 0, by x.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: above it.
        x_axis, y_axis: what the axes mean, with units.
        lines: what it shows.
    """

    title: str
    x_axis: str
    y_axis: str
    lines: Sequence[Line]


def render(panels: Sequence[Panel]) -> str:
    """Return the panels side by side as an SVG file.

    Raises:
        ValueError: a panel has no points.
    """
    legend = max(len(panel.lines) for panel in panels) * _LEGEND_LINE
    # The last label of the last axis stands out.
    width = _WIDTH * len(panels) + _RIGHT
    height = _TOP + _PLOT_HEIGHT + _BOTTOM + legend + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<title>{escape('; '.join(panel.title for panel in panels))}</title>",
        f"<style>\n{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH} 0)">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """A logarithmic axis: where a number is, between two pixels."""

    def __init__(self, numbers: Sequence[float], first: float, last: float) -> None:
        self.low = _step_down(min(numbers))
        # At least one power of ten: what is nearly flat has to look so.
        self.high = max(_step_up(max(numbers)), 10 * self.low)
        self._first = first
        self._scale = (last - first) / math.log(self.high / self.low)

    def at(self, number: float) -> float:
        return round(self._first + math.log(number / self.low) * self._scale, 1)

    def ticks(self) -> list[float]:
        """Numbers to label: 1, 2 and 5 times each power of ten, or only those if they are many."""
        decades = math.log10(self.high / self.low)
        digits = (1, 2, 5) if decades < 3 else (1,)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        return [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]


def _step_down(number: float) -> float:
    power = 10.0 ** math.floor(math.log10(number))
    return power * max(digit for digit in (1, 2, 5) if digit * power <= number * 1.000001)


def _step_up(number: float) -> float:
    power = 10.0 ** math.floor(math.log10(number))
    return power * min(digit for digit in (1, 2, 5, 10) if digit * power >= number * 0.999999)


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    if not points:
        raise ValueError(f"nothing to plot: {panel.title}")
    right, bottom = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
    x_axis = _Axis([x for x, _ in points], _LEFT, right)
    y_axis = _Axis([y for _, y in points], bottom, _TOP)
    middle = (_LEFT + right) / 2
    parts = [f'<text class="title" x="{_LEFT}" y="26">{escape(panel.title)}</text>']
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_number(tick)}</text>')
    parts += [
        f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(panel.x_axis)}</text>',
        f'<text x="{-(_TOP + bottom) / 2}" y="14" text-anchor="middle" '
        f'transform="rotate(-90)">{escape(panel.y_axis)}</text>',
    ]
    for number, line in enumerate(panel.lines):
        path = "L".join(f"{x_axis.at(x)} {y_axis.at(y)}" for x, y in line.points)
        marks = [_mark(number, x_axis.at(x), y_axis.at(y)) for x, y in line.points]
        parts += [_stroke(number, f"M{path}"), *marks]
        level = bottom + _BOTTOM + 14 + number * _LEGEND_LINE
        parts += [
            _stroke(number, f"M{_LEFT} {level}h40"),
            _mark(number, _LEFT + 20, level),
            f'<text x="{_LEFT + 50}" y="{level + 4}">{escape(line.name)}</text>',
        ]
    return parts


def _stroke(number: int, path: str) -> str:
    dash = _DASHES[number % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    # As a style, because the class gives it a filling.
    return f'<path class="line c{number % _COLOURS}" style="fill: none"{dashes} d="{path}"/>'


def _mark(number: int, x: float, y: float) -> str:
    colour = f'class="c{number % _COLOURS}"'
    if number % 2:
        return f'<rect {colour} x="{x - 3.5:g}" y="{y - 3.5:g}" width="7" height="7"/>'
    return f'<circle {colour} cx="{x:g}" cy="{y:g}" r="4"/>'


def _number(number: float) -> str:
    """Return a label such as 0.5, 200 or 5 000."""
    return f"{number:,.0f}".replace(",", "\u2009") if number >= 1 else f"{number:g}"
