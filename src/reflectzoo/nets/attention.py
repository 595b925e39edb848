"""Pixel and channel attention, introduced by FFA-Net and adopted by several reflection removal networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def _hidden(channels: int, reduction: int) -> int:
    # A narrow test network may have fewer channels than the reduction; at least one hidden unit is needed.
    return max(channels // reduction, 1)


class PixelAttention(nn.Module):
    """One weight per pixel, the same for every channel.

    Qin et al., FFA-Net, AAAI 2020: x * sigmoid(W2 relu(W1 x)), W1: C -> C/reduction, W2: -> 1, both 1x1.

    Args:
        channels: C of the input.
        reduction: factor by which the hidden layer is narrower; it has at least one unit.
    Shape:
        (B, C, H, W) -> the same; any range.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = _hidden(channels, reduction)
        self.pa = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight the pixels of (B, C, H, W)."""
        return x * cast(Tensor, self.pa(x))


class ChannelAttention(nn.Module):
    """One weight per channel, from the mean over the image.

    Qin et al., FFA-Net, AAAI 2020: x * sigmoid(W2 relu(W1 mean(x))), W1: C -> C/reduction, W2: -> C.

    Args:
        channels: C of the input.
        reduction: factor by which the hidden layer is narrower; it has at least one unit.
        inplace: overwrite the input if no gradient is recorded; only for inputs that are not used elsewhere.
    Shape:
        (B, C, H, W) -> the same; any range.
    """

    def __init__(self, channels: int, reduction: int = 8, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        hidden = _hidden(channels, reduction)
        self.ca = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels of (B, C, H, W)."""
        weights = cast(Tensor, self.ca(torch.mean(x, dim=(2, 3), keepdim=True)))
        return x.mul_(weights) if self.inplace and not torch.is_grad_enabled() else x * weights
