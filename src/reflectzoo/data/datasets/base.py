"""What every data set of the zoo does alike: keys in, one sample out, trouble told in the main process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from reflectzoo.data.images import Photo
from reflectzoo.data.sampler import SampleKey
from reflectzoo.errors import UserError

Sample = dict[str, Any]
"""One sample, or after :func:`collate` a batch of them, before the data module completes it to a ``Batch``.

Photographs to be blended: ``transmission`` and ``reflection``, uint8. Real ones bring their ``mixture`` and may say
``knows_transmission`` and ``knows_reflection``, and an ``unaligned_transmission``. Sequences to be blended have
``frame_transmissions`` and ``frame_reflections`` (N, 3, H, W); real ones ``frames`` and the centre's ``transmission``.
All have ``seed``, ``name``, ``dataset``; in training ``notices``; in an evaluation ``counts`` and perhaps
``source_size``, ``protocol``, ``tags``. A sample with ``part`` comes from one of several data sets that share a batch.
"""


class Notice(NamedTuple):
    """Something about one file that the user should hear about once, from the main process.

    Attributes:
        kind: ``unreadable``, ``small``, ``missing`` (a partner), ``mismatch`` (of a pair's sizes), ``tiny``,
            ``translucent``, ``folder`` (that cannot be opened) or ``count`` (another number of pairs than is
            published).
        path: the file.
        sentence: what to say.
    """

    kind: str
    path: str
    sentence: str


def note_folders(notices: list[Notice], on_error: str) -> Callable[[str, str], None] | None:
    """What :func:`~reflectzoo.data.images.find_images` is to do about folders that cannot be opened.

    Args:
        notices: hear about them.
        on_error: ``skip`` or ``raise``.
    """
    if on_error == "raise":
        return None
    return lambda path, sentence: notices.append(Notice("folder", path, sentence))


class KeyedDataset(Dataset[Sample]):
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
    """Samples to a batch: tensors stacked, strings listed, notices joined; the first error stands for all.

    Samples of several data sets (with ``part``) are collated apart: ``parts`` holds a batch for each, ``order`` the
    places of its samples in the whole batch.
    """
    for sample in samples:
        if "error" in sample:
            return sample
    if "part" in samples[0]:
        return _collate_parts(samples)
    batch: Sample = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, str | dict):
            batch[key] = values
        elif key == "notices":
            batch[key] = [notice for value in values for notice in value]
        elif isinstance(first, Tensor) and any(value.shape != first.shape for value in values):
            return {"error": _different_sizes(samples, values)}
        else:
            batch[key] = default_collate(values)
    return batch


def _collate_parts(samples: Sequence[Sample]) -> Sample:
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample["part"], []).append(place)
    pictures = [
        sample["frames" if "frames" in sample else "frame_transmissions"][0]
        if "frames" in sample or "frame_transmissions" in sample
        else sample["transmission"]
        for sample in samples
    ]
    if any(picture.shape != pictures[0].shape for picture in pictures):
        return {"error": _different_sizes(samples, pictures)}
    parts = {}
    for part, indices in places.items():
        parts[part] = collate([{k: v for k, v in samples[i].items() if k != "part"} for i in indices])
        if "error" in parts[part]:
            return parts[part]
    return {
        "parts": parts,
        "order": {part: torch.tensor(indices) for part, indices in places.items()},
        "seed": torch.tensor([sample["seed"] for sample in samples]),
        "notices": [notice for batch in parts.values() for notice in batch.pop("notices", ())],
    }


def _different_sizes(samples: Sequence[Sample], pictures: Sequence[Tensor]) -> UserError:
    other = next(i for i, picture in enumerate(pictures) if picture.shape != pictures[0].shape)
    first, second = (
        f"'{samples[i]['name']}' of {samples[i]['dataset']} ({pictures[i].shape[-1]}x{pictures[i].shape[-2]})"
        for i in (0, other)
    )
    return UserError(
        f"Pictures of different sizes cannot share a batch, here {first} and {second}: in training give every part the "
        "same data.crop, in an evaluation set data.eval_batch_size=1 or one data.eval_size."
    )


def to_tensor(photo: Photo) -> Tensor:
    """(H, W, 3) uint8 array to (3, H, W) uint8 tensor; the data module makes it float on the device."""
    return torch.from_numpy(photo).permute(2, 0, 1).contiguous()
