"""What mathematics on images asks of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor


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
