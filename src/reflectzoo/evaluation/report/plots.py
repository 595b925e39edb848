"""Distributions of scores as small inline SVG pictures."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 440, 12, 12, 52, 8, 34
_DOTS = 400


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
    """How the scores of pictures spread: dots, and a box from the first to the third quartile with the median.

    Args:
        values: entry -> its scores, at least one in all.
        title: of the axis.

    Returns:
        An ``<svg>`` element that scales with its place; all text in it is escaped.

    Raises:
        ValueError: if there is no score.
    """
    shown = {name: sorted(each) for name, each in values.items() if each}
    if not shown:
        raise ValueError("nothing to draw: no entry has a score")
    low = min(each[0] for each in shown.values())
    high = max(each[-1] for each in shown.values())
    margin = (high - low) * 0.03 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin

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
            # The golden ratio spreads neighbours over the height without a pattern, and the same way every time.
            offset = (place * 0.618034) % 1
            parts.append(f'<circle cx="{x(each[place])}" cy="{round(top + 23 + 18 * offset, 1)}" r="2"/>')
        parts.append(f'<line class="median" x1="{x(median)}" x2="{x(median)}" y1="{top + 18}" y2="{top + 46}"/>')
    spoken = html.escape(f"{title} of {', '.join(shown)}", quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" aria-label="{spoken}">'
        + "".join(parts)
        + "</svg>"
    )


def _spread(count: int) -> list[int]:
    """Indices of at most ``_DOTS`` of so many, evenly, both ends among them."""
    if count <= _DOTS:
        return list(range(count))
    return [round(k * (count - 1) / (_DOTS - 1)) for k in range(_DOTS)]
