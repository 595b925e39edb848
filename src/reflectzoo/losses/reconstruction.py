"""The two layers must add up to the photograph."""

from __future__ import annotations

from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import predicted
from reflectzoo.losses.pixel import l1_loss
from reflectzoo.ops.checks import check_same_shape, full_precision


def reconstruction_loss(transmission: Tensor, reflection: Tensor, mixture: Tensor) -> Tensor:
    """Mean absolute error of T + R against I.

    YTMT, NeurIPS 2021, Eq. (3), last summand.

    Args:
        transmission: predicted T, (B, 3, H, W), about [0, 1], not clamped.
        reflection: predicted R, same shape and range.
        mixture: I, same shape, in [0, 1].

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> ones = torch.ones(1, 3, 2, 2)
        >>> reconstruction_loss(0.5 * ones, 0.25 * ones, ones)
        tensor(0.2500)
    """
    check_same_shape(transmission=transmission, reflection=reflection, mixture=mixture)
    return l1_loss(full_precision(transmission) + full_precision(reflection), mixture)


class ReconstructionLoss(LossTerm):
    """:func:`reconstruction_loss` of the predicted layers; needs no truth."""

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        return reconstruction_loss(
            predicted(outputs, "transmission"), predicted(outputs, "reflection"), batch["mixture"]
        )
