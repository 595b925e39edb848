"""YTMT's feature exchange between two streams, for any two-stream network.

Hu and Guo, "Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation", NeurIPS
2021. Stream l is the transmission's, r the reflection's; each receives what the other's ReLU discards, Eq. (1) and (2):
relu-(x) = x - relu(x) = min(x, 0) and x_l = relu(l) (+) relu-(r), and vice versa.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Streams: TypeAlias = tuple[Tensor, Tensor]


def negative_part(x: Tensor) -> Tensor:
    """Eq. (1), min(x, 0), in one pass instead of the two of x - relu(x); any shape."""
    return x.clamp(max=0)


def _side_by_side(own: Tensor, other: Tensor, negative: bool) -> Tensor:
    """[relu(own), min(other, 0)] on channels, or [relu(own), relu(other)]."""
    if torch.is_grad_enabled():
        return torch.cat((F.relu(own), negative_part(other) if negative else F.relu(other)), 1)
    # Rectifying in place saves two allocations, which on a CPU cost more than the arithmetic.
    both = torch.cat((own, other), 1)
    kept, received = both.chunk(2, 1)
    kept.clamp_(min=0)
    _ = received.clamp_(max=0) if negative else received.clamp_(min=0)
    return both


class ConcatenationHead(nn.Module):
    """Exchange by concatenation and a 1x1 convolution, Fig. 1 (b), without another ReLU.

    Args:
        channels: C of each stream.
        negative: use the negative part of the other stream; False uses its positive part, "ReLU only" in Table 4.
    """

    def __init__(self, channels: int, negative: bool = True) -> None:
        super().__init__()
        self.negative = negative
        self.fusion_l = nn.Conv2d(2 * channels, channels, 1)
        self.fusion_r = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """Two maps (B, C, H, W) -> two of the same shape."""
        return self.fusion_l(_side_by_side(l, r, self.negative)), self.fusion_r(_side_by_side(r, l, self.negative))


class AdditionHead(nn.Module):
    """Exchange by addition, Fig. 1 (c), without parameters."""

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """Two maps (B, C, H, W) -> two of the same shape."""
        # Autograd allows this in place: unlike ReLU, clamp does not need its result in the backward pass.
        return negative_part(r).add_(F.relu(l)), negative_part(l).add_(F.relu(r))


class SeparateHead(nn.Module):
    """No exchange: each stream has its own ReLU.

    The authors' program has no code for Table 4's dual-stream U-Net "without any feature interaction"; this is the
    simplest interpretation, the network of pattern A without both YTMT connections.
    """

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """Two maps (B, C, H, W) -> two of the same shape."""
        return F.relu(l), F.relu(r)
