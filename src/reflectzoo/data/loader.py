"""A DataLoader whose workers keep to themselves and whose errors arrive as sentences."""

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

# What must not change within an epoch, by the names under which a checkpoint keeps it.
_SHAPE = ("samples", "global_batch_size", "seed")


class ReflectionLoader(DataLoader[Sample | Failed]):
    """Reads a :class:`KeyedDataset`.

    Args:
        dataset: what to read.
        sampler: which keys, in which order.
        batch_size: samples in a batch.
        num_workers: processes that read; 0 reads in the main process.
        persistent: keep the workers between epochs.
        pin_memory: copy batches into page-locked memory, for a GPU.
        progress: what a checkpoint remembers about this loader, so that going on with another batch size or other
            data in the middle of an epoch does not pass unnoticed; None for an evaluation.
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
            sampler=sampler,  # type: ignore[arg-type]  # torch thinks keys are ints
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_calm_worker,
            persistent_workers=persistent and num_workers > 0,
        )
        self._progress = progress

    def __iter__(self) -> Iterator[RawBatch]:  # type: ignore[override]
        """Batches; the workers start, and the sampler asks where to begin, with the first one.

        Raises:
            UserError: from a worker, as it was raised there.
            LostProcess: if a worker was killed.
        """
        batches: Iterator[RawBatch | Failed] = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (ConnectionError, EOFError) as error:  # it died while it handed a batch over
                raise LostProcess(WORKER_DIED) from error
            if isinstance(batch, Failed):
                raise batch.error
            yield batch

    # Lightning looks for this pair of methods to learn that a loader can go on in the middle of an epoch. Where to go
    # on is the sampler's to know, from the trainer's own counters, which are right even after a crash.

    def state_dict(self) -> dict[str, int]:
        """What the current epoch looks like."""
        return self._progress() if self._progress is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Say so if the interrupted epoch looked otherwise."""
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
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _calm_worker(_: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process of a run. The first one finishes its step and saves, for
    # which it needs the next batch; it ends its workers itself. One that it cannot end any more ends in half a minute.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _soon)
    # A worker is one process on one core: libraries that start a thread for each core would only get in each
    # other's way, and OpenMP threads do not survive a fork.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _soon(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(30)
