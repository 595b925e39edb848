"""Base class of all data sets: returns the sample of a key, and passes errors on to the main process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from reflectzoo.data.images import Photo
from reflectzoo.data.sampler import SampleKey
from reflectzoo.data.samples import Failed, Notice, Sample
from reflectzoo.errors import UserError


def note_folders(notices: list[Notice], on_error: str) -> Callable[[str, str], None] | None:
    """The ``unopened`` argument of :func:`~reflectzoo.data.images.find_images` for a setting of ``on_error``.

    Args:
        notices: receives a notice for each folder that cannot be opened.
        on_error: ``skip`` or ``raise``.
    """
    if on_error == "raise":
        return None
    return lambda path, sentence: notices.append(Notice("folder", path, sentence))


class KeyedDataset(Dataset[Sample | Failed]):
    """A data set indexed by :class:`SampleKey`. Subclasses implement :meth:`sample`, ``__len__`` and :meth:`pictures`.

    Attributes:
        unit: noun for its samples in summaries, in the plural.
    """

    unit = "pairs"

    def sample(self, key: SampleKey) -> Sample:
        """Make one sample; the key determines all random choices.

        Raises:
            UserError: if it cannot be made.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how a sample is made")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not say how long it is")

    def limit_cache(self, max_bytes: int) -> None:
        """Limit the cache of decoded photographs, in bytes; a no-op for a data set without one."""

    def set_step(self, samples: int) -> None:
        """Set the number of samples per step, over all processes; used if all samples of a step share a choice."""

    def pictures(self) -> list[Path]:
        """Every file that may be read, for checking the whole data set."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def __getitem__(self, key: SampleKey | int) -> Sample | Failed:
        """The sample of a key; an integer stands for that sample of the first epoch.

        In a worker, a sample that cannot be made is returned as :class:`Failed`; the loader then raises its error.

        Raises:
            UserError: outside a worker, if the sample cannot be made.
        """
        if not isinstance(key, SampleKey):
            key = SampleKey(0, key, key)
        try:
            return self.sample(key)
        except UserError as error:
            if get_worker_info() is None:
                raise
            return Failed(error)


def to_tensor(photo: Photo) -> Tensor:
    """Convert an (H, W, 3) uint8 array to a (3, H, W) uint8 tensor; it becomes floating-point only on the device."""
    return torch.from_numpy(photo).permute(2, 0, 1).contiguous()
