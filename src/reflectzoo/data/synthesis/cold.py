"""Reflections in front of a constant colour, the third generator in the programs of YTMT and ERRNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reflectzoo.data.synthesis.base import SHIFT, Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur
from reflectzoo.data.synthesis.optics import mean_of


class ColdSynthesis(Synthesis):
    """The bright parts of the reflection in front of a single dark colour.

    As in the released programs (``ReflectionSythesis_0``, which their training does not use; no paper describes it):
    the transmission is replaced by one colour. With probability ``grey`` that is a grey value, uniformly distributed in
    [0, 30] / 255; otherwise its three values are normally distributed (mean and standard deviation 50 / 255), clipped
    to [0, 1]. The reflection is blurred (zero border), ``gamma`` times its mean is subtracted, and it is multiplied by
    ``delta``; after each of the last two steps it is clipped to [0, 1].

    Args:
        sigma: range of the Gaussian's standard deviation in pixels.
        gamma: factor of the subtracted mean.
        delta: range of the reflection's factor.
        grey: probability of a grey colour.

    Raises:
        UserError: if a range is not ascending or out of bounds.
    """

    def __init__(
        self,
        sigma: Sequence[float] = (2.0, 5.0),
        gamma: float = 1.3,
        delta: Sequence[float] = (0.4, 1.8),
        grey: float = 0.4,
    ) -> None:
        super().__init__()
        self.sigma = pair_of("sigma", sigma, low=1e-3)
        self.delta = pair_of("delta", delta, low=0)
        self.gamma = float(gamma)
        self.grey = float(grey)

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``colour`` (three values, to be divided by 255), ``sigma`` and ``delta``."""
        colour: tuple[float, ...]
        if rng.random() < self.grey:
            colour = (float(rng.uniform(0, 30)),) * 3
        else:
            colour = tuple(float(value) for value in rng.normal(50, 50, 3))
        return {"colour": colour, "sigma": float(rng.uniform(*self.sigma)), "delta": float(rng.uniform(*self.delta))}

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The amount subtracted from the reflection."""
        return {SHIFT: self._shift(self._blurred(reflection, draws))}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; only the size of the transmission is used."""
        ground = (column(draws["colour"]) / 255).clamp(0, 1).expand_as(transmission).contiguous()
        layer = self._blurred(reflection, draws)
        shift = draws[SHIFT] if SHIFT in draws else self._shift(layer)
        layer = layer.sub_(column(shift)).clamp_(0, 1).mul_(column(draws["delta"])).clamp_(0, 1)
        return (ground + layer).clamp_(0, 1), ground, layer

    @staticmethod
    def _blurred(reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return separable_blur(reflection, gaussian_taps(draws["sigma"], 11))

    def _shift(self, blurred: Tensor) -> Tensor:
        return self.gamma * mean_of(blurred)[:, None].expand(-1, blurred.shape[1])
