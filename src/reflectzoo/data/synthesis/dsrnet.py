"""The blending model of DSRNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from reflectzoo.core.annotations import OddCount, Share, Weight
from reflectzoo.data.synthesis.base import SHIFT, Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur
from reflectzoo.data.synthesis.optics import mean_overflow
from reflectzoo.errors import UserError


class DSRNetSynthesis(Synthesis):
    """Weighted layers, combined by a screen blend or added.

    Hu and Guo, "Single Image Reflection Separation via Component Synergy", ICCV 2023, as in the released program
    (``ReflectionSynthesis``), in stored (sRGB) values: the reflection is blurred (zero border); t = alpha * T and
    r = beta * R; with probability ``screen`` the mixture is ``t + r - t * r``, otherwise ``t + r`` with CEILNet's
    subtraction from r if that exceeds 1.

    In the program, the target layers are T itself and the blurred R, neither weighted nor reduced, so that they do not
    add up to the mixture; ``targets: mixed`` gives the layers as they are in the mixture.

    Args:
        sigma: range of the Gaussian's standard deviation in pixels.
        alpha: range of the transmission's weight.
        beta: range of the reflection's weight.
        screen: probability of the screen blend.
        sides: possible sizes of the kernel, odd.
        side_weights: their relative frequencies.
        gamma: factor of the subtraction.
        targets: ``plain`` (the program) or ``mixed``.

    Raises:
        UserError: if a range or probability is out of bounds, a size even, or the targets unknown.
    """

    def __init__(
        self,
        sigma: Sequence[float] = (2.0, 5.0),
        alpha: Sequence[float] = (0.8, 1.0),
        beta: Sequence[float] = (0.4, 1.0),
        screen: Share = 0.7,
        sides: Annotated[Sequence[OddCount], MinLen(1)] = (5, 7, 9, 11),
        side_weights: Sequence[Weight] = (0.1, 0.2, 0.3, 0.4),
        gamma: float = 1.3,
        targets: Literal["plain", "mixed"] = "plain",
    ) -> None:
        super().__init__()
        self.sigma = pair_of("sigma", sigma, low=1e-3)
        self.alpha = pair_of("alpha", alpha, low=0, high=1)
        self.beta = pair_of("beta", beta, low=0, high=1)
        if len(side_weights) != len(sides) or sum(side_weights) <= 0:
            raise UserError(
                f"synthesis.side_weights must give a frequency for each of {list(sides)}, got {list(side_weights)}."
            )
        self.screen = float(screen)
        self.sides = [int(side) for side in sides]
        self.frequencies = [float(weight) / sum(side_weights) for weight in side_weights]
        self.gamma = float(gamma)
        self.targets = targets

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``side``, ``sigma``, ``alpha``, ``beta`` and ``screen``, which is 1 or 0."""
        return {
            "side": float(rng.choice(self.sides, p=self.frequencies)),
            "sigma": float(rng.uniform(*self.sigma)),
            "alpha": float(rng.uniform(*self.alpha)),
            "beta": float(rng.uniform(*self.beta)),
            "screen": float(rng.random() < self.screen),
        }

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The amount subtracted from the weighted reflection in an additive blend; 0 for a screen blend."""
        layer = self._blurred(reflection, draws) * column(draws["beta"])
        return {SHIFT: self._shift(transmission * column(draws["alpha"]), layer, draws)}

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; the draws are those of :meth:`sample_params`, each (B,)."""
        blurred = self._blurred(reflection, draws)
        behind = transmission * column(draws["alpha"])
        layer = blurred * column(draws["beta"])
        shift = draws[SHIFT] if SHIFT in draws else self._shift(behind, layer, draws)
        layer = layer.sub_(column(shift)).clamp_(0, 1)
        # Screen and additive blend differ by the product only. A screen blend never exceeds 1.
        overlap = (behind * layer).mul_(column(draws["screen"]))
        mixture = (behind + layer).sub_(overlap).clamp_(0, 1)
        if self.targets == "plain":
            return mixture, transmission, blurred
        return mixture, behind, layer

    def _blurred(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        kernel = gaussian_taps(draws["sigma"], max(self.sides), draws["side"])
        return separable_blur(reflection, kernel)

    def _shift(self, behind: Tensor, layer: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return self.gamma * (1 - draws["screen"])[:, None] * mean_overflow(behind + layer)
