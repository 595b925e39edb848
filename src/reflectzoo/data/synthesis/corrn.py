"""The blending model of CoRRN, for reflection photographs such as those of RID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from reflectzoo.core.annotations import Share, Weight
from reflectzoo.data.synthesis.base import Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur, side_of

PROGRAM_PAIRS = ((0.8, 0.7), (0.9, 0.8), (0.7, 0.9))
"""The weights of background and reflection in the released MATLAB script."""


class CoRRNSynthesis(Synthesis):
    """A weighted sum, with the weighted layers as the ground truth.

    Wan et al., "CoRRN: Cooperative Reflection Removal Network", TPAMI 2019, section 3.2: ``B = alpha * background``,
    ``R = beta * reflection`` (``transmission`` and ``reflection`` here), mixture ``B + R``, here clipped to [0, 1].
    There is no blur, since the reflections of RID were photographed through glass and are already blurred.

    The released MATLAB script differs: ``pairs`` of fixed weights (one of :data:`PROGRAM_PAIRS`), the reflection
    blurred with ``sigma: 0.4`` (3 taps, borders repeated), and the background itself as the ground truth
    (``weighted_transmission: false``), so that mixture minus transmission is not the reflection;
    ``synthesis=corrn_program`` sets all three. (The script writes JPEGs of 96 x 128 pixels, which is not reproduced.)

    Args:
        alpha: range of the background's weight.
        beta: range of the reflection's weight.
        pairs: pairs of weights, one of which is drawn in place of the ranges.
        sigma: standard deviation of a Gaussian blur of the reflection, in pixels; 0 for none.
        weighted_transmission: whether the true transmission is ``alpha`` times the photograph, or the photograph.

    Raises:
        UserError: if a weight is not within [0, 1], a range not ascending, or sigma negative.
    """

    def __init__(
        self,
        alpha: Sequence[float] = (0.8, 1.0),
        beta: Sequence[float] = (0.1, 0.5),
        pairs: Annotated[Sequence[tuple[Share, Share]], MinLen(1)] | None = None,
        sigma: Weight = 0.0,
        weighted_transmission: bool = True,
    ) -> None:
        super().__init__()
        self.alpha = pair_of("alpha", alpha, low=0, high=1)
        self.beta = pair_of("beta", beta, low=0, high=1)
        self.pairs = None if pairs is None else [(float(first), float(second)) for first, second in pairs]
        self.sigma = float(sigma)
        self.weighted_transmission = weighted_transmission

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw the two weights, ``alpha`` and ``beta``."""
        if self.pairs is not None:
            alpha, beta = self.pairs[int(rng.integers(len(self.pairs)))]
        else:
            alpha, beta = float(rng.uniform(*self.alpha)), float(rng.uniform(*self.beta))
        return {"alpha": alpha, "beta": beta}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; ``draws`` holds ``alpha`` and ``beta``, each (B,)."""
        behind = transmission * column(draws["alpha"])
        layer = reflection
        if self.sigma > 0:
            width = torch.full_like(draws["alpha"], self.sigma)
            taps = int(side_of(torch.tensor(self.sigma)))  # as in MATLAB's imgaussfilt
            layer = separable_blur(layer, gaussian_taps(width, taps), "replicate")
        layer = layer * column(draws["beta"])
        mixture = (behind + layer).clamp_(0, 1)
        return mixture, behind if self.weighted_transmission else transmission, layer
