"""Sample classes of the data sets: one for each kind of sample, which also completes a batch of them.

The same class holds one sample or, after :func:`~reflectzoo.data.batching.collate`, a batch: tensors are then stacked,
strings are lists, and numbers and flags are tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

NoticeKind: TypeAlias = Literal["unreadable", "small", "missing", "mismatch", "tiny", "translucent", "folder", "count"]
"""What a :class:`Notice` is about."""


class Notice(NamedTuple):
    """A warning about one file, to be logged once, by the main process.

    Attributes:
        kind: ``unreadable``, ``small`` (enlarged to the crop), ``missing`` (no partner), ``mismatch`` (of a pair's
            sizes), ``tiny`` (too small to be scored), ``translucent``, ``folder`` (cannot be opened) or ``count``
            (number of pairs differs from the published one).
        path: the file.
        sentence: the message.
    """

    kind: NoticeKind
    path: str
    sentence: str


class _Pinned:
    """Adds the method by which a DataLoader page-locks the tensors of objects other than dictionaries and lists."""

    def pin_memory(self) -> Any:
        """Move every tensor to page-locked memory, in place."""
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
    """Base class of all samples.

    Attributes:
        name: unique within a data set.
        dataset: name of its data set.
        seed: determines all of its random choices, (B,) int64 in a batch.
        notices: warnings from reading it; training only.
        counts: False for a sample that must not be scored, (B,) bool in a batch; evaluations only.
        source_size: (2,), height and width of the stored picture; evaluations only.
        protocol: how the stored pictures were resized; evaluations only.
        tags: further properties by name; evaluations only.
        part: name of its data set among several that share a batch; otherwise None.
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
        """One of its pictures, all of which have the same size."""

    def draw(self, synthesis: Synthesis | None) -> None:
        """Make the random draws for the blends of a batch; idempotent, and a no-op for real mixtures.

        Raises:
            UserError: if photographs must be blended and there is no synthesis model.
        """

    def complete(self, synthesis: Synthesis | None) -> Batch:
        """Complete a collated batch on its device: make mixtures and mark which layers are known.

        Args:
            synthesis: the synthesis model; not needed for real mixtures.

        Raises:
            UserError: if photographs must be blended and there is no synthesis model.
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
        """The pictures of the batch, and the flags of known layers."""


@dataclass(kw_only=True, eq=False)
class PhotoPair(Sample):
    """Two photographs to be blended.

    Attributes:
        transmission: (3, H, W) uint8, the scene behind the glass.
        reflection: likewise, the reflected scene.
        draws: random draws of the synthesis model; set by :meth:`draw`.
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
    """A photograph through glass, with its known layers.

    Attributes:
        mixture: (3, H, W) uint8.
        transmission: likewise; zeros if unknown.
        reflection: likewise; zeros if unknown.
        knows_transmission: whether the transmission is known, (B,) bool in a batch.
        knows_reflection: whether the reflection is known, (B,) bool in a batch.
        unaligned_transmission: taken from a slightly different position; None if there is none.
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
    """Frames of two moving photographs, blended with the same draws, so that only the motion changes.

    Attributes:
        frame_transmissions: (N, 3, H, W) uint8.
        frame_reflections: likewise.
        frame_motion: (2, N, 2), see :class:`~reflectzoo.core.batch.Batch`; None if unknown.
        draws: random draws of the synthesis model; set by :meth:`draw`.
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
    """Real frames, with the ground truth of the centre one.

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
    """Samples of several data sets that share a batch, collated separately.

    Attributes:
        parts: a batch of each data set.
        order: indices of the samples of each in the joint batch.
        notices: warnings from reading them.
    """

    parts: dict[str, Sample]
    order: dict[str, Tensor]
    notices: list[Notice]


@dataclass(eq=False)
class Failed:
    """Carries the error of a failed sample or batch, which torch would otherwise wrap in a worker's traceback."""

    error: UserError


RawBatch: TypeAlias = Sample | JointBatch
"""A collated batch, as yielded by a loader."""

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
    """Convert uint8 to float32 in [0, 1]; floating-point values are returned unchanged."""
    return image if image.is_floating_point() else image.to(torch.float32).div_(255)
