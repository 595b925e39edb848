"""Benchmarks: the test sets of the zoo's data modules, under the names that papers use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import SequentialSampler

from reflectzoo.core.annotations import Count, NotNegative
from reflectzoo.core.batch import Batch
from reflectzoo.core.settings import checked
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.datasets.pairs import PairFiles, PairImages
from reflectzoo.data.datasets.photos import FixedPair
from reflectzoo.data.datasets.sequences import SequenceFiles, SequenceImages
from reflectzoo.data.images import picture_size
from reflectzoo.data.loader import ReflectionLoader, usable_cores
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.modules.pairs import SplitPairs
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Notice, Sample
from reflectzoo.errors import UserError
from reflectzoo.evaluation.protocol import Protocol

_log = logging.getLogger(__name__)

_ENDS = 2**16
_NO_PICTURE = ("folder", "count", "small")
"""Kinds of notices that do not concern a skipped picture."""


@dataclass(frozen=True)
class Known:
    """Name of a data set in papers, and the number of pictures that their scores cover.

    Attributes:
        title: for display.
        published: name in ``published_results.json``.
        images: number of pictures behind the published scores; None if papers differ.
    """

    title: str
    published: str
    images: int | None


KNOWN: Mapping[str, Known] = {
    "real20": Known("Real20", "Real20", 20),
    "objects": Known("SIR² Objects", "SIR2-Objects", 200),
    "postcard": Known("SIR² Postcard", "SIR2-Postcard", 199),
    "wild": Known("SIR² Wild", "SIR2-Wild", 55),
    "nature": Known("Nature", "Nature", 20),
    "seq1k": Known("Seq1K", "Seq1K", 300),
    "openrr1k": Known("OpenRR-1k test", "OpenRR-1k", 100),
    "openrr5k": Known("OpenRR-5k", "OpenRR-5k", 300),
    "ceilnet": Known("CEILNet synthetic", "CEILNet-synthetic (table2)", 100),
}
"""Name of the test set in the data modules -> its name in papers."""

AVERAGES: Mapping[frozenset[str], str] = {
    frozenset({"real20", "objects", "postcard", "wild"}): "Average(Real20+Objects+Postcard+Wild)",
    frozenset({"real20", "objects", "postcard", "wild", "nature"}): "Average(Postcard+Object+Wild+Real20+Nature)",
    frozenset({"objects", "postcard", "wild"}): "SIR2",
}
"""Test sets -> name of their average in ``published_results.json``."""


@dataclass(frozen=True)
class BenchmarkPicture:
    """Names and files of one sample of a set, known before the sample is read.

    Attributes:
        name: unique within the set.
        files: all files of the sample.
        mixture: file of the photograph through glass; None for synthetic mixtures.
        transmission: file of the true transmission; None if there is none.
        reflection: file of the true reflection; None if there is none.
    """

    name: str
    files: tuple[Path, ...]
    mixture: Path | None = None
    transmission: Path | None = None
    reflection: Path | None = None

    def stored_size(self) -> tuple[int, int] | None:
        """Height and width of the stored mixture in pixels; None for synthetic mixtures."""
        if self.mixture is None:
            return None
        width, height = picture_size(self.mixture)
        return height, width


class EvaluationSet:
    """One data set of a benchmark.

    Args:
        name: as in the data module.
        data: dataset that reads the samples.
        module: data module that completes the batches.
        limit: use only the first so many pictures; None for all.

    Attributes:
        every_picture: all pictures found.
        pictures: those within the limit.

    Raises:
        UserError: if two samples have the same name.
    """

    def __init__(self, name: str, data: KeyedDataset, module: ReflectionDataModule, limit: int | None = None) -> None:
        self.name = name
        self.data = data
        self.module = module
        self.every_picture = [_picture(item) for item in _items(data)]
        self.pictures = self.every_picture[:limit]
        seen: set[str] = set()
        for picture in self.every_picture:
            if picture.name in seen:
                raise UserError(f"Two pictures of the set '{name}' are called '{picture.name}': rename one.")
            seen.add(picture.name)

    @property
    def title(self) -> str:
        """Name for display."""
        return KNOWN[self.name].title if self.name in KNOWN else self.name

    def pixels(self, places: Sequence[int], protocol: Protocol) -> list[int]:
        """Number of pixels of some pictures at the size at which they are scored; 0 for synthetic mixtures.

        Args:
            places: indices into :attr:`pictures`.
            protocol: defines the resizing.
        """
        found = []
        for place in places:
            stored = self.pictures[place].stored_size()
            height, width = protocol.size_for(self.name).of(*stored) if stored is not None else (0, 0)
            found.append(height * width)
        return found

    def record(self) -> dict[str, Any]:
        """Description of the set for a result file, with a hash per picture under ``files``."""
        known = KNOWN.get(self.name)
        return {
            "name": self.name,
            "title": self.title,
            "images": len(self.pictures),
            "images_found": len(self.every_picture),
            "published": known.published if known else None,
            "published_images": known.images if known else None,
            "root": str(getattr(self.module, "root", None) or ""),
            "files": {picture.name: _content(picture.files) for picture in self.pictures},
        }


class Benchmark:
    """Collection of test sets from one or several data modules.

    Args:
        name: name of the benchmark.
        parts: name -> data module whose test sets are used.
        limit: use only the first so many pictures of each set, for a quick check; None for all.
        blind: keep sets without any ground truth, for scores that need none.

    Raises:
        UserError: for a limit below 1.
    """

    @checked()
    def __init__(
        self, name: str, parts: Mapping[str, ReflectionDataModule], limit: Count | None = None, blind: bool = False
    ) -> None:
        self.name = name
        self.parts = parts
        self.limit = limit
        self.blind = blind
        self.notices: list[Notice] = []

    @property
    def left_out(self) -> int:
        """Number of pictures that were found but cannot be scored; :attr:`notices` gives the reasons."""
        return sum(notice.kind not in _NO_PICTURE for notice in self.notices)

    def open(self, protocol: Protocol) -> list[EvaluationSet]:
        """Find, check and list the pictures. Unless the benchmark is blind, sets without ground truth are skipped.

        Raises:
            UserError: if a set is missing, no picture can be scored, or the protocol names an unknown data set.
        """
        opened: list[EvaluationSet] = []
        for module in self.parts.values():
            module.listener = self._hear
            for name, data in _test_sets(module).items():
                truth_less = isinstance(data, PairImages) and not any(pair.transmission for pair in data.pairs)
                if truth_less and not self.blind:
                    _log.info("The %d pictures of '%s' have no ground truth and are skipped.", len(data), name)
                    continue
                if isinstance(data, PairImages | SequenceImages):
                    data.size = protocol.size_for(name)
                opened.append(EvaluationSet(name, data, module, self.limit))
        if not opened:
            raise UserError(f"benchmark={self.name} has no picture with ground truth to score.")
        names = [each.name for each in opened]
        for name in dict.fromkeys([*protocol.resize_for, *_weights(protocol)]):
            if name not in names and name not in KNOWN:
                raise UserError(
                    f"protocol={protocol.name} names a data set '{name}', but benchmark={self.name} has "
                    f"{', '.join(names)}."
                )
        return opened

    def _hear(self, notice: Notice) -> None:
        self.notices.append(notice)
        _log.warning("%s", notice.sentence)


class Remaining(KeyedDataset):
    """The pictures of a set that remain to be scored.

    Args:
        whole: the set.
        indices: indices of the remaining pictures within the set.
    """

    def __init__(self, whole: EvaluationSet, indices: Sequence[int]) -> None:
        self.whole = whole
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, key: SampleKey) -> Sample:
        """Read the sample at ``key.index`` among the remaining ones."""
        place = self.indices[key.index]
        return self.whole.data.sample(SampleKey(0, place, place))


class ProcessShare(SequentialSampler):
    """Distributed sampler that assigns every N-th index to a process, without the padding that would repeat samples.

    Args:
        length: number of samples over all processes.
        rank: rank of this process.
        world_size: number of processes N.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(length))
        self.places = range(rank, length, world_size)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        for place in self.places:
            yield SampleKey(0, place, place)


class BenchmarkData(pl.LightningDataModule):
    """The remaining pictures of a benchmark in batches of one, distributed over processes.

    Args:
        sets: data sets of the benchmark.
        remaining: for each set, the indices of the pictures still to be scored.
        num_workers: worker processes per loader; ``auto`` means none on the CPU, else up to four.
    """

    allow_zero_length_dataloader_with_multiple_devices = True

    @checked("data")
    def __init__(
        self,
        sets: Sequence[EvaluationSet],
        remaining: Sequence[Sequence[int]],
        num_workers: NotNegative | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.sets = sets
        self.remaining = remaining
        self.num_workers = num_workers

    def test_dataloader(self) -> list[ReflectionLoader]:
        """One loader per set."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        loaders = []
        for each, places in zip(self.sets, self.remaining, strict=True):
            data = Remaining(each, places)
            share = ProcessShare(len(data), rank, world_size)
            loaders.append(ReflectionLoader(data, share, num_workers=min(self._workers(), len(share))))
        return loaders

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Draw the parameters of synthetic mixtures from the samples' seeds, before the batch goes to its device."""
        self.sets[dataloader_idx].module.draw(batch)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Complete a batch on its device, always in single precision, because it contains the ground truth."""
        return self.sets[dataloader_idx].module.complete_batch(batch)

    def _workers(self) -> int:
        if isinstance(self.num_workers, int):
            return self.num_workers
        on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
        return 0 if on_cpu else min(4, usable_cores())


def _content(files: Sequence[Path]) -> str:
    """Hash that detects changed pictures: of sizes, first and last 64 KiB, since hashing whole data sets is slow."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.stat().st_size}:".encode() + file.read(_ENDS))
            file.seek(max(0, path.stat().st_size - _ENDS))
            digest.update(file.read(_ENDS))
    return digest.hexdigest()[:16]


def _test_sets(module: ReflectionDataModule) -> Mapping[str, KeyedDataset]:
    if isinstance(module, SplitPairs) and not module.pairs_found.test and module.pairs_found.train:
        # data.root is the folder of test pictures itself, so that no subfolder marks them as a test set.
        return {module.test_name: module.everything(module.test_name)}
    return module.test_sets()


def _items(data: KeyedDataset) -> Sequence[Any]:
    items: Sequence[Any] | None = getattr(data, "pairs", None) or getattr(data, "sequences", None)
    if items is None:
        raise TypeError(f"{type(data).__name__} does not list its samples in 'pairs' or 'sequences'")
    return items


def _picture(item: Any) -> BenchmarkPicture:
    if isinstance(item, PairFiles):
        return BenchmarkPicture(item.name, tuple(item.files), item.mixture, item.transmission, item.reflection)
    if isinstance(item, SequenceFiles):
        centre = item.frames[len(item.frames) // 2]
        return BenchmarkPicture(item.name, tuple(item.files), centre, item.transmission)
    if isinstance(item, FixedPair):
        return BenchmarkPicture(item.name, (item.transmission.path, item.reflection.path))
    raise TypeError(f"no picture can be made of a {type(item).__name__}")


def _weights(protocol: Protocol) -> Sequence[str]:
    return list(protocol.overall) if isinstance(protocol.overall, Mapping) else []
