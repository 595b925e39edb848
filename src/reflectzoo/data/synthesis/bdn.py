"""The blending model of BDN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from reflectzoo.core.annotations import OddCount
from reflectzoo.data.synthesis.base import Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur

_SHARPEST = 1e-2  # avoids a division by 0; with any smaller sigma, the kernel is a single tap anyway


class BDNSynthesis(Synthesis):
    """A weighted mean of two photographs, one of them slightly blurred, in stored (sRGB) values.

    Yang et al., "Seeing Deeply and Bidirectionally", ECCV 2018, with the parameters of the released generator of their
    data: ``mixture = (1 - beta) T + beta R``, with R blurred (mirrored border) by a Gaussian of one of three sizes.
    Nothing exceeds 1, so that nothing is clipped.

    In the program, the target layers are T itself and the blurred R, neither weighted, so that they do not add up to
    the mixture; ``targets: mixed`` gives the layers as they are in the mixture.

    Args:
        beta: range of the reflection's weight.
        sigma: range of the Gaussian's standard deviation in pixels.
        sides: possible sizes of its kernel, odd.
        targets: ``plain`` (the program) or ``mixed``.

    Raises:
        UserError: if a range is out of bounds, a size even, or the targets unknown.
    """

    def __init__(
        self,
        beta: Sequence[float] = (0.2, 0.4),
        sigma: Sequence[float] = (0.0, 2.0),
        sides: Annotated[Sequence[OddCount], MinLen(1)] = (3, 5, 7),
        targets: Literal["plain", "mixed"] = "plain",
    ) -> None:
        super().__init__()
        self.beta = pair_of("beta", beta, low=0, high=1)
        self.sigma = pair_of("sigma", sigma, low=0)
        self.sides = [int(side) for side in sides]
        self.targets = targets

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``beta``, ``sigma`` and ``side``."""
        return {
            "beta": float(rng.uniform(*self.beta)),
            "sigma": float(rng.uniform(*self.sigma)),
            "side": float(rng.choice(self.sides)),
        }

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; the draws are those of :meth:`sample_params`, each (B,)."""
        kernel = gaussian_taps(draws["sigma"].clamp(min=_SHARPEST), max(self.sides), draws["side"])
        blurred = separable_blur(reflection, kernel, "reflect")
        beta = column(draws["beta"])
        behind, layer = (1 - beta) * transmission, beta * blurred
        mixture = behind + layer
        return (mixture, transmission, blurred) if self.targets == "plain" else (mixture, behind, layer)
