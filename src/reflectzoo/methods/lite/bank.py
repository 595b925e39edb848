"""Training data of lite's sprint: pictures in memory, and crops drawn from them.

A crop is from a real pair, a mixture synthesised from two photographs, or a *moved* reflection: the light that the
glass added to one real scene, added to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.data.synthesis import Synthesis
from reflectzoo.data.synthesis.optics import to_linear, to_stored
from reflectzoo.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_SHORTER = (256, 448)
"""Range of the shorter side to which larger pictures are downsampled: around the working size of inference."""
_PAIR_STRENGTH = (0.3, 1.3)
"""Range of factors for half of the real pairs: how much of what the glass changes remains, in linear light."""
_MOVED_STRENGTH = (0.6, 2.8)
"""Range of factors for a moved reflection, log-uniformly distributed, in linear light."""


class BankPair(NamedTuple):
    """A photograph through glass and the scene without it, (3, H, W) uint8 each, and :func:`glass_transmittance`."""

    mixture: Tensor
    transmission: Tensor
    transmittance: Tensor


class Bank(NamedTuple):
    """Photographs, (3, H, W) uint8 each, and the pairs of each scene."""

    photos: list[Tensor]
    scenes: list[list[BankPair]]


class Crops(NamedTuple):
    """Mixtures and their layers, (B, 3, S, S) each, or those of one sample, (3, S, S); floats in [0, 1].

    The reflection is the light that the glass adds; that of a real pair is an estimate.
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor


def load_bank(photos: Sequence[Path], pairs: Sequence[Path], device: torch.device) -> Bank:
    """Load all pictures into memory.

    Args:
        photos: folders of photographs.
        pairs: folders of real pairs, with subfolders ``blended`` and ``transmission_layer``.
        device: where the pictures are kept.

    Raises:
        UserError: if a folder is missing or holds no picture, or a ground truth is missing or of another size.
    """
    found = [path for folder in photos for path in _pictures(folder)]
    scenes: dict[tuple[Path, str], list[BankPair]] = {}
    for folder in pairs:
        for path in _pictures(folder / "blended"):
            truth = folder / "transmission_layer" / path.name
            if not truth.is_file():
                raise UserError(f"{path} has no ground truth: {truth} does not exist.")
            mixture, transmission = _bytes(path).to(device), _bytes(truth).to(device)
            if mixture.shape != transmission.shape:
                sizes = " and ".join("x".join(map(str, each.shape[:0:-1])) for each in (mixture, transmission))
                raise UserError(f"{path} and its ground truth {truth} differ in size: {sizes} pixels.")
            # Names are SCENE-N: the mixtures of a scene are grouped, so that every scene is drawn equally often.
            pair = BankPair(mixture, transmission, glass_transmittance(mixture, transmission))
            scenes.setdefault((folder, path.stem.rpartition("-")[0] or path.stem), []).append(pair)
    return Bank([_bytes(path).to(device) for path in found], list(scenes.values()))


def glass_transmittance(mixture: Tensor, transmission: Tensor) -> Tensor:
    """The share of light that the glass transmits, per colour: (3, 1, 1) in [0.35, 1].

    Where the glass reflects nothing, the mixture is the scene times this share. It is therefore estimated as a low
    quantile, 5 %, of their ratio in linear light, over windows of 9x9 pixels that are not dark.

    Args:
        mixture: (3, H, W) uint8.
        transmission: the same scene without the glass, same shape.
    """
    through, scene = (
        F.avg_pool2d(to_linear(each[None].float() / 255), min(9, *each.shape[1:]), 4)[0].flatten(1)
        for each in (mixture, transmission)
    )
    ratio = torch.where(scene > 0.03, through / scene.clamp_min(0.03), torch.nan)
    share = torch.nanquantile(ratio, 0.05, dim=1).nan_to_num(1.0)
    return share.clamp(0.35, 1)[:, None, None]


class Draws:
    """Draws batches of crops from a bank.

    Args:
        bank: photographs and pairs.
        synthesis: synthesises a mixture of two photographs.
        real: share of samples from real pairs, unchanged or moved.
        moved: share of those whose reflection is moved to another scene.
        rng: source of all randomness.
    """

    def __init__(self, bank: Bank, synthesis: Synthesis, real: float, moved: float, rng: np.random.Generator) -> None:
        self.bank, self.synthesis, self.real, self.moved, self.rng = bank, synthesis, real, moved, rng

    def batch(self, count: int, side: int) -> Crops:
        """Draw ``count`` crops of ``side`` pixels a side, the synthesised ones first."""
        real = int(self.rng.binomial(count, self.real)) if self.bank.scenes else 0
        made = count - real
        parts: list[Crops] = []
        if made:
            behind = torch.stack([self._photo(side) for _ in range(made)])
            ahead = torch.stack([self._photo(side) for _ in range(made)])
            seeds = self.rng.integers(2**62, size=made).tolist()
            blend = self.synthesis(behind, ahead, seeds)
            parts.append(Crops(blend.mixture, blend.transmission, blend.reflection))
        if real:
            parts.append(_joined(torch.stack, [self._exposed(self._one(side)) for _ in range(real)]))
        return _joined(torch.cat, parts)

    def _one(self, side: int) -> Crops:
        return self.move(side) if self.rng.random() < self.moved else self.pair(side)

    def pair(self, side: int) -> Crops:
        """Draw a crop of a real pair.

        In half of them, what the glass changes is made weaker or stronger, so that there are more strengths than pairs.
        In linear light, the reflection is R = I - p T, with the share p of light that the glass transmits.
        """
        pair = self._any_pair()
        mixture, transmission = self._crop(pair.mixture, pair.transmission, side=side)
        strength = self.rng.uniform(*_PAIR_STRENGTH) if self.rng.random() < 0.5 else 1.0
        added = strength * _added(mixture, transmission, pair.transmittance)
        if strength != 1:
            scene = to_linear(transmission)
            mixture = to_stored((scene + strength * (to_linear(mixture) - scene)).clamp(0, 1))
        return Crops(mixture, transmission, to_stored(added.clamp_max(1)))

    def move(self, side: int) -> Crops:
        """Move the reflection of a real pair to another scene or photograph.

        In linear light the glass transmits the share p of its scene T and adds R = I - p T, so that with another scene
        T' the mixture is p T' + s R, with a strength s drawn at random.
        """
        pair = self._any_pair()
        mixture, scene = self._crop(pair.mixture, pair.transmission, side=side)
        other = self._photo(side) if self.bank.photos and self.rng.random() < 0.5 else self._any_truth(side)
        strength = float(np.exp(self.rng.uniform(*np.log(_MOVED_STRENGTH))))
        added = strength * _added(mixture, scene, pair.transmittance)
        made = (pair.transmittance * to_linear(other) + added).clamp(0, 1)
        return Crops(to_stored(made), other, to_stored(added.clamp_max(1)))

    def _exposed(self, crops: Crops) -> Crops:
        """Change exposure and white balance of the mixture and its layers alike, with probability 1/2."""
        if self.rng.random() < 0.5:
            return crops
        gain = self.rng.uniform(0.7, 1.25) * self.rng.uniform(0.93, 1.07, size=(3, 1, 1))
        by = torch.as_tensor(gain ** (1 / 2.2), dtype=crops.mixture.dtype, device=crops.mixture.device)
        return Crops(*((each * by).clamp_max(1) for each in crops))

    def _any_pair(self) -> BankPair:
        scene = self.bank.scenes[self.rng.integers(len(self.bank.scenes))]
        return scene[self.rng.integers(len(scene))]

    def _any_truth(self, side: int) -> Tensor:
        (crop,) = self._crop(self._any_pair().transmission, side=side)
        return crop

    def _photo(self, side: int) -> Tensor:
        (crop,) = self._crop(self.bank.photos[self.rng.integers(len(self.bank.photos))], side=side)
        return crop

    def _crop(self, *pictures: Tensor, side: int) -> tuple[Tensor, ...]:
        """The same random crop of each picture, downsampled and mirrored at random."""
        height, width = pictures[0].shape[-2:]
        reach = min(height, width)
        taken = min(int(side * max(reach / max(self.rng.uniform(*_SHORTER), side), 1)), reach)
        top, left = self.rng.integers(height - taken + 1), self.rng.integers(width - taken + 1)
        crops = [each[:, top : top + taken, left : left + taken].float().div_(255) for each in pictures]
        if taken != side:
            crops = [
                F.interpolate(each[None], (side, side), mode="bilinear", antialias=taken > side)[0] for each in crops
            ]
        if self.rng.random() < 0.5:
            crops = [each.flip(-1) for each in crops]
        return tuple(crops)


def _added(mixture: Tensor, scene: Tensor, transmittance: Tensor) -> Tensor:
    """The light that the glass adds to a scene, R = I - p T, in linear light."""
    return (to_linear(mixture) - transmittance * to_linear(scene)).clamp_min(0)


def _joined(join: Callable[[list[Tensor]], Tensor], parts: Sequence[Crops]) -> Crops:
    return Crops(*(join(list(each)) for each in zip(*parts, strict=True)))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise UserError(f"{folder} holds no picture ({', '.join(sorted(_SUFFIXES))}).")
    return found


def _bytes(path: Path) -> Tensor:
    with Image.open(path) as picture:
        pixels = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
