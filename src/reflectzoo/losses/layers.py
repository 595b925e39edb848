"""What the loss terms share: which prediction meets which truth, and checks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError

Layer = Literal["transmission", "reflection"]
UnknownReflection = Literal["residual", "skip"]


def predicted(outputs: Outputs, layer: Layer) -> Tensor:
    """The predicted layer, (B, 3, H, W).

    Raises:
        UserError: if the method does not predict that layer.
    """
    if layer not in outputs:
        raise UserError(
            f"The loss has a term on the {layer}, but this network returns only {', '.join(outputs)}: "
            "take that term out (~loss.terms.<name>) or choose another loss=."
        )
    return outputs[layer]


def layer_pair(
    outputs: Outputs, batch: Batch, layer: Layer, unknown_reflection: UnknownReflection = "skip"
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and truth of one layer, and for which samples the truth is known.

    Args:
        outputs: of a network.
        batch: with the truth.
        layer: which one.
        unknown_reflection: what a sample with a true transmission but no true reflection is compared with.
            ``residual``: mixture - transmission, which may be negative; ``skip``: nothing.

    Returns:
        ``(prediction, target, valid)``: (B, 3, H, W) twice, and (B,) bool.

    Raises:
        UserError: if the method does not predict that layer.
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


def full_precision(image: Tensor) -> Tensor:
    """The same numbers in float32 at least: a loss summed up in bfloat16 has two digits."""
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image


def check_same_shape(**tensors: Tensor) -> None:
    """Raise unless all tensors have one shape.

    Raises:
        ValueError: naming both shapes.
    """
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(f"{first} is {tuple(reference.shape)}, but {name} is {tuple(tensor.shape)}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless a configured word is one of those that mean something.

    Raises:
        UserError: naming the option and the choices.
    """
    if value not in choices:
        raise UserError(f"{name} is '{value}', but must be one of: {', '.join(choices)}.")
