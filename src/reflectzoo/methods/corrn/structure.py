"""CoRRN's structure index as a loss on layers or on the predicted gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import UnknownReflection, layer_pair
from reflectzoo.ops.checks import full_precision
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.distributed import all_if_none, masked_mean
from reflectzoo.ops.gradients import sobel
from reflectzoo.ops.ssim import structure_map


def structure_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - mean SI over the valid samples; CoRRN, TPAMI 2019, Eq. (6).

    Arguments and errors are those of :func:`~reflectzoo.losses.ssim.ssim_loss`.
    """
    return masked_mean(1 - structure_map(prediction, target), all_if_none(valid, prediction))


def gradient_truth(transmission: Tensor, scale: float = 1.0) -> Tensor:
    """Ground truth of the gradient decoder: the Sobel magnitude of the grey transmission, with replicated borders.

    CoRRN, TPAMI 2019, Fig. 5; ``scale=1`` as in the data of the authors' program (MATLAB's ``imgradientxy``).

    Args:
        transmission: (B, 3, H, W) in [0, 1].
        scale: factor. A vertical step edge of height 1 has a magnitude of 4 before scaling.

    Returns:
        (B, 1, H, W) >= 0.
    """
    along_x, along_y = sobel(luminance(transmission), border="replicate")
    return scale * torch.hypot(along_x, along_y)


class StructureLoss(LossTerm):
    """:func:`structure_loss` of a layer, or of the gradient that some networks also predict.

    Args:
        of: ``gradient`` compares ``aux["gradient"]`` with :func:`gradient_truth`; ``transmission`` and ``reflection``
            compare that layer with its ground truth.
        scale: scale of the gradient's ground truth. With 1, as in the program, it reaches 5.7, so that predictions,
            which are below 1, saturate at strong edges; with 0.25 a step from black to white is 1.
        unknown_reflection: see :class:`~reflectzoo.losses.ssim.SSIMLoss`.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an unknown ``of`` or ``unknown_reflection``.
    """

    def __init__(
        self,
        of: Literal["gradient", "transmission", "reflection"] = "gradient",
        scale: float = 1.0,
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.of = of
        self.scale = scale
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar in [0, 2].

        Raises:
            UserError: if the network does not predict the layer or the gradient.
        """
        if self.of != "gradient":
            return structure_loss(*layer_pair(outputs, batch, self.of, self.unknown_reflection))
        if "gradient" not in outputs.get("aux", {}):
            raise UserError(
                "The loss has a term on the transmission's gradient, but this network does not predict one: remove "
                "that term (~loss.terms.<name>) or choose another loss=."
            )
        truth = gradient_truth(full_precision(batch["transmission"]), self.scale)
        return structure_loss(outputs["aux"]["gradient"], truth, batch["has_transmission"])
