"""The network of "Single Image Reflection Removal Exploiting Misaligned Training Data and Network Enhancements".

Wei, Yang, Fu, Wipf and Huang, CVPR 2019. An image-restoration network similar to EDSR at half size, with two
enhancements: channels are weighted by global statistics (channel-wise context), and means over blocks of four sizes are
added to the features before the output (multi-scale spatial context). Its input is the photograph together with five
maps of VGG-19, 1475 channels; its output is the transmission alone.

Module names are those of the authors' program (github.com/Vandermode/ERRNet, d589211), so that its files load
unchanged.

Shortcuts that do not change the result, up to rounding: the first layer, a 1x1 convolution, is applied to each VGG map
at the map's own size (:mod:`reflectzoo.nets.hypercolumn`), and so is the last 1x1 convolution of the pyramid to the
means. Without gradients, on a CPU, 3x3 convolutions use Winograd's method (:mod:`reflectzoo.nets.winograd`) on
channels-last features. :func:`~reflectzoo.nets.plain.plain_form` disables the shortcuts, as the reference for tests and
benchmarks.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count, Positive
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.nets import hypercolumn as hyper
from reflectzoo.nets.hypercolumn import Hypercolumn, HypercolumnConv2d, HyperFeatures
from reflectzoo.nets.plain import is_plain, must_not_overwrite
from reflectzoo.nets.shared_vgg import FeatureNet
from reflectzoo.nets.start import start_he
from reflectzoo.nets.winograd import convolve

_POOLS = (4, 8, 16, 32)
"""Sides in pixels of the blocks over which the pyramid averages."""

_REDUCTION = 8  # factor by which the squeeze-and-excitation's hidden layer is narrower
_SLOPE = 0.2  # of the pyramid's leaky ReLUs
_CARRIED = 12  # channels that pass a photograph through at half size


# --------------------------------------------------------------------------------------------------------------------
# Blocks


class _Layer(nn.Module):
    """One convolution under the authors' attribute name, without an activation."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv2d = conv

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv2d, x) if isinstance(self.conv2d, nn.Conv2d) else cast(Tensor, self.conv2d(x))


class _Rectified(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


class _Entrance(_Rectified):
    """The first layer, which also accepts the components of a hypercolumn."""

    def forward(self, x: Tensor | HyperFeatures) -> Tensor:
        return F.relu(self.conv2d(x), inplace=True)


class _ChannelWeights(nn.Module):
    """One weight per channel from its mean; (B, C, H, W) -> (B, C, 1, 1) in (0, 1). Paper, Sec. 3.1.

    Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // _REDUCTION, 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(x.mean(dim=(2, 3))))[:, :, None, None]


class _ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions with ReLU in between, weighted per channel and scaled; no activation."""

    def __init__(self, channels: int, attention: bool, scale: float) -> None:
        super().__init__()
        self.conv1 = _Rectified(nn.Conv2d(channels, channels, 3, padding=1))
        self.conv2 = _Layer(nn.Conv2d(channels, channels, 3, padding=1))
        self.se_layer = _ChannelWeights(channels) if attention else None
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        factor = self.scale if self.se_layer is None else self.scale * self.se_layer(y)
        if must_not_overwrite():
            return y * factor + x
        return y.mul_(factor).add_(x)


class _Pyramid(nn.Module):
    """Pyramid pooling: means over blocks of four sizes, each projected to a quarter of the channels. Paper, Fig. 3.

    Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, with blocks of fixed size. Incomplete blocks at the border
    are dropped, and the remaining means are resized to the whole image (nearest neighbour).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        level = max(channels // 4, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(side), nn.Conv2d(channels, level, 1, bias=False), nn.LeakyReLU(_SLOPE))
            for side in _POOLS
        )
        self.bottleneck = nn.Conv2d(len(_POOLS) * level + channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), both sides 32 or more, -> the same shape."""
        size = x.shape[-2:]
        means = [cast(Tensor, stage(x)) for stage in self.stages]
        if is_plain():
            spread = [F.interpolate(each, size, mode="nearest") for each in means]
            return F.leaky_relu(self.bottleneck(torch.cat([*spread, x], 1)), _SLOPE)
        # 1x1 convolution and nearest-neighbour upsampling commute: project the few means, then upsample.
        *kernels, own = torch.split(self.bottleneck.weight, [each.shape[1] for each in (*means, x)], dim=1)
        y = F.conv2d(x, own, self.bottleneck.bias)
        for each, kernel in zip(means, kernels, strict=True):
            y.add_(F.interpolate(F.conv2d(each, kernel), size, mode="nearest"))
        return F.leaky_relu(y, _SLOPE, inplace=True)


# --------------------------------------------------------------------------------------------------------------------


class ERRNet(nn.Module):
    """Residual network at half size with channel-wise and multi-scale context.

    Paper Sec. 3, Fig. 2; class DRNet in the program with its factories ``errnet`` and, without both contexts,
    ``basenet``. 18,953,379 parameters with the hypercolumn, 18,576,547 with plain RGB.

    Args:
        hypercolumn: augment images by frozen features (1475 channels with VGG-19). VGG-19 must be attached, see
            :mod:`reflectzoo.nets.shared_vgg`, and is not part of ``state_dict``.
        width: channels of all features.
        blocks: number of residual blocks.
        attention: whether the blocks weight their channels (paper: channel-wise context, CWC).
        pyramid: whether to add means of several scales before the output (paper: multi-scale context, MSC).
        residual_scale: factor of the residual of each block.
        features: features of the hypercolumn; ``efficientnet_lite0`` needs no download and gives 515 channels.

    Raises:
        UserError: for invalid numbers.
    """

    @checked("model.net")
    def __init__(
        self,
        hypercolumn: bool = True,
        width: Count = 256,
        blocks: Count = 13,
        attention: bool = True,
        pyramid: bool = True,
        residual_scale: Positive = 0.1,
        features: FeatureNet = "vgg19",
    ) -> None:
        super().__init__()
        self.hypercolumn = Hypercolumn(features) if hypercolumn else None
        channels = hyper.channels_over(features) if hypercolumn else 3
        self.conv1 = _Entrance(HypercolumnConv2d(channels, width, kernel_size=1))
        self.conv2 = _Rectified(nn.Conv2d(width, width, 3, padding=1))
        self.conv3 = _Rectified(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.res_module = nn.Sequential(*(_ResidualBlock(width, attention, residual_scale) for _ in range(blocks)))
        self.deconv1 = _Rectified(nn.ConvTranspose2d(width, width, 4, stride=2, padding=1))
        self.deconv2 = _Rectified(nn.Conv2d(width, width, 3, padding=1))
        self.pyramid_module = _Pyramid(width) if pyramid else None
        self.deconv3 = _Rectified(nn.Conv2d(width, 3, 1))

    def forward(self, mixture: Tensor) -> Outputs:
        """Remove the reflection.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1. Sides too small for the pyramid (below 31) are
                padded by replicating the last row or column.

        Returns:
            ``transmission``, (B, 3, H, W) >= 0, without an upper bound. For an odd side the program returns one more
            row or column, which is cropped here.
        """
        height, width = mixture.shape[-2:]
        return {"transmission": self.restore(mixture)[..., :height, :width]}

    def restore(self, mixture: Tensor) -> Tensor:
        """The output of the authors' program: as :meth:`forward`, but (B, 3, 2 ceil(H / 2), 2 ceil(W / 2)).

        With the pyramid, images smaller than 31 pixels a side give the output of the padded image.
        """
        image = mixture if self.pyramid_module is None else _grow(mixture)
        if image.device.type == "cpu" and not must_not_overwrite():
            image = image.contiguous(memory_format=torch.channels_last)
        x: Tensor = self.conv1(image if self.hypercolumn is None else self.hypercolumn(image))
        for part in (self.conv2, self.conv3, self.res_module, self.deconv1, self.deconv2):
            x = part(x)
        if self.pyramid_module is not None:
            x = self.pyramid_module(x)
        return cast(Tensor, self.deconv3(x))


def _grow(image: Tensor) -> Tensor:
    """Replicate the last row and column up to 31 pixels a side, for which the features at the pyramid have 32."""
    least = _POOLS[-1] - 1
    missing = [max(least - side, 0) for side in image.shape[-2:]]
    return F.pad(image, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else image


@torch.no_grad()
def start_as_copy(net: ERRNet) -> None:
    """Initialise after He et al. with zero biases, but pass the photograph through unchanged; for short training runs.

    At half size twelve channels carry the photograph, one for each colour of each pixel in a 2x2 block, so that the
    transmission starts as the mixture and the network only learns what to remove. The last layer's other weights are
    scaled by 0.1, so that the copy is nearly exact.

    Raises:
        UserError: if the network has fewer than twelve channels.
    """
    if net.conv2.conv2d.out_channels < _CARRIED:
        raise UserError(f"model.init=copy needs model.net.width={_CARRIED} or more.")
    start_he(net)
    # The layers that pass the photograph on at full size, and the index of its first channel in their inputs.
    ahead = [(net.conv1.conv2d, 0), (net.conv2.conv2d, 0), (net.deconv2.conv2d, 0)]
    if net.pyramid_module is not None:
        last = net.pyramid_module.bottleneck
        ahead.append((last, last.in_channels - last.out_channels))
    for layer, first in ahead:
        middle = layer.kernel_size[0] // 2
        layer.weight[:3] = 0
        layer.weight[:3, first : first + 3, middle, middle] = torch.eye(3)
    down, up = net.conv3.conv2d.weight, net.deconv1.conv2d.weight
    down[:_CARRIED], up[:, :3] = 0, 0
    for colour in range(3):
        for pixel in range(4):
            row, column, channel = 1 + pixel // 2, 1 + pixel % 2, 4 * colour + pixel
            down[channel, colour, row, column] = up[channel, colour, row, column] = 1
    for block in net.res_module:
        # The residual blocks add nothing to the carried channels.
        cast(_ResidualBlock, block).conv2.conv2d.weight[:_CARRIED] = 0
    net.deconv3.conv2d.weight.mul_(0.1)[:, :3, 0, 0] = torch.eye(3)
