"""From what the loaders yield to a complete batch: mixtures made, unknown layers zeroed, several data sets joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch
from reflectzoo.data.datasets.base import Sample
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError


def complete_batch(raw: Sample, synthesis: Synthesis | None) -> Batch:
    """Make the mixtures of a collated batch of one data set, on the device it is on.

    Args:
        raw: see :data:`~reflectzoo.data.datasets.base.Sample`; perhaps ``draws`` to be used.
        synthesis: what blends; real mixtures need none.

    Raises:
        UserError: if something must be blended and there is no synthesis.
    """
    if "frame_transmissions" in raw:
        batch = _blended_sequence(raw, _needed(synthesis))
    elif "frames" in raw:
        batch = _real_sequence(raw)
    elif "mixture" in raw:
        batch = _real(raw)
    else:
        batch = _blended(raw, _needed(synthesis))
    if "counts" in raw:
        _forget_truth(batch, raw["counts"])
    batch.update({key: raw[key] for key in ("source_size", "protocol", "tags", "frame_motion") if key in raw})
    batch.update({"name": raw["name"], "dataset": raw["dataset"], "seed": raw["seed"]})
    return cast(Batch, batch)


def draw_blends(raw: Sample, synthesis: Synthesis | None) -> dict[str, Tensor] | None:
    """Draw for every sample of a collated batch, where there is something to be drawn."""
    if "draws" in raw or "mixture" in raw or "frames" in raw:
        return None
    return _needed(synthesis).draw(raw["seed"])


def merge(parts: Mapping[str, Batch], order: Mapping[str, Tensor]) -> Batch:
    """Join complete batches of several data sets into one.

    Args:
        parts: a complete batch of each.
        order: where the samples of each stand in the joint batch.

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
    """Rows put in their places of a tensor that is otherwise empty."""
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


def _needed(synthesis: Synthesis | None) -> Synthesis:
    if synthesis is None:
        raise UserError("These photographs must be blended, but data.synthesis is null: choose synthesis=<name>.")
    return synthesis


def _blended(raw: Sample, synthesis: Synthesis) -> dict[str, Any]:
    mixture, transmission, reflection, draws = synthesis(
        to_float(raw["transmission"]), to_float(raw["reflection"]), raw["seed"], raw.get("draws")
    )
    known = torch.ones(len(mixture), dtype=torch.bool, device=mixture.device)
    return {
        "mixture": mixture,
        "transmission": transmission,
        "reflection": reflection,
        "has_transmission": known,
        "has_reflection": known.clone(),
        "draws": draws,
    }


def _real(raw: Sample) -> dict[str, Any]:
    mixture = to_float(raw["mixture"])
    known = torch.ones(len(mixture), dtype=torch.bool, device=mixture.device)
    batch = {
        "mixture": mixture,
        "transmission": to_float(raw["transmission"]),
        "reflection": to_float(raw["reflection"]),
        "has_transmission": raw.get("knows_transmission", known),
        "has_reflection": raw.get("knows_reflection", known.clone()),
        "draws": raw.get("draws", {}),
    }
    if "unaligned_transmission" in raw:
        batch["unaligned_transmission"] = to_float(raw["unaligned_transmission"])
        batch["has_unaligned"] = known.clone()
    return batch


def _blended_sequence(raw: Sample, synthesis: Synthesis) -> dict[str, Any]:
    """Every frame of a sequence blended by the same draw, so that nothing but the motion changes."""
    mixtures, transmissions, reflections, draws = synthesis.blend_sequence(
        to_float(raw["frame_transmissions"]), to_float(raw["frame_reflections"]), raw["seed"], raw.get("draws")
    )
    size, frames = mixtures.shape[:2]
    centre = frames // 2
    known = torch.ones(size, dtype=torch.bool, device=mixtures.device)
    return {
        "mixture": mixtures[:, centre],
        "transmission": transmissions[:, centre],
        "reflection": reflections[:, centre],
        "has_transmission": known,
        "has_reflection": known.clone(),
        "frames": mixtures,
        "frame_transmissions": transmissions,
        "frame_reflections": reflections,
        "has_frame_transmission": known[:, None].repeat(1, frames),
        "has_frame_reflection": known[:, None].repeat(1, frames),
        "has_frames": known.clone(),
        "draws": draws,
    }


def _real_sequence(raw: Sample) -> dict[str, Any]:
    mixtures, transmission = to_float(raw["frames"]), to_float(raw["transmission"])
    size, frames = mixtures.shape[:2]
    centre = frames // 2
    known = torch.ones(size, dtype=torch.bool, device=mixtures.device)
    layers = torch.zeros_like(mixtures)
    layers[:, centre] = transmission
    has_layer = torch.zeros(size, frames, dtype=torch.bool, device=mixtures.device)
    has_layer[:, centre] = True
    return {
        "mixture": mixtures[:, centre],
        "transmission": transmission,
        "reflection": torch.zeros_like(transmission),
        "has_transmission": known,
        "has_reflection": torch.zeros_like(known),
        "frames": mixtures,
        "frame_transmissions": layers,
        "frame_reflections": torch.zeros_like(mixtures),
        "has_frame_transmission": has_layer,
        "has_frame_reflection": torch.zeros_like(has_layer),
        "has_frames": known.clone(),
        "draws": {},
    }


_TRUTHS = {
    "transmission": "has_transmission",
    "reflection": "has_reflection",
    "unaligned_transmission": "has_unaligned",
    "frame_transmissions": "has_frame_transmission",
    "frame_reflections": "has_frame_reflection",
}


def _forget_truth(batch: dict[str, Any], counts: Tensor) -> None:
    """Mark every layer of samples that must not be scored as unknown."""
    for layer, flag in _TRUTHS.items():
        if layer in batch:
            batch[layer] = batch[layer] * counts.view(-1, *[1] * (batch[layer].ndim - 1))
            batch[flag] = batch[flag] & counts.view(-1, *[1] * (batch[flag].ndim - 1))


def to_float(image: Tensor) -> Tensor:
    """Stored values to [0, 1]; floats are left as they are."""
    return image if image.is_floating_point() else image.to(torch.float32).div_(255)
