"""Components shared by teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 256
Scale = Literal[4, 2]
PYRAMID_POOLS = (4, 8, 16, 32)
STRIDES = {4: (1, 2, 1, 2), 2: (1, 2, 1, 1)}


def convolutions(channels: Sequence[int], strides: Sequence[int], last_relu: bool = True) -> nn.Sequential:
    """Make 3x3 convolutions with ReLUs and without normalisation.

    Args:
        channels: channels of the input and of every layer's output.
        strides: stride of each layer.
        last_relu: whether the last layer is also followed by a ReLU.
    """
    layers: list[nn.Module] = []
    for before, after, stride in zip(channels[:-1], channels[1:], strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def upsampling_layer(before: int, after: int, factor: int) -> nn.Sequential:
    """Make a transposed convolution to ``factor`` (1 or 2) times the size, 3x3 for 1 and 4x4 for 2, with a ReLU."""
    layer = nn.ConvTranspose2d(before, after, 2 + factor, factor, padding=1)
    return nn.Sequential(layer, nn.ReLU())


class PyramidPooling(nn.Module):
    """Pyramid pooling with means over blocks of 4, 8, 16 and 32 pixels (Zhao et al., CVPR 2017; four levels here).

    Args:
        channels: channels of input and output; each level has a quarter of them.
        sizes: sides of the blocks in pixels.

    Shape:
        (B, C, H, W) -> the same. Blocks that extend beyond the border are means of the pixels inside.
    """

    def __init__(self, channels: int, sizes: Sequence[int] = PYRAMID_POOLS) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        level = max(channels // 4, 1)
        self.levels = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, level, 1), nn.ReLU()) for _ in self.sizes)
        self.fuse = nn.Sequential(nn.Conv2d(channels + level * len(self.sizes), channels, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        height, width = x.shape[-2:]
        found = [x]
        for size, level in zip(self.sizes, self.levels, strict=True):
            means = F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
            spread = F.interpolate(level(means), scale_factor=size, mode="nearest")
            found.append(spread[..., :height, :width])
        return cast(Tensor, self.fuse(torch.cat(found, dim=1)))


class ImageDecoder(nn.Module):
    """Decodes features to an image, section 3.1.3: two upsampling blocks, the first with pyramid pooling.

    The paper does not specify the layer from 256 to three channels; here it is a 3x3 convolution without activation.

    Args:
        channels: channels of the features.
        width: channels of all layers.
        scale: 4 or 2, size of the image relative to the features.
        residual: whether the output is a correction of another image; its last layer then starts at zero.
    """

    def __init__(self, channels: int, width: int = WIDTH, scale: int = 4, residual: bool = False) -> None:
        super().__init__()
        self.up1 = nn.Sequential(
            upsampling_layer(channels, width, scale // 2), convolutions([width] * 2, [1]), PyramidPooling(width)
        )
        self.up2 = nn.Sequential(upsampling_layer(width, width, 2), convolutions([width] * 3, [1, 1]))
        self.image = nn.Conv2d(width, 3, 3, padding=1)
        if residual:
            nn.init.zeros_(self.image.weight)
            nn.init.zeros_(cast(Tensor, self.image.bias))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, scale h, scale w), not clamped."""
        return cast(Tensor, self.image(self.up2(self.up1(features))))
