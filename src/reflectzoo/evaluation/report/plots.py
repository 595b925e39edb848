"""Distributions and scatter plots of scores as small inline SVG images."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 440, 12, 12, 52, 8, 34
_DOTS = 400
# Outlines around the origin: disc, square, triangle, diamond.
_MARKS = ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", "M-3-3h6v6h-6z", "M0-4l3.6 6.4h-7.2z", "M0-4l4 4l-4 4l-4-4z")


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``wanted`` of them.

    Example:
        >>> nice_ticks(12.3, 29.0)
        [15.0, 20.0, 25.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def distribution(values: Mapping[str, Sequence[float]], title: str) -> str:
    """Plot the distribution of scores: dots, and a box from the first to the third quartile with the median.

    Args:
        values: entry -> scores; at least one in total.
        title: title of the axis.

    Returns:
        A scalable ``<svg>`` element; all text in it is escaped.

    Raises:
        ValueError: if there is no score.
    """
    shown = {name: sorted(each) for name, each in values.items() if each}
    if not shown:
        raise ValueError("nothing to draw: no entry has a score")
    low = min(each[0] for each in shown.values())
    high = max(each[-1] for each in shown.values())
    low, high = _margins([low, high])

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    bottom = _TOP + _ROW * len(shown)
    parts = []
    for tick in nice_ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{bottom + 30}" text-anchor="middle">{html.escape(title)}</text>')
    for row, (name, each) in enumerate(shown.items()):
        top = _TOP + row * _ROW
        median = statistics.median(each)
        first, _, third = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else (median,) * 3
        label = html.escape(name if len(name) <= 40 else name[:39] + "…")
        parts.append(f'<text x="{_LEFT}" y="{top + 14}">{label}: median {median:.4g}</text>')
        parts.append(
            f'<rect class="box" x="{x(first)}" y="{top + 20}" width="{max(1.0, round(x(third) - x(first), 1))}" '
            f'height="24" rx="2"/>'
        )
        for place in _spread(len(each)):
            # Multiples of the golden ratio spread neighbours over the height evenly and reproducibly.
            offset = (place * 0.618034) % 1
            parts.append(f'<circle cx="{x(each[place])}" cy="{round(top + 23 + 18 * offset, 1)}" r="2"/>')
        parts.append(f'<line class="median" x1="{x(median)}" x2="{x(median)}" y1="{top + 18}" y2="{top + 46}"/>')
    spoken = html.escape(f"{title} of {', '.join(shown)}", quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" aria-label="{spoken}">'
        + "".join(parts)
        + "</svg>"
    )


@dataclass(frozen=True)
class Point:
    """One picture of a scatter plot.

    Attributes:
        x: horizontal coordinate.
        y: vertical coordinate, upwards.
        name: shown in the tooltip.
    """

    x: float
    y: float
    name: str


def scatter(points: Mapping[str, Sequence[Point]], across: str, upwards: str) -> str:
    """Plot points of several entries, each with its own mark and colour, and a line at y = 0.

    Args:
        points: entry -> points; at least one in total. From the fifth entry on, marks are reused.
        across: title of the horizontal axis.
        upwards: title of the vertical axis.

    Returns:
        A scalable ``<svg>`` element; all text in it is escaped.

    Raises:
        ValueError: if there is no point.
    """
    shown = {name: each for name, each in points.items() if each}
    every = [point for each in shown.values() for point in each]
    if not every:
        raise ValueError("nothing to draw: no entry has a point")
    left, right, top = 48, 12, 12 + 18 * len(shown)
    bottom = top + 220
    low_x, high_x = _margins([point.x for point in every])
    low_y, high_y = _margins([0.0, *(point.y for point in every)])

    def x(value: float) -> float:
        return round(left + (value - low_x) / (high_x - low_x) * (_WIDTH - left - right), 1)

    def y(value: float) -> float:
        return round(bottom - (value - low_y) / (high_y - low_y) * (bottom - top), 1)

    parts = []
    for tick in nice_ticks(low_x, high_x):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    for tick in nice_ticks(low_y, high_y):
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="tick" x="{left - 5}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<line class="zero" x1="{left}" x2="{_WIDTH - right}" y1="{y(0)}" y2="{y(0)}"/>')
    centre, middle = (left + _WIDTH - right) / 2, (top + bottom) / 2
    parts.append(f'<text x="{centre}" y="{bottom + 30}" text-anchor="middle">{html.escape(across)}</text>')
    turned = f'text-anchor="middle" transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="12" y="{middle}" {turned}>{html.escape(upwards)}</text>')
    for number, (name, each) in enumerate(shown.items()):
        kind = number % len(_MARKS)

        def mark(across: float, down: float, kind: int = kind) -> str:
            return f'<path class="mark m{kind}" transform="translate({across} {down})" d="{_MARKS[kind]}"'

        label = html.escape(name if len(name) <= 40 else name[:39] + "…")
        parts.append(mark(left + 6, 18 * number + 14) + "/>")
        parts.append(f'<text x="{left + 16}" y="{18 * number + 18}">{label}</text>')
        for point in (each[place] for place in _spread(len(each))):
            told = f"{html.escape(point.name)}: {point.x:.3g}, {point.y:+.3g}"
            parts.append(f"{mark(x(point.x), y(point.y))}><title>{told}</title></path>")
    spoken = html.escape(f"{upwards} against {across} of {', '.join(shown)}", quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" aria-label="{spoken}">'
        + "".join(parts)
        + "</svg>"
    )


def _margins(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _spread(count: int) -> list[int]:
    """At most ``_DOTS`` evenly spaced indices out of ``count``, including both ends."""
    if count <= _DOTS:
        return list(range(count))
    return [round(k * (count - 1) / (_DOTS - 1)) for k in range(_DOTS)]
