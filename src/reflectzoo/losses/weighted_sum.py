"""Loss as a weighted sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm


class WeightedSum(nn.Module):
    """Weighted sum of named terms.

    Args:
        terms: name -> term. ``None`` entries are dropped, so that a configuration can switch a term off.

    Raises:
        UserError: if no term is left, or an entry is not a :class:`LossTerm`.
    """

    def __init__(self, terms: Mapping[str, LossTerm | None]) -> None:
        super().__init__()
        kept = {name: term for name, term in terms.items() if term is not None}
        if not kept:
            raise UserError("The loss has no term left: give loss.terms at least one, e.g. loss=pixel.")
        for name, term in kept.items():
            if not isinstance(term, LossTerm):
                raise UserError(f"loss.terms.{name} must be a loss term, got {term!r:.100}.")
        self.terms = nn.ModuleDict(kept)

    def forward(
        self, outputs: Outputs, batch: Batch, phase: int = 0, epoch: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate the terms whose weight is not zero.

        Args:
            outputs: network outputs.
            batch: with the ground truth.
            phase: training phase (0-based), for terms with one weight per phase.
            epoch: epoch over the whole fit (0-based), for terms that start late.

        Returns:
            The weighted sum (scalar), and the detached unweighted value of each term that is switched on.
        """
        total = torch.zeros((), device=outputs["transmission"].device)
        parts: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            weight = term.weight_at(phase, epoch)
            if weight == 0.0:
                continue
            value = term(outputs, batch)
            parts[name] = value.detach()
            total = total + weight * value
        return total, parts
