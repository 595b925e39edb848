"""Base class of loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from reflectzoo.core.annotations import Rule
from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.core.settings import Checked

_PER_PHASE = Rule("a number, or a list with a number for each training phase", lambda value: value not in ([], ()))


class LossTerm(Checked, nn.Module):
    """One named term of a loss: ``term(outputs, batch) -> scalar``, unweighted.

    A term is zero (not NaN) if no sample of the batch has the ground truth that it needs. The weight is applied by
    :class:`reflectzoo.losses.weighted_sum.WeightedSum`, never by the term itself.

    Args:
        weight: a number, or one number per training phase for methods that train in phases
            (the last one applies to all later phases).
        start_epoch: the term is off before this epoch (0 = from the start); also one number or one per phase.

    Raises:
        UserError: if either is neither a number nor a non-empty list of numbers.
    """

    def __init__(
        self,
        weight: Annotated[float | Sequence[float], _PER_PHASE] = 1.0,
        start_epoch: Annotated[int | Sequence[int], _PER_PHASE] = 0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.start_epoch = start_epoch

    def weight_at(self, phase: int, epoch: int) -> float:
        """The weight in a training phase (0-based) at an epoch (0-based, over the whole fit); 0 before the start."""
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
