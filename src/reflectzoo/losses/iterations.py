"""Sum of a loss term over the iterations of a recurrent network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from annotated_types import Gt, Le
from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm


class OverIterations(LossTerm):
    """Any term, summed over the iterations: ``sum over i = 1...N of attenuation^(N - i) * term_i``.

    Dong et al., ICCV 2021, equations 8, 11, 12 and 16 (attenuation 0.85); IBCLN's program has attenuation 1. Iterations
    are the entries of lists in ``aux``: for the i-th iteration, ``aux["transmission"][i]`` and ``aux["reflection"][i]``
    replace the layers, and every other list of the same length is replaced by its i-th entry. A network without such
    lists has one iteration.

    Args:
        term: applied to each iteration; its own weight is ignored.
        attenuation: factor from each iteration to the previous one, in (0, 1].
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an attenuation out of bounds.
    """

    def __init__(
        self,
        term: LossTerm,
        attenuation: Annotated[float, Gt(0), Le(1)] = 0.85,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.term = term
        self.attenuation = attenuation

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar."""
        steps = iterations(outputs)
        values = [cast(Tensor, self.term(step, batch)) for step in steps]
        total = values[-1]
        for age, value in enumerate(reversed(values[:-1]), start=1):
            total = total + self.attenuation**age * value
        return total


def iterations(outputs: Outputs) -> list[Outputs]:
    """The outputs of each iteration, as if it were the last one; ``[outputs]`` for a network without iterations."""
    aux = outputs.get("aux", {})
    transmissions = aux.get("transmission")
    if not isinstance(transmissions, list) or not transmissions:
        return [outputs]
    count = len(transmissions)
    lists = {name: each for name, each in aux.items() if isinstance(each, list) and len(each) == count}
    rest = {name: each for name, each in aux.items() if name not in lists}
    steps: list[Outputs] = []
    for index in range(count):
        chosen = {name: each[index] for name, each in lists.items()}
        layers = {name: chosen.pop(name) for name in ("transmission", "reflection") if name in chosen}
        step = cast(dict[str, Any], {**outputs}) | layers | {"aux": {**rest, **chosen}}
        steps.append(cast(Outputs, step))
    return steps
