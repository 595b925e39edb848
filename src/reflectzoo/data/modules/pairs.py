"""Base classes of data modules for real pairs, and ``data=pairs`` for any folder of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Gt, Le

from reflectzoo.core.annotations import Count, Fraction, Share, Side
from reflectzoo.data.augment import Kind, PhotoAugment
from reflectzoo.data.datasets.pairs import (
    LayerFolders,
    PairCrops,
    PairFiles,
    PairImages,
    hold_out,
    pair_folders,
    usable,
)
from reflectzoo.data.datasets.photos import OnError
from reflectzoo.data.datasets.published_data import PublishedData, first_folder, names_of
from reflectzoo.data.datasets.sizes import EvalSize
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.samples import Notice
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

_log = logging.getLogger(__name__)


class FoundPairs(NamedTuple):
    """The pairs of a data set.

    Attributes:
        train: training pairs, some of which may be held out for validation.
        test: test pairs by test set.
        notices: files that were skipped, and why.
        val: validation pairs, if the data set has a separate split for that; then none of ``train`` are held out.
    """

    train: list[PairFiles]
    test: dict[str, list[PairFiles]]
    notices: list[Notice]
    val: Sequence[PairFiles] = ()


class RealPairs(ReflectionDataModule):
    """Photographs through glass with their ground truth. Subclasses find the files in :meth:`find`.

    Args:
        root: folder of the data set.
        crop: side of the training crops in pixels.
        augment: ``paper``, ``hard`` or ``square``, see :class:`~reflectzoo.data.augment.PhotoAugment`.
        rotate: probability of a rotation by 90, 180 or 270 degrees.
        samples_per_epoch: length of an epoch; None for the number of training pairs.
        val_share: share of the training pairs held out for validation. With 0, all are used for training, as in the
            papers, and validation uses the test pairs.
        eval_size: how pictures are resized before they are scored, see
            :class:`~reflectzoo.data.datasets.sizes.EvalSize`; None for the stored size.
        on_error: ``skip`` skips unusable files with a warning; ``raise`` stops.
        synthesis: not used, since all mixtures are real.
        kwargs: see :class:`ReflectionDataModule`.
    """

    published: PublishedData
    aligned = True
    shift = 0

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        crop: Side = 224,
        augment: Kind = "paper",
        rotate: Share = 0.0,
        samples_per_epoch: Count | None = None,
        val_share: Fraction = 0.1,
        eval_size: EvalSize | Mapping[str, Any] | None = None,
        on_error: OnError = "skip",
        synthesis: Synthesis | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.root = root
        self.crop = crop
        self.augment = augment
        self.rotate = rotate
        self.samples_per_epoch = samples_per_epoch
        self.val_share = val_share
        self.eval_size = EvalSize.read(eval_size)
        self.on_error = on_error
        self._found: FoundPairs | None = None

    def find(self) -> FoundPairs:
        """Find the pairs on disk.

        Raises:
            UserError: if there are none, with what was expected, what was found and where to get it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say where its pairs are")

    @property
    def pairs_found(self) -> FoundPairs:
        """The pairs, found lazily. Training pairs whose mixture is also in the validation or a test set are removed.

        Raises:
            UserError: as in :meth:`find`.
        """
        if self._found is None:
            found = self.find()
            for notice in found.notices:
                self.notice(notice)
            held = [*found.val, *(pair for pairs in found.test.values() for pair in pairs)]
            tested = {os.path.realpath(pair.mixture) for pair in held}
            train = [pair for pair in found.train if os.path.realpath(pair.mixture) not in tested]
            self._found = found._replace(train=train)
        return self._found

    def train_set(self) -> PairCrops:
        """Random crops of the training pairs."""
        pairs = self._usable(self._split()[0], decode=False)
        if not pairs:
            raise UserError(
                f"data={self.published.choice} has no pairs for training in '{self.root}': {self.published.expected}."
            )
        return PairCrops(
            pairs,
            PhotoAugment(self.crop, self.augment, colours=False, rotate=self.rotate),
            seed=self.seed,
            samples_per_epoch=self.samples_per_epoch,
            on_error=self.on_error,
            dataset=self.published.choice,
            aligned=self.aligned,
            shift=self.shift,
        )

    def eval_sets(self) -> Mapping[str, PairImages]:
        """Whole pictures of the held-out pairs; with none held out, the test sets, with a warning."""
        held_out = self._split()[1]
        if not held_out:
            _log.warning(
                "data=%s holds out no pairs for validation (data.val_share=%g): checkpoints are selected on the test "
                "pairs.",
                self.published.choice,
                self.val_share,
            )
            return self.test_sets()
        return {self.published.choice: self._whole(self.published.choice, held_out)}

    def test_sets(self) -> Mapping[str, PairImages]:
        """Whole pictures of the test pairs."""
        if not self.pairs_found.test:
            raise UserError(
                f"data={self.published.choice} has no test pairs in '{self.root}': {self.published.expected}."
            )
        return {name: self._whole(name, pairs) for name, pairs in self.pairs_found.test.items()}

    def everything(self, name: str) -> PairImages:
        """Whole pictures of all training and test pairs, for evaluation on a folder without a split.

        Args:
            name: name of the data set.

        Raises:
            UserError: if none can be used.
        """
        return self._whole(
            name, [*self.pairs_found.train, *(pair for pairs in self.pairs_found.test.values() for pair in pairs)]
        )

    def scene(self, name: str) -> str:
        """The scene of a pair, from its name; pairs of one scene are held out together. By default, all differ."""
        return name

    def _split(self) -> tuple[list[PairFiles], list[PairFiles]]:
        """The pairs for training and for validation."""
        if self.pairs_found.val:
            return self.pairs_found.train, list(self.pairs_found.val)
        return hold_out(self.pairs_found.train, self.val_share, self.scene)

    def _whole(self, name: str, pairs: Sequence[PairFiles]) -> PairImages:
        good = self._usable(pairs, decode=True)
        if not good:
            raise UserError(
                f"None of the {len(pairs)} pictures of the set '{name}' of data={self.published.choice} in "
                f"'{self.root}' can be used."
            )
        return PairImages(good, self.eval_size, name, self.aligned)

    def _usable(self, pairs: Sequence[PairFiles], decode: bool) -> list[PairFiles]:
        good, notices = usable(pairs, self.on_error, self.aligned, decode)
        for notice in notices:
            self.notice(notice)
        return good


class SplitPairs(RealPairs):
    """Pairs in ``blended/`` and ``transmission_layer/`` (optionally ``reflection_layer/``), in one folder or in two.

    Args:
        root: folder of the data set.
        train: folder of the training pairs below the root; None tries the usual names.
        test: folder of the test pairs, likewise.
        mixture: one or more names for the folder of photographs through glass; None tries the usual names.
        transmission: likewise for the scenes behind the glass.
        reflection: likewise for the reflections, which are optional.
        kwargs: see :class:`RealPairs`.
    """

    train_folders: tuple[str, ...] = ("train",)
    test_folders: tuple[str, ...] = ("test",)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: str | None = None,
        test: str | None = None,
        mixture: str | Sequence[str] | None = None,
        transmission: str | Sequence[str] | None = None,
        reflection: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        given = {"mixture": mixture, "transmission": transmission, "reflection": reflection}
        self.layers = LayerFolders(**{name: names_of(value) for name, value in given.items() if value is not None})
        self.chosen = {"train": train, "test": test}

    def find(self) -> FoundPairs:
        """Find the pairs of both folders, or those of a single folder, split by :meth:`is_test`.

        Raises:
            UserError: if there are none, or a folder given by name does not exist.
        """
        top = self.published.folder(self.root)
        notices: list[Notice] = []
        sides: dict[str, list[PairFiles] | None] = {}
        for side, usual in (("train", self.train_folders), ("test", self.test_folders)):
            name = self.chosen[side]
            folder = first_folder(top, [name]) if name is not None else self._first_with_layers(top, usual)
            if name is not None and folder is None:
                raise UserError(f"data.{side}={name} is not a folder below '{top}': {self.published.expected}.")
            sides[side] = self._pairs(folder, notices) if folder is not None else None
        if sides["train"] is None and sides["test"] is None:
            if self._first_with_layers(top, ["."]) is None:
                raise self.published.not_found(top)
            everything = self._pairs(top, notices)
            sides["train"] = [pair for pair in everything if not self.is_test(pair)]
            sides["test"] = [pair for pair in everything if self.is_test(pair)]
        train, test = sides["train"] or [], sides["test"] or []
        return FoundPairs(train, {self.test_name: test} if test else {}, notices)

    test_name = "test"

    def is_test(self, pair: PairFiles) -> bool:
        """Whether a pair belongs to the test set, if a single folder contains all pairs."""
        return False

    def _first_with_layers(self, top: Path, names: Sequence[str]) -> Path | None:
        for name in names:
            folder = first_folder(top, [name])
            if folder is not None and self.layers.within(folder)[0] is not None:
                return folder
        return None

    def _pairs(self, folder: Path, notices: list[Notice]) -> list[PairFiles]:
        mixture, transmission, reflection = self.layers.within(folder)
        if mixture is None or transmission is None:
            raise self.published.not_found(folder)
        pairs, more = pair_folders(mixture, transmission, reflection, self.on_error)
        notices.extend(more)
        if not pairs:
            raise UserError(
                f"No picture in '{mixture}' has one of the same name in '{transmission}': {self.published.expected}."
            )
        return pairs


class PlainPairs(SplitPairs):
    """``data=pairs``: any folder of pairs, or one that contains ``train/`` and ``test/``.

    Without a ``test/`` folder, a share of the pairs is also held out for the test, by a hash of the names.

    Args:
        root: folder of the data set.
        test_share: share of the pairs for the test, in (0, 1], if there is no ``test/`` folder; at least one pair.
        kwargs: see :class:`SplitPairs`.
    """

    published = PublishedData(
        "pairs",
        "blended/ and transmission_layer/ (optionally reflection_layer/) with pictures of the same names, in the "
        "folder itself or in train/ and test/",
        "your own photographs; data.mixture, data.transmission and data.reflection rename the folders",
    )
    test_name = "pairs"

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        test_share: Annotated[float, Gt(0), Le(1)] = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.test_share = test_share

    def find(self) -> FoundPairs:
        """Same as :meth:`SplitPairs.find`, but holds out a share for the test if there is no test folder."""
        found = super().find()
        if found.test:
            return found
        # With a prefix to the names, so that validation is later selected by a different hash.
        if self.test_share == 1:
            train, test = [], found.train
        else:
            marked = [_renamed(pair, f"test/{pair.name}") for pair in found.train]
            train, test = ([_renamed(p, p.name[5:]) for p in side] for side in hold_out(marked, self.test_share))
        return found._replace(train=train, test={self.test_name: test} if test else {})


def _renamed(pair: PairFiles, name: str) -> PairFiles:
    return PairFiles(name, pair.mixture, pair.transmission, pair.reflection, pair.tags)
