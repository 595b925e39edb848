"""A DataLoader for keyed data sets, with single-threaded workers and errors without a worker's traceback."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from reflectzoo.data.batching import collate
from reflectzoo.data.datasets.base import KeyedDataset
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Failed, RawBatch, Sample
from reflectzoo.errors import WORKER_DIED, LostProcess

_log = logging.getLogger(__name__)

# Entries of the state that must not change within an epoch.
_SHAPE = ("samples", "global_batch_size", "seed")


class ReflectionLoader(DataLoader[Sample | Failed]):
    """Loads batches of a :class:`KeyedDataset`.

    Args:
        dataset: the data set.
        sampler: yields the keys in order.
        batch_size: samples per batch.
        num_workers: number of worker processes; 0 reads in the main process.
        persistent: keep the workers between epochs.
        pin_memory: copy batches into page-locked memory, for a GPU.
        progress: returns the state to save in a checkpoint, from which a resumed run detects that the batch size or
            the data changed in the middle of an epoch; None for an evaluation.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        sampler: Sampler[SampleKey] | SequentialSampler,
        batch_size: int = 1,
        num_workers: int = 0,
        persistent: bool = False,
        pin_memory: bool = False,
        progress: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,  # type: ignore[arg-type]  # torch expects integer keys
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_calm_worker,
            persistent_workers=persistent and num_workers > 0,
        )
        self._progress = progress

    def __iter__(self) -> Iterator[RawBatch]:  # type: ignore[override]
        """Iterate over batches; workers start, and the sampler looks up where to begin, on the first one.

        Raises:
            UserError: re-raised from a worker.
            LostProcess: if a worker was killed.
        """
        batches: Iterator[RawBatch | Failed] = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:  # a worker died while transferring a batch
                raise LostProcess(WORKER_DIED) from error
            if isinstance(batch, Failed):
                raise batch.error
            yield batch

    # With this pair of methods, Lightning treats a loader as resumable in the middle of an epoch. The position itself
    # comes from the sampler, which takes it from the Trainer's counters; these are correct even after a crash.

    def state_dict(self) -> dict[str, int]:
        """The state of the current epoch."""
        return self._progress() if self._progress is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Log a warning if the data or the batch size differ from those of the interrupted epoch."""
        now = self.state_dict()
        changed = [
            f"{key} from {state[key]} to {now[key]}" for key in _SHAPE if state.get(key, now.get(key)) != now.get(key)
        ]
        if changed and state.get("batches_done", 0) > 0:
            _log.warning(
                "The data changed since the checkpoint was written in the middle of an epoch (%s): in the rest of "
                "this epoch, some photographs may be missed or used twice.",
                ", ".join(changed),
            )


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _calm_worker(_: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process of a run. The main process needs its workers to finish the
    # current step and save, and then stops them; one that it can no longer stop exits 30 seconds after SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _soon)
    # One core per worker: libraries that start a thread per core would compete with the other workers, and OpenMP
    # threads do not survive a fork.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _soon(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(30)
