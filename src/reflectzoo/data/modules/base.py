"""Base class of all data modules: seeded and resumable loaders, and mixtures made on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import pytorch_lightning as pl

from reflectzoo.core.annotations import Count, NotNegative, Seed
from reflectzoo.core.batch import Batch
from reflectzoo.core.settings import Checked
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.loader import ReflectionLoader, usable_cores
from reflectzoo.data.sampler import EpochSampler, EvaluationSampler, RepeatedSampler
from reflectzoo.data.samples import JointBatch, Notice, NoticeKind, RawBatch, Sample
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

_log = logging.getLogger(__name__)

# A few workers keep a GPU busy; more would only use memory.
_MOST_WORKERS = 8
_NAMED_NOTICES = 3
IN_ALL: dict[NoticeKind, str] = {
    "unreadable": "%d photographs could not be read.",
    "small": "%d photographs are smaller than the crop and were enlarged.",
    "missing": "%d pictures have no partner and were skipped.",
    "mismatch": "%d pairs differ in size and were skipped.",
    "folder": "%d folders could not be opened.",
    "tiny": "%d pairs are too small to be scored and were skipped.",
    "translucent": "%d pairs have a translucent picture and were skipped.",
    "count": "%d numbers of pairs differ from the published ones.",
}


class ReflectionDataModule(Checked, pl.LightningDataModule, place="data"):
    """Reads data sets and completes their samples to a :class:`~reflectzoo.core.batch.Batch`.

    Subclasses define the data sets in :meth:`train_set`, :meth:`eval_sets` and :meth:`test_sets`, each of which first
    validates the files on disk. Workers decode and crop; mixtures are made for a whole batch, after its transfer to
    the device. The Trainer must have ``use_distributed_sampler=False``, since the samplers here already split the data
    among processes.

    Args:
        synthesis: makes a mixture of two photographs; None if all mixtures are real.
        eval_synthesis: makes the mixtures of validation and test; None takes ``synthesis``.
        seed: determines all random choices of training; evaluation does not depend on it.
        batch_size: training samples per process and step.
        eval_batch_size: likewise for validation and test.
        num_workers: worker processes that decode and crop, at most one per core. ``auto``: none for training on the
            CPU, where the network needs all cores; otherwise the number of cores per device, 1 to 8.
        cache_mb: size of the cache of decoded photographs, over all workers, in MiB.

    Attributes:
        listener: receives notices about files in place of the log, if set.
    """

    allow_zero_length_dataloader_with_multiple_devices = False

    def __init__(
        self,
        synthesis: Synthesis | None = None,
        eval_synthesis: Synthesis | None = None,
        seed: Seed = 0,
        batch_size: Count = 1,
        eval_batch_size: Count = 1,
        num_workers: NotNegative | Literal["auto"] = "auto",
        cache_mb: NotNegative = 64,
    ) -> None:
        super().__init__()
        self.synthesis = synthesis
        self.eval_synthesis = eval_synthesis
        self.seed = seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.cache_mb = cache_mb
        self._train: KeyedDataset | None = None
        self._eval: Mapping[str, KeyedDataset] = {}
        self._test: Mapping[str, KeyedDataset] = {}
        self._notices: dict[NoticeKind, set[str]] = {}
        self.listener: Callable[[Notice], None] | None = None
        """Receives notices about files in place of the log, if set."""

    # -- defined by subclasses --------------------------------------------------------------------------------------

    def train_set(self) -> KeyedDataset:
        """The training data.

        Raises:
            UserError: if it is missing, with what was expected, what was found and where to get it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no training data")

    def eval_sets(self) -> Mapping[str, KeyedDataset]:
        """The validation data sets by name; checkpoints are selected on them."""
        raise NotImplementedError(f"{type(self).__name__} has no validation data")

    def test_sets(self) -> Mapping[str, KeyedDataset]:
        """The test data sets by name."""
        raise NotImplementedError(f"{type(self).__name__} has no test data")

    # -- called by Lightning ----------------------------------------------------------------------------------------

    @property
    def eval_names(self) -> list[str]:
        """Names of the validation data sets, in the order of the loaders; empty before :meth:`setup`."""
        return list(self._eval)

    @property
    def test_names(self) -> list[str]:
        """Names of the test data sets, in the order of the loaders; empty before :meth:`setup`."""
        return list(self._test)

    def setup(self, stage: str | None = None) -> None:
        """Validate the files and build the data sets of a stage (None: all); idempotent.

        Raises:
            UserError: if something is missing.
        """
        if stage in (None, "fit") and self._train is None:
            self._train = self.train_set()
        if stage in (None, "fit", "validate") and not self._eval:
            self._eval = self.eval_sets()
        if stage in (None, "test") and not self._test:
            self._test = self.test_sets()

    def teardown(self, stage: str) -> None:
        """Log the number of files with notices of each kind, if not all of them were logged by name."""
        for kind, paths in self._notices.items():
            if len(paths) > _NAMED_NOTICES:
                _log.warning("In all, " + IN_ALL[kind], len(paths))
        self._notices.clear()

    def train_dataloader(self) -> ReflectionLoader:
        """The training samples of this process, from the current position in the epoch.

        Raises:
            UserError: if an epoch is shorter than one global batch, or the Trainer would insert its own sampler.
        """
        if self._train is None:
            self.setup("fit")
        assert self._train is not None
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if self._world_size() > 1 and getattr(connector, "use_distributed_sampler", False):
            raise UserError("The data module shares samples out itself: use Trainer(use_distributed_sampler=False).")
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        sampler = EpochSampler(
            len(self._train),
            batch_size=self.batch_size,
            seed=self.seed,
            position=(lambda: (0, 0)) if overfit else self._position,
            rank=self._rank,
            world_size=self._world_size,
        )
        if sampler.batches == 0:
            together = self.batch_size * self._world_size()
            raise UserError(
                f"One epoch has {len(self._train)} samples, but one step takes {together} "
                f"(data.batch_size={self.batch_size} on each of {self._world_size()} devices): lower data.batch_size "
                "or raise data.samples_per_epoch."
            )
        workers = self._workers()
        self._train.limit_cache(self.cache_mb * 2**20 // max(workers, 1))
        self._train.set_step(self.batch_size * self._world_size())
        return ReflectionLoader(
            self._train,
            RepeatedSampler(sampler) if overfit else sampler,
            batch_size=self.batch_size,
            num_workers=workers,
            persistent=True,
            pin_memory=self._on_cuda(),
            progress=self._progress,
        )

    def val_dataloader(self) -> list[ReflectionLoader]:
        """One loader per data set in :attr:`eval_names`."""
        if not self._eval:
            self.setup("validate")
        return [self._evaluation_loader(data) for data in self._eval.values()]

    def test_dataloader(self) -> list[ReflectionLoader]:
        """One loader per data set in :attr:`test_names`."""
        if not self._test:
            self.setup("test")
        return [self._evaluation_loader(data) for data in self._test.values()]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Log the workers' notices, and make the random draws while the seeds are still on the CPU."""
        if isinstance(batch, Sample | JointBatch):
            for notice in batch.notices:
                self.notice(notice)
            batch.notices = []
            self.draw(batch)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Complete a batch on its device; a batch that is already complete is returned unchanged."""
        if not isinstance(batch, Sample | JointBatch):
            return batch
        finished: Any = self.complete_batch(batch)
        if self.trainer is not None:
            # With trainer.precision=bf16-true or 64-true, the mixtures must be converted to the network's type.
            finished = self.trainer.precision_plugin.convert_input(finished)
        return finished

    # -- for any caller ---------------------------------------------------------------------------------------------

    def draw(self, raw: RawBatch) -> None:
        """Make the random draws for a collated batch, in place; a no-op for real mixtures."""
        _of_one(raw).draw(self._synthesis)

    def complete_batch(self, raw: RawBatch) -> Batch:
        """Complete a batch from a loader, making its mixtures.

        In a notebook: ``module.complete_batch(next(iter(loader)))``.

        Args:
            raw: collated samples, see :mod:`reflectzoo.data.samples`; draws are made if it has none.
        """
        return _of_one(raw).complete(self._synthesis)

    def notice(self, notice: Notice) -> None:
        """Log a notice about a file: the first few of each kind by name, the others as a count (:meth:`teardown`)."""
        heard = self._notices.setdefault(notice.kind, set())
        if notice.path in heard:
            return
        heard.add(notice.path)
        if self.listener is not None:
            self.listener(notice)
            return
        if len(heard) <= _NAMED_NOTICES:
            more = " (Further ones are only counted.)" if len(heard) == _NAMED_NOTICES else ""
            _log.warning("%s%s", notice.sentence, more)

    @property
    def _synthesis(self) -> Synthesis | None:
        scored = self.trainer is not None and (self.trainer.validating or self.trainer.testing)
        return self.eval_synthesis if scored and self.eval_synthesis is not None else self.synthesis

    # -- progress of training ---------------------------------------------------------------------------------------

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _position(self) -> tuple[int, int]:
        """The epoch and the number of its finished batches, from the counters that Lightning saves and restores."""
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epoch = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress
        # `processed`, not `completed`: a checkpoint written at the end of a batch contains the state after it.
        done = cast(Any, batches.current).processed
        if cast(Any, epoch).processed >= cast(Any, epoch).started:
            return cast(Any, epoch).processed, 0
        if batches.is_last_batch and done > 0:
            return cast(Any, epoch).processed + 1, 0
        return cast(Any, epoch).processed, done

    def _progress(self) -> dict[str, int]:
        epoch, done = self._position()
        samples = len(self._train) if self._train is not None else 0
        return {
            "epoch": epoch,
            "batches_done": done,
            "samples": samples,
            "global_batch_size": self.batch_size * self._world_size(),
            "seed": self.seed,
        }

    # -- machines ---------------------------------------------------------------------------------------------------

    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _workers(self) -> int:
        cores = usable_cores()
        if self.num_workers != "auto":
            return min(self.num_workers, cores)
        on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
        if on_cpu:
            return 0
        assert self.trainer is not None
        return min(_MOST_WORKERS, max(1, cores // max(1, self.trainer.num_devices)))

    def _evaluation_loader(self, data: KeyedDataset) -> ReflectionLoader:
        return ReflectionLoader(
            data,
            EvaluationSampler(len(data), rank=self._rank, world_size=self._world_size),
            batch_size=self.eval_batch_size,
            num_workers=min(self._workers(), len(data)),
            pin_memory=self._on_cuda(),
        )


def _of_one(raw: RawBatch) -> Sample:
    if isinstance(raw, JointBatch):
        raise TypeError("a batch of several data sets is for the mixture that they are parts of")
    return raw
