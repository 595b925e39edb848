"""The blending model of CEILNet as the programs of YTMT, ERRNet and DSRNet apply it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur
from reflectzoo.errors import UserError


class CEILNetSynthesis(Synthesis):
    """Blur the reflection, add it, and take from it what overflowed.

    Fan et al., "A Generic Deep Architecture for Single Image Reflection Removal and Image Smoothing", ICCV 2017,
    section 4, in the form of the released YTMT and ERRNet programs: everything happens in the stored (sRGB) values;
    the reflection is blurred by a Gaussian whose border is zero padded (so it darkens there); if the sum T + R exceeds
    1 anywhere, ``gamma * (mean of all values above 1, minus 1)``, over the three channels together, is subtracted from
    the whole reflection once. (The paper repeats the subtraction until nothing overflows; the programs do not.) The
    transmission is never changed.

    Args:
        sigma: range of the Gaussian's width in pixels, drawn uniformly for each mixture.
        gamma: range of the factor of the subtraction; the programs use the constant 1.3.
        taps: size of the kernel. The programs draw it from a list but always apply 11.

    Raises:
        UserError: if a range is upside down or the number of taps even.
    """

    def __init__(
        self, sigma: tuple[float, float] = (2.0, 5.0), gamma: tuple[float, float] = (1.3, 1.3), taps: int = 11
    ) -> None:
        super().__init__()
        self.sigma = (float(sigma[0]), float(sigma[1]))
        self.gamma = (float(gamma[0]), float(gamma[1]))
        self.taps = int(taps)
        if not 0 < self.sigma[0] <= self.sigma[1] or not self.gamma[0] <= self.gamma[1] or self.taps % 2 == 0:
            raise UserError(
                "synthesis.sigma and synthesis.gamma must be ranges [low, high], synthesis.taps an odd number, got "
                f"{sigma}, {gamma}, {taps}."
            )

    def sample_params(self, rng: np.random.Generator) -> dict[str, float]:
        """Width of the blur and factor of the subtraction."""
        return {"sigma": float(rng.uniform(*self.sigma)), "gamma": float(rng.uniform(*self.gamma))}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; ``draws`` holds ``sigma`` and ``gamma``, each (B,)."""
        blurred = separable_blur(reflection, gaussian_taps(draws["sigma"], self.taps))
        excess = (transmission + blurred).sub_(1).clamp_min_(0)
        # Summed in double precision, so that the sum, and with it every byte of the mixture, does not depend on how
        # many samples and threads share the work.
        wide = torch.float32 if excess.device.type == "mps" else torch.float64
        total = excess.sum(dim=(1, 2, 3), dtype=wide)
        count = excess.sign().sum(dim=(1, 2, 3), dtype=wide)  # four times as fast as counting booleans
        shift = (draws["gamma"] * (total / count.clamp_min(1)).to(excess.dtype)).view(-1, 1, 1, 1)
        # Where nothing overflows the shift is zero and both clamps change nothing, as in the programs' other branch.
        layer = blurred.sub_(shift).clamp_(0, 1)
        return (layer + transmission).clamp_(0, 1), transmission, layer
