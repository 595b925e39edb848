"""What every data set of the zoo does alike: keys in, one sample out, trouble told in the main process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from reflectzoo.data.images import Photo
from reflectzoo.data.sampler import SampleKey
from reflectzoo.errors import UserError

Sample = dict[str, Any]
"""One sample, or after :func:`collate` a batch of them, before the data module completes it to a ``Batch``.

``transmission`` and ``reflection`` (uint8, what the synthesis blends), perhaps ``mixture``; ``seed``, ``name``,
``dataset``; ``notices``.
"""


class Notice(NamedTuple):
    """Something about one file that the user should hear about once, from the main process.

    Attributes:
        kind: ``unreadable`` or ``small``.
        path: the file.
        sentence: what to say.
    """

    kind: str
    path: str
    sentence: str


class KeyedDataset(Dataset[Sample]):
    """A data set read by :class:`SampleKey`. Subclasses implement :meth:`sample` and ``__len__``."""

    def sample(self, key: SampleKey) -> Sample:
        """Make one sample, every random choice following from the key.

        Raises:
            UserError: if it cannot be made.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how a sample is made")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not say how long it is")

    def limit_cache(self, max_bytes: int) -> None:
        """Bound the memory for decoded photographs; a data set that keeps none does nothing."""

    def __getitem__(self, key: SampleKey | int) -> Sample:
        """The sample of a key; a plain number stands for that sample of the first epoch."""
        if not isinstance(key, SampleKey):
            key = SampleKey(0, key, key)
        try:
            return self.sample(key)
        except UserError as error:
            if get_worker_info() is None:
                raise
            # torch would wrap it in the worker's traceback; our loader raises it as it is.
            return {"error": error}


def collate(samples: Sequence[Sample]) -> Sample:
    """Samples to a batch: tensors stacked, strings listed, notices joined; the first error stands for all."""
    for sample in samples:
        if "error" in sample:
            return sample
    batch: Sample = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, str):
            batch[key] = values
        elif key == "notices":
            batch[key] = [notice for value in values for notice in value]
        else:
            batch[key] = default_collate(values)
    return batch


def to_tensor(photo: Photo) -> Tensor:
    """(H, W, 3) uint8 array to (3, H, W) uint8 tensor; the data module makes it float on the device."""
    return torch.from_numpy(photo).permute(2, 0, 1).contiguous()
