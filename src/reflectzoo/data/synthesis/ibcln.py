"""The blending model of IBCLN."""

from __future__ import annotations

from collections.abc import Sequence

from reflectzoo.data.synthesis.zhang import ZhangSynthesis


class IBCLNSynthesis(ZhangSynthesis):
    """The model of Zhang et al. with widths from 2 pixels on.

    Li et al., "Single Image Reflection Removal through Cascaded Refinement", CVPR 2020, as in the released program
    (``SynData``). There the lower end of the widths is the batch size, by a quirk; the released script trains with
    batches of 2. The program draws once for a batch, here every sample has its own draw. It also leaves out batches
    whose reflection is darker than half the transmission on average; here every pair is used.

    The losses of the program take ``alpha`` rounded to one decimal; the draw itself is not rounded.

    Args: as :class:`~reflectzoo.data.synthesis.zhang.ZhangSynthesis`.
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
