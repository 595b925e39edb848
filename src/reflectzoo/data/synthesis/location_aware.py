"""The blending model of Location-aware SIRR."""

from __future__ import annotations

from collections.abc import Sequence

from reflectzoo.data.synthesis.zhang import ZhangSynthesis


class LocationAwareSynthesis(ZhangSynthesis):
    """``alpha * T + R`` in linear light with alpha in [0.8, 1].

    Dong et al., "Location-aware Single Image Reflection Removal", ICCV 2021, equation 6 and section 4.2. No training
    program was released, and the paper only states that it follows the model of Zhang et al. and samples alpha; the
    plain sum of two whole photographs would be white almost everywhere. Hence the reflection is made as in IBCLN, whose
    procedure the paper follows otherwise: blurred, reduced if the sum overflows, and with a vignette, which also gives
    the confidence map something to locate. Equation 6 alone is ``sigma: null, attenuation: null, vignette: false``.

    The weight ``alpha`` in the draws is that of the paper's composition loss: wherever the mixture is below 1,
    ``linear(mixture) = alpha * linear(transmission) + linear(reflection)``.

    Args: see :class:`~reflectzoo.data.synthesis.zhang.ZhangSynthesis`.
    """

    def __init__(
        self,
        sigma: Sequence[float] | None = (2.0, 5.0),
        sigma_steps: int | None = None,
        attenuation: Sequence[float] | None = (1.08, 1.18),
        alpha: Sequence[float] = (0.8, 1.0),
        vignette: bool = True,
    ) -> None:
        super().__init__(sigma, sigma_steps, attenuation, alpha, vignette)
