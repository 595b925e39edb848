"""``data=mixture``: several data sets in given proportions, as in the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reflectzoo.core.annotations import Count, Side, Weight
from reflectzoo.core.batch import Batch
from reflectzoo.data.batching import merge
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import JointBatch, RawBatch, Sample
from reflectzoo.data.seeding import PART, generator, sample_seed
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

Ratios = Mapping[str, Weight]


class Mixture(KeyedDataset):
    """Samples of several data sets; the seed of each sample determines its data set.

    Args:
        parts: the data sets by name.
        ratios: relative frequency of each, by the first epoch from which it applies; must have an entry for epoch 0.
        length: samples per epoch.
        seed: seed of the data.
    """

    unit = "samples"

    def __init__(
        self, parts: Mapping[str, KeyedDataset], ratios: Mapping[int, Ratios], length: int, seed: int = 0
    ) -> None:
        self.parts = dict(parts)
        self.ratios = dict(sorted(ratios.items(), reverse=True))
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def limit_cache(self, max_bytes: int) -> None:
        """Limit the caches of decoded photographs, in bytes, with an equal share for each part."""
        for part in self.parts.values():
            part.limit_cache(max_bytes // len(self.parts))

    def set_step(self, samples: int) -> None:
        """Set the number of samples per step for all parts."""
        for part in self.parts.values():
            part.set_step(samples)

    def pictures(self) -> list[Path]:
        """The files of all parts, without duplicates."""
        return list(dict.fromkeys(path for part in self.parts.values() for path in part.pictures()))

    def part_of(self, epoch: int, index: int) -> str:
        """The part that provides sample ``index`` of an epoch."""
        ratios = next(ratios for first, ratios in self.ratios.items() if first <= epoch)
        names = list(ratios)
        bounds = np.cumsum([ratios[name] for name in names])
        drawn = generator(sample_seed(self.seed, epoch, index), PART).random() * bounds[-1]
        return names[min(int(np.searchsorted(bounds, drawn, side="right")), len(names) - 1)]

    def sample(self, key: SampleKey) -> Sample:
        """A sample of one part, with the part's name in ``part``."""
        part = self.part_of(key.epoch, key.index)
        return replace(self.parts[part].sample(key), part=part)


class OfPart(KeyedDataset):
    """A data set that labels its samples with a part, so that the data module of that part completes them.

    Args:
        data: the data set.
        part: name of the part.
    """

    def __init__(self, data: KeyedDataset, part: str) -> None:
        self.data = data
        self.part = part
        self.unit = data.unit

    def __len__(self) -> int:
        return len(self.data)

    def pictures(self) -> list[Path]:
        """The files of the data set."""
        return self.data.pictures()

    def sample(self, key: SampleKey) -> Sample:
        """The sample of the data set, with ``part`` set."""
        return replace(self.data.sample(key), part=self.part)


class MixtureData(ReflectionDataModule):
    """Combines several data modules.

    Each sample's seed determines its part, independent of workers and batches. Samples of several parts share a batch,
    in which missing layers are marked as unknown. All crops must have the same size.

    Args:
        parts: data modules by name. Their batch sizes, workers and seeds are not used. Null parts are ignored.
        ratios: relative frequency of each part in training; need not sum to 1. A part with 0 is only used for
            evaluation.
        later: other ratios, by the epoch from which they apply (ERRNet: ``{45: {voc: 0.5, zhang: 0.5}}``).
        samples_per_epoch: length of an epoch (IBCLN and Location-aware SIRR: 4000); None for the total length of all
            parts used for training, as in the programs of YTMT and ERRNet.
        validate: parts whose validation sets are used; None for all.
        test: parts whose test sets are used; None for all.
        crop: not used here; the configurations of all parts refer to it.
        synthesis: not used, since each part has its own.
        kwargs: see :class:`ReflectionDataModule`.

    Raises:
        UserError: if there is no part, a part is unknown, or all ratios are 0.
    """

    def __init__(
        self,
        parts: Mapping[str, ReflectionDataModule | None],
        ratios: Ratios,
        later: Mapping[Count, Ratios] | None = None,
        samples_per_epoch: Count | None = None,
        validate: Sequence[str] | None = None,
        test: Sequence[str] | None = None,
        crop: Side | None = None,
        synthesis: Synthesis | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.parts = {str(name): part for name, part in parts.items() if part is not None}
        if not self.parts:
            raise UserError("data.parts is empty: a mixture needs at least one data set.")
        self.ratios = {0: self._checked("ratios", ratios)}
        for epoch, changed in (later or {}).items():
            self.ratios[epoch] = self._checked(f"later.{epoch}", changed)
        self.samples_per_epoch = samples_per_epoch
        self.chosen = {"validate": self._names("validate", validate), "test": self._names("test", test)}
        for part in self.parts.values():
            part.seed = self.seed
            part.listener = self.notice

    def train_set(self) -> Mixture:
        """The training sets of all parts with a positive ratio."""
        trained = dict.fromkeys(name for ratios in self.ratios.values() for name, ratio in ratios.items() if ratio > 0)
        sets = {name: self.parts[name].train_set() for name in self.parts if name in trained}
        length = self.samples_per_epoch or sum(len(data) for data in sets.values())
        return Mixture(sets, self.ratios, length, self.seed)

    def eval_sets(self) -> Mapping[str, KeyedDataset]:
        """The validation sets of the parts in ``validate``."""
        return self._together("validate")

    def test_sets(self) -> Mapping[str, KeyedDataset]:
        """The test sets of the parts in ``test``."""
        return self._together("test")

    def draw(self, raw: RawBatch) -> None:
        """Make the random draws for the samples of each part, in place."""
        for name, part in _joint(raw).parts.items():
            self.parts[name].draw(part)

    def complete_batch(self, raw: RawBatch) -> Batch:
        """Complete the samples of each part with its data module, and merge them."""
        joint = _joint(raw)
        batches = {name: self.parts[name].complete_batch(part) for name, part in joint.parts.items()}
        return merge(batches, joint.order)

    def _together(self, purpose: str) -> dict[str, KeyedDataset]:
        sets: dict[str, KeyedDataset] = {}
        for name in self.chosen[purpose]:
            part = self.parts[name]
            for each, data in (part.eval_sets() if purpose == "validate" else part.test_sets()).items():
                sets[each if each not in sets else f"{name}_{each}"] = OfPart(data, name)
        return sets

    def _names(self, key: str, names: Sequence[str] | None) -> list[str]:
        if names is None:
            return list(self.parts)
        unknown = [name for name in names if name not in self.parts]
        if unknown or not names:
            raise UserError(f"data.{key} must be some of the parts {', '.join(self.parts)}, got {list(names)}.")
        return list(names)

    def _checked(self, key: str, ratios: Ratios) -> dict[str, float]:
        """Check that all parts exist, and return the positive ratios, of which there must be one."""
        unknown = [name for name in ratios if name not in self.parts]
        if unknown:
            raise UserError(f"data.{key} names '{unknown[0]}', but the parts are {', '.join(self.parts)}.")
        positive = {name: float(ratio) for name, ratio in ratios.items() if ratio > 0}
        if not positive:
            raise UserError(f"data.{key} is 0 for every part: at least one ratio must be more than 0.")
        return positive


def _joint(raw: RawBatch) -> JointBatch:
    if not isinstance(raw, JointBatch):
        raise TypeError("a mixture completes batches whose samples say which part they are of")
    return raw
