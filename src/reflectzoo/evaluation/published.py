"""Published results with their sources: collected from the papers' tables, not measured here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_FILES = ("published_results.json", "published_later.json")
"""Numbers read from the papers' own tables, and numbers collected later from secondary sources."""
_BY_PICTURE = (
    ("Average(Real20+Objects+Postcard+Wild)", 474),
    ("Average(Postcard+Object+Wild+Real20+Nature)", 494),
    ("Average(Postcard+Object+Wild+Real20+Nature)", 540),
    ("SIR2", 454),
)
"""(average, number of pictures) for which equal weights of all pictures reproduce the average (verified by tests)."""


@dataclass(frozen=True)
class Published:
    """One number from one table.

    Attributes:
        method: name in the papers.
        variant: variant of the method; empty if there is only one.
        dataset: e.g. ``Real20``, ``SIR2-Objects``.
        metric: ``PSNR``, ``SSIM``, ``LMSE``, ``NCC``, ``SI``, ``SSIMr``, ``SIr``, or a cost.
        value: as printed.
        source: paper and table.
        split_size: number of pictures that it was measured on; None if not stated.
        note: remarks.
        layer: ``transmission`` or ``reflection``.
        confirmed: whether the value was checked in the original source.
    """

    method: str
    variant: str
    dataset: str
    metric: str
    value: float
    source: str
    split_size: int | None
    note: str
    layer: str
    confirmed: bool

    @property
    def label(self) -> str:
        """Method and variant."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def is_average(self) -> bool:
        """Whether the value is a mean over several data sets."""
        return self.dataset.startswith("Average") or self.dataset == "SIR2"

    @property
    def rule(self) -> str:
        """Number of pictures that the value covers, and how they are averaged, in words.

        Example:
            >>> [p.rule for p in published_results() if p.method == "GFRRN"]
            ['pictures not stated, average not stated']
        """
        pictures = f"{self.split_size} pictures" if self.split_size is not None else "pictures not stated"
        if not self.is_average:
            return pictures
        alike = (self.dataset, self.split_size) in _BY_PICTURE
        return f"{pictures}, {'weighted equally' if alike else 'average not stated'}"

    @property
    def is_ablation(self) -> bool:
        """Whether the value belongs to an ablation, which only the method's own paper reports."""
        return self.variant.startswith("ablation")


@cache
def published_results() -> tuple[Published, ...]:
    """All published numbers that we have collected.

    Example:
        >>> ytmt = [p for p in published_results() if p.method == "YTMT" and p.dataset == "Real20"]
        >>> any(p.metric == "PSNR" and p.value == 23.26 for p in ytmt)
        True
    """
    texts = [(files("reflectzoo.evaluation") / name).read_text(encoding="utf-8") for name in _FILES]
    entries = [entry for text in texts for entry in json.loads(text)]
    return tuple(Published(**{**entry, "method": entry["method"].strip()}) for entry in entries)


def published_for(datasets: Iterable[str], layer: str = "transmission", ablations: bool = False) -> list[Published]:
    """Published numbers for some data sets.

    Args:
        datasets: names as in :attr:`Published.dataset`.
        layer: ``transmission`` or ``reflection``.
        ablations: include ablations.
    """
    wanted = set(datasets)
    return [
        entry
        for entry in published_results()
        if entry.dataset in wanted and entry.layer == layer and (ablations or not entry.is_ablation)
    ]


def averaging_rules(facts: Iterable[Published]) -> str:
    """The rules (:attr:`Published.rule`) of some numbers, in words; several if the sources differ."""
    return " or ".join(dict.fromkeys(fact.rule for fact in facts))
