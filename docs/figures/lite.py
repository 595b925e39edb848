"""``python docs/figures/lite.py OUT.jpg PHOTO...``: photographs, separated with the weights of lite."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import reflectzoo
from reflectzoo.cli import run
from reflectzoo.drawing.panels import PanelRow, draw_separations
from reflectzoo.inference.separator import Separator
from reflectzoo.photo.read import read_picture


def draw(separator: Separator, photos: Sequence[Path], columns: int = 2, cell: int = 200) -> Image.Image:
    """Draw each photograph with its transmission and, twice as bright, its reflection.

    Args:
        separator: with a trained network.
        photos: files, at least one.
        columns: number of columns of photographs.
        cell: width of a picture in pixels.
    """
    rows = []
    for path in photos:
        mixture = read_picture(path).tensor()
        layers = separator.layers(mixture)
        shown = {"input": mixture, "transmission": layers["transmission"], "2 x reflection": 2 * layers["reflection"]}
        rows.append(PanelRow(shown, path.stem))
    each = -(-len(rows) // columns)
    parts = [draw_separations(rows[start : start + each], cell) for start in range(0, len(rows), each)]
    sheet = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width
    return sheet


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python docs/figures/lite.py", description=__doc__)
    parser.add_argument("output", type=Path, metavar="OUT.jpg")
    parser.add_argument("photo", type=Path, nargs="+")
    parser.add_argument("--weights", help="others than the packaged ones")
    given = parser.parse_args()

    def make() -> None:
        separator = Separator(reflectzoo.load_model("lite", given.weights))
        draw(separator, given.photo).save(given.output, quality=88)

    run(make)


if __name__ == "__main__":
    main()
