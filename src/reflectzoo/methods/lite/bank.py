"""Training data of lite's sprint: pictures in memory, and crops drawn from them.

A crop is from a real pair, a mixture synthesised from two photographs, or a *moved* reflection: the light that the
glass added to one real scene, added to another one.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_MOVED_STRENGTH = (0.5, 1.6)
"""Range of factors for a moved reflection, in linear light."""


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
    """One batch, (B, 3, S, S) float in [0, 1]; ``known``, (B,) bool, marks samples whose true reflection is known."""

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    known: Tensor


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
        mixtures, truths, reflections = [], [], []
        if made:
            behind = torch.stack([self._photo(side) for _ in range(made)])
            ahead = torch.stack([self._photo(side) for _ in range(made)])
            seeds = self.rng.integers(2**62, size=made).tolist()
            blend = self.synthesis(behind, ahead, seeds)
            mixtures, truths, reflections = [blend.mixture], [blend.transmission], [blend.reflection]
        if real:
            pairs = [self._exposed(*self._one(side)) for _ in range(real)]
            mixtures.append(torch.stack([mixture for mixture, _ in pairs]))
            truths.append(torch.stack([truth for _, truth in pairs]))
            reflections.append(torch.zeros_like(truths[-1]))
        known = torch.arange(count, device=truths[0].device) < made
        return Crops(torch.cat(mixtures), torch.cat(truths), torch.cat(reflections), known)

    def _one(self, side: int) -> tuple[Tensor, Tensor]:
        return self.move(side) if self.rng.random() < self.moved else self.pair(side)

    def pair(self, side: int) -> tuple[Tensor, Tensor]:
        """Draw a crop of a real pair: mixture and transmission, (3, S, S) each.

        In half of them, what the glass changes is made weaker or stronger, so that there are more strengths than pairs.
        """
        pair = self._any_pair()
        mixture, transmission = self._crop(pair.mixture, pair.transmission, side=side)
        if self.rng.random() < 0.5:
            scene = to_linear(transmission)
            change = self.rng.uniform(*_PAIR_STRENGTH) * (to_linear(mixture) - scene)
            mixture = to_stored((scene + change).clamp(0, 1))
        return mixture, transmission

    def move(self, side: int) -> tuple[Tensor, Tensor]:
        """Move the reflection of a real pair to another scene or photograph: mixture and transmission, (3, S, S) each.

        In linear light the glass transmits the share p of its scene T and adds R = I - p T, so that with another scene
        T' the mixture is p T' + s R, with a strength s drawn at random.
        """
        pair = self._any_pair()
        mixture, scene = self._crop(pair.mixture, pair.transmission, side=side)
        other = self._photo(side) if self.bank.photos and self.rng.random() < 0.5 else self._any_truth(side)
        added = (to_linear(mixture) - pair.transmittance * to_linear(scene)).clamp_min(0)
        added = self.rng.uniform(*_MOVED_STRENGTH) * added
        return to_stored((pair.transmittance * to_linear(other) + added).clamp(0, 1)), other

    def _exposed(self, mixture: Tensor, transmission: Tensor) -> tuple[Tensor, Tensor]:
        """Change exposure and white balance of mixture and transmission alike, with probability 1/2."""
        if self.rng.random() < 0.5:
            return mixture, transmission
        gain = self.rng.uniform(0.7, 1.25) * self.rng.uniform(0.93, 1.07, size=(3, 1, 1))
        by = torch.as_tensor(gain ** (1 / 2.2), dtype=mixture.dtype, device=mixture.device)
        return (mixture * by).clamp_max(1), (transmission * by).clamp_max(1)

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
