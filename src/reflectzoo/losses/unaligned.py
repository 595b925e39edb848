"""Against a transmission that was shot from a slightly different place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import predicted
from reflectzoo.losses.perceptual import perceptual_loss
from reflectzoo.nets.shared_vgg import UsesVGG
from reflectzoo.ops.checks import full_precision
from reflectzoo.ops.distributed import across_any

HIGHEST: Mapping[str, float] = {"conv5_2": 1.0}
"""ERRNet's highest layer, before its rectifier."""


class UnalignedLoss(UsesVGG, LossTerm):
    """Mean absolute difference of deep VGG-19 features, which hardly notice a small shift.

    Wei et al. (ERRNet), CVPR 2019, the alignment-invariant loss; its program's default (``vgg``), which weighs it 0.1.
    Compares the transmission with ``batch["unaligned_transmission"]`` where ``batch["has_unaligned"]``; zero, at no
    cost, for a batch without such samples.

    Args:
        layers: VGG-19 layer -> weight; by default :data:`HIGHEST`.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
    """

    def __init__(
        self,
        layers: Mapping[str, float] | None = None,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.layers = dict(HIGHEST if layers is None else layers)

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        prediction = full_precision(predicted(outputs, "transmission"))
        known = batch.get("has_unaligned")
        # Every process takes part, or one with such a sample would wait for those without.
        if not across_any(known is not None and bool(known.any()), prediction.device):
            return prediction.new_zeros(())
        if known is None:
            known = batch["has_transmission"].new_zeros(len(prediction))
        truth = batch.get("unaligned_transmission", prediction.detach())
        return perceptual_loss(self.vgg, prediction, truth, self.layers, known)
