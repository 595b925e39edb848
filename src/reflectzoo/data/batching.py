"""Collate samples to a batch, and merge the batches of several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import default_collate

from reflectzoo.core.batch import Batch
from reflectzoo.data.samples import Failed, JointBatch, Notice, Sample
from reflectzoo.errors import UserError


def collate(samples: Sequence[Sample | Failed]) -> Sample | JointBatch | Failed:
    """Collate samples to a batch: tensors are stacked, strings listed, notices concatenated.

    Samples of several data sets (with a ``part``) are collated separately, to a :class:`JointBatch`.

    Returns:
        The batch; or the first :class:`Failed` sample, or an error about pictures of different sizes.
    """
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Failed):
            return sample
        good.append(sample)
    return _collate_parts(good) if good[0].part is not None else _collate_alike(good)


def _collate_alike(samples: Sequence[Sample]) -> Sample | Failed:
    """Collate samples of one data set."""
    batch: dict[str, Any] = {}
    for each in fields(samples[0]):
        values = [getattr(sample, each.name) for sample in samples]
        first = values[0]
        if first is None:
            batch[each.name] = None
        elif isinstance(first, str | dict):
            batch[each.name] = values
        elif each.name == "notices":
            batch[each.name] = [notice for value in values for notice in value]
        elif isinstance(first, Tensor) and any(value.shape != first.shape for value in values):
            return Failed(_different_sizes(samples, values))
        else:
            batch[each.name] = default_collate(values)
    return replace(samples[0], **batch)


def _collate_parts(samples: Sequence[Sample]) -> JointBatch | Failed:
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(str(sample.part), []).append(place)
    pictures = [sample.picture for sample in samples]
    if any(picture.shape != pictures[0].shape for picture in pictures):
        return Failed(_different_sizes(samples, pictures))
    parts: dict[str, Sample] = {}
    notices: list[Notice] = []
    for part, indices in places.items():
        batch = _collate_alike([replace(samples[index], part=None) for index in indices])
        if isinstance(batch, Failed):
            return batch
        notices += batch.notices
        parts[part] = replace(batch, notices=[])
    order = {part: torch.tensor(indices) for part, indices in places.items()}
    return JointBatch(parts=parts, order=order, notices=notices)


def _different_sizes(samples: Sequence[Sample], pictures: Sequence[Tensor]) -> UserError:
    other = next(i for i, picture in enumerate(pictures) if picture.shape != pictures[0].shape)
    first, second = (
        f"'{samples[i].name}' of {samples[i].dataset} ({pictures[i].shape[-1]}x{pictures[i].shape[-2]})"
        for i in (0, other)
    )
    return UserError(
        f"Pictures of different sizes cannot share a batch, here {first} and {second}: in training give every part the "
        "same data.crop, in an evaluation set data.eval_batch_size=1 or one data.eval_size."
    )


def merge(parts: Mapping[str, Batch], order: Mapping[str, Tensor]) -> Batch:
    """Merge complete batches of several data sets into one.

    Keys that a part lacks are filled with zeros (for draws, NaN), empty strings or empty tags.

    Args:
        parts: a complete batch of each data set.
        order: indices of the samples of each in the merged batch.

    Raises:
        UserError: if sequences differ in their number of frames.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    places = {part: indices.tolist() for part, indices in order.items()}
    size = sum(map(len, places.values()))
    joint: dict[str, Any] = {}
    for key in dict.fromkeys(key for batch in parts.values() for key in batch):
        having = {part: cast(Any, batch)[key] for part, batch in parts.items() if key in batch}
        if key == "draws":
            names = dict.fromkeys(name for drawn in having.values() for name in drawn)
            joint[key] = {
                name: _spread({p: d[name] for p, d in having.items() if name in d}, places, size, float("nan"))
                for name in names
            }
        elif isinstance(next(iter(having.values())), Tensor):
            joint[key] = _spread(having, places, size, 0)
        else:
            joint[key] = [{} if key == "tags" else "" for _ in range(size)]
            for part, values in having.items():
                for place, value in zip(places[part], values, strict=True):
                    joint[key][place] = value
    return cast(Batch, joint)


def _spread(values: Mapping[str, Tensor], places: Mapping[str, Sequence[int]], size: int, empty: float) -> Tensor:
    """Scatter the rows of each part to their indices, and fill the others with ``empty``."""
    first = next(iter(values.values()))
    for value in values.values():
        if value.shape[1:] != first.shape[1:]:
            raise UserError(
                f"Sequences of {first.shape[1]} and of {value.shape[1]} frames cannot share a batch: give every part "
                "the same data.frames."
            )
    whole = first.new_full((size, *first.shape[1:]), empty)
    for part, value in values.items():
        whole[torch.as_tensor(places[part], device=whole.device)] = value.to(whole.dtype)
    return whole
