"""The blending model of Zhang et al. in linear light, of which IBCLN's and Location-aware's are variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reflectzoo.core.annotations import Count
from reflectzoo.data.synthesis.base import SHIFT, Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, most_taps, separable_blur, side_of
from reflectzoo.data.synthesis.optics import mean_overflow, to_linear, to_stored, vignette


class ZhangSynthesis(Synthesis):
    """Blurs, reduces and vignettes the reflection in linear light, and adds it to an attenuated transmission.

    Zhang, Ng and Chen, "Single Image Reflection Separation with Perceptual Losses", CVPR 2018, section 4.1, as in the
    program included in ERRNet, YTMT and DSRNet (``ReflectionSythesis_2``). With t, r in linear light (power 2.2): r is
    blurred (mirrored border); in each channel, ``attenuation * (mean of the values of r + t above 1, minus 1)`` is
    subtracted, and the result clipped to [0, 1]; a window of a fixed vignette map darkens it away from a centre; then
    ``mixture = alpha * t + r``, converted back to stored values and clipped. The true transmission is the photograph
    itself, not ``alpha`` times it; ``alpha`` is in the draws, for losses on the recomposed mixture.

    Args:
        sigma: range of the Gaussian's standard deviation in pixels; null leaves the reflection sharp.
        sigma_steps: number of evenly spaced values of sigma, one of which is drawn; null for a continuous range.
        attenuation: range of the factor of the subtraction; null subtracts nothing.
        alpha: range of the weight of the transmission in the mixture.
        vignette: whether to darken the reflection away from a random centre.

    Raises:
        UserError: if a range is not ascending or out of bounds.
    """

    def __init__(
        self,
        sigma: Sequence[float] | None = (1.0, 5.0),
        sigma_steps: Count | None = 80,
        attenuation: Sequence[float] | None = (1.08, 1.18),
        alpha: Sequence[float] = (0.8, 1.0),
        vignette: bool = True,
    ) -> None:
        super().__init__()
        self.sigma = None if sigma is None else pair_of("sigma", sigma, low=1e-3)
        self.attenuation = None if attenuation is None else pair_of("attenuation", attenuation, low=0)
        self.alpha = pair_of("alpha", alpha, low=0, high=1)
        self.sigma_steps = sigma_steps
        self.vignette = vignette

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``sigma``, ``attenuation``, ``alpha`` and the position of the vignette, ``x`` and ``y`` in [0, 1)."""
        drawn: Params = {}
        if self.sigma is not None:
            low, high = self.sigma
            if self.sigma_steps is None:
                drawn["sigma"] = float(rng.uniform(low, high))
            else:
                step = int(rng.integers(self.sigma_steps))
                drawn["sigma"] = low + (high - low) * step / max(self.sigma_steps - 1, 1)
        if self.attenuation is not None:
            drawn["attenuation"] = float(rng.uniform(*self.attenuation))
        drawn["alpha"] = float(rng.uniform(*self.alpha))
        if self.vignette:
            drawn["x"], drawn["y"] = float(rng.random()), float(rng.random())
        return drawn

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The amount subtracted from each channel of the reflection, in linear light."""
        if self.attenuation is None:
            return {}
        return {SHIFT: self._shift(to_linear(transmission), self._blurred(reflection, draws), draws)}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; the draws are those of :meth:`sample_params`."""
        behind = to_linear(transmission)
        layer = self._blurred(reflection, draws)
        if self.attenuation is not None:
            shift = draws[SHIFT] if SHIFT in draws else self._shift(behind, layer, draws)
            layer = layer.sub_(column(shift)).clamp_(0, 1)
        if self.vignette:
            layer = layer.mul_(vignette(layer.shape[-2], layer.shape[-1], draws["x"], draws["y"]))
        mixture = behind.mul_(column(draws["alpha"])).add_(layer)
        return to_stored(mixture).clamp_(0, 1), transmission, to_stored(layer)

    def _blurred(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        layer = to_linear(reflection)
        if self.sigma is None:
            return layer
        sigma = draws["sigma"]
        kernel = gaussian_taps(sigma, most_taps(self.sigma[1], sigma), side_of(sigma))
        return separable_blur(layer, kernel, "reflect")

    @staticmethod
    def _shift(behind: Tensor, blurred: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return draws["attenuation"][:, None] * mean_overflow(behind + blurred, per_channel=True)
