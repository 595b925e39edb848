"""Compare the sizes at which a network separates large photographs; prints a table for docs/remove.md.

    python tools/working_size.py REAL/scenes/val --enlarge 3

Real pairs are enlarged (bicubic) and separated with the packaged weights, at their own size and with various shorter
sides. PSNR is in dB, over all colours; a picture counts as worse if its PSNR is more than 0.5 dB below the input's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.inference.load import default_model, load
from reflectzoo.inference.separator import Separator
from reflectzoo.metrics.functional import pooled_psnr
from reflectzoo.photo.read import read_picture


def main() -> int:
    """Separate all pairs at all sizes, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pairs", type=Path, help="folder with blended/ and transmission_layer/")
    parser.add_argument("--enlarge", type=float, default=1)
    parser.add_argument("--sizes", nargs="+", default=["full", "512", "448", "384", "320"])
    parser.add_argument("--model", help="another one than the packaged")
    wanted = parser.parse_args()
    names = sorted(path.name for path in (wanted.pairs / "blended").glob("*.*"))
    if not names:
        print(f"{wanted.pairs}/blended holds no pictures.", file=sys.stderr)  # noqa: T201
        return 2
    separators = {
        size: Separator(load(wanted.model or default_model()), "cpu", working=0 if size == "full" else int(size))
        for size in wanted.sizes
    }
    gains: dict[str, list[float]] = {size: [] for size in wanted.sizes}
    inputs = []
    for name in names:
        mixture, truth = (
            enlarged(read_picture(str(wanted.pairs / folder / name)).tensor(), wanted.enlarge)
            for folder in ("blended", "transmission_layer")
        )
        inputs.append(float(pooled_psnr(mixture[None], truth[None])))
        for size, separator in separators.items():
            result = separator.layers(mixture)["transmission"]
            gains[size].append(float(pooled_psnr(result[None], truth[None])) - inputs[-1])
    print("| shorter side | PSNR | worse |\n| --- | --- | --- |")  # noqa: T201
    print(f"| untouched | {np.mean(inputs):.2f} | |")  # noqa: T201
    for size, found in gains.items():
        worse = sum(gain < -0.5 for gain in found)
        print(f"| {size} | {np.mean(inputs) + np.mean(found):.2f} | {worse} of {len(names)} |")  # noqa: T201
    return 0


def enlarged(image: Tensor, factor: float) -> Tensor:
    """Resize (3, H, W) in [0, 1]."""
    if factor == 1:
        return image
    return F.interpolate(image[None], scale_factor=factor, mode="bicubic", align_corners=False)[0].clamp(0, 1)


if __name__ == "__main__":
    sys.exit(main())
