"""Real sequences from a moving camera, with the ground truth of their centre frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.base import KeyedDataset, to_tensor
from reflectzoo.data.datasets.pairs import SMALLEST_SCORED
from reflectzoo.data.datasets.photos import OnError
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.datasets.windows import SEEDS, stacked
from reflectzoo.data.images import Photo, PhotoCache, UnreadableImage, picture_size, read_rgb
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Notice, RealSequence, Sample
from reflectzoo.data.seeding import CROPS, Rounds, generator, name_seed, sample_seed
from reflectzoo.errors import UserError


@dataclass(frozen=True)
class SequenceFiles:
    """The files of one real sequence.

    Attributes:
        name: unique within the data set.
        frames: frames in order; an odd number.
        transmission: transmission of the centre frame.
    """

    name: str
    frames: tuple[Path, ...]
    transmission: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the transmission last."""
        return (*self.frames, self.transmission)


class SequenceCrops(KeyedDataset):
    """Random crops of real sequences, for training: the same view of every frame and of the ground truth.

    Args:
        sequences: one or more sequences.
        augment: cuts the crops.
        seed: seed of the data.
        samples_per_epoch: None for the number of sequences.
        on_error: ``skip`` replaces an unreadable sequence by the next one; ``raise`` stops.
        dataset: name of the data set, recorded in the samples.

    Raises:
        UserError: if there is no sequence.
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
            raise UserError(f"data={dataset} has no sequences for training.")
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
        """Limit the cache of decoded photographs in each worker, in bytes."""
        self.cache.max_bytes = max_bytes

    def pictures(self) -> list[Path]:
        """The files of all sequences."""
        return [path for sequence in self.sequences for path in sequence.files]

    def sample(self, key: SampleKey) -> Sample:
        """One sequence: ``frames`` is (N, 3, crop, crop) uint8, ``transmission`` (3, crop, crop) uint8."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        crop_seed = int(generator(seed, CROPS).integers(SEEDS))
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
            return RealSequence(
                frames=stacked(frames),
                transmission=to_tensor(transmission),
                seed=seed,
                name=f"{sequence.name}@{key.epoch}.{key.index}",
                dataset=self.dataset,
                notices=notices,
            )
        raise UserError(f"None of the {len(self.sequences)} sequences of data={self.dataset} can be read.")


class SequenceImages(KeyedDataset):
    """Whole real sequences, for validation and test.

    Args:
        sequences: the samples.
        size: size at which they are scored.
        dataset: name of the data set, recorded in the samples.
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
        """One sequence, resized: ``frames`` is (N, 3, H, W) uint8, ``transmission`` (3, H, W) uint8."""
        sequence = self.sequences[key.index]
        stored = read_sequence(sequence)
        *frames, transmission = (self.size.apply(photo) for photo in stored)
        return RealSequence(
            frames=stacked(frames),
            transmission=to_tensor(transmission),
            seed=name_seed(f"{self.dataset}/{sequence.name}"),
            name=sequence.name,
            dataset=self.dataset,
            counts=key.counts,
            source_size=torch.tensor(stored[0].shape[:2]),
            protocol=str(self.size),
        )


def read_sequence(sequence: SequenceFiles, cache: PhotoCache | None = None, shorter: int | None = None) -> list[Photo]:
    """Read the frames of a sequence followed by its transmission, (H, W, 3) uint8, all of the same size.

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


def readable_sequences(
    sequences: Sequence[SequenceFiles], on_error: OnError, decode: bool
) -> tuple[list[SequenceFiles], list[Notice]]:
    """The sequences that can be used, and a notice about each of the others.

    Args:
        sequences: the sequences to check.
        on_error: ``raise`` stops at the first unusable sequence.
        decode: decode every picture, and refuse those too small to be scored; otherwise only check the sizes in the
            headers.

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


def _different(path: Path, size: Sequence[int], first: Path, first_size: Sequence[int]) -> str:
    return (
        f"'{path}' is {size[0]}x{size[1]}, but '{first}' of the same sequence is {first_size[0]}x{first_size[1]}: all "
        "pictures of a sequence must have the same size."
    )
