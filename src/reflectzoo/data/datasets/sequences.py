"""Sequences of frames from a slowly moving camera: made from two photographs, or shot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.base import KeyedDataset, Notice, Sample, to_tensor
from reflectzoo.data.datasets.pairs import SMALLEST_SCORED
from reflectzoo.data.datasets.photos import FixedPair, OnError, PairsOfRegions, PhotoPairs, Region
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.images import Photo, PhotoCache, UnreadableImage, picture_size, read_rgb
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.seeding import CROPS, PAIRING, Rounds, generator, name_seed, sample_seed
from reflectzoo.errors import UserError

_SEEDS = 2**32


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
        views = int(generator(seed, PAIRING).integers(_SEEDS))
        notices: list[Notice] = []
        behind, reflected = self.partners(key.epoch, key.index)
        transmission, first = self._read(behind, views, notices)
        reflection, second = self._read(reflected, views, notices)
        transmissions, reflections, motion = self.motion.cut(transmission, reflection, seed)
        return {
            "frame_transmissions": _stacked(transmissions),
            "frame_reflections": _stacked(reflections),
            "frame_motion": torch.from_numpy(motion).float(),
            "seed": seed,
            "name": f"{first.stem}+{second.stem}@{key.epoch}.{key.index}",
            "dataset": self.dataset,
            "notices": notices,
        }


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
        return {
            "frame_transmissions": _stacked(transmissions),
            "frame_reflections": _stacked(reflections),
            "frame_motion": torch.from_numpy(motion).float(),
            "seed": seed,
            "name": pair.name,
            "dataset": self.dataset,
            "counts": key.counts,
        }


@dataclass(frozen=True)
class SequenceFiles:
    """One shot sequence.

    Attributes:
        name: unique within the data set.
        frames: in order; an odd number.
        transmission: of the centre frame.
    """

    name: str
    frames: tuple[Path, ...]
    transmission: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.frames, self.transmission)


class SequenceCrops(KeyedDataset):
    """Random crops of shot sequences, for training: the same view of every frame and of the truth.

    Args:
        sequences: at least one.
        augment: cuts the crops.
        seed: of the data.
        samples_per_epoch: None for the number of sequences.
        on_error: ``skip`` puts the next sequence in the place of an unreadable one; ``raise`` stops.
        dataset: the name samples carry.
    """

    unit = "sequences"

    def __init__(
        self,
        sequences: Sequence[SequenceFiles],
        augment: PhotoAugment,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        on_error: OnError = "skip",
        dataset: str = "seq1k",
    ) -> None:
        if not sequences:
            raise UserError(f"data={dataset} has no sequence to train on.")
        self.sequences = sequences
        self.augment = augment
        self.seed = seed
        self.on_error = on_error
        self.dataset = dataset
        self.cache = PhotoCache()
        self.rounds = Rounds(len(sequences), seed)
        self._length = len(sequences) if samples_per_epoch is None else samples_per_epoch

    def __len__(self) -> int:
        return self._length

    def limit_cache(self, max_bytes: int) -> None:
        """Bound the memory for decoded photographs, in each process that reads."""
        self.cache.max_bytes = max_bytes

    def pictures(self) -> list[Path]:
        """The files of all sequences."""
        return [path for sequence in self.sequences for path in sequence.files]

    def sample(self, key: SampleKey) -> Sample:
        """``frames`` is (N, 3, crop, crop) uint8, ``transmission`` (3, crop, crop)."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        crop_seed = int(generator(seed, CROPS).integers(_SEEDS))
        notices: list[Notice] = []
        for candidate in self.rounds.from_here(key.epoch, key.index):
            sequence = self.sequences[candidate]
            try:
                photos = read_sequence(sequence, self.cache, self.augment.shorter)
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise
                notices.append(Notice("unreadable", str(sequence.transmission), str(error)))
                continue
            *frames, transmission = self.augment.together(photos, crop_seed)
            return {
                "frames": _stacked(frames),
                "transmission": to_tensor(transmission),
                "seed": seed,
                "name": f"{sequence.name}@{key.epoch}.{key.index}",
                "dataset": self.dataset,
                "notices": notices,
            }
        raise UserError(f"None of the {len(self.sequences)} sequences of data={self.dataset} can be read.")


class SequenceImages(KeyedDataset):
    """Whole shot sequences, for validation and test.

    Args:
        sequences: the samples.
        size: at which they are scored.
        dataset: the name samples carry.
    """

    unit = "sequences"

    def __init__(self, sequences: Sequence[SequenceFiles], size: EvalSize, dataset: str = "seq1k") -> None:
        self.sequences = sequences
        self.size = size
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.sequences)

    def pictures(self) -> list[Path]:
        """The files of all sequences."""
        return [path for sequence in self.sequences for path in sequence.files]

    def sample(self, key: SampleKey) -> Sample:
        """``frames`` is (N, 3, H, W) uint8, ``transmission`` (3, H, W)."""
        sequence = self.sequences[key.index]
        stored = read_sequence(sequence)
        *frames, transmission = (self.size.apply(photo) for photo in stored)
        return {
            "frames": _stacked(frames),
            "transmission": to_tensor(transmission),
            "seed": name_seed(f"{self.dataset}/{sequence.name}"),
            "name": sequence.name,
            "dataset": self.dataset,
            "counts": key.counts,
            "source_size": torch.tensor(stored[0].shape[:2]),
            "protocol": str(self.size),
        }


def read_sequence(sequence: SequenceFiles, cache: PhotoCache | None = None, shorter: int | None = None) -> list[Photo]:
    """The frames of a sequence and its transmission, of one size.

    Raises:
        UnreadableImage: for the first file that cannot be read, or if the sizes differ.
    """
    read = cache.read if cache is not None else read_rgb
    photos = [read(path, shorter) for path in sequence.files]
    if shorter is not None and len({photo.shape for photo in photos}) > 1:
        photos = [read(path, None) for path in sequence.files]
    for path, photo in zip(sequence.files, photos, strict=True):
        if photo.shape != photos[0].shape:
            raise UnreadableImage(_different(path, photo.shape[1::-1], sequence.files[0], photos[0].shape[1::-1]))
    return photos


class PathPattern:
    """Which files are which, by their paths: ``{sequence}/{frame}`` for instance.

    ``{sequence}`` stands for any text, slashes included, ``{frame}`` and ``*`` for any text within one name; upper and
    lower case are alike, and suffixes are left out.

    Args:
        pattern: the pattern.

    Raises:
        UserError: if it does not name a sequence, or names something else.

    Example:
        >>> PathPattern("{sequence}/I{frame}").match("day/003/I2")
        ('day/003', '2')
    """

    def __init__(self, pattern: str) -> None:
        parts = re.split(r"(\{\w*\}|\*)", pattern)
        known = {"{sequence}": "(?P<sequence>.+)", "{frame}": "(?P<frame>[^/]+)", "*": "[^/]*"}
        wrong = next((part for part in parts[1::2] if part not in known), None)
        if wrong is not None or parts.count("{sequence}") != 1 or parts.count("{frame}") > 1:
            raise UserError(
                f"The pattern '{pattern}' must hold {{sequence}} once and may hold {{frame}} once and *"
                + (f", but not {wrong}." if wrong else ".")
            )
        self._expression = re.compile("".join(known.get(part) or re.escape(part) for part in parts), re.IGNORECASE)

    def match(self, path: str) -> tuple[str, str] | None:
        """The sequence and the frame of a path without its suffix, or None if it is something else."""
        found = self._expression.fullmatch(path)
        return (found["sequence"], found.groupdict().get("frame", "")) if found else None


class Sorted(NamedTuple):
    """The sequences of a folder, and what was left out."""

    sequences: list[SequenceFiles]
    notices: list[Notice]


def sort_sequences(
    paths: Sequence[Path], top: Path, frames: PathPattern, truth: Sequence[PathPattern], count: int, on_error: OnError
) -> Sorted:
    """Put files together to sequences.

    Args:
        paths: all pictures below ``top``.
        top: the folder.
        frames: which are frames; they stand in the order of the numbers in their names.
        truth: which are transmissions, tried in turn; such a file is no frame.
        count: frames a sequence must have; of more, those around the centre are taken.
        on_error: ``raise`` stops at the first incomplete sequence.

    Raises:
        UserError: for an incomplete sequence, if ``on_error`` is ``raise``.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    truths: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(top).with_suffix("").as_posix()
        match = next((each for each in (pattern.match(relative) for pattern in truth) if each is not None), None)
        if match is not None:
            truths.setdefault(match[0], path)
            continue
        match = frames.match(relative)
        if match is not None:
            found.setdefault(match[0], []).append((match[1], path))
    sequences, notices = [], []
    for name, files in sorted(found.items()):
        files.sort(key=lambda each: natural(each[0]))
        if name in truths and len(files) >= count:
            first = (len(files) - count) // 2
            chosen = tuple(path for _, path in files[first : first + count])
            sequences.append(SequenceFiles(name, chosen, truths[name]))
            continue
        what = f"{len(files)} frames where {count} are needed" if name in truths else "no transmission of its centre"
        sentence = f"The sequence '{name}' in '{top}' has {what} and is left out."
        if on_error == "raise":
            raise UserError(sentence)
        notices.append(Notice("missing", str(files[0][1]), sentence))
    return Sorted(sequences, notices)


def readable_sequences(
    sequences: Sequence[SequenceFiles], on_error: OnError, decode: bool
) -> tuple[list[SequenceFiles], list[Notice]]:
    """The sequences that can be used, and a notice about each other one; see :func:`pairs.usable`.

    Raises:
        UnreadableImage: for the first unusable one, if ``on_error`` is ``raise``.
    """
    good, notices = [], []
    for sequence in sequences:
        try:
            sizes = [picture_size(path) for path in sequence.files]
            for path, size in zip(sequence.files, sizes, strict=True):
                if size != sizes[0]:
                    raise UnreadableImage(_different(path, size, sequence.files[0], sizes[0]))
            if decode:
                for path in sequence.files:
                    read_rgb(path, shorter=1)
                if min(sizes[0]) < SMALLEST_SCORED:
                    raise UnreadableImage(f"'{sequence.transmission}' is too small to be scored.")
            good.append(sequence)
        except UnreadableImage as error:
            if on_error == "raise":
                raise
            notices.append(Notice("unreadable", str(sequence.transmission), str(error)))
    return good, notices


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts 2 before 10.

    Example:
        >>> sorted(["f10", "f9", "a"], key=natural)
        ['a', 'f9', 'f10']
    """
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


def _different(path: Path, size: Sequence[int], first: Path, first_size: Sequence[int]) -> str:
    return (
        f"'{path}' is {size[0]}x{size[1]}, but '{first}' of the same sequence is {first_size[0]}x{first_size[1]}: all "
        "pictures of a sequence must be of one size."
    )


def _part(region: Region) -> Photo:
    photo = read_rgb(region.path)
    left, top, right, bottom = (round(side) for side in region.within(photo.shape[1], photo.shape[0]))
    return photo[top : max(bottom, top + 1), left : max(right, left + 1)]


def _stacked(photos: Sequence[Photo]) -> torch.Tensor:
    return torch.stack([to_tensor(photo) for photo in photos])
