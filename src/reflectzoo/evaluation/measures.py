"""How a score is told: its name, unit, digits and direction, as its class says and a result file keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reflectzoo.metrics.known import digits_of


@dataclass(frozen=True)
class Measure:
    """One of ``metrics`` of a result.

    Attributes:
        key: e.g. ``psnr``.
        title: for people, and as published tables have it.
        unit: likewise; often empty.
        digits: after the point, as papers print.
        higher_is_better: None where neither is.
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    higher_is_better: bool | None = True

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Measure:
        """From a result file; those of older versions do not say the digits."""
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
        """Name, unit and which way is better.

        Example:
            >>> Measure("psnr", "PSNR", "dB").heading
            'PSNR dB ↑'
        """
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return f"{self.title}{f' {self.unit}' if self.unit else ''}{arrow}"

    def text(self, value: float) -> str:
        """A value as it is printed."""
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference as it is printed."""
        return ("+" if value >= 0 else "-") + self.text(abs(value))

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None if there is none, or none is better than another."""
        found = list(values)
        if not found or self.higher_is_better is None:
            return None
        return max(found) if self.higher_is_better else min(found)

    def gain(self, value: float, before: float) -> float:
        """By how much a value is better than another one; positive for better, whatever the direction."""
        return before - value if self.higher_is_better is False else value - before


def measures_of(results: Mapping[str, Any]) -> list[Measure]:
    """The scores of a result, in the order of columns."""
    return [Measure.read(each) for each in results["metrics"]]
