"""Loss against a transmission taken from a slightly different position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.contextual import contextual_loss
from reflectzoo.losses.layers import predicted
from reflectzoo.losses.perceptual import vgg_features
from reflectzoo.losses.pixel import l1_loss, mse_loss
from reflectzoo.nets.shared_vgg import UsesVGG
from reflectzoo.ops.checks import full_precision
from reflectzoo.ops.distributed import across_any

UnalignedForm = Literal["features", "contextual", "both", "pixel"]

_FORMS: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
    "features": ({"conv5_2": 1.0}, {}),
    # ERRNet's program requests convolutions before their ReLUs; but since these work in place, it actually gets the
    # values after the ReLUs, except for the deepest layer.
    "contextual": ({}, {"relu2_2": 1.0, "relu3_2": 1.0, "conv4_2": 1.0}),
    "both": ({"conv5_2": 1.0}, {"relu2_2": 1.0, "relu3_2": 1.0, "relu4_2": 1.0}),
    "pixel": ({}, {}),
}
"""Form -> (VGG-19 layers and weights of absolute differences, those of the contextual loss)."""


class UnalignedLoss(UsesVGG, LossTerm):
    """Distance of deep VGG-19 features, which are insensitive to small shifts.

    Wei et al. (ERRNet), CVPR 2019, Sec. 4.2, the alignment-invariant loss. Compares the transmission with
    ``batch["unaligned_transmission"]`` where ``batch["has_unaligned"]``; if no process has such a sample, returns zero
    without computing features.

    Args:
        layers: VGG-19 layer -> weight of its absolute differences; defaults to those of the form.
        form: ``features``, the mean absolute difference of the highest layer (conv5_2, before its ReLU), the program's
            default; ``contextual``, :func:`~reflectzoo.losses.contextual.contextual_loss` of three middle layers;
            ``both``; ``pixel``, the mean squared error of the images, which causes blur. In the program, the first
            three have the weight 0.1.
        contextual: VGG-19 layer -> weight of its contextual loss; defaults to those of the form.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown form, or if no layer is left.
    """

    def __init__(
        self,
        layers: Mapping[str, float] | None = None,
        form: UnalignedForm = "features",
        contextual: Mapping[str, float] | None = None,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.form = form
        self.layers = dict(_FORMS[form][0] if layers is None else layers)
        self.contextual = dict(_FORMS[form][1] if contextual is None else contextual)
        if form != "pixel" and not (self.layers or self.contextual):
            raise UserError(f"The unaligned loss of form={form} needs at least one VGG layer.")

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        prediction = full_precision(predicted(outputs, "transmission"))
        known = batch.get("has_unaligned")
        # All processes must take part in the collective operations, even those without such a sample.
        if not across_any(known is not None and bool(known.any()), prediction.device):
            return prediction.new_zeros(())
        if known is None:
            known = batch["has_transmission"].new_zeros(len(prediction))
        truth = batch.get("unaligned_transmission", prediction.detach())
        total = mse_loss(prediction, truth, known) if self.form == "pixel" else prediction.new_zeros(())
        names = list(dict.fromkeys([*self.layers, *self.contextual]))
        if not names:
            return total
        found, wanted = (
            dict(zip(names, maps, strict=True)) for maps in vgg_features(self.vgg, prediction, truth, names)
        )
        for name, weight in self.layers.items():
            total = total + weight * l1_loss(found[name], wanted[name], known)
        for name, weight in self.contextual.items():
            total = total + weight * contextual_loss(found[name], wanted[name], known)
        return total
