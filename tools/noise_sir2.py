"""Write noise in the folder structure of SIR², to time its scoring without the pictures themselves.

python tools/noise_sir2.py FOLDER [--pictures 20]; then: time reflectzoo evaluate benchmark=sir2 data.root=FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (540, 400)  # width and height of Postcard and SolidObject
OCTAVES = (4, 16, 64, 256)


def texture(rng: np.random.Generator) -> Image.Image:
    """Noise at several scales, so that windows, edges and compression take a realistic time."""
    total = np.zeros((SIZE[1], SIZE[0], 3))
    for cells in OCTAVES:
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC)) / len(OCTAVES)
    return Image.fromarray(total.astype(np.uint8))


def main() -> None:
    """Write the requested number of triplets, each as a scene of the solid objects."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    for scene in range(1, arguments.pictures + 1):
        shot = arguments.folder / "SolidObjectDataset" / str(scene) / "Focus" / "11"
        shot.mkdir(parents=True, exist_ok=True)
        transmission, reflection = texture(rng), texture(rng)
        for role, layer in (("g", transmission), ("r", reflection), ("m", Image.blend(transmission, reflection, 0.3))):
            layer.save(shot / f"{role}.png")


if __name__ == "__main__":
    main()
