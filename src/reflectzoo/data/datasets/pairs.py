"""Photographs taken through glass, with their ground truth as far as it exists, for training and evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.base import KeyedDataset, note_folders, to_tensor
from reflectzoo.data.datasets.photos import OnError
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.images import Photo, PhotoCache, UnreadableImage, find_images, picture_size, read_rgb, translucent
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Notice, NoticeKind, RealPair, Sample
from reflectzoo.data.seeding import CROPS, Rounds, generator, name_seed, sample_seed
from reflectzoo.errors import UserError

SMALLEST_SCORED = 11
"""Side of SSIM's window in pixels; smaller pictures cannot be scored."""

_SEEDS = 2**32


@dataclass(frozen=True)
class PairFiles:
    """The files of one photograph through glass.

    Attributes:
        name: unique within the data set.
        mixture: the photograph.
        transmission: the scene behind the glass, if available.
        reflection: the reflection alone, if available.
        tags: further properties, e.g. ``{"subset": "postcard", "aperture": "11"}``.
    """

    name: str
    mixture: Path
    transmission: Path | None = None
    reflection: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The existing files, the mixture first."""
        return [path for path in (self.mixture, self.transmission, self.reflection) if path is not None]


class PairCrops(KeyedDataset):
    """Random crops of real pairs, for training: the same view of every layer.

    Each round goes through all pairs once, in a new order; longer epochs have more rounds.

    Args:
        pairs: one or more pairs, each with a transmission.
        augment: cuts the crops.
        seed: seed of the data.
        samples_per_epoch: None for the number of pairs.
        on_error: ``skip`` replaces an unreadable pair by the next one; ``raise`` stops.
        dataset: name of the data set, recorded in the samples.
        aligned: whether transmissions match their mixtures pixel by pixel. If not, they are yielded as
            ``unaligned_transmission``, and the transmission is marked as unknown.
        shift: unaligned transmissions are shifted further, by a random number of up to this many pixels along each axis
            (an option of ERRNet).

    Raises:
        UserError: if there is no pair.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        augment: PhotoAugment,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        on_error: OnError = "skip",
        dataset: str = "pairs",
        aligned: bool = True,
        shift: int = 0,
    ) -> None:
        if not pairs:
            raise UserError(f"data={dataset} has no pairs for training.")
        self.pairs = pairs
        self.augment = augment
        self.seed = seed
        self.on_error = on_error
        self.dataset = dataset
        self.aligned = aligned
        self.shift = shift
        self.cache = PhotoCache()
        self._length = len(pairs) if samples_per_epoch is None else samples_per_epoch
        self.rounds = Rounds(len(pairs), seed)

    def __len__(self) -> int:
        return self._length

    def limit_cache(self, max_bytes: int) -> None:
        """Limit the cache of decoded photographs in each worker, in bytes."""
        self.cache.max_bytes = max_bytes

    def pictures(self) -> list[Path]:
        """The files of all pairs."""
        return files_of(self.pairs)

    def sample(self, key: SampleKey) -> Sample:
        """One pair: ``mixture``, ``transmission`` and ``reflection`` are (3, crop, crop) uint8."""
        seed = sample_seed(self.seed, key.epoch, key.index)
        rng = generator(seed, CROPS)
        crop_seed = int(rng.integers(_SEEDS))
        notices: list[Notice] = []
        pair, layers = self._read(self.rounds.from_here(key.epoch, key.index), notices)
        if not self.aligned and self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, size=2).tolist()
            layers["transmission"] = _moved(layers["transmission"], down, right)
        views = dict(zip(layers, self.augment.together(list(layers.values()), crop_seed), strict=True))
        name = f"{pair.name}@{key.epoch}.{key.index}"
        return _real_pair(views, self.aligned, name=name, dataset=self.dataset, seed=seed, notices=notices)

    def _read(self, candidates: Iterable[int], notices: list[Notice]) -> tuple[PairFiles, dict[str, Photo]]:
        """The first readable pair, and its layers."""
        pair = self.pairs[0]
        for candidate in candidates:
            pair = self.pairs[candidate]
            try:
                layers = read_layers(pair, self.cache, self.augment.shorter, fit=not self.aligned)
            except (UnreadableImage, _MismatchError) as error:
                if self.on_error == "raise":
                    raise
                kind: NoticeKind = "mismatch" if isinstance(error, _MismatchError) else "unreadable"
                notices.append(Notice(kind, str(pair.mixture), str(error)))
                continue
            height, width = layers["mixture"].shape[:2]
            if min(height, width) < self.augment.crop:
                notices.append(_small(pair.mixture, width, height, self.augment.crop))
            return pair, layers
        raise UserError(
            f"None of the {len(self.pairs)} pairs of data={self.dataset} can be read, the last being {pair.mixture}."
        )


class PairImages(KeyedDataset):
    """Whole photographs, for validation and test.

    Args:
        pairs: the samples; those without a transmission are processed but not scored.
        size: size at which they are scored.
        dataset: name of the data set, recorded in the samples.
        aligned: as in :class:`PairCrops`.
    """

    def __init__(self, pairs: Sequence[PairFiles], size: EvalSize, dataset: str, aligned: bool = True) -> None:
        self.pairs = pairs
        self.size = size
        self.dataset = dataset
        self.aligned = aligned
        self.unit = "pairs" if any(pair.transmission for pair in pairs) else "photographs without truth"

    def __len__(self) -> int:
        return len(self.pairs)

    def pictures(self) -> list[Path]:
        """The files of all pairs."""
        return files_of(self.pairs)

    def sample(self, key: SampleKey) -> Sample:
        """One pair, resized: ``mixture``, ``transmission`` and ``reflection`` are (3, H, W) uint8."""
        pair = self.pairs[key.index]
        stored = read_layers(pair, fit=not self.aligned)
        source_size = stored["mixture"].shape[:2]
        layers = {name: self.size.apply(layer) for name, layer in stored.items()}
        return _real_pair(
            layers,
            self.aligned,
            name=pair.name,
            dataset=self.dataset,
            seed=name_seed(f"{self.dataset}/{pair.name}"),
            counts=key.counts,
            source_size=torch.tensor(source_size),
            protocol=str(self.size),
            tags=dict(pair.tags),
        )


class _MismatchError(UserError):
    """Raised if the layers of a pair differ in size."""


class _TranslucentError(UserError):
    """Raised if a layer is partly transparent, so that its colours depend on the background."""


def read_layers(
    pair: PairFiles, cache: PhotoCache | None = None, shorter: int | None = None, fit: bool = False
) -> dict[str, Photo]:
    """Read the layers of a pair, all of the same size.

    Args:
        pair: the files.
        cache: a cache to read through.
        shorter: as in :func:`~reflectzoo.data.images.read_rgb`.
        fit: resize layers to the size of the mixture instead of raising an error.

    Returns:
        (H, W, 3) uint8 for each existing file: ``mixture``, ``transmission``, ``reflection``.

    Raises:
        UnreadableImage: for the first file that cannot be read.
        UserError: if the sizes differ, without ``fit``.
    """
    read = cache.read if cache is not None else read_rgb
    paths = {"mixture": pair.mixture, "transmission": pair.transmission, "reflection": pair.reflection}
    layers = {name: read(path, shorter) for name, path in paths.items() if path is not None}
    if shorter is not None and len({layer.shape for layer in layers.values()}) > 1:
        # JPEGs may have been decoded at a reduced size, but other formats have not.
        layers = {name: read(path, None) for name, path in paths.items() if path is not None}
    height, width = layers["mixture"].shape[:2]
    for name, layer in layers.items():
        if layer.shape[:2] != (height, width):
            if not fit:
                raise _MismatchError(
                    _mismatch(paths[name], layer.shape[1], layer.shape[0], pair.mixture, width, height)
                )
            interpolation = cv2.INTER_AREA if layer.shape[0] > height else cv2.INTER_CUBIC
            layers[name] = np.asarray(cv2.resize(layer, (width, height), interpolation=interpolation), np.uint8)
    return layers


def usable(
    pairs: Sequence[PairFiles], on_error: OnError, aligned: bool = True, decode: bool = False
) -> tuple[list[PairFiles], list[Notice]]:
    """The pairs that can be used, and a notice about each of the others.

    Args:
        pairs: the pairs to check.
        on_error: ``raise`` stops at the first unusable pair.
        aligned: whether all layers must have the mixture's size.
        decode: decode every picture, since an evaluation must know in advance what it will score, and refuse pictures
            that are translucent or too small to be scored; otherwise only check the sizes in the headers.

    Raises:
        UserError: for the first unusable one, if ``on_error`` is ``raise``.
    """
    good, notices = [], []
    for pair in pairs:
        try:
            width, height = picture_size(pair.mixture)
            for path in pair.files[1:]:
                other = picture_size(path)
                if aligned and other != (width, height):
                    raise _MismatchError(_mismatch(path, *other, pair.mixture, width, height))
            if decode:
                for path in pair.files:
                    if translucent(path):
                        raise _TranslucentError(
                            f"'{path}' is partly transparent, so its colours depend on the background: save it "
                            "without transparency."
                        )
        except (UnreadableImage, _MismatchError, _TranslucentError) as error:
            if on_error == "raise":
                raise
            kinds: dict[type[UserError], NoticeKind] = {_MismatchError: "mismatch", _TranslucentError: "translucent"}
            kind = kinds.get(type(error), "unreadable")
            notices.append(Notice(kind, str(pair.mixture), str(error)))
            continue
        if decode and pair.transmission is not None and min(width, height) < SMALLEST_SCORED:
            sentence = f"'{pair.mixture}' is {width}x{height}, too small to be scored, and is skipped."
            if on_error == "raise":
                raise UserError(sentence)
            notices.append(Notice("tiny", str(pair.mixture), sentence))
            continue
        good.append(pair)
    return good, notices


@dataclass(frozen=True)
class LayerFolders:
    """Possible names of the folders of a paired data set; the first that exists is used.

    Attributes:
        mixture: names for the photographs through glass.
        transmission: names for the scenes behind the glass.
        reflection: names for the reflections alone; optional.
    """

    mixture: tuple[str, ...] = ("blended", "I", "input", "mixture", "testB")
    transmission: tuple[str, ...] = ("transmission_layer", "T", "transmission", "gt", "testA1")
    reflection: tuple[str, ...] = ("reflection_layer", "R", "reflection")

    def within(self, folder: Path) -> tuple[Path | None, Path | None, Path | None]:
        """The folders of mixtures, transmissions and reflections; None for each that does not exist."""
        from reflectzoo.data.datasets.published_data import first_folder

        mixture, transmission, reflection = (
            first_folder(folder, names) for names in (self.mixture, self.transmission, self.reflection)
        )
        return mixture, transmission, reflection


def pair_folders(
    mixtures: Path, transmissions: Path | None, reflections: Path | None, on_error: OnError = "skip", prefix: str = ""
) -> tuple[list[PairFiles], list[Notice]]:
    """Pair the pictures of folders by their names, ignoring suffixes.

    Args:
        mixtures: a folder.
        transmissions: a folder with a picture for each mixture, or None.
        reflections: a folder with pictures for some or all mixtures, or None.
        on_error: ``raise`` stops at the first picture without a partner; ``skip`` skips it.
        prefix: prepended to each name.

    Returns:
        The pairs, and notices about pictures without a partner and folders that cannot be opened.

    Raises:
        UserError: if ``on_error`` is ``raise``, for a missing partner or a subfolder that cannot be opened; in any case
            if one of the folders themselves cannot be opened.
    """
    pairs: list[PairFiles] = []
    notices: list[Notice] = []
    opened = note_folders(notices, on_error)
    blended, behind, reflected = (_by_stem(folder, opened) for folder in (mixtures, transmissions, reflections))

    def leave_out(path: Path, stem: str, what: str, where: Path, others: Mapping[str, Path]) -> None:
        # 7_gt.png or 7-label.png is probably the ground truth of 7, but guessing would eventually score wrong pairs.
        meant = [other.name for name, other in others.items() if re.match(rf"{re.escape(stem)}[^A-Za-z0-9].+$", name)]
        wanted = f"{path.stem}{Path(meant[0]).suffix}" if len(meant) == 1 else ""
        hint = f"; if '{meant[0]}' is its partner, rename that to '{wanted}'" if wanted else ""
        sentence = f"'{path}' has no {what} of the same name in '{where}' and is skipped{hint}."
        if on_error == "raise":
            raise UserError(sentence)
        notices.append(Notice("missing", str(path), sentence))

    for stem, path in blended.items():
        if transmissions is not None and stem not in behind:
            leave_out(path, stem, "transmission", transmissions, behind)
            continue
        pairs.append(PairFiles(prefix + stem, path, behind.get(stem), reflected.get(stem)))
    for stem, path in behind.items():
        if stem not in blended:
            leave_out(path, stem, "mixture", mixtures, {})
    return pairs, notices


def hold_out(
    pairs: Sequence[PairFiles], share: float, scene: Callable[[str], str] = str
) -> tuple[list[PairFiles], list[PairFiles]]:
    """Split pairs into training and validation pairs by a hash of their names, independent of seed and location.

    Args:
        pairs: the pairs; of a single pair, nothing is held out.
        share: share of the pairs for validation; if it is not 0, at least one pair is held out, but never all.
        scene: maps a pair's name to its scene. Pairs of one scene are held out together, until the share is reached;
            at least one scene remains for training, so that nothing is held out of a single scene.
    """
    if share <= 0 or len(pairs) < 2:
        return list(pairs), []
    count = min(len(pairs) - 1, max(1, round(share * len(pairs))))
    scenes: dict[str, list[str]] = {}
    for pair in pairs:
        scenes.setdefault(scene(pair.name), []).append(pair.name)
    kept: set[str] = set()
    for name in sorted(scenes, key=lambda name: (name_seed(name), name))[: len(scenes) - 1]:
        if len(kept) >= count:
            break
        kept.update(scenes[name])
    return [pair for pair in pairs if pair.name not in kept], [pair for pair in pairs if pair.name in kept]


def files_of(pairs: Sequence[PairFiles]) -> list[Path]:
    """The files of several pairs, without duplicates."""
    return list(dict.fromkeys(path for pair in pairs for path in pair.files))


def _by_stem(folder: Path | None, unopened: Callable[[str, str], None] | None) -> dict[str, Path]:
    if folder is None:
        return {}
    pictures = find_images(folder, recursive=True, unopened=unopened)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in pictures}


def _real_pair(views: Mapping[str, Photo], aligned: bool, **about: Any) -> RealPair:
    """Make a sample from the existing layers; further attributes are keyword arguments."""
    layers = {name: to_tensor(view) for name, view in views.items()}
    unknown = torch.zeros_like(layers["mixture"])
    transmission = layers.get("transmission")
    return RealPair(
        mixture=layers["mixture"],
        transmission=transmission if aligned and transmission is not None else unknown,
        reflection=layers.get("reflection", unknown),
        knows_transmission=aligned and transmission is not None,
        knows_reflection="reflection" in layers,
        unaligned_transmission=None if aligned else transmission,
        **about,
    )


def _moved(photo: Photo, down: int, right: int) -> Photo:
    """Shift a picture by a number of pixels, repeating its border."""
    height, width = photo.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return photo[rows][:, columns]


def _small(path: Path, width: int, height: int, crop: int) -> Notice:
    sentence = f"'{path}' is {width}x{height}, smaller than the crop of {crop}, and is enlarged to fit."
    return Notice("small", str(path), sentence)


def _mismatch(
    path: Path | None, width: int, height: int, mixture: Path, mixture_width: int, mixture_height: int
) -> str:
    return (
        f"'{path}' is {width}x{height}, but its mixture '{mixture}' is {mixture_width}x{mixture_height}: the layers "
        "of a pair must have the same size; crop or resize one of them."
    )
