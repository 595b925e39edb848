"""Pictures of a report: the worst and the best of every entry on every set, small enough to be mailed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reflectzoo.data.images import UnreadableImage, read_rgb
from reflectzoo.drawing.error_map import error_map
from reflectzoo.errors import UserError
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import Measure, measures_of

EACH = 10
"""Worst and best pictures of each entry on each set."""
BUDGET = 7_500_000
"""Bytes that all embedded pictures may take together, as base64."""
# Sizes (longer side, WebP quality) that are tried one after another until everything fits.
_LADDER = ((448, 78), (384, 74), (320, 70), (256, 66), (192, 62))


@dataclass(frozen=True)
class Case:
    """One picture of one entry that the report shows.

    Attributes:
        row: of the results.
        place: 1 for the worst or the best, 2 for the next ...
        side: ``worst`` or ``best``.
        measure: by which it was chosen.
        before: the same score of the untouched input; None if there is none.
        uris: ``input``, ``ours``, ``truth``, ``error`` -> data URI; empty without stored pictures.
    """

    row: Mapping[str, Any]
    place: int
    side: str
    measure: Measure
    before: float | None
    uris: Mapping[str, str]

    @property
    def value(self) -> float:
        """Its score."""
        return float(self.row["transmission"][self.measure.key])


def choose_cases(results: Mapping[str, Any], each: int = EACH) -> list[Case]:
    """Worst and best pictures of every entry (but the input, if there is another) on every set, without pictures.

    Args:
        results: of an evaluation.
        each: so many worst ones and best ones. No picture is among both: the middle one of few counts as a worst one.

    Returns:
        In the order of entries, sets, worst first, then best first.
    """
    measure = next(iter(measures_of(results)), None)
    if measure is None:
        return []
    names = [entry["name"] for entry in results["entries"]]
    names = [name for name in names if name != INPUT] or names
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    before: dict[tuple[str, str], float | None] = {}
    for row in results["images"]:
        value = (row["transmission"] or {}).get(measure.key)
        if row["entry"] == INPUT:
            before[row["set"], row["image"]] = value
        if value is not None:
            found.setdefault((row["entry"], row["set"]), []).append(row)
    cases = []
    for name in names:
        for dataset in results["sets"]:
            rows = found.get((name, dataset["name"]), [])
            rows = sorted(
                rows,
                key=lambda row: row["transmission"][measure.key],
                reverse=measure.higher_is_better is False,
            )
            worst = rows[: min(each, (len(rows) + 1) // 2)]
            best = rows[::-1][: min(each, len(rows) // 2)]
            for side, chosen in (("worst", worst), ("best", best)):
                for place, row in enumerate(chosen, start=1):
                    cases.append(Case(row, place, side, measure, before.get((row["set"], row["image"])), {}))
    return cases


def draw_cases(results: Mapping[str, Any], folder: Path, budget: int = BUDGET) -> tuple[list[Case], str]:
    """Choose pictures and embed them.

    Args:
        results: of an evaluation.
        folder: of the run, which stored pictures lie in.
        budget: bytes for all of them.

    Returns:
        Cases, and a sentence about what had to be left out or made smaller; empty if nothing.

    Raises:
        UserError: if a stored picture cannot be read.
    """
    cases = choose_cases(results)
    stored = {(row["set"], row["image"]): row["pictures"] for row in results["images"] if row["entry"] == INPUT}
    if not any(case.row["pictures"] for case in cases):
        return cases, "This evaluation kept no pictures; with save_pictures=true the report shows them."
    each = EACH
    while True:
        for side, quality in _LADDER:
            drawn = _draw(cases, stored, folder, side, quality, budget)
            if drawn is not None:
                remark = (
                    "" if each == EACH else f"Only {each} and {each} of each set are shown, to keep this file small."
                )
                return drawn, remark
        if each == 1:
            return cases, "There are too many entries and data sets to show pictures of each in one small file."
        each = max(1, each // 2)
        cases = choose_cases(results, each)


def _draw(
    cases: Sequence[Case],
    stored: Mapping[tuple[str, str], Mapping[str, str]],
    folder: Path,
    side: int,
    quality: int,
    budget: int,
) -> list[Case] | None:
    """All cases with pictures of one size; None as soon as they take too much."""
    drawn, used = [], 0
    for case in cases:
        known = stored.get((case.row["set"], case.row["image"]), {})
        paths = {
            "input": known.get("mixture"),
            "ours": known.get("mixture") if case.row["entry"] == INPUT else case.row["pictures"].get("transmission"),
            "truth": known.get("truth_transmission"),
        }
        if any(path is None for path in paths.values()):
            drawn.append(case)
            continue
        pictures = {what: read_picture(folder / str(path)) for what, path in paths.items()}
        pictures["error"] = error_map(pictures["ours"], pictures["truth"])
        uris = {what: _uri(picture, side, quality) for what, picture in pictures.items()}
        used += sum(map(len, uris.values()))
        if used > budget:
            return None
        drawn.append(Case(case.row, case.place, case.side, case.measure, case.before, uris))
    return drawn


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A stored picture, (H, W, 3) in 0..255.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return read_rgb(path)
    except UnreadableImage as error:
        raise UserError(f"{str(error).rstrip('.')}: evaluate again with save_pictures=true.") from error


def _uri(picture: NDArray[np.uint8], side: int, quality: int) -> str:
    small = Image.fromarray(picture)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=3)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
