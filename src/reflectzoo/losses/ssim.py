"""SSIM loss, with the window of CoRRN's program.

That is an 11x11 Gaussian of sigma 1.5 over the whole image, with zero padding. Other libraries use reflection padding
or crop the border, so that their values differ near it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import UnknownReflection, layer_pair
from reflectzoo.ops.distributed import all_if_none, masked_mean
from reflectzoo.ops.ssim import ssim_map


def ssim_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - mean SSIM over the valid samples; CoRRN, TPAMI 2019, Eq. (5).

    Args:
        prediction: (B, C, H, W), values in about [0, 1].
        target: same shape.
        valid: (B,) bool, samples to include; None for all.

    Returns:
        Scalar in [0, 2]; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 3, 16, 16)
        >>> ssim_loss(image, image).item() < 1e-6 < ssim_loss(image, 0.5 * image).item()
        True
    """
    return masked_mean(1 - ssim_map(prediction, target), all_if_none(valid, prediction))


class SSIMLoss(LossTerm):
    """:func:`ssim_loss` of one layer.

    Args:
        layer: ``transmission`` or ``reflection``.
        unknown_reflection: target for real pairs, whose reflection is unknown. ``residual``: mixture - transmission,
            which may be negative; ``skip``: exclude such samples.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``layer`` or ``unknown_reflection``.
    """

    def __init__(
        self,
        layer: Layer = "transmission",
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.layer = layer
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar in [0, 2]."""
        return ssim_loss(*layer_pair(outputs, batch, self.layer, self.unknown_reflection))
