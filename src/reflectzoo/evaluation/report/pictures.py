"""Pictures of a report: those with the smallest and largest gain over the untouched input, small enough for e-mail."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
"""Largest number of worst, and of best, pictures per entry and set."""
BUDGET = 7_500_000
"""Total size of all embedded pictures in bytes, as base64."""

_WORDS = ("input", "ours", "truth", "error", "removed", "reflection", "true reflection")
"""Names of the pictures of a case; an entry with one of these names is not shown next to other entries."""
# (longer side in pixels, WebP quality), tried in this order until all pictures fit into the budget.
_LADDER = ((448, 78), (384, 74), (320, 70), (256, 66), (192, 62))


@dataclass(frozen=True)
class ReportPicture:
    """One picture of one entry in the report.

    Attributes:
        row: row of the results.
        place: rank within its side, 1 for the worst or the best; 0 if not chosen.
        side: ``worst`` or ``best``, by the gain; empty if not chosen.
        measure: score by which pictures are chosen.
        before: the same score of the untouched input; None if there is none.
        uris: kind -> data URI, in the order shown: ``input``, ``ours``, the other entries by name, ``truth``, ``error``
            (against the ground truth), ``removed`` (against the input), ``reflection``, ``true reflection``, as far as
            they exist; empty without saved pictures.
    """

    row: Mapping[str, Any]
    place: int
    side: str
    measure: Measure
    before: float | None
    uris: Mapping[str, str]

    @property
    def value(self) -> float:
        """The deciding score of the transmission."""
        return float(self.row["transmission"][self.measure.key])

    @property
    def gain(self) -> float | None:
        """Improvement over the untouched input; negative if worse; None if the input has no score."""
        return None if self.before is None else self.measure.gain(self.value, self.before)

    @property
    def made_worse(self) -> bool:
        """Whether the untouched input is better, by at least half a unit of the last printed digit."""
        return self.gain is not None and self.gain <= -0.5 * 10**-self.measure.digits


def deciding_measure(results: Mapping[str, Any]) -> Measure | None:
    """The score by which pictures are chosen: the first that has a direction; None if there is none."""
    return next((each for each in measures_of(results) if each.higher_is_better is not None), None)


def every_case(results: Mapping[str, Any]) -> list[ReportPicture]:
    """All scored pictures of all entries; the input is excluded unless it is the only entry.

    Returns:
        In the order of entries and sets, within these by ascending gain; without places, sides and images.
    """
    measure = deciding_measure(results)
    if measure is None:
        return []
    names = [entry["name"] for entry in results["entries"]]
    names = [name for name in names if name != INPUT] or names
    before = {
        (row["set"], row["image"]): (row["transmission"] or {}).get(measure.key)
        for row in results["images"]
        if row["entry"] == INPUT
    }
    found: dict[tuple[str, str], list[ReportPicture]] = {}
    for row in results["images"]:
        if (row["transmission"] or {}).get(measure.key) is not None:
            case = ReportPicture(row, 0, "", measure, before.get((row["set"], row["image"])), {})
            found.setdefault((row["entry"], row["set"]), []).append(case)

    def order(case: ReportPicture) -> float:
        # The gain of the input itself is zero everywhere, so that its score decides.
        if case.gain is None or case.row["entry"] == INPUT:
            return measure.gain(case.value, 0.0)
        return case.gain

    return [
        case
        for name in names
        for dataset in results["sets"]
        for case in sorted(found.get((name, dataset["name"]), []), key=order)
    ]


def choose_cases(results: Mapping[str, Any], each: int = EACH) -> list[ReportPicture]:
    """Choose the pictures of every entry and set with the smallest and largest gain over the untouched input.

    Args:
        results: evaluation results.
        each: largest number of worst and of best pictures. No picture is in both groups; if there are few, the middle
            one counts as one of the worst.

    Returns:
        In the order of entries and sets, within these the worst, then the best; without images.
    """
    groups: dict[tuple[str, str], list[ReportPicture]] = {}
    for case in every_case(results):
        groups.setdefault((case.row["entry"], case.row["set"]), []).append(case)
    cases = []
    for group in groups.values():
        worst = group[: min(each, (len(group) + 1) // 2)]
        best = group[::-1][: min(each, len(group) // 2)]
        for side, chosen in (("worst", worst), ("best", best)):
            cases += [replace(case, place=place, side=side) for place, case in enumerate(chosen, start=1)]
    return cases


def draw_cases(results: Mapping[str, Any], folder: Path, budget: int = BUDGET) -> tuple[list[ReportPicture], str]:
    """Choose pictures and embed them as data URIs.

    Args:
        results: evaluation results.
        folder: run folder, with the saved pictures.
        budget: total size in bytes of all data URIs.

    Returns:
        Cases, and a remark if pictures are missing or fewer are shown; otherwise the remark is empty.

    Raises:
        UserError: if a saved picture cannot be read.
    """
    cases = choose_cases(results)
    stored: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in results["images"]:
        stored.setdefault((row["set"], row["image"]), {})[row["entry"]] = row["pictures"]
    if not any(case.row["pictures"] for case in cases):
        return cases, "This evaluation saved no pictures; with save_pictures=true, the report shows them."
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


def case_pictures(
    row: Mapping[str, Any], stored: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, NDArray[np.uint8]]:
    """Read and compute the images of one picture of one entry, in the order of :attr:`ReportPicture.uris`.

    Args:
        row: row of the results.
        stored: entry -> ``pictures`` of the row for the same picture.
        folder: run folder.

    Returns:
        Kind -> (H, W, 3) uint8; empty unless both the input and the result were saved.

    Raises:
        UserError: if a saved picture cannot be read.
    """
    known = stored.get(INPUT, {})
    ours = known.get("mixture") if row["entry"] == INPUT else row["pictures"].get("transmission")
    if ours is None or known.get("mixture") is None:
        return {}
    pictures = {"input": read_stored_picture(folder / known["mixture"]), "ours": read_stored_picture(folder / ours)}
    for name, other in stored.items():
        if name not in (INPUT, row["entry"], *_WORDS) and other.get("transmission"):
            pictures[name] = read_stored_picture(folder / other["transmission"])
    if known.get("truth_transmission"):
        pictures["truth"] = read_stored_picture(folder / known["truth_transmission"])
        pictures["error"] = error_map(pictures["ours"], pictures["truth"])
    if row["entry"] != INPUT:
        pictures["removed"] = error_map(pictures["ours"], pictures["input"])
    reflections = {"reflection": row["pictures"].get("reflection"), "true reflection": known.get("truth_reflection")}
    for what, path in reflections.items():
        if path:
            pictures[what] = read_stored_picture(folder / path)
    return pictures


def _draw(
    cases: Sequence[ReportPicture],
    stored: Mapping[tuple[str, str], Mapping[str, Mapping[str, str]]],
    folder: Path,
    side: int,
    quality: int,
    budget: int,
) -> list[ReportPicture] | None:
    """Embed the images of all cases at one size; None as soon as they exceed the budget."""
    drawn, used = [], 0
    for case in cases:
        pictures = case_pictures(case.row, stored[case.row["set"], case.row["image"]], folder)
        uris = {what: _uri(picture, side, quality) for what, picture in pictures.items()}
        used += sum(map(len, uris.values()))
        if used > budget:
            return None
        drawn.append(replace(case, uris=uris))
    return drawn


def read_stored_picture(path: Path) -> NDArray[np.uint8]:
    """Read a saved picture, (H, W, 3) uint8.

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
