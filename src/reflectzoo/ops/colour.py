"""Conversion of colours to grey."""

from __future__ import annotations

from torch import Tensor

_GREY = (0.2989, 0.5870, 0.1140)


def luminance(image: Tensor) -> Tensor:
    """Grey value 0.2989 R + 0.5870 G + 0.1140 B; (B, 3, H, W) to (B, 1, H, W)."""
    weights = image.new_tensor(_GREY).view(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)
