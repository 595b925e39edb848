"""The blending model of IBCLN."""

from __future__ import annotations

from collections.abc import Sequence

from reflectzoo.data.synthesis.zhang import ZhangSynthesis


class IBCLNSynthesis(ZhangSynthesis):
    """The model of Zhang et al. with a sigma of at least 2 pixels.

    Li et al., "Single Image Reflection Removal through Cascaded Refinement", CVPR 2020, as in the released program
    (``SynData``). There, the lower bound of sigma is the batch size, by an oversight; the released script trains with
    batches of 2. The program makes one draw per batch; here every sample has separate draws. The program also skips
    batches whose reflection is, on average, darker than half the transmission; here every pair is used.

    The losses of the program use ``alpha`` rounded to one decimal; the draw itself is not rounded.

    Args: see :class:`~reflectzoo.data.synthesis.zhang.ZhangSynthesis`.
    """

    def __init__(
        self,
        sigma: Sequence[float] | None = (2.0, 5.0),
        sigma_steps: int | None = 80,
        attenuation: Sequence[float] | None = (1.08, 1.18),
        alpha: Sequence[float] = (0.8, 1.0),
        vignette: bool = True,
    ) -> None:
        super().__init__(sigma, sigma_steps, attenuation, alpha, vignette)
