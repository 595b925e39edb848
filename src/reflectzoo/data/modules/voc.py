"""``data=voc``: mixtures of any photographs, PASCAL VOC or your own, as in the papers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reflectzoo.core.annotations import Side
from reflectzoo.data.augment import Kind, PhotoAugment
from reflectzoo.data.datasets.photos import FixedPairs, PhotoPairs, views_of
from reflectzoo.data.modules.photo_folder import PhotoFolder
from reflectzoo.data.synthesis.base import Synthesis


class VOCBlending(PhotoFolder):
    """Mixtures of the photographs in a folder.

    ``root`` may be a folder of photographs (with or without subfolders), one that contains ``train/`` and ``val/`` (and
    optionally ``test/``), or a VOCdevkit, of which ``JPEGImages`` of the latest year is used. The training photographs
    are shuffled in every epoch; one half provides transmissions, the other reflections.

    Whole photographs are held out for validation and test: those in ``val/`` or ``val_root``, or else a share selected
    by a hash of the names, independent of the seed. If there is a folder for validation but none for the test, the
    test gets half of its photographs.

    Args:
        synthesis: makes a mixture of two photographs.
        root: folder of the photographs.
        crop: side of the training crops in pixels.
        eval_crop: side of the evaluation images in pixels.
        augment: ``paper``, ``hard``, ``square`` or ``whole``, see :class:`~reflectzoo.data.augment.PhotoAugment`.
        kwargs: see :class:`PhotoFolder`: ``list`` is a text file with the names of the photographs to use, one per
            line, with or without a suffix, which may differ from the file's (as in the papers'
            ``VOC2012_224_train_png.txt``); names without a file are skipped with a warning.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        root: str | os.PathLike[str] | None = None,
        crop: Side = 224,
        eval_crop: Side = 224,
        augment: Kind = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, root, **kwargs)
        self.crop = crop
        self.eval_crop = eval_crop
        self.augment = augment

    def train_set(self) -> PhotoPairs:
        """Random pairs of the training photographs."""
        return PhotoPairs(
            views_of(self.splits["train"]),
            PhotoAugment(self.crop, self.augment),
            seed=self.seed,
            samples_per_epoch=self.samples_per_epoch,
            joint=self.augment == "paper",
            on_error=self.on_error,
            dataset="voc",
        )

    def eval_sets(self) -> Mapping[str, FixedPairs]:
        """Fixed pairs of the validation photographs."""
        return {"voc": self._fixed("val")}

    def test_sets(self) -> Mapping[str, FixedPairs]:
        """Fixed pairs of the test photographs."""
        return {"voc": self._fixed("test")}

    def _fixed(self, split: str) -> FixedPairs:
        return FixedPairs(self.held_out_pairs(split), self.eval_crop, "voc")
