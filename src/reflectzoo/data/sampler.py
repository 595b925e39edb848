"""Samplers whose order does not depend on the number of processes and can be resumed in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler, SequentialSampler

from reflectzoo.data.seeding import SHUFFLE, generator


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Identifies a sample, and determines all of its random choices.

    Attributes:
        epoch: 0-based.
        index: index of the sample within the epoch, before shuffling.
        position: position of the sample in the epoch's order, over all processes.
        counts: False for a duplicate that only equalises the number of samples per process and must not be scored.
    """

    epoch: int
    index: int
    position: int
    counts: bool = True


def _no_progress() -> tuple[int, int]:
    return 0, 0


def _zero() -> int:
    return 0


def _one() -> int:
    return 1


class EpochSampler(Sampler[SampleKey]):
    """Yields the keys of one process for the current training epoch.

    The order is shuffled by (seed, epoch). Process r of N takes every N-th key starting at the r-th, so that batch k of
    N processes with batch size B together equals batch k of one process with batch size N * B. An incomplete last
    global batch is dropped, so that every process has the same number of batches. After an interruption the epoch
    resumes at the first unfinished batch, while the length remains that of the whole epoch, for progress bars.

    Args:
        length: samples per epoch, over all processes.
        batch_size: batch size of one process.
        seed: seed of the data.
        shuffle: whether to shuffle.
        position: returns (epoch, finished batches of it); called at the start of each epoch.
        rank: returns this process's rank.
        world_size: returns the number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        position: Callable[[], tuple[int, int]] = _no_progress,
        rank: Callable[[], int] = _zero,
        world_size: Callable[[], int] = _one,
    ) -> None:
        super().__init__()
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.position = position
        self.rank = rank
        self.world_size = world_size

    @property
    def batches(self) -> int:
        """Number of batches per epoch, the same in every process."""
        return self.length // (self.batch_size * self.world_size())

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, batches_done = self.position()
        order = generator(self.seed, epoch, SHUFFLE).permutation(self.length) if self.shuffle else range(self.length)
        rank, world_size = self.rank(), self.world_size()
        for place in range(batches_done * self.batch_size, len(self)):
            position = rank + world_size * place
            yield SampleKey(epoch, int(order[position]), position)


class RepeatedSampler(SequentialSampler):
    """Repeats the order of an :class:`EpochSampler`, for ``Trainer(overfit_batches=...)``.

    A subclass of :class:`SequentialSampler`, because Lightning replaces any other sampler by its own, without keys.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        super().__init__(range(len(sampler)))
        self.sampler = sampler

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        return iter(self.sampler)


class EvaluationSampler(SequentialSampler):
    """Yields the keys of one process for an evaluation: every sample exactly once, in order.

    Process r of N takes every N-th sample. If the number of samples is not divisible by N, the last one is repeated so
    that all processes make the same number of steps (networks with buffers synchronise at each). Duplicates have
    ``counts`` False: all their layers are marked as unknown, so that no metric includes them.

    Args:
        length: number of samples, over all processes.
        rank: returns this process's rank.
        world_size: returns the number of processes.
    """

    def __init__(self, length: int, rank: Callable[[], int] = _zero, world_size: Callable[[], int] = _one) -> None:
        super().__init__(range(length))
        self.length = length
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-self.length // self.world_size())

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        for position in range(self.rank(), len(self) * self.world_size(), self.world_size()):
            if position < self.length:
                yield SampleKey(0, position, position)
            else:
                yield SampleKey(0, self.length - 1, position, counts=False)
