"""What every data set of the zoo does alike: keys in, one sample out, trouble told in the main process."""

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
    """What :func:`~reflectzoo.data.images.find_images` is to do about folders that cannot be opened.

    Args:
        notices: hear about them.
        on_error: ``skip`` or ``raise``.
    """
    if on_error == "raise":
        return None
    return lambda path, sentence: notices.append(Notice("folder", path, sentence))


class KeyedDataset(Dataset[Sample | Failed]):
    """A data set read by :class:`SampleKey`. Subclasses implement :meth:`sample` and ``__len__``.

    Attributes:
        unit: what its samples are called in a summary.
    """

    unit = "pairs"

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

    def set_step(self, samples: int) -> None:
        """Say how many samples, over all processes, make one step; of use where a whole step shares a choice."""

    def pictures(self) -> list[Path]:
        """Every file that may be read, each once, for a check of the whole data set."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def __getitem__(self, key: SampleKey | int) -> Sample | Failed:
        """The sample of a key; a plain number stands for that sample of the first epoch.

        In a worker :class:`Failed` stands for one that cannot be made; our loader raises its error as it is.
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
    """(H, W, 3) uint8 array to (3, H, W) uint8 tensor; the data module makes it float on the device."""
    return torch.from_numpy(photo).permute(2, 0, 1).contiguous()
