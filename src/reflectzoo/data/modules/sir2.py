"""``data=sir2``: the SIR² benchmark with its three subsets, tagged by scene, aperture and glass."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import MinLen

from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.pairs import LayerFolders, PairCrops, PairFiles, pair_folders
from reflectzoo.data.datasets.path_patterns import natural
from reflectzoo.data.datasets.published_data import PublishedData
from reflectzoo.data.images import find_images
from reflectzoo.data.modules.pairs import FoundPairs, RealPairs
from reflectzoo.data.samples import Notice
from reflectzoo.errors import UserError

Subset = Literal["postcard", "objects", "wild"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)

# Parts of folder names that identify each subset, in the authors' release and in copies.
_WORDS = {"postcard": ("postcard",), "objects": ("solidobject", "solid_object", "object"), "wild": ("wild",)}
_KINDS = {
    "focus": "aperture",
    "aperture": "aperture",
    "f": "aperture",
    "thickness": "glass",
    "glass": "glass",
    "t": "glass",
}
_SETTING = re.compile(r"^([ft])[-_ ]?(\d+)$", re.IGNORECASE)
_ROLES = {"m": "mixture", "g": "transmission", "r": "reflection"}
# "Wild Scene" also contains mixtures without ground truth.
_NO_TRUTH = ("withoutgt", "without_gt", "nogt")


class SIR2(RealPairs):
    """SIR², for evaluation only.

    Wan et al., "Benchmarking Single-Image Reflection Removal Algorithms", ICCV 2017. In the authors' folders, each
    scene of Postcard and SolidObject was taken with seven apertures (``Focus/``) and behind glass of three thicknesses
    (``Thickness/``); each shot is a folder with the mixture (m), the transmission (g) and the reflection (r). Copies
    flattened to ``blended/``, ``transmission_layer/`` and ``reflection_layer/`` are also supported. Each subset is a
    separate test set. The folder names become each sample's ``tags``: ``subset``, ``scene``, and ``aperture`` or
    ``glass`` with the number in the folder's name.

    Args:
        root: the folder of the subsets, or of one of them.
        subsets: which of ``postcard``, ``objects`` and ``wild`` to use; missing ones are skipped unless all are.
        aperture: use only shots with these apertures, given by the numbers in the folder names.
        glass: use only shots behind glass of these thicknesses, likewise. With both, shots that match either are used;
            shots with neither tag always are.
        kwargs: see :class:`RealPairs`.
    """

    published = PublishedData(
        "sir2",
        "the folders PostcardDataset, SolidObjectDataset and WildSceneDataset (or some of them), nested as the "
        "authors' or each with blended/ and transmission_layer/",
        "Wan et al., ICCV 2017, about 500 triplets, available on request at https://sir2data.github.io/",
    )

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        subsets: Annotated[Sequence[Subset], MinLen(1)] = SUBSETS,
        aperture: Sequence[int | str] | None = None,
        glass: Sequence[int | str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.subsets = tuple(subsets)
        self.settings = {
            kind: {_number(str(value)) for value in values}
            for kind, values in (("aperture", aperture), ("glass", glass))
            if values is not None
        }

    def train_set(self) -> PairCrops:
        """Not available for a benchmark.

        Raises:
            UserError: always.
        """
        raise UserError(
            "data=sir2 is a benchmark, for evaluation only: train with another data set, such as data=zhang."
        )

    def find(self) -> FoundPairs:
        """Find the triplets of each subset.

        Raises:
            UserError: if there are none, or none with the requested apertures or glasses.
        """
        top = self.published.folder(self.root)
        notices: list[Notice] = []
        test: dict[str, list[PairFiles]] = {}
        for name in self.subsets:
            folder = _subset_folder(top, name)
            if folder is None:
                continue
            triplets = self._triplets(folder, name, notices)
            chosen = [triplet for triplet in triplets if self._wanted(triplet)]
            if triplets and not chosen:
                raise UserError(
                    f"Of the {len(triplets)} triplets of '{folder}' none has data.aperture or data.glass as asked for: "
                    f"there are {_settings_there(triplets)}."
                )
            if chosen:
                test[name] = chosen
        if not test:
            raise self.published.not_found(top)
        return FoundPairs([], test, notices)

    def _wanted(self, triplet: PairFiles) -> bool:
        if not self.settings or not {"aperture", "glass"} & set(triplet.tags):
            return True
        return any(triplet.tags.get(kind) in numbers for kind, numbers in self.settings.items())

    def _triplets(self, folder: Path, subset: str, notices: list[Notice]) -> list[PairFiles]:
        mixture, transmission, reflection = LayerFolders().within(folder)
        if mixture is not None and transmission is not None:
            flat, more = pair_folders(mixture, transmission, reflection, self.on_error)
            notices.extend(more)
            return [PairFiles(p.name, p.mixture, p.transmission, p.reflection, {"subset": subset}) for p in flat]
        shots: dict[Path, list[Path]] = {}
        for path in find_images(folder, recursive=True, unopened=note_folders(notices, self.on_error)):
            if not any(part.lower() in _NO_TRUTH for part in path.relative_to(folder).parts):
                shots.setdefault(path.parent, []).append(path)
        return [
            triplet
            for place, files in sorted(shots.items(), key=lambda item: natural(item[0].as_posix()))
            for triplet in self._of_one_folder(folder, place, files, subset, notices)
        ]

    def _of_one_folder(
        self, top: Path, place: Path, files: Sequence[Path], subset: str, notices: list[Notice]
    ) -> list[PairFiles]:
        groups: dict[str, dict[str, Path]] = {}
        roles = [(path, *role_of(path.stem)) for path in files]
        alone = sorted(role for _, role, _ in roles if role is not None) == ["g", "m", "r"]
        for path, role, rest in roles:
            if role is not None:
                groups.setdefault("" if alone else rest, {})[_ROLES[role]] = path
        tags = {"subset": subset, **_tags(place.relative_to(top).parts)}
        triplets = []
        for rest, layers in groups.items():
            name = "/".join(part for part in (place.relative_to(top).as_posix(), rest) if part not in ("", "."))
            if "mixture" in layers and "transmission" in layers:
                triplets.append(
                    PairFiles(name, layers["mixture"], layers["transmission"], layers.get("reflection"), tags)
                )
                continue
            path = next(iter(layers.values()))
            missing = "mixture (m)" if "mixture" not in layers else "transmission (g)"
            sentence = f"'{path}' has no {missing} beside it and is skipped."
            if self.on_error == "raise":
                raise UserError(sentence)
            notices.append(Notice("missing", str(path), sentence))
        return triplets


def role_of(stem: str) -> tuple[str | None, str]:
    """The role of a picture, ``m``, ``g`` or ``r``, from its name, and the rest of the name; role None if unclear.

    Example:
        >>> role_of("m"), role_of("12-g-3"), role_of("rs5-m"), role_of("notes")
        (('m', ''), ('g', '12-3'), ('m', 'rs5'), (None, 'notes'))
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", stem.lower()) if word]
    for bare in (False, True):
        # In names such as "m1", a number follows the role.
        found = [i for i, word in enumerate(words) if (word.strip("0123456789") if bare else word) in _ROLES]
        if len(found) == 1:
            word = words[found[0]]
            rest = words[: found[0]] + ([re.sub(r"[a-z]", "", word)] if bare else []) + words[found[0] + 1 :]
            return word.strip("0123456789"), "-".join(part for part in rest if part)
    return None, stem


def _tags(parts: Sequence[str]) -> dict[str, str]:
    """Scene, and aperture or glass, from the folders between a subset and a shot."""
    kind, setting = None, None
    scene = []
    for part in parts:
        named = _SETTING.match(part)
        if named:
            kind, setting = _KINDS[named.group(1).lower()], named.group(2)
        elif part.lower() in _KINDS:
            kind = _KINDS[part.lower()]
        elif part.lower() not in ("withgt", "with_gt"):
            scene.append(part)
    if kind is not None and setting is None and len(scene) > 1:
        setting = scene.pop()
    tags = {"scene": "/".join(scene)} if scene else {}
    if kind is not None and setting is not None:
        tags[kind] = _number(setting)
    return tags


def _number(text: str) -> str:
    """The number of a setting: 11 for F11, "11" and "011"."""
    digits = re.sub(r"\D", "", text)
    return str(int(digits)) if digits else text


def _settings_there(triplets: Sequence[PairFiles]) -> str:
    words = []
    for kind in ("aperture", "glass"):
        values = sorted({t.tags[kind] for t in triplets if kind in t.tags}, key=natural)
        if values:
            words.append(f"{kind} {', '.join(values)}")
    return " and ".join(words)


def _subset_folder(top: Path, name: str) -> Path | None:
    """The folder of a subset, at most two levels below the given one (as the authors' archives unpack)."""
    for folder in (top, *_folders(top), *(inner for outer in _folders(top) for inner in _folders(outer))):
        bare = folder.name.lower().replace(" ", "").replace("-", "")
        if any(word in bare for word in _WORDS[name]):
            inner = [each for each in _folders(folder) if any(word in each.name.lower() for word in _WORDS[name])]
            return inner[0] if inner else folder
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
