"""What every synthesis model shares: draws are made first, and apart from applying them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from reflectzoo.data.seeding import SYNTHESIS, generator


class Blend(NamedTuple):
    """A mixture with the layers that made it.

    Attributes:
        mixture: (B, 3, H, W) float32 in [0, 1].
        transmission: (B, 3, H, W), as the model defines the true transmission.
        reflection: (B, 3, H, W), the reflection as it lies in the mixture.
        draws: what was drawn for each sample, tensors of shape (B, ...).
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    draws: dict[str, Tensor]


class Synthesis(nn.Module):
    """Blends a photograph seen through the glass with one reflected by it.

    A subclass says what it draws for one sample (:meth:`sample_params`) and how a batch is blended once
    everything is drawn (:meth:`blend`). Each sample's draws follow from its own seed alone, so neither the
    batch size nor the order, the worker or the device changes a mixture, and recorded draws can be replayed.
    """

    def sample_params(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw everything that is random about one mixture.

        Args:
            rng: the generator of this sample.

        Returns:
            Name and value of each draw, the same names for every sample.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it draws")

    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blend a batch; nothing is random here (and ``apply`` would hide :meth:`torch.nn.Module.apply`).

        Args:
            transmission: (B, 3, H, W) float32 in [0, 1], the photograph behind the glass.
            reflection: (B, 3, H, W) float32 in [0, 1], the photograph to be reflected.
            draws: what :meth:`draw` returned, or recorded values of the same names, each of shape (B,).

        Returns:
            ``(mixture, transmission, reflection)``: the mixture and the two layers to be learnt.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it blends")

    def draw(self, seeds: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """Draw for every sample from its own seed.

        Args:
            seeds: B non-negative integers, (B,) int64 or a list. A tensor on an accelerator is read back, which
                waits for the device: draw before the transfer where that matters.

        Returns:
            Each draw as a (B,) float32 tensor, on the device of ``seeds``.
        """
        device = seeds.device if isinstance(seeds, Tensor) else torch.device("cpu")
        numbers = seeds.tolist() if isinstance(seeds, Tensor) else list(seeds)
        samples = [self.sample_params(generator(seed, SYNTHESIS)) for seed in numbers]
        names = samples[0] if samples else self.sample_params(generator(0, SYNTHESIS))
        return {
            name: torch.tensor([sample[name] for sample in samples], dtype=torch.float32, device=device)
            for name in names
        }

    @torch.no_grad()
    def forward(
        self,
        transmission: Tensor,
        reflection: Tensor,
        seeds: Tensor | Sequence[int] | None = None,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Blend:
        """Draw (unless the draws are given) and blend, in float32, without gradients.

        Args:
            transmission: (B, 3, H, W) float in [0, 1].
            reflection: same shape, range and device.
            seeds: one seed for each sample; not needed when ``draws`` are given.
            draws: draws to replay.

        Raises:
            ValueError: if the layers differ in shape, or neither or too few seeds are given.
        """
        if transmission.shape != reflection.shape or transmission.ndim != 4:
            raise ValueError(
                f"the layers must both be (B, 3, H, W), got {tuple(transmission.shape)} and {tuple(reflection.shape)}"
            )
        if draws is None:
            if seeds is None:
                raise ValueError("a synthesis needs seeds to draw from, or draws to replay")
            draws = self.draw(seeds)
        device = transmission.device
        drawn = {name: value.to(device=device, dtype=torch.float32) for name, value in draws.items()}
        for name, value in drawn.items():
            if value.shape[:1] != transmission.shape[:1]:
                raise ValueError(f"{transmission.shape[0]} samples, but {tuple(value.shape)} values of '{name}'")
        # Blending in half precision would show as banding in every picture the network ever sees.
        with torch.autocast(device.type, enabled=False):
            if device.type == "cpu" and len(transmission) > 1:
                layers = self._blend_singly(transmission.float(), reflection.float(), drawn)
            else:
                layers = self.blend(transmission.float(), reflection.float(), drawn)
        return Blend(*layers, drawn)

    def _blend_singly(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blend one sample after another: on a CPU twice as fast as a large batch, since each stays in the cache."""
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
