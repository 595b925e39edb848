"""Sequences made of photographs: a window that moves over each layer at its own pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.base import to_tensor
from reflectzoo.data.datasets.photos import FixedPair, OnError, PairsOfRegions, PhotoPairs, Region
from reflectzoo.data.images import Photo, read_rgb
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import BlendedSequence, Notice, Sample
from reflectzoo.data.seeding import CROPS, PAIRING, generator, name_seed, sample_seed

SEEDS = 2**32


class Views(NamedTuple):
    """A synthetic sequence.

    Attributes:
        transmissions: of every frame.
        reflections: likewise.
        motion: (2, frames, 2) whole pixels, for transmission and reflection: how much further right and down than in
            the centre frame a point lies in each frame.
    """

    transmissions: list[Photo]
    reflections: list[Photo]
    motion: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Motion:
    """How the windows slide over the two photographs of a synthetic sequence.

    "Distilling Reflection Dynamics", section 4.2: at each step a window moves by a number of pixels drawn for each axis
    from a range. The paper does not say which way; here one direction (left or right, up or down) is drawn for a whole
    sequence and both layers, since one camera moved.

    Attributes:
        frames: in a sequence.
        crop: side of the window.
        transmission: least and most pixels of a step, along each axis.
        reflection: likewise.
    """

    frames: int = 3
    crop: int = 224
    transmission: tuple[int, int] = (0, 2)
    reflection: tuple[int, int] = (10, 20)

    @property
    def needed(self) -> int:
        """The least side of a photograph in which any path of the window lies inside."""
        return self.crop + (self.frames - 1) * max(self.transmission[1], self.reflection[1])

    def path(
        self,
        rng: np.random.Generator,
        steps: tuple[int, int],
        direction: npt.NDArray[np.bool_],
        height: int,
        width: int,
    ) -> npt.NDArray[np.int64]:
        """Top and left of the window in each frame, (frames, 2), the window inside the picture.

        Args:
            rng: of this layer of this sequence.
            steps: least and most pixels of a step.
            direction: for both axes, whether coordinates grow.
            height: of the picture, at least :attr:`needed`.
            width: likewise.
        """
        moved = np.zeros((self.frames, 2), np.int64)
        moved[1:] = rng.integers(steps[0], steps[1] + 1, size=(self.frames - 1, 2)).cumsum(axis=0)
        start = rng.integers(0, np.array([height, width]) - self.crop - moved[-1] + 1)
        places: npt.NDArray[np.int64] = start + np.where(direction, moved, moved[-1] - moved)
        return places

    def windows(
        self, transmission: Photo, reflection: Photo, seed: int, flips: bool = True
    ) -> tuple[list[Photo], list[Photo]]:
        """The layers of :meth:`cut` alone."""
        return self.cut(transmission, reflection, seed, flips)[:2]

    def cut(self, transmission: Photo, reflection: Photo, seed: int, flips: bool = True) -> Views:
        """Cut a sequence from two photographs, of any size.

        Args:
            transmission: the photograph behind the glass.
            reflection: the one to be reflected.
            seed: what everything random follows from.
            flips: whether half of the sequences are mirrored.
        """
        rng = generator(seed, CROPS)
        direction = rng.integers(2, size=2).astype(bool)
        mirrored = flips and bool(rng.integers(2))
        layers, motions = [], []
        for photo, steps in ((transmission, self.transmission), (reflection, self.reflection)):
            photo = self._fitted(photo)
            places = self.path(rng, steps, direction, *photo.shape[:2])
            views = [photo[top : top + self.crop, left : left + self.crop] for top, left in places.tolist()]
            layers.append([np.ascontiguousarray(view[:, ::-1] if mirrored else view) for view in views])
            # A window that moves right makes its content move left, and mirrored right again.
            moved = (places[self.frames // 2] - places)[:, ::-1]
            motions.append(moved * np.array([-1 if mirrored else 1, 1]))
        return Views(layers[0], layers[1], np.stack(motions))

    def _fitted(self, photo: Photo) -> Photo:
        """The photograph as it is, unless it is too small for the path or so large that a window shows nothing."""
        height, width = photo.shape[:2]
        shorter = min(height, width)
        side = min(max(shorter, self.needed), 2 * self.needed)
        if shorter == side:
            return photo
        if max(height, width) > 4 * shorter:
            # Of a strip as long as 12000x200 only the middle: enlarged whole it would fill the memory.
            top, left = max(0, (height - 4 * shorter) // 2), max(0, (width - 4 * shorter) // 2)
            photo = photo[top : top + 4 * shorter, left : left + 4 * shorter]
            height, width = photo.shape[:2]
        size = (max(side, round(width * side / shorter)), max(side, round(height * side / shorter)))
        interpolation = cv2.INTER_AREA if side < shorter else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(photo, size, interpolation=interpolation), np.uint8)


class SlidingWindows(PhotoPairs):
    """Random synthetic sequences, for training: pairs as :class:`PhotoPairs` draws them, windows as ``motion`` says.

    Args:
        scenes: the photographs.
        motion: of the windows.
        seed: of the data.
        samples_per_epoch: None for half the number of scenes.
        on_error: as for :class:`PhotoPairs`.
        dataset: the name samples carry.
    """

    unit = "sequences"

    def __init__(
        self,
        scenes: Sequence[Sequence[Path]],
        motion: Motion,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        on_error: OnError = "skip",
        dataset: str = "sequences",
    ) -> None:
        # Of the augmentation only its sizes are of use: how small photographs may be decoded, and which are too small.
        sizes = PhotoAugment(motion.needed, "paper")
        super().__init__(scenes, sizes, seed, samples_per_epoch, on_error=on_error, dataset=dataset)
        self.motion = motion

    def sample(self, key: SampleKey) -> Sample:
        """``frame_transmissions`` and ``frame_reflections`` (N, 3, crop, crop) uint8; ``frame_motion`` (2, N, 2)."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        views = int(generator(seed, PAIRING).integers(SEEDS))
        notices: list[Notice] = []
        behind, reflected = self.partners(key.epoch, key.index)
        transmission, first = self._read(behind, views, notices)
        reflection, second = self._read(reflected, views, notices)
        transmissions, reflections, motion = self.motion.cut(transmission, reflection, seed)
        return BlendedSequence(
            frame_transmissions=stacked(transmissions),
            frame_reflections=stacked(reflections),
            frame_motion=torch.from_numpy(motion).float(),
            seed=seed,
            name=f"{first.stem}+{second.stem}@{key.epoch}.{key.index}",
            dataset=self.dataset,
            notices=notices,
        )


class FixedWindows(PairsOfRegions):
    """The same synthetic sequences in every run, for validation and test.

    Args:
        pairs: regions of photographs; the seed of each sequence follows from its name.
        motion: of the windows.
        dataset: the name samples carry.
    """

    unit = "sequences"

    def __init__(self, pairs: Sequence[FixedPair], motion: Motion, dataset: str = "sequences") -> None:
        super().__init__(pairs, dataset)
        self.motion = motion

    def sample(self, key: SampleKey) -> Sample:
        """``frame_transmissions`` and ``frame_reflections`` (N, 3, crop, crop) uint8; ``frame_motion`` (2, N, 2)."""
        pair = self.pairs[key.index]
        seed = name_seed(f"{self.dataset}/{pair.name}")
        transmissions, reflections, motion = self.motion.cut(
            _part(pair.transmission), _part(pair.reflection), seed, flips=False
        )
        return BlendedSequence(
            frame_transmissions=stacked(transmissions),
            frame_reflections=stacked(reflections),
            frame_motion=torch.from_numpy(motion).float(),
            seed=seed,
            name=pair.name,
            dataset=self.dataset,
            counts=key.counts,
        )


def _part(region: Region) -> Photo:
    photo = read_rgb(region.path)
    left, top, right, bottom = (round(side) for side in region.within(photo.shape[1], photo.shape[0]))
    return photo[top : max(bottom, top + 1), left : max(right, left + 1)]


def stacked(photos: Sequence[Photo]) -> torch.Tensor:
    """Photographs of one size as (N, 3, H, W) in [0, 1]."""
    return torch.stack([to_tensor(photo) for photo in photos])
