"""Reconstruction loss: the two layers should add up to the mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output, predicted
from reflectzoo.losses.pixel import l1_loss
from reflectzoo.ops.checks import check_same_shape, full_precision


def reconstruction_loss(
    transmission: Tensor, reflection: Tensor, mixture: Tensor, residue: Tensor | None = None
) -> Tensor:
    """Mean absolute error of T + R, or of T + R + residue, against I.

    YTMT, NeurIPS 2021, Eq. (3), last summand; with the residue, DSRNet, ICCV 2023.

    Args:
        transmission: predicted T, (B, 3, H, W), about [0, 1], not clamped.
        reflection: predicted R, same shape and range.
        mixture: I, same shape, in [0, 1].
        residue: predicted difference of I and T + R, same shape; None for zero.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> ones = torch.ones(1, 3, 2, 2)
        >>> reconstruction_loss(0.5 * ones, 0.25 * ones, ones)
        tensor(0.2500)
        >>> reconstruction_loss(0.5 * ones, 0.25 * ones, ones, 0.125 * ones)
        tensor(0.1250)
    """
    check_same_shape(transmission=transmission, reflection=reflection, mixture=mixture)
    total = full_precision(transmission) + full_precision(reflection)
    if residue is not None:
        check_same_shape(residue=residue, mixture=mixture)
        total = total + full_precision(residue)
    return l1_loss(total, mixture)


class ReconstructionLoss(LossTerm):
    """:func:`reconstruction_loss` of the predicted layers; needs no ground truth.

    Args:
        residue: whether to add the network's ``aux["residue"]``.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
    """

    def __init__(
        self,
        residue: bool = False,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.residue = residue

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        residue = cast(Tensor, aux_output(outputs, "residue")) if self.residue else None
        layers = predicted(outputs, "transmission"), predicted(outputs, "reflection")
        return reconstruction_loss(*layers, batch["mixture"], residue)
