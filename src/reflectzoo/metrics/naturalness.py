"""Naturalness without ground truth: NIQE, and NSD, the same distance from a model of ours.

Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal Processing Letters
20(3), 2013. A picture is cut into blocks of 96x96 pixels; for each block, 36 features describe the distributions of its
locally normalised values, and of the products of neighbouring values, at two scales. The score is the distance between
the Gaussian of these features and that of pristine photographs. Lower is more natural.

NIQE is the distance from the authors' model, which is downloaded once from PyPI and checked by its hash. NSD (natural
statistics distance) is the distance from a model included in the package, fitted to photographs by

    python -m reflectzoo.metrics.naturalness FOLDER -o naturalness.json

Both are computed in the same way, but their values are not comparable.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflectzoo.cli import run_reporting_errors
from reflectzoo.data.images import find_images, read_rgb
from reflectzoo.errors import UserError
from reflectzoo.metrics.images import BlindMetric
from reflectzoo.weights.download import DownloadError
from reflectzoo.weights.records import WeightRecord, locate

Array = NDArray[np.float64]

BLOCK = 96
"""Side of a block in pixels; half of it at the second scale."""
SHARP = 0.75
"""Sharpness required of a block in a fit, relative to the sharpest of its photograph (Mittal et al., Sec. II-B)."""

NIQE_MODEL = WeightRecord(
    name="niqe",
    model="",
    trained_by="Mittal et al., 2013, as BasicSR 1.4.2 packs their model",
    trained_on="125 pristine photographs",
    licence="Apache-2.0, as stated by BasicSR, whose archive holds it; the authors' own terms were not read here",
    source="https://pypi.org/project/basicsr/1.4.2/",
    url="https://files.pythonhosted.org/packages/86/41/00a6b000f222f0fa4c6d9e1d6dcc9811a374cabb8abb9d408b77de39648c/"
    "basicsr-1.4.2.tar.gz",
    sha256="b89b595a87ef964cda9913b4d99380ddb6554c965577c0c10cb7b78e31301e87",
)
_MEMBER = "basicsr-1.4.2/basicsr/metrics/niqe_pris_params.npz"

_WINDOW = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
_WINDOW /= _WINDOW.sum()
# Taps of MATLAB's imresize by one half: the cubic kernel with a = -0.5, stretched by 2, centred between two pixels.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Candidate shapes for moment matching, and the ratio E[|x|]^2 / E[x^2] of each.
_SHAPES = np.arange(200, 10001) / 1000
_LOG_GAMMA = np.vectorize(math.lgamma)
_RATIOS = np.exp(2 * _LOG_GAMMA(2 / _SHAPES) - _LOG_GAMMA(1 / _SHAPES) - _LOG_GAMMA(3 / _SHAPES))


@dataclass(frozen=True)
class Naturalness:
    """Gaussian model of the 36 features of a block.

    Attributes:
        mean: (36,).
        covariance: (36, 36).
    """

    mean: Array
    covariance: Array

    def distance(self, numbers: Array) -> float:
        """Distance of the blocks of a picture from this model (Eq. 10).

        Args:
            numbers: features (N, 36), one row per block; NaN where a feature of a flat block is not defined.

        Returns:
            Value >= 0; NaN if fewer than two blocks have all features.
        """
        whole = numbers[~np.isnan(numbers).any(axis=1)]
        if len(whole) < 2:
            return math.nan
        # The mean includes the defined features of flat blocks, the covariance only blocks with all features.
        apart = self.mean - np.nanmean(numbers, axis=0)
        spread = (self.covariance + np.cov(whole, rowvar=False)) / 2
        return float(np.sqrt(apart @ np.linalg.pinv(spread) @ apart))


def block_numbers(grey: Array) -> tuple[Array, Array]:
    """Compute the 36 features and the sharpness of all complete blocks of a picture.

    Args:
        grey: (H, W) in 0..255.

    Returns:
        Features (N, 36), NaN where a distribution lacks positive or negative values (flat blocks), and sharpness (N,),
        the mean local standard deviation. N is 0 for pictures smaller than a block.
    """
    rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
    if not rows or not columns:
        return np.empty((0, 36)), np.empty(0)
    image = grey[: rows * BLOCK, : columns * BLOCK]
    numbers = []
    sharpness = np.empty(0)
    for side in (BLOCK, BLOCK // 2):
        mean = _smoothed(image)
        deviation = np.sqrt(np.abs(_smoothed(image * image) - mean * mean))
        numbers.append(_scale_numbers(_blocks((image - mean) / (deviation + 1), side)))
        if side == BLOCK:
            sharpness = _blocks(deviation, side).mean(axis=(1, 2))
            image = halved(image)
    return np.concatenate(numbers, axis=1), sharpness


def halved(image: Array) -> Array:
    """Halve an image with even sides like MATLAB's ``imresize(image, 0.5)``: cubic, antialiased, mirrored borders."""
    for axis in (0, 1):
        wide = np.pad(image, [(3, 3) if each == axis else (0, 0) for each in (0, 1)], mode="symmetric")
        taken = [np.take(wide, np.arange(tap, tap + image.shape[axis], 2), axis) for tap in range(len(_HALVING))]
        image = np.tensordot(_HALVING, np.stack(taken), axes=1)
    return image


def fit(pictures: Iterable[Array]) -> tuple[Naturalness, int]:
    """Fit a model to the sharp blocks of photographs.

    Args:
        pictures: grey images, (H, W) in 0..255.

    Returns:
        The model, and the number of blocks that it was fitted to.

    Raises:
        UserError: if there are not more sharp blocks than features.
    """
    chosen = []
    for picture in pictures:
        numbers, sharpness = block_numbers(picture)
        if len(numbers):
            sharp = numbers[sharpness > SHARP * sharpness.max()]
            chosen.append(sharp[~np.isnan(sharp).any(axis=1)])
    together = np.concatenate(chosen) if chosen else np.empty((0, 36))
    if len(together) <= 36:
        raise UserError(
            f"These photographs have {len(together)} sharp blocks of {BLOCK}x{BLOCK} pixels, too few for a model of 36 "
            "numbers: give more, or larger ones."
        )
    return Naturalness(together.mean(axis=0), np.cov(together, rowvar=False)), len(together)


def grey_of(image: NDArray[Any]) -> Array:
    """Convert a picture (H, W, 3) in 0..255 to grey (H, W), rounded like MATLAB's ``rgb2gray``."""
    weighted: Array = image.astype(np.float64) @ np.array([0.2989360213, 0.5870430745, 0.1140209043])
    return np.floor(weighted + 0.5)


class _Distance(BlindMetric):
    """Distance of a picture from a :class:`Naturalness` model."""

    higher_is_better = False
    digits = 2

    def model(self) -> Naturalness:
        raise NotImplementedError(f"{type(self).__name__} does not say what is natural")

    def prepare(self) -> None:
        """Load the model before anything is scored."""
        self.model()

    def per_image(self, preds: Tensor, mixture: Tensor) -> Tensor:
        """(B,), >= 0, of images (B, 3, H, W) in [0, 1], rounded to 8 bits; NaN with fewer than two complete blocks."""
        values = (preds.detach().double().clamp(0, 1) * 255).round().permute(0, 2, 3, 1).cpu().numpy()
        distances = [self.model().distance(block_numbers(grey_of(image))[0]) for image in values]
        return torch.tensor(distances, dtype=torch.float64, device=preds.device)


class NIQE(_Distance):
    """NIQE with its authors' model, which is downloaded when first needed (0.2 MB); lower is better."""

    key = "niqe"
    title = "NIQE"

    def model(self) -> Naturalness:
        """The authors' model.

        Raises:
            UserError: if it is not cached and cannot be downloaded.
        """
        return _published()


class NSD(_Distance):
    """NSD: like NIQE, but with the package's model, fitted to 1,434 photographs; lower is better."""

    key = "nsd"
    title = "NSD"

    def model(self) -> Naturalness:
        """The package's model."""
        return _own()


@cache
def _published() -> Naturalness:
    try:
        with tarfile.open(locate(NIQE_MODEL)) as archive:
            member = archive.extractfile(_MEMBER)
            assert member is not None  # the archive's hash was checked
            content = np.load(io.BytesIO(member.read()))
            return Naturalness(content["mu_pris_param"].ravel(), content["cov_pris_param"])
    except DownloadError as error:
        raise UserError(
            f"NIQE needs its authors' model ({error}) Leave niqe out of protocol.metrics, or use nsd, which needs no "
            "download."
        ) from error


@cache
def _own() -> Naturalness:
    content = json.loads((files("reflectzoo.metrics") / "naturalness.json").read_text(encoding="utf-8"))
    return Naturalness(np.array(content["mean"]), np.array(content["covariance"]))


def _smoothed(image: Array) -> Array:
    smooth = cv2.sepFilter2D(image, cv2.CV_64F, _WINDOW, _WINDOW, borderType=cv2.BORDER_REPLICATE)
    return cast(Array, smooth)


def _blocks(image: Array, side: int) -> Array:
    """Split (H, W), a multiple of the block size, into (N, side, side)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _scale_numbers(blocks: Array) -> Array:
    """Compute the features (N, 18) of one scale from normalised values (N, S, S): Sec. II-C."""
    shape, left, right = _asymmetric(blocks)
    columns = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = _asymmetric(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * np.exp(_LOG_GAMMA(2 / shape) - _LOG_GAMMA(1 / shape))
        columns += [shape, mean, left, right]
    return np.stack(columns, axis=1)


def _asymmetric(values: Array) -> tuple[Array, Array, Array]:
    """Fit asymmetric generalised Gaussians to (N, S, S): shape, left and right scale, (N,) each; NaN if undefined."""
    flat = values.reshape(len(values), -1)
    squares = flat * flat
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (
            np.sqrt(np.where(side, squares, 0).sum(axis=1) / side.sum(axis=1)) for side in (flat < 0, flat > 0)
        )
        lean = left / right
        ratio = np.abs(flat).mean(axis=1) ** 2 / squares.mean(axis=1)
        ratio *= (lean**3 + 1) * (lean + 1) / (lean**2 + 1) ** 2
    # Index of the nearest ratio; the ratios increase with the shape.
    after = np.clip(np.searchsorted(_RATIOS, ratio), 1, len(_RATIOS) - 1)
    place = after - (np.abs(_RATIOS[after - 1] - ratio) <= np.abs(_RATIOS[after] - ratio))
    shape = np.where(np.isnan(ratio), np.nan, _SHAPES[place])
    scale = np.exp((_LOG_GAMMA(1 / shape) - _LOG_GAMMA(3 / shape)) / 2)
    return shape, left * scale, right * scale


# -- fitting the package's model ---------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Fit the model of NSD to a folder of photographs.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0, or 2 for invalid arguments.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.metrics.naturalness",
        description="Fit the model of the score nsd to photographs without reflections.",
    )
    parser.add_argument("folder", type=Path, help="photographs, including subfolders")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the model, as JSON")
    arguments = parser.parse_args(argv)
    return run_reporting_errors(lambda: _fit(arguments))


def _fit(arguments: argparse.Namespace) -> int:
    if not arguments.folder.is_dir():
        raise UserError(f"{arguments.folder} is not a folder: give one with photographs.")
    paths = find_images(arguments.folder, recursive=True)
    model, blocks = fit(grey_of(read_rgb(path)) for path in paths)
    content = {
        "what": "mean and covariance of the 36 numbers of reflectzoo.metrics.naturalness",
        "photographs": len(paths),
        "blocks": blocks,
        "mean": [float(f"{value:.9g}") for value in model.mean],
        "covariance": [[float(f"{value:.9g}") for value in row] for row in model.covariance],
    }
    arguments.out.write_text(json.dumps(content) + "\n", encoding="utf-8")
    sys.stdout.write(f"{arguments.out}: {blocks} blocks of {len(paths)} photographs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
