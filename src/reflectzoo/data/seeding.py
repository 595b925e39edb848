"""Seeds and generators for all random choices of the data layer.

Each sample has one seed, a hash of (data seed, epoch, index). All of its random choices (photographs, crop, blend) are
drawn from that seed, each purpose from a separate stream. Hence nothing depends on the number of workers, the grouping
into batches, the process that reads a sample, or the point where an epoch was interrupted.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

# Streams: no two purposes share random numbers, and adding a stream does not change the others.
PAIRING = 0
CROPS = 1
SYNTHESIS = 2
SHUFFLE = 3
PART = 4
TURNS = 5


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of one training sample: 63 bits from a hash of the three numbers, each >= 0.

    Example:
        >>> sample_seed(0, 1, 2) == sample_seed(0, 1, 2), sample_seed(0, 1, 2) == sample_seed(0, 2, 1)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def name_seed(name: str) -> int:
    """The seed of one evaluation sample, 63 bits from its name alone, so that scores of different runs are comparable.

    Example:
        >>> name_seed("a") == name_seed("a"), 0 <= name_seed("b") < 2**63
        (True, True)
    """
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A new generator for one purpose (``stream``) of one sample."""
    return np.random.default_rng((seed, *stream))


class Rounds:
    """Repeated rounds through a number of items, each in a new random order.

    Args:
        count: number of items, at least 1.
        seed: seed of the data.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._last: tuple[tuple[int, int], npt.NDArray[np.int64]] | None = None

    def place(self, epoch: int, index: int) -> tuple[npt.NDArray[np.int64], int]:
        """The order (count,) of the round to which sample ``index`` of an epoch belongs, and its place in it."""
        number, place = divmod(index, self.count)
        if self._last is None or self._last[0] != (epoch, number):
            order = generator(self.seed, PAIRING, epoch, number).permutation(self.count)
            self._last = ((epoch, number), order)
        return self._last[1], place

    def from_here(self, epoch: int, index: int) -> list[int]:
        """The item for sample ``index`` of an epoch, followed by its substitutes in order."""
        order, place = self.place(epoch, index)
        return [int(each) for each in np.roll(order, -place)]
