"""Pairs of whole photographs, resized rather than cropped as in CoRRN, since many reflections cover only a part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from reflectzoo.data.datasets.base import KeyedDataset, to_tensor
from reflectzoo.data.datasets.photos import OnError
from reflectzoo.data.images import Photo, PhotoCache, UnreadableImage, read_rgb
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Notice, PhotoPair, Sample
from reflectzoo.data.seeding import PAIRING, TURNS, Rounds, generator, name_seed, sample_seed
from reflectzoo.errors import UserError


class ResizedPairs(KeyedDataset):
    """Random pairs of a whole background and a whole reflection, for training.

    Each epoch goes through the backgrounds in a new order, and pairs each with a random reflection. Portrait
    photographs are rotated to landscape, and both are resized to the same size, which changes from step to step. The
    pair is then rotated by 0, 90, 180 or 270 degrees and flipped. Quarter turns are drawn once per step, since all of
    its pictures must have the same shape.

    Args:
        backgrounds: photographs for the scene behind the glass.
        reflections: photographs of reflections.
        sizes: heights and widths, used in turn, one per step.
        seed: seed of the data.
        samples_per_epoch: None for the number of backgrounds.
        rotations: whether to rotate by 90, 180 and 270 degrees.
        horizontal_flip: probability.
        vertical_flip: probability.
        on_error: ``skip`` replaces an unreadable photograph by the next one; ``raise`` stops.
        dataset: name of the data set, recorded in the samples.

    Raises:
        UserError: if there are no backgrounds, reflections or sizes.
    """

    def __init__(
        self,
        backgrounds: Sequence[Path],
        reflections: Sequence[Path],
        sizes: Sequence[tuple[int, int]] = ((96, 160), (224, 288)),
        seed: int = 0,
        samples_per_epoch: int | None = None,
        rotations: bool = True,
        horizontal_flip: float = 0.5,
        vertical_flip: float = 0.0,
        on_error: OnError = "skip",
        dataset: str = "rid",
    ) -> None:
        if not backgrounds or not reflections or not sizes:
            raise UserError(f"data={dataset} needs backgrounds, reflections and sizes to train on.")
        self.backgrounds = backgrounds
        self.reflections = reflections
        self.sizes = tuple(sizes)
        self.seed = seed
        self.rotations = rotations
        self.flips = (horizontal_flip, vertical_flip)
        self.on_error = on_error
        self.dataset = dataset
        self.cache = PhotoCache()
        self.step = 1
        self.rounds = Rounds(len(backgrounds), seed)
        self._length = len(backgrounds) if samples_per_epoch is None else samples_per_epoch

    def __len__(self) -> int:
        return self._length

    def limit_cache(self, max_bytes: int) -> None:
        """Limit the cache of decoded photographs in each worker, in bytes."""
        self.cache.max_bytes = max_bytes

    def set_step(self, samples: int) -> None:
        """Set the number of samples that share a size."""
        self.step = samples

    def pictures(self) -> list[Path]:
        """The photographs."""
        return [*self.backgrounds, *self.reflections]

    def sample(self, key: SampleKey) -> Sample:
        """One pair: ``transmission`` and ``reflection`` are (3, H, W) uint8, with the size of the sample's step."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        rng = generator(seed, PAIRING)
        height, width = self.sizes[key.position // self.step % len(self.sizes)]
        quarter = self.rotations and bool(generator(self.seed, TURNS, key.epoch, key.position // self.step).integers(2))
        half = self.rotations and bool(rng.integers(2))
        across, down = (bool(rng.random() < flip) for flip in self.flips)
        second = int(rng.integers(len(self.reflections)))
        order, place = self.rounds.place(key.epoch, key.index)
        notices: list[Notice] = []
        background, behind = self._read(self.backgrounds, int(order[place]), (height, width), notices)
        reflection, reflected = self._read(self.reflections, second, (height, width), notices)
        layers = []
        for photo in (behind, reflected):
            view = np.rot90(photo, quarter + 2 * half)
            view = view[:, ::-1] if across else view
            view = view[::-1] if down else view
            layers.append(to_tensor(np.ascontiguousarray(view)))
        return PhotoPair(
            transmission=layers[0],
            reflection=layers[1],
            seed=seed,
            name=f"{background.stem}+{reflection.stem}@{key.epoch}.{key.index}",
            dataset=self.dataset,
            notices=notices,
        )

    def _read(
        self, photos: Sequence[Path], first: int, size: tuple[int, int], notices: list[Notice]
    ) -> tuple[Path, Photo]:
        """The path of the first readable photograph from ``first`` on, and the photograph, landscape and resized."""
        for place in range(len(photos)):
            path = photos[(first + place) % len(photos)]
            try:
                return path, resized(self.cache.read(path, 2 * max(min(each) for each in self.sizes)), size)
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise
                notices.append(Notice("unreadable", str(path), str(error)))
        raise UserError(f"None of the {len(photos)} photographs for one side of data={self.dataset} can be read.")


class FixedResizedPairs(KeyedDataset):
    """The same pairs of whole photographs in every run, for validation and test.

    Args:
        pairs: backgrounds with reflections.
        size: height and width; portrait photographs are rotated.
        dataset: name of the data set, recorded in the samples.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path]], size: tuple[int, int], dataset: str) -> None:
        self.pairs = pairs
        self.size = size
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.pairs)

    def pictures(self) -> list[Path]:
        """The photographs."""
        return list(dict.fromkeys(path for pair in self.pairs for path in pair))

    def sample(self, key: SampleKey) -> Sample:
        """One pair: ``transmission`` and ``reflection`` are (3, H, W) uint8."""
        background, reflection = self.pairs[key.index]
        name = f"{background.stem}+{reflection.stem}"
        return PhotoPair(
            transmission=to_tensor(resized(read_rgb(background), self.size)),
            reflection=to_tensor(resized(read_rgb(reflection), self.size)),
            seed=name_seed(f"{self.dataset}/{name}"),
            name=name,
            dataset=self.dataset,
            counts=key.counts,
            protocol=f"{self.size[0]}x{self.size[1]}",
        )


def resized(photo: Photo, size: tuple[int, int]) -> Photo:
    """Resize a whole photograph to a landscape size (height, width), after rotating it if it is portrait."""
    if photo.shape[0] > photo.shape[1]:
        photo = np.rot90(photo)
    height, width = size
    # Area averages for downscaling, similar to the bicubic filters of MATLAB and Pillow; OpenCV's would alias.
    shrinks = photo.shape[0] > height and photo.shape[1] > width
    view = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(view, np.uint8)
