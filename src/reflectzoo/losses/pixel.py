"""Distances between the values of images, and between their forward differences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import UnknownReflection, layer_pair
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.distributed import all_if_none, masked_mean
from reflectzoo.ops.gradients import forward_differences


def mse_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error over the valid samples.

    Args:
        prediction: (B, C, H, W).
        target: same shape.
        valid: (B,) bool, samples to include; None for all.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(prediction=prediction, target=target)
    return masked_mean((full_precision(prediction) - full_precision(target)).square(), all_if_none(valid, prediction))


def l1_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error over the valid samples; arguments and errors as for :func:`mse_loss`."""
    check_same_shape(prediction=prediction, target=target)
    return masked_mean((full_precision(prediction) - full_precision(target)).abs(), all_if_none(valid, prediction))


def gradient_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error of the row differences plus that of the column differences.

    YTMT, NeurIPS 2021, Eq. (3), third summand, as its released program computes it.

    Arguments and errors as for :func:`mse_loss`; images of at least 2x2 pixels.

    Example:
        >>> import torch
        >>> target = torch.zeros(1, 1, 2, 2)
        >>> gradient_loss(torch.tensor([[[[0.0, 1.0], [4.0, 9.0]]]]), target)  # (4 + 8) / 2 + (1 + 5) / 2
        tensor(9.)
    """
    check_same_shape(prediction=prediction, target=target)
    valid = all_if_none(valid, prediction)
    # Subtract the differences in the program's order: with 8-bit data many are equal, so that rounding would decide
    # signs in the gradient.
    wanted = forward_differences(full_precision(target))
    found = forward_differences(full_precision(prediction))
    rows, columns = ((a - b).abs() for a, b in zip(found, wanted, strict=True))
    return masked_mean(rows, valid) + masked_mean(columns, valid)


class PixelLoss(LossTerm):
    """``mse * MSE + gradient * (L1 of row + L1 of column differences) + l1 * L1`` of one layer.

    YTMT, NeurIPS 2021, Eq. (3) without its last summand. Paper: 0.3 MSE + 0.6 gradient for the transmission, 0.9 MSE
    alone for the reflection. Released program: 0.3 MSE + 0.6 gradient for both (it builds the 0.9 MSE and overwrites
    it), hence the defaults.

    Args:
        layer: ``transmission`` or ``reflection``.
        mse: weight of the mean squared error.
        gradient: weight of the gradient loss.
        l1: weight of the mean absolute error.
        unknown_reflection: target for real pairs, whose reflection is unknown. ``residual``, as in the program:
            mixture - transmission, which may be negative; ``skip``: exclude such samples.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``layer`` or ``unknown_reflection``.
    """

    def __init__(
        self,
        layer: Layer = "transmission",
        mse: float = 0.3,
        gradient: float = 0.6,
        l1: float = 0.0,
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.layer = layer
        self.mse, self.gradient, self.l1 = mse, gradient, l1
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        prediction, target, valid = layer_pair(outputs, batch, self.layer, self.unknown_reflection)
        total = full_precision(prediction).new_zeros(())
        for weight, distance in ((self.mse, mse_loss), (self.gradient, gradient_loss), (self.l1, l1_loss)):
            if weight != 0:
                total = total + weight * distance(prediction, target, valid)
        return total
