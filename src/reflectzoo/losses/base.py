"""What a loss term is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError


class LossTerm(nn.Module):
    """One named part of a loss: ``term(outputs, batch) -> scalar``, unweighted.

    A term is zero (not NaN) when no sample of the batch has the truth that it needs. Its weight is applied by
    :class:`reflectzoo.losses.composite.CompositeLoss`, never by the term itself.

    Args:
        weight: a number, or one number per training phase for methods that train in phases
            (the last one holds for all later phases).
        start_epoch: the term is off before this epoch (0 = from the start); likewise one number or one per phase.

    Raises:
        UserError: if either is not made of numbers.
    """

    def __init__(self, weight: float | Sequence[float] = 1.0, start_epoch: int | Sequence[int] = 0) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("start_epoch", start_epoch)):
            each = [value] if isinstance(value, int | float | str) else list(value)
            if not each or not all(isinstance(number, int | float) for number in each):
                raise UserError(f"{name} of a {type(self).__name__} is a number or a list of numbers, not {value!r}.")
        self.weight = weight
        self.start_epoch = start_epoch

    def weight_at(self, phase: int, epoch: int) -> float:
        """The weight in a training phase (0-based) at an epoch (0-based, counted over the whole fit)."""
        if epoch < _at_phase(self.start_epoch, phase):
            return 0.0
        return float(_at_phase(self.weight, phase))

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar."""
        raise NotImplementedError


def _at_phase(value: float | Sequence[float], phase: int) -> float:
    if isinstance(value, int | float):
        return value
    return value[min(phase, len(value) - 1)]
