"""Contact sheet of pictures without ground truth: before, after and difference, one row per photograph and entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflectzoo.drawing.panels import PanelRow, draw_separations
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import measures_of
from reflectzoo.evaluation.report.pictures import case_pictures

SHEET = "contact_sheet.jpg"
MOST = 60
"""Largest number of rows on a sheet."""
_SHOWN = ("input", "ours", "removed", "reflection")


def write_contact_sheet(results: Mapping[str, Any], folder: Path, target: Path) -> Path | None:
    """Draw the photographs whose ground truth is unknown, at most :data:`MOST` rows.

    Args:
        results: results of an evaluation with saved pictures.
        folder: run folder, with the saved pictures.
        target: folder for the sheet.

    Returns:
        Path of the JPEG file; None if there is no such photograph, or no picture was saved.

    Raises:
        UserError: if a saved picture cannot be read.
    """
    measures = measures_of(results)
    inputs = {(row["set"], row["image"]): row["pictures"] for row in results["images"] if row["entry"] == INPUT}
    rows = []
    for row in results["images"]:
        known = inputs.get((row["set"], row["image"]), {})
        if row["entry"] == INPUT or "mixture" not in known or "truth_transmission" in known:
            continue
        pictures = case_pictures(row, {INPUT: known}, folder)
        images: dict[str, Tensor] = {
            row["entry"] if what == "ours" else what: torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
            for what, picture in pictures.items()
            if what in _SHOWN
        }
        scores = row["transmission"] or {}
        told = [
            f"{each.title} {each.text(scores[each.key])}{f' {each.unit}' if each.unit else ''}"
            for each in measures
            if scores.get(each.key) is not None
        ]
        rows.append(PanelRow(images, ", ".join([row["image"], *told])))
        if len(rows) == MOST:
            break
    if not rows:
        return None
    path = target / SHEET
    draw_separations(rows).save(path, quality=85)
    return path
