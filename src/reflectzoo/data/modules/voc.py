"""``data=voc``: mixtures of any photographs, PASCAL VOC or one's own, as the papers train."""

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

    ``root`` may be a folder of photographs (with subfolders or not), one with ``train/`` and ``val/`` (and perhaps
    ``test/``) in it, or a VOCdevkit, of which ``JPEGImages`` of the newest year is taken. Every epoch the training
    photographs are shuffled; one half is seen through the glass and the other reflected.

    Whole photographs are held out for validation and test: those of ``val/`` or ``val_root``, else a share chosen by a
    hash of the names, the same whatever the seed. Without photographs of its own the test gets half of the held-out.

    Args:
        synthesis: makes a mixture of two photographs.
        root: where the photographs are.
        crop: side of the training crops.
        eval_crop: side of the evaluation images.
        augment: ``paper``, ``hard``, ``square`` or ``whole``, see :class:`~reflectzoo.data.augment.PhotoAugment`.
        kwargs: see :class:`PhotoFolder`: ``list`` is a text file naming the photographs to use, one a line, with or
            without a suffix, which may differ from the file's (the papers' ``VOC2012_224_train_png.txt``); names
            without a file are counted and left out.
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
