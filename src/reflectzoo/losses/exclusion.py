"""Exclusion loss: an edge should appear in one layer only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import predicted
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.distributed import across_processes
from reflectzoo.ops.gradients import forward_differences

ExclusionForm = Literal["program", "paper"]
_EPSILON = 1e-6


def exclusion_loss(
    transmission: Tensor, reflection: Tensor, levels: int = 3, form: ExclusionForm = "program"
) -> Tensor:
    """Penalise gradients at the same position in both layers, over ``levels`` scales, each half the size of the last.

    YTMT, NeurIPS 2021, Eq. (5); first in Zhang et al., CVPR 2018.

    ``program``: per scale and direction, ``(mean(s(dT)^2 s(a dR)^2) + 1e-6)^(1/4)`` with s(x) = 2 sigmoid(x) - 1 =
    tanh(x / 2) and a = 2 mean|dT| / (mean|dR| + 1e-6), through which gradients flow, too. The means are taken over the
    whole batch. The sum over scales is divided by 3 regardless of their number; the two directions are averaged.

    ``paper``: mean over scales of ``|tanh(lT |dT|) tanh(lR |dR|)|^2``, summed over the directions. The paper does not
    define the normalisation lT, lR; as in Zhang et al., lT = sqrt(|dR| / |dT|) and lR = 1 / lT with Frobenius norms per
    image. The squared norm is a mean over pixels; otherwise the weight would depend on the image size.

    Args:
        transmission: predicted T, (B, C, H, W).
        reflection: predicted R, same shape.
        levels: number of scales.
        form: see above.

    Returns:
        Scalar >= 0; in the program's form never below ``levels * 1e-6 ** 0.25 / 3``.

    Raises:
        ValueError: if the shapes differ, ``levels`` is below 1, or the image is too small for that many scales.

    Example:
        >>> flat, edge = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> exclusion_loss(flat, edge, levels=1, form="paper")
        tensor(0.)
    """
    check_same_shape(transmission=transmission, reflection=reflection)
    if levels < 1 or min(transmission.shape[-2:]) >> (levels - 1) < 2:
        raise ValueError(f"an image of shape {tuple(transmission.shape)} does not allow {levels} exclusion levels")
    scale = _program_scale if form == "program" else _paper_scale
    layers = full_precision(transmission), full_precision(reflection)
    total = layers[0].new_zeros(())
    for level in range(levels):
        if level > 0:
            half_t, half_r = (
                F.interpolate(layer, scale_factor=0.5, mode="bilinear", align_corners=False) for layer in layers
            )
            layers = half_t, half_r
        for of_t, of_r in zip(*map(forward_differences, layers), strict=True):
            total = total + scale(of_t, of_r)
    # The program averages the two directions, and always divides by its default number of scales, 3. The paper adds
    # the directions, as parts of one norm.
    return total / 6 if form == "program" else total / levels


def _program_scale(of_t: Tensor, of_r: Tensor) -> Tensor:
    # Neither the ratio nor the fourth root is linear in the batch mean, so that both need the mean over all processes.
    ratio = 2 * across_processes(of_t.abs().mean()) / (across_processes(of_r.abs().mean()) + _EPSILON)
    squashed_t, squashed_r = 2 * torch.sigmoid(of_t) - 1, 2 * torch.sigmoid(ratio * of_r) - 1
    overlap = across_processes((squashed_t.square() * squashed_r.square()).mean())
    return (overlap + _EPSILON) ** 0.25


def _paper_scale(of_t: Tensor, of_r: Tensor) -> Tensor:
    energy_t, energy_r = (layer.square().mean(dim=(1, 2, 3), keepdim=True) + _EPSILON for layer in (of_t, of_r))
    factor = (energy_r / energy_t) ** 0.25
    return (torch.tanh(factor * of_t.abs()) * torch.tanh(of_r.abs() / factor)).square().mean()


class ExclusionLoss(LossTerm):
    """:func:`exclusion_loss` of the predicted layers; needs no ground truth.

    Args:
        levels: number of scales.
        form: ``program`` or ``paper``.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``form``.
    """

    def __init__(
        self,
        levels: Count = 3,
        form: ExclusionForm = "program",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.levels = levels
        self.form = form

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        layers = predicted(outputs, "transmission"), predicted(outputs, "reflection")
        return exclusion_loss(*layers, levels=self.levels, form=self.form)
