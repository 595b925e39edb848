"""Base class of all synthesis models, which separate making random draws from applying them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reflectzoo.core.settings import Checked
from reflectzoo.data.seeding import SYNTHESIS, generator
from reflectzoo.errors import UserError

Params = dict[str, float | tuple[float, ...]]
"""Random draws for one sample, by name."""

SHIFT = "shift"
FRAME = "frame"


class Blend(NamedTuple):
    """A mixture with the layers that made it.

    Attributes:
        mixture: (B, 3, H, W) float32 in [0, 1]; of a sequence (B, N, 3, H, W), as the layers.
        transmission: (B, 3, H, W), the ground truth as defined by the model.
        reflection: (B, 3, H, W), the reflection as it is in the mixture, unless the model is documented otherwise.
        draws: random draws of each sample, tensors of shape (B, ...).
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    draws: dict[str, Tensor]


class Synthesis(Checked, nn.Module, place="synthesis"):
    """Blends a photograph seen through the glass with one reflected by it.

    Subclasses implement the random draws for one sample (:meth:`sample_params`) and the deterministic blend of a batch
    (:meth:`blend`). The seed of each sample alone determines its draws, so that a mixture depends on neither the batch
    size nor the order, worker or device, and recorded draws can be replayed.

    If a correction depends on the pictures (how much to subtract if the sum overflows), :meth:`measure` returns it, so
    that all frames of a sequence can share the correction of the centre frame.
    """

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Make all random draws for one mixture.

        Args:
            rng: the generator of this sample.

        Returns:
            The draws by name, with the same names and lengths for every sample.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it draws")

    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blend a batch, deterministically.

        Args:
            transmission: (B, 3, H, W) float32 in [0, 1], the photograph behind the glass.
            reflection: (B, 3, H, W) float32 in [0, 1], the reflected photograph.
            draws: result of :meth:`draw`, or recorded values by the same names, each of shape (B, ...). May include
                results of :meth:`measure`, which are then used instead of being measured again.

        Returns:
            ``(mixture, transmission, reflection)``: the mixture and the two target layers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it blends")

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quantities that :meth:`blend` computes from the pictures; none by default.

        Args:
            transmission: as in :meth:`blend`.
            reflection: as in :meth:`blend`.
            draws: as in :meth:`blend`.

        Returns:
            Tensors of shape (B, ...) that may be added to ``draws``; ``shift``, (B, 3), is the amount subtracted from
            the reflection.
        """
        return {}

    def draw(self, seeds: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """Draw for every sample from its own seed.

        Args:
            seeds: B non-negative integers, (B,) int64 or a list. Reading a tensor back from an accelerator
                synchronises with the device: if that matters, draw before the transfer.

        Returns:
            Each draw as a float32 tensor, (B,) or (B, n), on the device of ``seeds``.
        """
        device = seeds.device if isinstance(seeds, Tensor) else torch.device("cpu")
        numbers = seeds.tolist() if isinstance(seeds, Tensor) else list(seeds)
        samples = [self.sample_params(generator(seed, SYNTHESIS)) for seed in numbers]
        names = samples[0] if samples else self.sample_params(generator(0, SYNTHESIS))
        drawn: dict[str, Tensor] = {}
        for name, first in names.items():
            values = torch.tensor([sample[name] for sample in samples], dtype=torch.float32, device=device)
            drawn[name] = values.reshape(-1, len(first)) if isinstance(first, tuple) else values
        return drawn

    @torch.no_grad()
    def forward(
        self,
        transmission: Tensor,
        reflection: Tensor,
        seeds: Tensor | Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Blend:
        """Make the random draws, unless they are given, and blend, in float32, without gradients.

        Args:
            transmission: (B, 3, H, W) float in [0, 1].
            reflection: same shape, range and device.
            seeds: one seed for each sample; not needed when ``draws`` are given.
            draws: draws to replay.

        Raises:
            ValueError: if the layers differ in shape, neither seeds nor draws are given, a draw is missing, or their
                number is not B.
        """
        if transmission.shape != reflection.shape or transmission.ndim != 4:
            raise ValueError(
                f"the layers must both be (B, 3, H, W), got {tuple(transmission.shape)} and {tuple(reflection.shape)}"
            )
        drawn = self._given(transmission, seeds, draws)
        return Blend(*self._blend_batch(transmission.float(), reflection.float(), drawn), drawn)

    @torch.no_grad()
    def blend_sequence(
        self,
        transmission: Tensor,
        reflection: Tensor,
        seeds: Tensor | Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Blend:
        """Blend sequences of frames, with the same draws for all frames of a sequence.

        Results of :meth:`measure` (how much to subtract if the sum overflows) come from the centre frame, N // 2, and
        apply to all frames, so that the layers do not flicker. The centre frame equals the result of :meth:`forward`.

        Args:
            transmission: (B, N, 3, H, W) float in [0, 1].
            reflection: same shape, range and device.
            seeds: one seed for each sequence; not needed when ``draws`` are given.
            draws: draws to replay, (B, ...).

        Returns:
            Layers of shape (B, N, 3, H, W); the draws, (B, ...), including results of :meth:`measure`.

        Raises:
            ValueError: as in :meth:`forward`.
        """
        if transmission.shape != reflection.shape or transmission.ndim != 5:
            raise ValueError(
                "the frames must both be (B, N, 3, H, W), "
                f"got {tuple(transmission.shape)} and {tuple(reflection.shape)}"
            )
        drawn = self._given(transmission, seeds, draws)
        count, frames = transmission.shape[:2]
        centre = frames // 2
        first, second = transmission.float(), reflection.float()
        with torch.autocast(transmission.device.type, enabled=False):
            drawn = {**self.measure(first[:, centre], second[:, centre], drawn), **drawn}
        each = {name: value.repeat_interleave(frames, dim=0) for name, value in drawn.items()}
        each[FRAME] = (torch.arange(frames, device=transmission.device) - centre).repeat(count).float()
        layers = self._blend_batch(first.flatten(0, 1), second.flatten(0, 1), each)
        mixture, behind, reflected = (layer.reshape(count, frames, *layer.shape[1:]) for layer in layers)
        return Blend(mixture, behind, reflected, drawn)

    def _given(
        self,
        transmission: Tensor,
        seeds: Tensor | Sequence[int] | None,
        draws: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Make or check the draws, and move them to the device of the pictures."""
        if draws is None:
            if seeds is None:
                raise ValueError("a synthesis needs seeds to draw from, or draws to replay")
            draws = self.draw(seeds)
        elif missing := set(self.sample_params(generator(0, SYNTHESIS))) - set(draws):
            raise ValueError(f"the draws lack {', '.join(sorted(missing))}")
        drawn = {name: value.to(device=transmission.device, dtype=torch.float32) for name, value in draws.items()}
        for name, value in drawn.items():
            if value.shape[:1] != transmission.shape[:1]:
                raise ValueError(f"{transmission.shape[0]} samples, but {tuple(value.shape)} values of '{name}'")
        return drawn

    def _blend_batch(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Blending in half precision would cause banding in all training pictures.
        with torch.autocast(transmission.device.type, enabled=False):
            if transmission.device.type == "cpu" and len(transmission) > 1:
                return self._blend_singly(transmission, reflection, draws)
            return self.blend(transmission, reflection, draws)

    def _blend_singly(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blend one sample after another: twice as fast as a large batch on a CPU, since each fits into the cache."""
        singles = [
            self.blend(transmission[i : i + 1], reflection[i : i + 1], {k: v[i : i + 1] for k, v in draws.items()})
            for i in range(len(transmission))
        ]
        mixtures, transmissions, reflections = zip(*singles, strict=True)
        unchanged = all(
            mine.data_ptr() == given.data_ptr() for mine, given in zip(transmissions, transmission, strict=True)
        )
        kept = transmission if unchanged else torch.cat(transmissions)
        return torch.cat(mixtures), kept, torch.cat(reflections)


def pair_of(
    name: str, value: Sequence[float], low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """Check a range [low, high] from the configuration.

    Args:
        name: name of the setting.
        value: the range.
        low: lower bound of both values.
        high: upper bound of both values.

    Raises:
        UserError: if it is not two numbers in ascending order within the bounds.
    """
    try:
        first, last = (float(number) for number in value)
    except (TypeError, ValueError):
        raise UserError(f"synthesis.{name} must be a range of two numbers [low, high], got {value!r}.") from None
    if not first <= last:
        raise UserError(f"synthesis.{name} must be a range [low, high] with low <= high, got [{first:g}, {last:g}].")
    if (low is not None and first < low) or (high is not None and last > high):
        bounds = f"at or above {low:g}" if high is None else f"within [{low or 0:g}, {high:g}]"
        raise UserError(f"synthesis.{name} must lie {bounds}, got [{first:g}, {last:g}].")
    return first, last


def column(values: Tensor) -> Tensor:
    """Reshape (B,) or (B, n) to (B, 1 or n, 1, 1), for multiplication with images."""
    return values.reshape(values.shape[0], -1, 1, 1)
