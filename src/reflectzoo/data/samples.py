"""What the data sets yield: a small class for each kind of sample, which knows what becomes of it in a batch.

The same class holds one sample and, after :func:`~reflectzoo.data.batching.collate`, a batch of them: tensors are then
stacked, strings are listed, and numbers and flags are tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError


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


class _Pinned:
    """Page-locks its tensors for a DataLoader, which knows how to do so for dictionaries only."""

    def pin_memory(self) -> Any:
        """Put every tensor into page-locked memory."""
        for each in fields(cast(Any, self)):
            setattr(self, each.name, _pinned(getattr(self, each.name)))
        return self


def _pinned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pinned(each) for key, each in value.items()}
    return value.pin_memory() if isinstance(value, Tensor | _Pinned) else value


# Not frozen: Lightning copies a dataclass to a device by setting its fields.
@dataclass(kw_only=True, eq=False)
class Sample(_Pinned, ABC):
    """What samples of every kind have.

    Attributes:
        name: unique within a data set.
        dataset: the data set it comes from.
        seed: what all its random choices follow from, (B,) int64 in a batch.
        notices: what was noticed while it was read; training only.
        counts: false for a sample that must not be scored, (B,) bool in a batch; evaluations only.
        source_size: (2,), height and width of the stored picture; evaluations only.
        protocol: how the stored pictures were resized; evaluations only.
        tags: what else is known about it; evaluations only.
        part: which of several data sets that share a batch it comes from.
    """

    name: str | list[str]
    dataset: str | list[str]
    seed: int | Tensor
    notices: list[Notice] = field(default_factory=list)
    counts: bool | Tensor | None = None
    source_size: Tensor | None = None
    protocol: str | list[str] | None = None
    tags: dict[str, str] | list[dict[str, str]] | None = None
    part: str | None = None

    @property
    @abstractmethod
    def picture(self) -> Tensor:
        """One of its pictures, all of which are of one size."""

    def draw(self, synthesis: Synthesis | None) -> None:
        """Draw for every sample of a batch, where something is to be drawn and is not yet.

        Raises:
            UserError: if something must be blended and there is no synthesis.
        """

    def complete(self, synthesis: Synthesis | None) -> Batch:
        """Make a whole batch of a collated one, on the device it is on.

        Args:
            synthesis: what blends; real mixtures need none.

        Raises:
            UserError: if something must be blended and there is no synthesis.
        """
        batch = self._layers(synthesis)
        if isinstance(self.counts, Tensor):
            _forget_truth(batch, self.counts)
        for key in ("source_size", "protocol", "tags", "name", "dataset", "seed"):
            value = getattr(self, key)
            if value is not None:
                batch[key] = value
        return cast(Batch, batch)

    @abstractmethod
    def _layers(self, synthesis: Synthesis | None) -> dict[str, Any]:
        """The pictures of the batch, with what is known of them."""


@dataclass(kw_only=True, eq=False)
class PhotoPair(Sample):
    """Two photographs to be blended.

    Attributes:
        transmission: (3, H, W) uint8, what is behind the glass.
        reflection: likewise, what is reflected.
        draws: what the synthesis drew; filled in by :meth:`draw`.
    """

    transmission: Tensor
    reflection: Tensor
    draws: dict[str, Tensor] | None = None

    @property
    def picture(self) -> Tensor:
        """The photograph behind the glass."""
        return self.transmission

    def draw(self, synthesis: Synthesis | None) -> None:
        """See :meth:`Sample.draw`."""
        if self.draws is None:
            self.draws = _needed(synthesis).draw(cast(Tensor, self.seed))

    def _layers(self, synthesis: Synthesis | None) -> dict[str, Any]:
        mixture, transmission, reflection, draws = _needed(synthesis)(
            to_float(self.transmission), to_float(self.reflection), self.seed, self.draws
        )
        known = _all_known(mixture)
        return {
            "mixture": mixture,
            "transmission": transmission,
            "reflection": reflection,
            "has_transmission": known,
            "has_reflection": known.clone(),
            "draws": draws,
        }


@dataclass(kw_only=True, eq=False)
class RealPair(Sample):
    """A photograph through glass, with what is known of its layers.

    Attributes:
        mixture: (3, H, W) uint8.
        transmission: likewise; zeros where unknown.
        reflection: likewise.
        knows_transmission: whether it is known, (B,) bool in a batch.
        knows_reflection: likewise.
        unaligned_transmission: shot from a slightly different place; None if there is none.
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    knows_transmission: bool | Tensor = True
    knows_reflection: bool | Tensor = True
    unaligned_transmission: Tensor | None = None

    @property
    def picture(self) -> Tensor:
        """The mixture."""
        return self.mixture

    def _layers(self, synthesis: Synthesis | None) -> dict[str, Any]:
        mixture = to_float(self.mixture)
        known = _all_known(mixture)
        batch = {
            "mixture": mixture,
            "transmission": to_float(self.transmission),
            "reflection": to_float(self.reflection),
            "has_transmission": known & torch.as_tensor(self.knows_transmission, device=known.device),
            "has_reflection": known & torch.as_tensor(self.knows_reflection, device=known.device),
            "draws": {},
        }
        if self.unaligned_transmission is not None:
            batch["unaligned_transmission"] = to_float(self.unaligned_transmission)
            batch["has_unaligned"] = known
        return batch


@dataclass(kw_only=True, eq=False)
class BlendedSequence(Sample):
    """Frames of two photographs in motion, blended by one draw, so that nothing but the motion changes.

    Attributes:
        frame_transmissions: (N, 3, H, W) uint8.
        frame_reflections: likewise.
        frame_motion: (2, N, 2), see :class:`~reflectzoo.core.batch.Batch`; None if unknown.
        draws: what the synthesis drew; filled in by :meth:`draw`.
    """

    frame_transmissions: Tensor
    frame_reflections: Tensor
    frame_motion: Tensor | None = None
    draws: dict[str, Tensor] | None = None

    @property
    def picture(self) -> Tensor:
        """The first frame of the scene behind the glass."""
        return self.frame_transmissions[0]

    def draw(self, synthesis: Synthesis | None) -> None:
        """See :meth:`Sample.draw`."""
        if self.draws is None:
            self.draws = _needed(synthesis).draw(cast(Tensor, self.seed))

    def _layers(self, synthesis: Synthesis | None) -> dict[str, Any]:
        mixtures, transmissions, reflections, draws = _needed(synthesis).blend_sequence(
            to_float(self.frame_transmissions), to_float(self.frame_reflections), cast(Tensor, self.seed), self.draws
        )
        frames = mixtures.shape[1]
        centre = frames // 2
        known = _all_known(mixtures)
        batch = {
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
        if self.frame_motion is not None:
            batch["frame_motion"] = self.frame_motion
        return batch


@dataclass(kw_only=True, eq=False)
class RealSequence(Sample):
    """Frames that were shot, with the truth of the centre one.

    Attributes:
        frames: (N, 3, H, W) uint8.
        transmission: (3, H, W) uint8, of frame N // 2.
    """

    frames: Tensor
    transmission: Tensor

    @property
    def picture(self) -> Tensor:
        """The first frame."""
        return self.frames[0]

    def _layers(self, synthesis: Synthesis | None) -> dict[str, Any]:
        mixtures, transmission = to_float(self.frames), to_float(self.transmission)
        size, frames = mixtures.shape[:2]
        centre = frames // 2
        known = _all_known(mixtures)
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


@dataclass(kw_only=True, eq=False)
class JointBatch(_Pinned):
    """Samples of several data sets that share a batch, collated apart.

    Attributes:
        parts: a batch of each.
        order: where the samples of each stand in the joint batch.
        notices: of all of them.
    """

    parts: dict[str, Sample]
    order: dict[str, Tensor]
    notices: list[Notice]


@dataclass(eq=False)
class Failed:
    """Stands for a sample, or a batch, that could not be made: torch would wrap the error in a worker's traceback."""

    error: UserError


RawBatch: TypeAlias = Sample | JointBatch
"""What a loader yields."""

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


def _all_known(mixture: Tensor) -> Tensor:
    return torch.ones(len(mixture), dtype=torch.bool, device=mixture.device)


def _needed(synthesis: Synthesis | None) -> Synthesis:
    if synthesis is None:
        raise UserError("These photographs must be blended, but data.synthesis is null: choose synthesis=<name>.")
    return synthesis


def to_float(image: Tensor) -> Tensor:
    """Stored values to [0, 1]; floats are left as they are."""
    return image if image.is_floating_point() else image.to(torch.float32).div_(255)
