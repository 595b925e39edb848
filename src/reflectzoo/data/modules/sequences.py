"""``data=sequences`` and ``data=seq1k``: several views of one scene, as for Reflection Dynamics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Lt

from reflectzoo.core.annotations import Count, NotNegative, OddCount, Rule, Side
from reflectzoo.data.augment import Kind, PhotoAugment
from reflectzoo.data.datasets.base import note_folders
from reflectzoo.data.datasets.path_patterns import PathPattern, sort_sequences
from reflectzoo.data.datasets.photos import OnError, views_of
from reflectzoo.data.datasets.published_data import PublishedData, first_folder, names_of
from reflectzoo.data.datasets.sequences import SequenceCrops, SequenceFiles, SequenceImages, readable_sequences
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.datasets.windows import FixedWindows, Motion, SlidingWindows
from reflectzoo.data.modules import sample
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.photo_folder import PhotoFolder
from reflectzoo.data.samples import Notice
from reflectzoo.data.seeding import name_seed
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

SEQ1K_TRAIN, SEQ1K_ALL = 715, 1015

_Steps = Annotated[
    tuple[NotNegative, NotNegative],
    Rule("a range of whole pixels, [least, most]", lambda value: value[0] <= value[1]),
]


class SyntheticSequences(PhotoFolder):
    """Synthetic sequences from pairs of photographs, with a window sliding over each.

    "Distilling Reflection Dynamics for Single-Image Reflection Removal", section 4.2. All frames of a sequence are
    blended with the same draws, and all layers of all frames are known.

    Args:
        synthesis: makes mixtures.
        root: photographs as for ``data=voc``; None for those of ``data=sample``.
        frames: frames per sequence, odd, so that there is a centre frame.
        crop: side of the window in pixels, for training.
        eval_crop: likewise for validation and test.
        transmission_step: minimum and maximum pixels per frame by which the window on the transmission moves, along
            each axis.
        reflection_step: likewise for the reflection.
        kwargs: see :class:`PhotoFolder`.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        root: str | os.PathLike[str] | None = None,
        frames: OddCount = 3,
        crop: Side = 224,
        eval_crop: Side = 224,
        transmission_step: _Steps = (0, 2),
        reflection_step: _Steps = (10, 20),
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, root, **kwargs)
        steps = ((transmission_step[0], transmission_step[1]), (reflection_step[0], reflection_step[1]))
        self.motion = Motion(frames, crop, *steps)
        self.eval_motion = Motion(frames, eval_crop, *steps)

    def train_set(self) -> SlidingWindows:
        """Random sequences of the training photographs."""
        scenes = sample.training_scenes() if self.root is None else views_of(self.splits["train"])
        return SlidingWindows(scenes, self.motion, self.seed, self.samples_per_epoch, self.on_error)

    def eval_sets(self) -> Mapping[str, FixedWindows]:
        """Fixed sequences of the validation photographs."""
        return {"sequences": self._fixed("val")}

    def test_sets(self) -> Mapping[str, FixedWindows]:
        """Fixed sequences of the test photographs."""
        return {"sequences": self._fixed("test")}

    def _fixed(self, split: str) -> FixedWindows:
        if self.root is not None:
            return FixedWindows(self.held_out_pairs(split), self.eval_motion)
        return FixedWindows(sample.validation_pairs() if split == "val" else sample.test_pairs(), self.eval_motion)


class Seq1K(ReflectionDataModule):
    """Real sequences with the ground truth of the centre frame.

    "Distilling Reflection Dynamics for Single-Image Reflection Removal", section 4.1: 1015 sequences of three frames of
    1760x1160, of which 715 are for training. The paper does not list them, so that without ``train/`` and ``test/`` or
    ``train_list``, they are split in the same proportion by a hash of the names.

    Args:
        root: folder of the sequences.
        frames: frames per sequence, odd.
        frame_pattern: pattern of the frames' paths below the root, without suffixes; see
            :class:`~reflectzoo.data.datasets.path_patterns.PathPattern`.
        truth_pattern: pattern of the transmissions of the centre frames, or several, tried in turn.
        train_list: a text file with the names of the training sequences, one per line; the others are for the test.
        crop: side of the training crops in pixels.
        augment: ``paper``, ``hard`` or ``square``, see :class:`~reflectzoo.data.augment.PhotoAugment`.
        eval_size: how pictures are resized before they are scored; None for the stored size.
        samples_per_epoch: length of an epoch; None for the number of training sequences.
        val_share: share of the training sequences held out for validation, at least one.
        on_error: ``skip`` skips unusable sequences with a warning; ``raise`` stops.
        synthesis: not used, since all mixtures are real.
        kwargs: see :class:`ReflectionDataModule`.
    """

    published = PublishedData(
        "seq1k",
        "a folder for each sequence with its frames and the transmission of the centre one, or what data.frame_pattern "
        "and data.truth_pattern describe",
        'described in "Distilling Reflection Dynamics for Single-Image Reflection Removal", 1015 sequences of three '
        "frames of 1760x1160, available from its authors on request; we know of no public page",
    )

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        frames: OddCount = 3,
        frame_pattern: str = "{sequence}/{frame}",
        truth_pattern: str | Sequence[str] = ("{sequence}/T", "{sequence}/gt", "{sequence}/transmission*"),
        train_list: str | os.PathLike[str] | None = None,
        crop: Side = 224,
        augment: Kind = "paper",
        eval_size: EvalSize | Mapping[str, Any] | None = None,
        samples_per_epoch: Count | None = None,
        val_share: Annotated[float, Gt(0), Lt(1)] = 0.05,
        on_error: OnError = "skip",
        synthesis: Synthesis | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.root = root
        self.frames = frames
        self.patterns = (PathPattern(frame_pattern), [PathPattern(each) for each in names_of(truth_pattern)])
        self.train_list = train_list
        self.crop = crop
        self.augment = augment
        self.eval_size = EvalSize.read(eval_size)
        self.samples_per_epoch = samples_per_epoch
        self.val_share = val_share
        self.on_error = on_error
        self._splits: dict[str, list[SequenceFiles]] | None = None

    @property
    def splits(self) -> Mapping[str, list[SequenceFiles]]:
        """Sequences for ``train``, ``val`` and ``test``, found lazily.

        Raises:
            UserError: if there are none, or too few.
        """
        if self._splits is None:
            self._splits = self._find()
        return self._splits

    def train_set(self) -> SequenceCrops:
        """Random crops of the training sequences."""
        return SequenceCrops(
            self._usable("train", decode=False),
            PhotoAugment(self.crop, self.augment, colours=False),
            seed=self.seed,
            samples_per_epoch=self.samples_per_epoch,
            on_error=self.on_error,
        )

    def eval_sets(self) -> Mapping[str, SequenceImages]:
        """Whole sequences held out from training."""
        return {"seq1k": SequenceImages(self._usable("val", decode=True), self.eval_size)}

    def test_sets(self) -> Mapping[str, SequenceImages]:
        """Whole test sequences."""
        return {"seq1k": SequenceImages(self._usable("test", decode=True), self.eval_size)}

    def _usable(self, split: str, decode: bool) -> list[SequenceFiles]:
        good, notices = readable_sequences(self.splits[split], self.on_error, decode)
        for notice in notices:
            self.notice(notice)
        if not good:
            raise UserError(
                f"None of the {len(self.splits[split])} sequences of the {split} split of data=seq1k in '{self.root}' "
                "can be used."
            )
        return good

    def _sequences(self, top: Path) -> list[SequenceFiles]:
        frames, truths = self.patterns
        unopened: list[Notice] = []
        photos = self.published.photographs(top, unopened=note_folders(unopened, self.on_error))
        sequences, notices = sort_sequences(photos, top, frames, truths, self.frames, self.on_error)
        for notice in (*unopened, *notices):
            self.notice(notice)
        if not sequences:
            raise self.published.not_found(top)
        return sequences

    def _find(self) -> dict[str, list[SequenceFiles]]:
        top = self.published.folder(self.root)
        folders = first_folder(top, ["train"]), first_folder(top, ["test"])
        if folders[0] is not None and folders[1] is not None:
            train, test = (self._sequences(folder) for folder in folders if folder is not None)
        else:
            train, test = self._split(self._sequences(top))
        if len(train) < 2 or not test:
            raise UserError(
                f"'{top}' gives {len(train)} sequences for training and validation and {len(test)} for the test, but "
                f"at least 2 and 1 are needed: {self.published.expected}."
            )
        order = _hashed(train, "val")
        count = min(len(train) - 1, max(1, round(self.val_share * len(train))))
        return {"train": sorted(order[count:], key=lambda each: each.name), "val": order[:count], "test": test}

    def _split(self, sequences: Sequence[SequenceFiles]) -> tuple[list[SequenceFiles], list[SequenceFiles]]:
        if self.train_list is not None:
            listing = Path(self.train_list).expanduser()
            if not listing.is_file():
                raise UserError(
                    f"data.train_list={self.train_list} is not a file: expected a text file with one sequence name "
                    "per line."
                )
            lines = listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            names = {line.strip() for line in lines if line.strip()}
            unknown = names - {each.name for each in sequences}
            if unknown:
                raise UserError(
                    f"{len(unknown)} of the {len(names)} names in data.train_list={listing} are not sequences in "
                    f"'{self.root}' (the first is '{min(unknown)}')."
                )
            train = [each for each in sequences if each.name in names]
            return train, [each for each in sequences if each.name not in names]
        order = _hashed(sequences, "test")
        count = round(len(order) * SEQ1K_TRAIN / SEQ1K_ALL)
        return sorted(order[:count], key=lambda each: each.name), order[count:]


def _hashed(sequences: Sequence[SequenceFiles], purpose: str) -> list[SequenceFiles]:
    """Order sequences by a hash of their names, different for each purpose."""
    return sorted(sequences, key=lambda each: (name_seed(f"{purpose}/{each.name}"), each.name))
