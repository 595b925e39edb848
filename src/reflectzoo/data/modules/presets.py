"""Recent data sets by name: OpenRR-1k and -5k, RRW, CDR, NightIRS, Gap-Free.

Each class documents the layout on disk, the origin, the licence if stated, and the published number of pairs; a
different number is reported. If the layout is not documented, folder names that are common in the field are tried.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.pairs import LayerFolders, PairFiles, pair_folders
from reflectzoo.data.datasets.published_data import PublishedData, first_folder
from reflectzoo.data.images import find_images
from reflectzoo.data.modules.pairs import FoundPairs, RealPairs
from reflectzoo.data.samples import Notice
from reflectzoo.errors import UserError

_LAYERS = LayerFolders(
    ("blended", "input", "inputs", "I", "M", "mixture"),
    ("transmission_layer", "transmission", "gt", "GT", "target", "T"),
    ("reflection_layer", "reflection", "R"),
)
_CDR_TAGS: Sequence[str] = ("type", "reflection", "ghost", "motion")
_ROLES = {"M": "mixture", "T": "transmission", "R": "reflection"}


@dataclass(frozen=True)
class Part:
    """One split of a data set.

    Attributes:
        pairs: published number of pairs; None if not stated.
        folders: below the root; the first that contains both layers is used.
        apart: alternatives with separately packed folders: pairs of a folder of mixtures and one of transmissions.
    """

    pairs: int | None
    folders: tuple[str, ...]
    apart: tuple[tuple[str, str], ...] = ()


class Preset(RealPairs):
    """Base class of published data sets of pairs.

    The parts are ``train``, ``val`` and ``test``, as far as they exist; checkpoints are selected on ``val``, and
    ``test`` is scored. Missing parts are not an error as long as one exists. Args: see
    :class:`~reflectzoo.data.modules.pairs.RealPairs`.
    """

    parts: ClassVar[Mapping[str, Part]]

    def find(self) -> FoundPairs:
        """Find the pairs of each part.

        Raises:
            UserError: if there are none.
        """
        top = self.published.folder(self.root)
        notices: list[Notice] = []
        found = self._parts(top, notices)
        if not any(found.values()):
            raise self.published.not_found(top)
        for name, pairs in found.items():
            published = self.parts[name].pairs
            if pairs and published is not None and len(pairs) != published:
                notices.append(
                    Notice(
                        "count",
                        str(top),
                        f"{self.published.choice} has {len(pairs)} pairs for {name} here, but {published} are "
                        "published.",
                    )
                )
        test = {self.published.choice: found["test"]} if found.get("test") else {}
        return FoundPairs(found.get("train", []), test, notices, found.get("val", []))

    def _parts(self, top: Path, notices: list[Notice]) -> dict[str, list[PairFiles]]:
        found = {}
        for name, part in self.parts.items():
            layers = _layers_of(top, part)
            found[name] = self._pairs(layers, notices) if layers is not None else []
        if not any(found.values()):
            # The root may be the folder of a single part.
            mixture, transmission, reflection = _LAYERS.within(top)
            if mixture is not None and transmission is not None:
                name = next((each for each in self.parts if each in top.name.lower()), "test")
                found[name] = self._pairs((mixture, transmission, reflection), notices)
        return found

    def _pairs(self, layers: tuple[Path, Path, Path | None], notices: list[Notice]) -> list[PairFiles]:
        pairs, more = pair_folders(*layers, self.on_error)
        notices.extend(more)
        return pairs


def _layers_of(top: Path, part: Part) -> tuple[Path, Path, Path | None] | None:
    for name in part.folders:
        folder = first_folder(top, [name])
        if folder is not None:
            mixture, transmission, reflection = _LAYERS.within(folder)
            if mixture is not None and transmission is not None:
                return mixture, transmission, reflection
    for blended, behind in part.apart:
        mixture, transmission = first_folder(top, [blended]), first_folder(top, [behind])
        if mixture is not None and transmission is not None:
            return mixture, transmission, None
    return None


class OpenRR1k(Preset):
    """``data=openrr1k``: 800 pairs for training, 100 for validation and 100 for the test, NTIRE 2025.

    Yang et al., "OpenRR-1k: A Scalable Dataset for Real-World Reflection Removal", ICIP 2025. The ground truth was made
    with a smartphone's reflection removal and manual retouching, which limits its accuracy.
    """

    published = PublishedData(
        "openrr1k",
        "train_800/, val_100/ and test_100/ (or some of them), each with blended/ and transmission_layer/",
        "Yang et al., OpenRR-1k, ICIP 2025, 800 + 100 + 100 pairs, licence not stated, at "
        "https://huggingface.co/datasets/qiuzhangTiTi/NTIRE2025-SIRR",
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "train": Part(800, ("train_800", "train")),
        "val": Part(100, ("val_100", "val")),
        "test": Part(100, ("test_100", "test")),
    }


class OpenRR5k(Preset):
    """``data=openrr5k``: 5,000 pairs for training and 300 with ground truth for the test, NTIRE 2026.

    Cai et al., "OpenRR-5k: A Large-Scale Benchmark for Reflection Removal in the Wild", MIPR 2025. The 300 pairs are
    the challenge's validation set; its 100 test pictures have no ground truth (use ``benchmark=photos`` for them).
    """

    published = PublishedData(
        "openrr5k",
        "train_5000/ with blended/ and transmission_layer/, and val_300_blended/ and val_300_transmission/ (val_300/ "
        "with both in it will do)",
        "Cai et al., OpenRR-5k, MIPR 2025, 5000 + 300 pairs, licence not stated, at "
        "https://huggingface.co/datasets/qiuzhangTiTi/OpenRR-5k",
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "train": Part(5000, ("train_5000", "train")),
        "test": Part(
            300,
            ("val_300", "val"),
            (
                ("val_300_blended/blended", "val_300_transmission/transmission_layer"),
                ("val_300_blended/val_300_blended", "val_300_transmission/val_300_transmission"),
                ("val_300_blended", "val_300_transmission"),
            ),
        ),
    }


class RRW(Preset):
    """``data=rrw``: about 14,950 pairs, which are frames of many scenes; for training.

    Zhu et al., "Revisiting Single Image Reflection Removal in the Wild", CVPR 2024. Frames of one scene are either all
    used for training or all held out (:func:`scene_of`).
    """

    published = PublishedData(
        "rrw",
        "blended/ and transmission_layer/ (or input/ and gt/) with frames of the same names, in the folder itself or "
        "in train/",
        "Zhu et al., RRW, CVPR 2024, 14950 pairs, licence tag MIT, layout not stated, at "
        "https://huggingface.co/datasets/zhuyr/RRW",
    )
    parts: ClassVar[Mapping[str, Part]] = {"train": Part(14950, ("train", "RRW", "."))}

    def scene(self, name: str) -> str:
        """The scene of a frame."""
        return scene_of(name)


class NightIRS(Preset):
    """``data=nightirs``: photographs through glass at night.

    Depth-Synergized Mamba Meets Memory Experts for All-Day Image Reflection Separation, AAAI 2026.
    """

    published = PublishedData(
        "nightirs",
        "blended/ and transmission_layer/ (optionally reflection_layer/), in the folder itself or in train/ and test/",
        "DMDNet, AAAI 2026, number of pairs, licence and layout not stated, linked (Baidu) from "
        "https://github.com/fashyon/DMDNet",
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "train": Part(None, ("train",)),
        "test": Part(None, ("test", "NightIRS", ".")),
    }


class GapFree(Preset):
    """``data=gapfree``: the GF data set of GFRRN.

    Chen et al., "GFRRN: Explore the Gaps in Single Image Reflection Removal", CVPR 2026.
    """

    published = PublishedData(
        "gapfree",
        "blended/ and transmission_layer/ (optionally reflection_layer/), in the folder itself or in train/ and test/",
        "Chen et al., GFRRN, CVPR 2026, number of pairs, licence and layout not stated, at "
        "https://huggingface.co/datasets/tabe-i/Gap-Free",
    )
    parts: ClassVar[Mapping[str, Part]] = {"train": Part(None, ("train", ".")), "test": Part(None, ("test",))}


@dataclass
class _Crop:
    """The layers of one cropped triplet, and the name of its shot in the annotation."""

    layers: dict[str, Path] = field(default_factory=dict)
    shot: str = ""


class CDR(Preset):
    """``data=cdr``: triplets made from raw files, categorised by the kind of reflection.

    Lei et al., "A Categorized Reflection Removal Dataset with Diverse Real-World Scenes", CVPR Workshops 2022. The
    layout is either that of the authors' converter (``train/``, ``val/`` and ``test/``, each with ``M/``, ``T/`` and
    ``R/``), or the original one (``isprgb_crop/with_gt/C1/`` and so on) with ``annotation.csv`` next to it. The latter
    provides the split and the tags: ``type`` (BRBT, SRST, BRST: blurred or sharp reflection and transmission),
    ``reflection`` (strong, medium, weak), ``ghost`` and ``motion``. Without it, all triplets belong to the test set.
    """

    published = PublishedData(
        "cdr",
        "train/, val/ and test/ with M/, T/ and R/ each, as the authors' converter writes them, or "
        "isprgb_crop/with_gt/ with annotation.csv beside isprgb_crop/",
        "Lei et al., CDR, CVPR Workshops 2022, 1063 triplets, licence not stated, linked from "
        "https://github.com/XUHUAKing/CDR-download-scripts",
    )
    parts: ClassVar[Mapping[str, Part]] = {
        "train": Part(None, ("train",)),
        "val": Part(None, ("val",)),
        "test": Part(None, ("test",)),
    }
    triplets = 1063

    def _parts(self, top: Path, notices: list[Notice]) -> dict[str, list[PairFiles]]:
        found: dict[str, list[PairFiles]] = {name: [] for name in self.parts}
        nested = first_folder(top, ["isprgb_crop/with_gt", "data/isprgb_crop/with_gt", "with_gt"])
        if nested is None:
            for name, part in self.parts.items():
                folder = first_folder(top, part.folders)
                if folder is not None:
                    found[name] = [pair for pair, _ in self._triplets(folder, notices)]
        else:
            annotated = _annotations(top, nested)
            for pair, shot in self._triplets(nested, notices):
                about = annotated.get(shot, {})
                tags: dict[str, str] = {key: about[key] for key in _CDR_TAGS if key in about}
                name = {"0": "train", "1": "val"}.get(about.get("set", ""), "test")
                found[name].append(PairFiles(pair.name, pair.mixture, pair.transmission, pair.reflection, tags))
        total = sum(map(len, found.values()))
        if total and total != self.triplets:
            notices.append(
                Notice("count", str(top), f"cdr has {total} triplets here, but {self.triplets} are published.")
            )
        return found

    def _triplets(self, folder: Path, notices: list[Notice]) -> list[tuple[PairFiles, str]]:
        """The triplets, each with the name of the shot that it was cropped from."""
        crops: dict[str, _Crop] = {}
        for path in find_images(folder, recursive=True, unopened=note_folders(notices, self.on_error)):
            match = re.match(r"^(.+)_([MTR])(?=[_.]|$)(.*)$", path.stem)
            if match is None:
                continue
            parent = path.relative_to(folder).parent
            # The converter puts each layer into a separate folder, and the camera's name in front of the file's.
            where = parent.parent if parent.name in _ROLES else parent
            key = (where / f"{match[1]}{match[3]}").as_posix()
            crop = crops.setdefault(key, _Crop(shot=(where / match[1]).as_posix()))
            crop.layers[_ROLES[match[2]]] = path
        triplets = []
        for name, crop in sorted(crops.items()):
            if "mixture" in crop.layers and "transmission" in crop.layers:
                layers = crop.layers
                pair = PairFiles(name, layers["mixture"], layers["transmission"], layers.get("reflection"))
                triplets.append((pair, crop.shot))
                continue
            path = next(iter(crop.layers.values()))
            missing = "mixture (M)" if "mixture" not in crop.layers else "transmission (T)"
            sentence = f"'{path}' has no {missing} beside it and is skipped."
            if self.on_error == "raise":
                raise UserError(sentence)
            notices.append(Notice("missing", str(path), sentence))
        return triplets


def scene_of(name: str) -> str:
    """The scene of a frame, from its name: its folder, or the part before the last number.

    Frames of one scene are nearly identical, so that validating on some and training on others would measure
    memorisation. Plain numbers do not identify a scene; they are grouped by hundreds, to keep most neighbours together.

    Example:
        >>> scene_of("012/0003"), scene_of("glass_7-0031"), scene_of("IMG_2041_12"), scene_of("1234")
        ('012', 'glass_7', 'IMG_2041', '12')
    """
    parent, _, last = name.rpartition("/")
    if parent:
        return parent
    match = re.match(r"^(.*?)[^A-Za-z0-9]*\d+$", last)
    if match is None:
        return last
    return match[1] or str(int(last) // 100)


def _annotations(top: Path, nested: Path) -> dict[str, dict[str, str]]:
    """Rows of ``annotation.csv`` by shot (``C2/5532_5531``); empty if the file does not exist.

    Raises:
        UserError: if the file cannot be read or lacks the columns ``name`` and ``set``.
    """
    places: Sequence[Path] = (top, nested, nested.parent, nested.parent.parent)
    file = next((path for place in places if (path := place / "annotation.csv").is_file()), None)
    if file is None:
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as content:
            rows = list(csv.DictReader(content))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{os.fspath(file)}' cannot be read ({error}): download it again from the authors.") from error
    if rows and not {"name", "set"} <= set(rows[0]):
        raise UserError(f"'{os.fspath(file)}' has no columns 'name' and 'set': download it again from the authors.")
    return {row["name"]: {key: value for key, value in row.items() if value is not None} for row in rows}
