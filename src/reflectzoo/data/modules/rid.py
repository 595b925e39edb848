"""``data=rid``: whole photographs of reflections blended with whole photographs of scenes, as for CoRRN."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from reflectzoo.core.annotations import Count, Fraction, HeightWidth, Share
from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.photos import OnError, readable
from reflectzoo.data.datasets.published_data import PublishedData, first_folder
from reflectzoo.data.datasets.resized_pairs import FixedResizedPairs, ResizedPairs
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.photo_folder import check_shares, jpeg_images
from reflectzoo.data.samples import Notice
from reflectzoo.data.seeding import name_seed
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

_REFLECTIONS = ("reflections", "reflection", "RID", "R", "reflection_layer")
_BACKGROUNDS = ("backgrounds", "background", "B", "VOCdevkit", "COCO", "train2017", "train2014", "transmission_layer")


class RIDBlending(ReflectionDataModule):
    """CoRRN's data: the Reflection Image Dataset blended with backgrounds such as COCO or VOC.

    Wan et al., "CoRRN: Cooperative Reflection Removal Network", TPAMI 2019, sections 3 and 4: whole images at two
    sizes that alternate from batch to batch, portrait ones rotated, with rotations and flips; ``synthesis=corrn`` draws
    the weights. (The released program uses one size, 96x128, and flips in both directions:
    ``data.sizes=[[96,128]] data.rotations=false data.vertical_flip=0.5``.)

    Args:
        synthesis: makes a mixture of two photographs.
        root: a folder that contains ``reflections/`` and ``backgrounds/``, unless the next two are given.
        reflections: folder of the photographs of reflections.
        backgrounds: folder of the photographs for the scene behind the glass, or a VOCdevkit.
        sizes: heights and widths, used in turn.
        eval_size: height and width for validation and test.
        samples_per_epoch: length of an epoch; None for the number of backgrounds.
        rotations: whether to rotate by 90, 180 and 270 degrees.
        horizontal_flip: probability.
        vertical_flip: probability.
        val_share: share of both kinds of photographs held out for validation, at least one of each.
        test_share: likewise for the test.
        max_eval_pairs: maximum number of pairs in validation, and in the test.
        on_error: ``skip`` replaces an unreadable photograph with a warning; ``raise`` stops.
        kwargs: see :class:`ReflectionDataModule`.
    """

    published = PublishedData(
        "rid",
        "a folder with reflections/ (photographs of reflections against black) and backgrounds/ (any photographs), "
        "or data.reflections=FOLDER data.backgrounds=FOLDER",
        "Wan et al., CoRRN, TPAMI 2019, 3250 photographs of reflections, linked from "
        "https://github.com/wanrenjie/CoRRN, no licence given",
    )

    def __init__(
        self,
        synthesis: Synthesis,
        root: str | os.PathLike[str] | None = None,
        reflections: str | os.PathLike[str] | None = None,
        backgrounds: str | os.PathLike[str] | None = None,
        sizes: Annotated[Sequence[HeightWidth], MinLen(1)] = ((96, 160), (224, 288)),
        eval_size: HeightWidth = (224, 288),
        samples_per_epoch: Count | None = None,
        rotations: bool = True,
        horizontal_flip: Share = 0.5,
        vertical_flip: Share = 0.0,
        val_share: Fraction = 0.02,
        test_share: Fraction = 0.02,
        max_eval_pairs: Count = 50,
        on_error: OnError = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.folders = {"reflections": reflections, "backgrounds": backgrounds}
        self.root = root
        self.sizes = [(height, width) for height, width in sizes]
        self.eval_size = (eval_size[0], eval_size[1])
        self.turning: dict[str, Any] = {
            "rotations": rotations,
            "horizontal_flip": horizontal_flip,
            "vertical_flip": vertical_flip,
        }
        self.samples_per_epoch = samples_per_epoch
        self.shares = check_shares(val_share, test_share)
        self.max_eval_pairs = max_eval_pairs
        self.on_error = on_error
        self._splits: dict[str, dict[str, list[Path]]] | None = None

    @property
    def splits(self) -> Mapping[str, Mapping[str, list[Path]]]:
        """Photographs by kind (``reflections``, ``backgrounds``) and split (``train``, ``val``, ``test``).

        Raises:
            UserError: if there are none, or too few.
        """
        if self._splits is None:
            usual = {"reflections": _REFLECTIONS, "backgrounds": _BACKGROUNDS}
            self._splits = {kind: self._split(kind, self._folder(kind, usual[kind])) for kind in usual}
        return self._splits

    def train_set(self) -> ResizedPairs:
        """Random pairs of the training photographs."""
        return ResizedPairs(
            self.splits["backgrounds"]["train"],
            self.splits["reflections"]["train"],
            sizes=self.sizes,
            seed=self.seed,
            samples_per_epoch=self.samples_per_epoch,
            on_error=self.on_error,
            dataset=self.published.choice,
            **self.turning,
        )

    def eval_sets(self) -> Mapping[str, FixedResizedPairs]:
        """Fixed pairs of the validation photographs."""
        return {self.published.choice: self._fixed("val")}

    def test_sets(self) -> Mapping[str, FixedResizedPairs]:
        """Fixed pairs of the test photographs."""
        return {self.published.choice: self._fixed("test")}

    def _folder(self, kind: str, usual: Sequence[str]) -> Path:
        given = self.folders[kind]
        if given is not None:
            return self.published.folder(given, f"data.{kind}")
        top = self.published.folder(self.root)
        folder = first_folder(top, usual)
        if folder is None:
            raise self.published.not_found(top)
        return folder

    def _split(self, kind: str, folder: Path) -> dict[str, list[Path]]:
        unopened: list[Notice] = []
        photos = self.published.photographs(jpeg_images(folder), f"data.{kind}", note_folders(unopened, self.on_error))
        for notice in unopened:
            self.notice(notice)
        if len(photos) < 3:
            raise UserError(
                f"'{folder}' gives {len(photos)} {kind} for training, validation and test, but at least 3 are needed."
            )
        order = sorted(photos, key=lambda path: (name_seed(path.relative_to(folder).as_posix()), path))
        val, test = (min(self.max_eval_pairs, max(1, int(share * len(order)))) for share in self.shares)
        val = min(val, len(order) - 2)
        test = min(test, len(order) - 1 - val)
        return {"train": sorted(order[val + test :]), "val": order[:val], "test": order[val : val + test]}

    def _fixed(self, split: str) -> FixedResizedPairs:
        kinds = []
        for kind in ("backgrounds", "reflections"):
            good, notices = readable(self.splits[kind][split], self.on_error)
            for notice in notices:
                self.notice(notice)
            if not good:
                raise UserError(f"None of the {kind} held out for the {split} split of data=rid can be read.")
            kinds.append(good)
        backgrounds, reflections = kinds
        # Reflections are reused if there are fewer of them than backgrounds.
        pairs = [(path, reflections[i % len(reflections)]) for i, path in enumerate(backgrounds)]
        return FixedResizedPairs(pairs, self.eval_size, self.published.choice)
