"""Pairs of photographs for synthesis: one for the scene behind the glass, one for the reflection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.base import KeyedDataset, to_tensor
from reflectzoo.data.images import Photo, PhotoCache, UnreadableImage, read_rgb
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Notice, PhotoPair, Sample
from reflectzoo.data.seeding import PAIRING, generator, name_seed, sample_seed
from reflectzoo.errors import UserError

OnError = Literal["skip", "raise"]

# Seeds for other libraries, whose generators take 32 bits.
_SEEDS = 2**32


class PhotoPairs(KeyedDataset):
    """Random pairs of random crops, for training.

    In each round, the scenes are shuffled; the first half provides transmissions, the second half reflections, and pair
    i consists of the i-th of both. The programs of YTMT and ERRNet do this once per epoch; longer epochs have more
    rounds.

    Args:
        scenes: the photographs. Several views of the same scene (a stereo pair) form one entry, and are never paired.
        augment: cuts the crops.
        seed: seed of the data.
        samples_per_epoch: None for one round, that is half the number of scenes.
        joint: use the same random choices (size, flip, relative position) for both photographs of a pair, as the
            programs do.
        on_error: ``skip`` replaces an unreadable scene by the next one of the round; ``raise`` stops.
        dataset: name of the data set, recorded in the samples.
        patches: number of rectangles of every view that are replaced by views of random scenes before blending. This
            keeps a network from memorising the photographs if there are only a few.

    Raises:
        UserError: if there are fewer than two scenes.
    """

    def __init__(
        self,
        scenes: Sequence[Sequence[Path]],
        augment: PhotoAugment,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        joint: bool = False,
        on_error: OnError = "skip",
        dataset: str = "photos",
        patches: int = 0,
    ) -> None:
        if len(scenes) < 2:
            raise UserError(
                "Training needs at least two different photographs, one behind the glass and one reflected in it, "
                f"but data={dataset} leaves {len(scenes)}: add photographs, or hold out fewer for validation and "
                "test."
            )
        self.scenes = scenes
        self.augment = augment
        self.seed = seed
        self.joint = joint
        self.patches = patches
        self.on_error = on_error
        self.dataset = dataset
        self.cache = PhotoCache()
        self._half = len(scenes) // 2
        self._length = self._half if samples_per_epoch is None else samples_per_epoch
        self._round: tuple[tuple[int, int], npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self._length

    def limit_cache(self, max_bytes: int) -> None:
        """Limit the cache of decoded photographs in each worker, in bytes."""
        self.cache.max_bytes = max_bytes

    def pictures(self) -> list[Path]:
        """The photographs."""
        return [path for scene in self.scenes for path in scene]

    def partners(self, epoch: int, index: int) -> tuple[list[int], list[int]]:
        """The scenes of one pair, for transmission and reflection, each followed by its substitutes in order."""
        round_number, place = divmod(index, self._half)
        if self._round is None or self._round[0] != (epoch, round_number):
            order = generator(self.seed, PAIRING, epoch, round_number).permutation(len(self.scenes))
            self._round = ((epoch, round_number), order)
        order = self._round[1]
        # Rolled, so that the pair's own scenes come first, followed by substitutes; the halves remain disjoint.
        first, second = order[: self._half], order[self._half : 2 * self._half]
        return np.roll(first, -place).tolist(), np.roll(second, -place).tolist()

    def sample(self, key: SampleKey) -> Sample:
        """One pair: ``transmission`` and ``reflection`` are (3, crop, crop) uint8."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        rng = generator(seed, PAIRING)
        views, first_seed, second_seed = rng.integers(_SEEDS, size=3).tolist()
        notices: list[Notice] = []
        behind, reflected = self.partners(key.epoch, key.index)
        transmission, first = self._read(behind, views, notices)
        reflection, second = self._read(reflected, views, notices)
        pair = [
            self.augment(transmission, first_seed),
            self.augment(reflection, first_seed if self.joint else second_seed),
        ]
        for view in pair:
            for _ in range(self.patches):
                self._patch(view, rng, notices)
        return PhotoPair(
            transmission=to_tensor(pair[0]),
            reflection=to_tensor(pair[1]),
            seed=seed,
            name=f"{first.stem}+{second.stem}@{key.epoch}.{key.index}",
            dataset=self.dataset,
            notices=notices,
        )

    def _patch(self, view: Photo, rng: np.random.Generator, notices: list[Notice]) -> None:
        """Replace a rectangle of a view, in place, by the same rectangle of a view of a random scene."""
        crop = self.augment.crop
        scenes = rng.permutation(len(self.scenes)).tolist()
        photo, _ = self._read(scenes, int(rng.integers(_SEEDS)), notices)
        other = self.augment(photo, int(rng.integers(_SEEDS)))
        height, width = (int(side) for side in rng.integers(crop // 8, crop + 1, size=2))
        top, left = int(rng.integers(crop - height // 2)), int(rng.integers(crop - width // 2))
        view[top : top + height, left : left + width] = other[top : top + height, left : left + width]

    def _read(self, candidates: Sequence[int], views: int, notices: list[Notice]) -> tuple[Photo, Path]:
        """The first readable photograph of several scenes, and its path."""
        path = Path()
        for scene in candidates:
            paths = self.scenes[scene]
            path = paths[views % len(paths)]
            try:
                photo = self.cache.read(path, self.augment.shorter)
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise
                notices.append(Notice("unreadable", str(path), str(error)))
                continue
            crop = self.augment.crop
            if min(photo.shape[:2]) < crop:
                size = f"{photo.shape[1]}x{photo.shape[0]}"
                sentence = f"'{path}' is {size}, smaller than the crop of {crop}, and is enlarged to fit."
                notices.append(Notice("small", str(path), sentence))
            return photo, path
        raise UserError(
            f"None of the {len(candidates)} photographs for one side of a pair of data={self.dataset} can be read, "
            f"the last being '{path}'."
        )


class Region(NamedTuple):
    """A fixed part of a photograph.

    Attributes:
        path: the file.
        box: left, top, right and bottom as fractions of width and height, in [0, 1].
    """

    path: Path
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def within(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of a photograph of this size."""
        left, top, right, bottom = self.box
        return left * width, top * height, right * width, bottom * height


class FixedPair(NamedTuple):
    """One evaluation sample: the same mixture in every run.

    Attributes:
        name: unique within the data set; determines the seed of the mixture.
        transmission: the scene behind the glass.
        reflection: the reflected scene.
    """

    name: str
    transmission: Region
    reflection: Region


class PairsOfRegions(KeyedDataset):
    """Base class of evaluation sets with the same pairs of regions in every run.

    Args:
        pairs: the samples; the name of each determines its seed.
        dataset: name of the data set, recorded in the samples.
    """

    def __init__(self, pairs: Sequence[FixedPair], dataset: str) -> None:
        self.pairs = pairs
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.pairs)

    def pictures(self) -> list[Path]:
        """The photographs."""
        return list(
            dict.fromkeys(region.path for pair in self.pairs for region in (pair.transmission, pair.reflection))
        )


class FixedPairs(PairsOfRegions):
    """Fixed crops in fixed pairs, for validation and test.

    Args:
        pairs: the samples.
        crop: side in pixels to which the largest centred square of each region is resized (bicubic, antialiased).
        dataset: name of the data set, recorded in the samples.
    """

    def __init__(self, pairs: Sequence[FixedPair], crop: int, dataset: str) -> None:
        super().__init__(pairs, dataset)
        self.crop = crop

    def sample(self, key: SampleKey) -> Sample:
        """One pair: ``transmission`` and ``reflection`` are (3, crop, crop) uint8."""
        pair = self.pairs[key.index]
        return PhotoPair(
            transmission=to_tensor(self._cut(pair.transmission)),
            reflection=to_tensor(self._cut(pair.reflection)),
            seed=name_seed(f"{self.dataset}/{pair.name}"),
            name=pair.name,
            dataset=self.dataset,
            counts=key.counts,
        )

    def _cut(self, region: Region) -> Photo:
        photo = read_rgb(region.path)
        height, width = photo.shape[:2]
        left, top, right, bottom = region.within(width, height)
        side = min(right - left, bottom - top)
        left, top = (left + right - side) / 2, (top + bottom - side) / 2
        square = (left, top, min(left + side, width), min(top + side, height))
        view = Image.fromarray(photo).resize((self.crop, self.crop), Image.Resampling.BICUBIC, box=square)
        return np.array(view)


def readable(paths: Sequence[Path], on_error: OnError) -> tuple[list[Path], list[Notice]]:
    """The photographs that can be decoded, and a notice about each of the others.

    Evaluation fixes its pairs in advance, and therefore decodes every photograph once during setup.

    Raises:
        UnreadableImage: for the first unreadable one, if ``on_error`` is ``raise``.
    """
    good: list[Path] = []
    notices: list[Notice] = []
    for path in paths:
        try:
            read_rgb(path, shorter=1)
            good.append(path)
        except UnreadableImage as error:
            if on_error == "raise":
                raise
            notices.append(Notice("unreadable", str(path), str(error)))
    return good, notices


def fixed_pairs(paths: Sequence[Path]) -> list[FixedPair]:
    """Pair photographs for an evaluation: the first half for transmissions, the second half for reflections.

    Args:
        paths: the photographs; their order determines the pairs, and the last of an odd number is not used.
    """
    half = len(paths) // 2
    pairs = [
        FixedPair(f"{first.stem}+{second.stem}", Region(first), Region(second))
        for first, second in zip(paths[:half], paths[half : 2 * half], strict=True)
    ]
    return _with_unique_names(pairs)


def _with_unique_names(pairs: Sequence[FixedPair]) -> list[FixedPair]:
    seen: dict[str, int] = {}
    unique = []
    for pair in pairs:
        seen[pair.name] = count = seen.get(pair.name, 0) + 1
        unique.append(pair if count == 1 else pair._replace(name=f"{pair.name}~{count}"))
    return unique


def views_of(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Make each photograph a separate scene, as required by :class:`PhotoPairs`."""
    return [(path,) for path in paths]
