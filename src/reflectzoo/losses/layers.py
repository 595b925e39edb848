"""Helpers of the loss terms: matching predictions with their ground truth, and checks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.errors import UserError

UnknownReflection = Literal["residual", "skip"]


def predicted(outputs: Outputs, layer: Layer) -> Tensor:
    """The predicted layer, (B, 3, H, W).

    Raises:
        UserError: if the method does not predict this layer.
    """
    if layer not in outputs:
        raise UserError(
            f"The loss has a term on the {layer}, but this network returns only {', '.join(outputs)}: remove that "
            "term (~loss.terms.<name>) or choose another loss=."
        )
    return outputs[layer]


def layer_pair(
    outputs: Outputs, batch: Batch, layer: Layer, unknown_reflection: UnknownReflection = "skip"
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and ground truth of one layer, and the samples whose ground truth is known.

    Args:
        outputs: network outputs.
        batch: with the ground truth.
        layer: ``transmission`` or ``reflection``.
        unknown_reflection: target of the reflection for samples with a true transmission but no true reflection.
            ``residual``: mixture - transmission, which may be negative; ``skip``: none.

    Returns:
        ``(prediction, target, valid)``: (B, 3, H, W) twice, and (B,) bool.

    Raises:
        UserError: if the method does not predict this layer.
    """
    prediction = predicted(outputs, layer)
    if layer == "transmission":
        return prediction, batch["transmission"], batch["has_transmission"]
    target, valid = batch["reflection"], batch["has_reflection"]
    if unknown_reflection == "residual":
        residual = batch["mixture"] - batch["transmission"]
        target = torch.where(valid[:, None, None, None], target, residual)
        valid = valid | batch["has_transmission"]
    return prediction, target, valid


def aux_output(outputs: Outputs, key: str) -> Any:
    """``outputs["aux"][key]``.

    Raises:
        UserError: if the network does not provide it.
    """
    aux = outputs.get("aux", {})
    if key not in aux:
        made = ", ".join(aux) or "nothing besides layers"
        raise UserError(
            f"The loss has a term on aux['{key}'], but this network makes {made}: remove that term "
            "(~loss.terms.<name>) or choose another loss=."
        )
    return aux[key]
