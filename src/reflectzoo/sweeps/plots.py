"""Curves and scatter plots as small inline SVG images."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from reflectzoo.evaluation.report.plots import nice_ticks

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 300, 56, 12, 26, 40
#: Colours that can be distinguished with red-green colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_OTHERS = "#b8b8b8"

Points = Sequence[tuple[float, float]]


def curves(lines: Mapping[str, Points], title: str, across: str) -> str:
    """Plot curves over epochs or trials. The first six have colours and names, the others are grey.

    Args:
        lines: name -> points, in the order of importance; at least one finite point in total.
        title: plot title.
        across: label of the horizontal axis.

    Returns:
        An ``<svg>`` element; all text in it is escaped.

    Raises:
        ValueError: if there is no finite point.
    """
    named = {name: _finite(points) for name, points in lines.items()}
    named = {name: points for name, points in named.items() if points}
    frame = _Frame([point for points in named.values() for point in points], title, across)
    drawn, legend = [], []
    for place, points in reversed(list(enumerate(named.values()))):
        colour = COLOURS[place] if place < len(COLOURS) else _OTHERS
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        x, y = points[-1]
        drawn.append(f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="2.5" fill="{colour}"/>')
    for place, name in enumerate(list(named)[: len(COLOURS)]):
        label = html.escape(name if len(name) <= 60 else name[:59] + "…")
        y = frame.bottom + _BOTTOM + 14 + 16 * place
        legend.append(f'<rect x="{_LEFT}" y="{y - 9}" width="14" height="4" fill="{COLOURS[place]}"/>')
        legend.append(f'<text x="{_LEFT + 20}" y="{y - 3}">{label}</text>')
    return frame.svg([*drawn, *legend], extra=16 * min(len(named), len(COLOURS)) + 8)


def cloud(points: Points, title: str, across: str, log: bool = False) -> str:
    """Scatter plot with one dot per trial: the value reached against a setting.

    Args:
        points: (setting, value), at least one finite.
        title: plot title.
        across: name of the setting.
        log: logarithmic axis for the setting; omits settings that are not positive.

    Returns:
        An ``<svg>`` element; all text in it is escaped.

    Raises:
        ValueError: if there is no point to draw.
    """
    finite = _finite(points)
    if log:
        finite = [(math.log10(x), y) for x, y in finite if x > 0]
    frame = _Frame(finite, title, across, log)
    dots = [
        f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="3.5" fill="{COLOURS[0]}" opacity="0.7"/>' for x, y in finite
    ]
    return frame.svg(dots)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


class _Frame:
    """Axes with limits that fit the points."""

    def __init__(self, points: Points, title: str, across: str, log: bool = False) -> None:
        if not points:
            raise ValueError("nothing to draw")
        self._across, self._down = ((_limits([point[axis] for point in points])) for axis in (0, 1))
        self._title, self._name, self._log = title, across, log
        self.bottom = _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        low, high = self._across
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self._down
        return round(self.bottom - (value - low) / (high - low) * (self.bottom - _TOP), 1)

    def svg(self, inside: Sequence[str], extra: int = 0) -> str:
        parts = [f'<text x="{_LEFT}" y="16" class="title">{html.escape(self._title)}</text>']
        for tick in nice_ticks(*self._across):
            text = f"1e{tick:g}" if self._log else f"{tick:g}"
            parts.append(f'<line class="grid" x1="{self.x(tick)}" x2="{self.x(tick)}" y1="{_TOP}" y2="{self.bottom}"/>')
            parts.append(
                f'<text class="tick" x="{self.x(tick)}" y="{self.bottom + 14}" text-anchor="middle">{text}</text>'
            )
        for tick in nice_ticks(*self._down):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
        middle, name = (_WIDTH + _LEFT) / 2, html.escape(self._name)
        parts.append(f'<text x="{middle}" y="{self.bottom + 30}" text-anchor="middle">{name}</text>')
        spoken = html.escape(f"{self._title} over {self._name}", quote=True)
        return (
            f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT + extra}" role="img" aria-label="{spoken}">'
            + "".join([*parts, *inside])
            + "</svg>"
        )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin
