"""Learning-rate schedules that torch has no ready-made form of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from reflectzoo.errors import UserError


def stepwise(optimizer: Optimizer, milestones: Sequence[int], factors: Sequence[float]) -> LambdaLR:
    """Learning rate times ``factors[i]`` from epoch ``milestones[i]`` on (torch's MultiStepLR knows one factor only).

    Args:
        optimizer: whose learning rate is scheduled.
        milestones: epochs (0-based), rising.
        factors: one for each milestone, relative to the starting rate.

    Raises:
        UserError: if the two differ in length or the milestones do not rise.
    """
    if len(milestones) != len(factors) or list(milestones) != sorted(set(milestones)):
        raise UserError(
            "A stepwise schedule needs increasing milestones and one factor for each, got "
            f"milestones={list(milestones)} and factors={list(factors)}."
        )
    table = [1.0, *factors]
    return LambdaLR(optimizer, lambda epoch: table[bisect_right(milestones, epoch)])
