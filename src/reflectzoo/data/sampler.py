"""Which sample comes when: independent of the number of processes, and resumable in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler, SequentialSampler

from reflectzoo.data.seeding import SHUFFLE, generator


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What a data set is asked for: everything that its random choices follow from.

    Attributes:
        epoch: 0-based.
        index: which sample of the epoch, before shuffling.
        position: its place in the epoch's order, over all processes.
        counts: false for a repeated sample that only evens out the processes' shares and must not be scored.
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
    """The keys of one process for the current epoch of training.

    The order is shuffled by (seed, epoch). Process r of N takes every N-th key from the r-th on, so that batch k of N
    processes with batch size B holds together exactly batch k of one process with batch size N * B. An incomplete last
    global batch is left out, so every process has the same number of batches. After an interruption the epoch goes on
    at the first batch that was not done, while the length stays that of the whole epoch, as a progress bar wants it.

    Args:
        length: samples in one epoch, over all processes.
        batch_size: of one process.
        seed: of the data.
        shuffle: whether to shuffle.
        position: returns (epoch, batches done in it), asked whenever an epoch begins.
        rank: returns this process's number.
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
        """Batches of one epoch, the same in every process."""
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
    """The order of one :class:`EpochSampler` again and again, for ``Trainer(overfit_batches=...)``.

    Lightning puts one of its own in the place of every sampler that is not of this type, and our data sets need keys.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        super().__init__(range(len(sampler)))
        self.sampler = sampler

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        return iter(self.sampler)


class EvaluationSampler(SequentialSampler):
    """The keys of one process for an evaluation: every sample exactly once, in order.

    Process r of N takes every N-th sample. Where the number of samples is not divisible, the last ones are repeated
    so that all processes make the same number of steps (networks with buffers synchronise at each), with ``counts``
    false: such a sample is delivered with both layers marked unknown, and no metric sees it.

    Args:
        length: samples, over all processes.
        rank: returns this process's number.
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
