"""Where every random choice of the data layer comes from.

One sample has one seed, a hash of (data seed, epoch, index). Whatever is random about it (which photographs, which
crop, which blend) is drawn from that seed, each purpose on a stream of its own. So nothing depends on how many workers
read the data, how samples are grouped into batches, which process sees them or where an epoch was interrupted.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

# Streams: two purposes never share random numbers, and adding one changes no other.
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
    """The seed of one evaluation sample, from its name alone, so that scores of different runs can be compared.

    Example:
        >>> name_seed("a") == name_seed("a"), 0 <= name_seed("b") < 2**63
        (True, True)
    """
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A fresh generator for one purpose (``stream``) of one sample."""
    return np.random.default_rng((seed, *stream))


class Rounds:
    """Orders in which to go through some things again and again, each round shuffled anew.

    Args:
        count: of the things, at least 1.
        seed: of the data.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._last: tuple[tuple[int, int], npt.NDArray[np.int64]] | None = None

    def place(self, epoch: int, index: int) -> tuple[npt.NDArray[np.int64], int]:
        """The order of the round in which sample ``index`` of an epoch comes, and its place there."""
        number, place = divmod(index, self.count)
        if self._last is None or self._last[0] != (epoch, number):
            order = generator(self.seed, PAIRING, epoch, number).permutation(self.count)
            self._last = ((epoch, number), order)
        return self._last[1], place

    def from_here(self, epoch: int, index: int) -> list[int]:
        """What sample ``index`` of an epoch gets, followed by its stand-ins in order."""
        order, place = self.place(epoch, index)
        return [int(each) for each in np.roll(order, -place)]
