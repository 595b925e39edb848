"""Discriminators shared by the adversarial methods; both return logits, since the loss applies the sigmoid."""

from __future__ import annotations

from math import gcd
from typing import cast

from torch import Tensor, nn

from reflectzoo.core.annotations import EvenCount
from reflectzoo.core.settings import checked


def _group_norm(channels: int) -> nn.GroupNorm:
    # 32 groups as published. A narrow test network has fewer, but never groups of a single channel, which
    # could not be normalised once the map has shrunk to one pixel.
    return nn.GroupNorm(gcd(32, channels // 2), channels)


class DiscriminatorVGG(nn.Module):
    """VGG-like discriminator with GroupNorm, which returns one logit per image.

    "disc_vgg" in the authors' programs of ERRNet (Wei et al., CVPR 2019) and YTMT (Hu and Guo, NeurIPS 2021): ten 3x3
    convolutions, every second one of stride 2, then the mean over the image and two 1x1 convolutions. 9,937,089
    parameters at the published width. ``state_dict`` keys are the authors'.

    Args:
        in_channels: channels of the images.
        width: channels of the first convolution, even; the others are 1, 2, 4 and 8 times as wide.

    Shape:
        (B, in_channels, H, W) -> (B, 1, 1, 1). Any size from 1x1, since every convolution is padded.

    Raises:
        UserError: if ``width`` is odd or below 2.
    """

    @checked()
    def __init__(self, in_channels: int = 3, width: EvenCount = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        before = width
        for factor, stride in ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2), (8, 1), (8, 2)):
            after = factor * width
            layers += [
                nn.Conv2d(before, after, 3, stride=stride, padding=1),
                _group_norm(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            before = after
        self.body = nn.Sequential(*layers)
        self.tail = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(before, 2 * before, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * before, 1, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), RGB about [0, 1] -> logits (B, 1, 1, 1)."""
        return cast(Tensor, self.tail(self.body(image)))


class PatchDiscriminator(nn.Module):
    """Patch discriminator, which returns one logit per overlapping patch.

    Isola et al., CVPR 2017 (PatchGAN), in the form selectable in YTMT's program: 4x4 convolutions with padding 2,
    InstanceNorm without parameters; IBCLN's has padding 1. 2,764,737 parameters at the published width.
    ``state_dict`` keys are the authors'.

    Args:
        in_channels: channels of the images.
        width: channels of the first convolution; doubled per layer, up to eight times the width.
        layers: number of stride-2 convolutions; 3 give a receptive field of 70x70.
        padding: padding of every convolution.

    Shape:
        (B, in_channels, H, W) -> (B, 1, h, w), about 1 / 2**layers of the size: 64x64 -> 11x11 with three layers, 6x6
        with padding 1. The smallest input is two pixels (1x2), with padding 1 about 24x24: InstanceNorm raises
        ValueError for maps of a single pixel.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, layers: int = 3, padding: int = 2) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=padding), nn.LeakyReLU(0.2, True)]
        before = width
        for index in range(1, layers + 1):
            after = width * min(2**index, 8)
            stack += [
                nn.Conv2d(before, after, 4, stride=2 if index < layers else 1, padding=padding),
                nn.InstanceNorm2d(after),
                nn.LeakyReLU(0.2, True),
            ]
            before = after
        stack.append(nn.Conv2d(before, 1, 4, padding=padding))
        self.model = nn.Sequential(*stack)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W), RGB about [0, 1] -> logits (B, 1, h, w)."""
        return cast(Tensor, self.model(image))
