"""Derivatives of images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def sobel(grey: Tensor, border: Literal["zeros", "replicate"]) -> tuple[Tensor, Tensor]:
    """Unnormalised Sobel derivatives along x and y.

    Args:
        grey: (B, 1, H, W).
        border: padding mode.

    Returns:
        Two tensors (B, 1, H, W).
    """
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate") if border == "replicate" else F.pad(grey, (1, 1, 1, 1))

    def smooth(x: Tensor, dim: int) -> Tensor:
        length = x.shape[dim] - 2
        return x.narrow(dim, 0, length) + 2 * x.narrow(dim, 1, length) + x.narrow(dim, 2, length)

    along_x, along_y = padded[..., 2:] - padded[..., :-2], padded[..., 2:, :] - padded[..., :-2, :]
    return smooth(along_x, -2), smooth(along_y, -1)


def forward_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring rows and of neighbouring columns.

    Args:
        image: (..., H, W), both at least 2.

    Returns:
        (..., H-1, W) and (..., H, W-1), without padding.

    Raises:
        ValueError: if a side is shorter than 2.

    Example:
        >>> import torch
        >>> rows, columns = forward_differences(torch.tensor([[0.0, 1.0], [4.0, 9.0]]))
        >>> rows.tolist(), columns.tolist()
        ([[4.0, 8.0]], [[1.0], [5.0]])
    """
    if min(image.shape[-2:]) < 2:
        raise ValueError(f"an image needs at least 2x2 pixels to have gradients, got {tuple(image.shape)}")
    return image[..., 1:, :] - image[..., :-1, :], image[..., :, 1:] - image[..., :, :-1]
