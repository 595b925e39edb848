"""A loss term of the method's own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm


class NotBrighterLoss(LossTerm):
    """Mean amount by which the transmission is brighter than the mixture; light through glass only adds up."""

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the scalar."""
        return F.relu(outputs["transmission"] - batch["mixture"]).mean()
