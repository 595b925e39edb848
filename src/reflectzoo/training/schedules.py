"""Learning-rate schedules that PyTorch lacks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from reflectzoo.errors import UserError


def stepwise(optimizer: Optimizer, milestones: Sequence[int], factors: Sequence[float]) -> LambdaLR:
    """Multiply the initial learning rate by ``factors[i]`` from epoch ``milestones[i]`` on.

    PyTorch's MultiStepLR has the same factor at every milestone.

    Args:
        optimizer: the optimiser to schedule.
        milestones: epochs (0-based), strictly increasing.
        factors: one per milestone, relative to the initial rate.

    Raises:
        UserError: if the lengths differ or the milestones do not increase.
    """
    if len(milestones) != len(factors) or list(milestones) != sorted(set(milestones)):
        raise UserError(
            "A stepwise schedule needs increasing milestones and one factor for each, got "
            f"milestones={list(milestones)} and factors={list(factors)}."
        )
    table = [1.0, *factors]
    return LambdaLR(optimizer, lambda epoch: table[bisect_right(milestones, epoch)])
