"""Predictions produced elsewhere, matched with a benchmark by file name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.data.datasets.base import to_tensor
from reflectzoo.data.images import Photo, UnreadableImage, find_images, read_rgb
from reflectzoo.errors import UserError
from reflectzoo.evaluation.benchmark import BenchmarkPicture, EvaluationSet
from reflectzoo.evaluation.candidates import Candidate
from reflectzoo.evaluation.protocol import Protocol


class PredictionsCandidate(Candidate):
    """Entry that reads predictions from a folder, matched with the pictures of a benchmark by name.

    For the picture ``N`` of the set ``S``, the following names match, with the suffix of any image format, regardless
    of case, in ``folder/S/`` if that folder exists, otherwise in ``folder`` itself:

    ========================================================  =====================================================
    transmission                                              reflection
    ========================================================  =====================================================
    ``N``, ``N_t``, ``N-t``, ``N_transmission``,              ``N_r``, ``N-r``, ``N_reflection``,
    ``N-transmission``                                        ``N-reflection``
    ``N`` in ``t/``, ``transmission/`` or                     ``N`` in ``r/``, ``reflection/`` or
    ``transmission_layer/``                                   ``reflection_layer/``
    ========================================================  =====================================================

    ``N`` may also be the name of the mixture's file (``7-input``). If it is a path (``1/Focus/11``), its parts may be
    joined by ``_`` or ``-``, and the last part alone suffices if it is unique within the set. The files written by
    ``save_pictures=true`` match, too. A prediction must have the scored size or that of the stored mixture; in the
    latter case, it is resized like the mixture.

    Args:
        name: see :class:`Candidate`.
        folder: with the predictions.
        sets: data sets of the benchmark.
        protocol: defines the resizing.
        fit: resize predictions of any other size, too, rather than reject them.
        key: name of the setting, for messages.

    Attributes:
        missing: ``{"set", "image", "reason"}`` of each picture without a usable prediction.
        extra: paths below the folder that match no picture.
        sha256: hash over all matched files.

    Raises:
        UserError: if the folder does not exist, contains no picture or none that is usable, or one file matches
            several pictures.
    """

    kind = "predictions"

    def __init__(
        self,
        name: str,
        folder: Path,
        sets: Sequence[EvaluationSet],
        protocol: Protocol,
        fit: bool = False,
        key: str = "predictions",
    ) -> None:
        super().__init__(name)
        self.folder = folder
        self.protocol = protocol
        self.fit = fit
        self.missing: list[dict[str, str]] = []
        self._found: dict[tuple[str, str], dict[str, Path]] = {}
        self._spare: set[Path] = set()  # match pictures beyond the benchmark's limit
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{key}={folder} {what}: give a folder of pictures.")
        pictures = find_images(folder, recursive=True)
        if not pictures:
            raise UserError(f"{key}={folder} holds no picture: give a folder of pictures, named like the benchmark's.")
        self._match(sets, pictures)
        used = {path for layers in self._found.values() for path in layers.values()} | self._spare
        self.extra = [path.relative_to(folder).as_posix() for path in pictures if path not in used]
        if not any("transmission" in layers for layers in self._found.values()):
            first = sets[0]
            raise UserError(
                f"None of the {len(pictures)} pictures in {key}={folder} can be used for one of the "
                f"{sum(len(each.pictures) for each in sets)} of the benchmark ({self._why()}): call the one for "
                f"'{first.pictures[0].name}' of {first.name} '{first.pictures[0].name}.png' or "
                f"'{first.name}/{first.pictures[0].name}.png'."
            )
        self.sha256 = self._check(sets)

    def has(self, dataset: str, image: str) -> bool:
        """Whether there is a usable transmission for a picture of a set."""
        return (dataset, image) in self._found

    def outputs(self, batch: Batch, dataset: str) -> Outputs | None:
        """The predicted layers of a sample, (1, 3, H, W) in [0, 1], on the batch's device; None if it has none.

        Raises:
            UserError: if a prediction is not of the size that is scored, and ``fit`` is false.
        """
        layers = self._found.get((dataset, batch["name"][0]))
        if layers is None:
            return None
        mixture = batch["mixture"]
        size = (mixture.shape[-2], mixture.shape[-1])
        tensors = {
            layer: to_tensor(self._resized(read_rgb(path), size, dataset))[None].to(mixture.device).float() / 255
            for layer, path in layers.items()
        }
        return cast(Outputs, tensors)

    def identity(self) -> dict[str, Any]:
        """The hash over all matched files, and whether other sizes are resized."""
        return {"kind": self.kind, "sha256": self.sha256, "fit": self.fit}

    def record(self) -> dict[str, Any]:
        """Description with the number of matched pictures, and the missing and extra ones."""
        return {
            **super().record(),
            "folder": str(self.folder),
            "sha256": self.sha256,
            "fit": self.fit,
            "matched": len(self._found),
            "missing": self.missing,
            "extra": self.extra,
        }

    def _match(self, sets: Sequence[EvaluationSet], pictures: Sequence[Path]) -> None:
        owners: dict[Path, list[tuple[str, str]]] = {}
        for each in sets:
            top = next((path for path in sorted(self.folder.iterdir()) if _is_folder_of(path, each.name)), self.folder)
            index: dict[str, list[Path]] = {}
            for path in pictures:
                if path.is_relative_to(top):
                    index.setdefault(path.relative_to(top).with_suffix("").as_posix().lower(), []).append(path)
            lasts = Counter(picture.name.rpartition("/")[2].lower() for picture in each.every_picture)
            used = {picture.name for picture in each.pictures}
            for picture in each.every_picture:
                alone = lasts[picture.name.rpartition("/")[2].lower()] == 1
                fitting = {layer: _fitting(index, picture, alone, layer) for layer in ("transmission", "reflection")}
                reason = next(
                    (
                        f"{len(paths)} pictures fit: {', '.join(sorted(str(path.relative_to(top)) for path in paths))}"
                        for paths in fitting.values()
                        if len(paths) > 1
                    ),
                    None if fitting["transmission"] else "no picture of that name",
                )
                if picture.name not in used:
                    self._spare.update(path for paths in fitting.values() for path in paths)
                    continue
                if reason is not None:
                    self._miss(each.name, picture.name, reason)
                    continue
                layers = {layer: paths[0] for layer, paths in fitting.items() if paths}
                self._found[each.name, picture.name] = layers
                for path in layers.values():
                    owners.setdefault(path, []).append((each.name, picture.name))
        for path, claims in owners.items():
            if len(claims) > 1:
                fits = " and ".join(f"'{image}' of {dataset}" for dataset, image in claims)
                raise UserError(
                    f"'{path}' fits {fits}: put the predictions for each set into a separate folder, "
                    f"{self.folder}/{claims[0][0]}/ and so on."
                )

    def _check(self, sets: Sequence[EvaluationSet]) -> str:
        """Read every prediction once, so that no evaluation fails halfway, and return the hash over all of them."""
        digest = hashlib.sha256()
        for each in sets:
            for picture in each.pictures:
                layers = self._found.get((each.name, picture.name))
                if layers is None:
                    continue
                try:
                    for layer, path in layers.items():
                        self._check_size(path, each, picture)
                        digest.update(f"{each.name}/{picture.name}/{layer}:".encode() + path.read_bytes())
                except (UnreadableImage, _WrongSizeError) as error:
                    del self._found[each.name, picture.name]
                    self._miss(each.name, picture.name, str(error).rstrip("."))
        if not self._found:
            raise UserError(f"None of the pictures in '{self.folder}' can be used ({self._why()}).")
        return digest.hexdigest()

    def _check_size(self, path: Path, each: EvaluationSet, picture: BenchmarkPicture) -> None:
        photo = read_rgb(path)
        stored = picture.stored_size()
        if self.fit or stored is None:
            return
        scored = self.protocol.size_for(each.name).of(*stored)
        if photo.shape[:2] not in (stored, scored):
            height, width = photo.shape[:2]
            raise _WrongSizeError(
                f"'{path}' is {width}x{height}, but the mixture is {stored[1]}x{stored[0]} and is scored at "
                f"{scored[1]}x{scored[0]}; fit_predictions=true resizes it"
            )

    def _resized(self, photo: Photo, size: tuple[int, int], dataset: str) -> Photo:
        if photo.shape[:2] == size:
            return photo
        resized = self.protocol.size_for(dataset).apply(photo)
        if resized.shape[:2] == size:
            return resized
        if not self.fit:
            raise UserError(
                f"A prediction of {self.name} is {photo.shape[1]}x{photo.shape[0]}, but {size[1]}x{size[0]} is scored: "
                "fit_predictions=true resizes it."
            )
        return np.array(Image.fromarray(photo).resize((size[1], size[0]), Image.Resampling.BICUBIC))

    def _miss(self, dataset: str, image: str, reason: str) -> None:
        self.missing.append({"set": dataset, "image": image, "reason": reason})

    def _why(self) -> str:
        return self.missing[0]["reason"] if self.missing else "no picture with such a name"


class _WrongSizeError(Exception):
    """A prediction has neither the scored nor the stored size."""


def _fitting(index: Mapping[str, Sequence[Path]], picture: BenchmarkPicture, alone: bool, layer: str) -> list[Path]:
    parent, _, last = picture.name.rpartition("/")
    lasts = [last] + ([picture.mixture.stem] if picture.mixture is not None else [])
    stems = [f"{parent}/{each}" if parent else each for each in lasts]
    stems += [stem.replace("/", mark) for stem in list(stems) for mark in ("_", "-")]
    # Mixtures often share one file name (m.jpg) in different folders, so that the file name alone is ambiguous.
    stems += [each for each in lasts if alone and each.lower().startswith(last.lower())]
    letter = layer[0]
    names = []
    for stem in dict.fromkeys(stems):
        if layer == "transmission":
            names.append(stem)
        names += [f"{stem}{mark}{word}" for mark in "_-" for word in (letter, layer)]
        names += [f"{folder}/{stem}" for folder in (letter, layer, f"{layer}_layer")]
    found: dict[Path, None] = {}
    for name in names:
        found.update(dict.fromkeys(index.get(name.lower(), ())))
    return list(found)


def _is_folder_of(path: Path, name: str) -> bool:
    return path.is_dir() and path.name.lower() == name.lower()
