"""Checks and conversions of image tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(image: Tensor) -> Tensor:
    """Convert half-precision images to float32, since a loss accumulated in bfloat16 has only two digits."""
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image


def check_same_shape(**tensors: Tensor) -> None:
    """Check that all tensors have the same shape.

    Raises:
        ValueError: naming the first tensor, the first that differs from it, and both shapes.
    """
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(f"{first} is {tuple(reference.shape)}, but {name} is {tuple(tensor.shape)}")
