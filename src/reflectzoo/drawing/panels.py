"""Drawing of separated photographs side by side, for loggers and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_GAP = 8
_HEADER = 34
_CAPTION = 26


@dataclass(frozen=True)
class PanelRow:
    """One separated photograph: images by column title, in drawing order, and a caption.

    Attributes:
        images: title -> (3, H, W) in [0, 1] (clamped when drawn), all of the same size.
        caption: one line below the images, e.g. the scores.
    """

    images: dict[str, Tensor]
    caption: str = ""


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Convert (3, H, W) in [0, 1] to (H, W, 3) uint8, clamped and rounded."""
    clamped = image.detach().to("cpu", torch.float32).clamp(0, 1)
    array: NDArray[np.uint8] = (clamped * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return array


def draw_separations(rows: Sequence[PanelRow], cell: int = 224) -> Image.Image:
    """Draw separations as a table with one row per photograph.

    Args:
        rows: at least one; there is a column for each title, in order of first appearance.
        cell: width of a column in pixels.

    Returns:
        An RGB picture with a white background.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("nothing to draw: give at least one separation")
    titles = list(dict.fromkeys(title for row in rows for title in row.images))
    heights = [_cell_height(row, cell) for row in rows]
    width = len(titles) * (cell + _GAP) + _GAP
    height = _HEADER + sum(h + _CAPTION + _GAP for h in heights)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    title_font, caption_font = ImageFont.load_default(17), ImageFont.load_default(15)
    for column, title in enumerate(titles):
        middle = _GAP + column * (cell + _GAP) + cell // 2
        draw.text((middle, _HEADER // 2), title, fill="black", font=title_font, anchor="mm")
    top = _HEADER
    for row, row_height in zip(rows, heights, strict=True):
        for column, title in enumerate(titles):
            left = _GAP + column * (cell + _GAP)
            if title in row.images:
                picture = Image.fromarray(to_uint8(row.images[title]))
                canvas.paste(picture.resize((cell, row_height), Image.Resampling.LANCZOS), (left, top))
        draw.text((_GAP, top + row_height + 4), row.caption, fill=(70, 70, 70), font=caption_font)
        top += row_height + _CAPTION + _GAP
    return canvas


def _cell_height(row: PanelRow, cell: int) -> int:
    height, width = next(iter(row.images.values())).shape[-2:]
    return max(1, round(cell * height / width))
