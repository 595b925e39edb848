"""What papers report, with their sources: facts collected from the papers' tables, not measured here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """One number of one table.

    Attributes:
        method: as the papers call it.
        variant: which one of it; empty for the only one.
        dataset: e.g. ``Real20``, ``SIR2-Objects``.
        metric: ``PSNR``, ``SSIM``, ``LMSE``, ``NCC``, ``SI``, ``SSIMr``, ``SIr``, or a cost.
        value: as printed.
        source: paper and table.
        split_size: pictures that it was measured on; None if not told.
        note: what else to know.
        layer: ``transmission`` or ``reflection``.
        confirmed: whether the value was read in the source itself.
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
    def is_ablation(self) -> bool:
        """Whether it is a crippled variant that only its own paper compares with."""
        return self.variant.startswith("ablation")


@cache
def published_results() -> tuple[Published, ...]:
    """Every number we know of.

    Example:
        >>> ytmt = [p for p in published_results() if p.method == "YTMT" and p.dataset == "Real20"]
        >>> any(p.metric == "PSNR" and p.value == 23.26 for p in ytmt)
        True
    """
    text = (files("reflectzoo.evaluation") / "published_results.json").read_text(encoding="utf-8")
    return tuple(Published(**{**entry, "method": entry["method"].strip()}) for entry in json.loads(text))


def published_for(datasets: Iterable[str], layer: str = "transmission", ablations: bool = False) -> list[Published]:
    """The numbers for some data sets.

    Args:
        datasets: names as in ``dataset``.
        layer: ``transmission`` or ``reflection``.
        ablations: also crippled variants.
    """
    wanted = set(datasets)
    return [
        entry
        for entry in published_results()
        if entry.dataset in wanted and entry.layer == layer and (ablations or not entry.is_ablation)
    ]
