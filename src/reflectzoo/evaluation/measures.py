"""Presentation of scores: name, unit, digits and direction, as declared by the metric classes and stored in results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reflectzoo.metrics.known import digits_of


@dataclass(frozen=True)
class Measure:
    """One entry of ``metrics`` in a result.

    Attributes:
        key: e.g. ``psnr``.
        title: for display, and as in published tables.
        unit: for display; often empty.
        digits: decimal places, as usual in papers.
        higher_is_better: None if the score has no direction.
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    higher_is_better: bool | None = True

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Measure:
        """Read from a result file; older files do not contain the digits."""
        digits = record.get("digits")
        return cls(
            record["key"],
            record["title"],
            record["unit"],
            digits_of(record["key"]) if digits is None else int(digits),
            record["higher_is_better"],
        )

    @property
    def heading(self) -> str:
        """Name, unit and an arrow towards better values.

        Example:
            >>> Measure("psnr", "PSNR", "dB").heading
            'PSNR dB ↑'
        """
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.title}{f' {self.unit}' if self.unit else ''}{arrow}"

    def text(self, value: float) -> str:
        """Format a value for display."""
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """Format a difference for display, with its sign."""
        return ("+" if value >= 0 else "-") + self.text(abs(value))

    def best(self, values: Iterable[float]) -> float | None:
        """The best value; None if there are no values, or the score has no direction."""
        found = list(values)
        if not found or self.higher_is_better is None:
            return None
        return max(found) if self.higher_is_better else min(found)

    def gain(self, value: float, before: float) -> float:
        """Improvement of ``value`` over ``before``; positive if it is better, whatever the direction of the score.

        For a score without direction, the plain difference.
        """
        return before - value if self.higher_is_better is False else value - before


def measures_of(results: Mapping[str, Any]) -> list[Measure]:
    """The scores of a result, in the order of the columns."""
    return [Measure.read(each) for each in results["metrics"]]
