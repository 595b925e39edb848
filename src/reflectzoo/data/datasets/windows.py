"""Synthetic sequences from photographs: a window moves over each layer at a different speed."""

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
        transmissions: (crop, crop, 3) uint8 for each frame.
        reflections: likewise.
        motion: (2, frames, 2) integers, for transmission and reflection: displacement of a point to the right and
            downwards in each frame, relative to the centre frame, in pixels.
    """

    transmissions: list[Photo]
    reflections: list[Photo]
    motion: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Motion:
    """Motion of the windows over the two photographs of a synthetic sequence.

    "Distilling Reflection Dynamics", section 4.2: at each step, a window moves along each axis by a number of pixels
    drawn from a range. The paper does not specify the direction; here one direction per axis is drawn for a whole
    sequence and both layers, as if a single camera moved.

    Attributes:
        frames: frames per sequence.
        crop: side of the window in pixels.
        transmission: minimum and maximum pixels of a step, along each axis.
        reflection: likewise.
    """

    frames: int = 3
    crop: int = 224
    transmission: tuple[int, int] = (0, 2)
    reflection: tuple[int, int] = (10, 20)

    @property
    def needed(self) -> int:
        """Smallest side of a photograph, in pixels, that contains every possible path of the window."""
        return self.crop + (self.frames - 1) * max(self.transmission[1], self.reflection[1])

    def path(
        self,
        rng: np.random.Generator,
        steps: tuple[int, int],
        direction: npt.NDArray[np.bool_],
        height: int,
        width: int,
    ) -> npt.NDArray[np.int64]:
        """Draw the window's path: its top and left in each frame, (frames, 2), within the picture.

        Args:
            rng: the random generator.
            steps: minimum and maximum pixels of a step.
            direction: for each axis, whether the coordinates increase.
            height: height of the picture, at least :attr:`needed`.
            width: width of the picture, likewise.
        """
        moved = np.zeros((self.frames, 2), np.int64)
        moved[1:] = rng.integers(steps[0], steps[1] + 1, size=(self.frames - 1, 2)).cumsum(axis=0)
        start = rng.integers(0, np.array([height, width]) - self.crop - moved[-1] + 1)
        places: npt.NDArray[np.int64] = start + np.where(direction, moved, moved[-1] - moved)
        return places

    def windows(
        self, transmission: Photo, reflection: Photo, seed: int, flips: bool = True
    ) -> tuple[list[Photo], list[Photo]]:
        """The layers from :meth:`cut`, without the motion."""
        return self.cut(transmission, reflection, seed, flips)[:2]

    def cut(self, transmission: Photo, reflection: Photo, seed: int, flips: bool = True) -> Views:
        """Cut a sequence from two photographs.

        Args:
            transmission: (H, W, 3) uint8 of any size, the photograph behind the glass.
            reflection: likewise, the reflected photograph.
            seed: determines all random choices.
            flips: mirror the sequence with probability 0.5.
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
            # If the window moves right, its content moves left, or right if mirrored.
            moved = (places[self.frames // 2] - places)[:, ::-1]
            motions.append(moved * np.array([-1 if mirrored else 1, 1]))
        return Views(layers[0], layers[1], np.stack(motions))

    def _fitted(self, photo: Photo) -> Photo:
        """Resize a photograph that is too small for the path, or so large that a window would show too little of it."""
        height, width = photo.shape[:2]
        shorter = min(height, width)
        side = min(max(shorter, self.needed), 2 * self.needed)
        if shorter == side:
            return photo
        if max(height, width) > 4 * shorter:
            # Only the centre of a strip such as 12000x200, which would exhaust the memory if enlarged as a whole.
            top, left = max(0, (height - 4 * shorter) // 2), max(0, (width - 4 * shorter) // 2)
            photo = photo[top : top + 4 * shorter, left : left + 4 * shorter]
            height, width = photo.shape[:2]
        size = (max(side, round(width * side / shorter)), max(side, round(height * side / shorter)))
        interpolation = cv2.INTER_AREA if side < shorter else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(photo, size, interpolation=interpolation), np.uint8)


class SlidingWindows(PhotoPairs):
    """Random synthetic sequences for training, from pairs drawn as in :class:`PhotoPairs`.

    Args:
        scenes: the photographs, as in :class:`PhotoPairs`.
        motion: motion of the windows.
        seed: seed of the data.
        samples_per_epoch: None for half the number of scenes.
        on_error: as in :class:`PhotoPairs`.
        dataset: name of the data set, recorded in the samples.
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
        # Only the sizes of the augmentation are used: how far decoding may reduce photographs, and which are too small.
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
        pairs: regions of photographs; the name of each determines its seed.
        motion: motion of the windows.
        dataset: name of the data set, recorded in the samples.
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
    """Stack photographs of the same size to (N, 3, H, W) uint8."""
    return torch.stack([to_tensor(photo) for photo in photos])
