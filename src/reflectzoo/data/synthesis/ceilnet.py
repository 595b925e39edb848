"""The blending model of CEILNet as implemented in the programs of YTMT, ERRNet and DSRNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from reflectzoo.core.annotations import OddCount
from reflectzoo.data.synthesis.base import SHIFT, Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import Border, gaussian_taps, most_taps, separable_blur, side_of
from reflectzoo.data.synthesis.optics import mean_overflow


class CEILNetSynthesis(Synthesis):
    """Blurs the reflection, subtracts from it the mean overflow of the sum, and adds it to the transmission.

    Fan et al., "A Generic Deep Architecture for Single Image Reflection Removal and Image Smoothing", ICCV 2017,
    section 4, in the form of the released YTMT and ERRNet programs: on stored (sRGB) values throughout, the reflection
    is blurred by a Gaussian with zero padding (which darkens its border); if the sum T + R exceeds 1 anywhere,
    ``gamma * (mean of all values above 1, minus 1)``, over the three channels together, is subtracted from the whole
    reflection once. The transmission is never changed.

    The program of IBCLN has a variant (``syn_data_fan``): ``border="reflect", taps=None``.

    Args:
        sigma: range of the Gaussian's standard deviation in pixels, uniformly distributed.
        gamma: range of the factor of the subtraction; the programs use the constant 1.3.
        taps: size of the kernel. The programs draw it from a list but always use 11. None: ``2 ceil(2 sigma) + 1``.
        border: padding for the blur.

    Raises:
        UserError: if a range is not ascending, the number of taps even or the border unknown.
    """

    def __init__(
        self,
        sigma: Sequence[float] = (2.0, 5.0),
        gamma: Sequence[float] = (1.3, 1.3),
        taps: OddCount | None = 11,
        border: Border = "zero",
    ) -> None:
        super().__init__()
        self.sigma = pair_of("sigma", sigma, low=1e-3)
        self.gamma = pair_of("gamma", gamma, low=0)
        self.taps = taps
        self.border: Border = border

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``sigma`` of the blur and ``gamma``, the factor of the subtraction."""
        return {"sigma": float(rng.uniform(*self.sigma)), "gamma": float(rng.uniform(*self.gamma))}

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The amount subtracted from the reflection."""
        return {SHIFT: self._shift(transmission, self._blurred(reflection, draws), draws)}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; ``draws`` holds ``sigma`` and ``gamma``, each (B,)."""
        blurred = self._blurred(reflection, draws)
        shift = draws[SHIFT] if SHIFT in draws else self._shift(transmission, blurred, draws)
        # Without overflow, the shift is zero and both clamps change nothing, as in the other branch of the programs.
        layer = blurred.sub_(column(shift)).clamp_(0, 1)
        return (layer + transmission).clamp_(0, 1), transmission, layer

    def _blurred(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        sigma = draws["sigma"]
        if self.taps is not None:
            return separable_blur(reflection, gaussian_taps(sigma, self.taps), self.border)
        most = most_taps(self.sigma[1], sigma)
        return separable_blur(reflection, gaussian_taps(sigma, most, side_of(sigma)), self.border)

    @staticmethod
    def _shift(transmission: Tensor, blurred: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return draws["gamma"][:, None] * mean_overflow(transmission + blurred)
