"""Convex suppression of reflections, a classical method without training, for a folder of photographs.

Yang, Ma, Tang and Tu, "Fast Single Image Reflection Suppression via Convex Optimization", CVPR 2019, as implemented by
the package ``fast-reflection-removal`` 1.1. That package needs numpy below 2, which the zoo does not support, so this
file runs in its own environment and imports nothing of the zoo:

    python3 -m venv build/convex
    build/convex/bin/pip install "fast-reflection-removal==1.1" "numpy<2" pillow
    build/convex/bin/python tools/convex_suppression.py FOLDER OUT

The pictures in OUT are named like those in FOLDER, as required by ``reflectzoo evaluate ... predictions=OUT``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg")


def main() -> None:
    """Suppress the reflections in every photograph."""
    from frr import FastReflectionRemoval  # imported here, so that this module can be imported without the package

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="photographs taken through glass, including subfolders")
    parser.add_argument("out", type=Path, help="folder for the results, PNG files")
    parser.add_argument(
        "--strength", type=float, default=0.03, help="h of the paper (default %(default)s, as in the paper)"
    )
    parser.add_argument(
        "--only", default="", metavar="END", help="only names with this ending, e.g. -input, which is removed"
    )
    arguments = parser.parse_args()
    method = FastReflectionRemoval(h=arguments.strength)
    paths = [path for path in sorted(arguments.folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    for path in paths:
        if not path.stem.endswith(arguments.only):
            continue
        with Image.open(path) as picture:
            values = np.asarray(picture.convert("RGB")) / 255
        suppressed = np.clip(method.remove_reflection(values), 0, 1)
        name = path.relative_to(arguments.folder).with_name(path.stem.removesuffix(arguments.only) + ".png")
        target = arguments.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((suppressed * 255).round().astype(np.uint8)).save(target)


if __name__ == "__main__":
    main()
