"""The network of "CoRRN: Cooperative Reflection Removal Network" (Wan et al., TPAMI 2019).

One VGG-16 encoder (CencN) feeds two decoders: one estimates the gradient of the transmission (GdecN), the other the
transmission itself (IdecN), guided by the features of the first at every scale. The reflection is the remainder of the
mixture.

Module names are those of the authors' program (github.com/wanrenjie/CoRRN, 5f7f8d1), so that its files load unchanged.
Where paper and program differ, this code follows the program; README.md beside this file lists the differences.

The paper shows every upsampling step of the image decoder as three parallel transposed convolutions. The program has
one, applied three times to the same tensor, and concatenates three equal maps. Here it is applied once, and the next
layer's kernel is summed over the three positions of that map: a convolution is linear, so the result is the same.
:func:`plain_copies` restores the literal form, as the reference for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.methods.corrn.encoder import STAGES, stage
from reflectzoo.nets.sizes import pad_to_multiple

_STRIDE = 32  # five poolings
_COPIES = 3  # equal sub-layers of an upsampling step
_EPSILON = 1e-3  # of every batch normalisation except the encoder's

_plain: ContextVar[bool] = ContextVar("plain_corrn", default=False)


@contextmanager
def plain_copies() -> Iterator[None]:
    """Within this block equal sub-layers are computed separately and concatenated, as in the authors' program."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


# --------------------------------------------------------------------------------------------------------------------
# Units: convolution without bias, batch normalisation, ReLU


class _Unit(nn.Module):
    """3x3, 5x5, 7x7 or 1x1 convolution, batch normalisation and ReLU.

    Args:
        in_channels: input channels of the kernel.
        out_channels: channels of the result.
        kernel: kernel size, odd.
        copied: the kernel's first ``3 * copied`` input channels belong to three equal maps, of which the input holds
            only one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, copied: int = 0) -> None:
        super().__init__()
        self.copied = copied
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        weight, x = _match(self.conv.weight, x, self.copied, dim=1)
        return F.relu(self.bn(F.conv2d(x, weight, padding=self.conv.padding)), inplace=True)


class _UpUnit(nn.Module):
    """4x4 transposed convolution of stride 2, batch normalisation and ReLU, which doubles the size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _TripleUpUnit(nn.Module):
    """One of the three equal sub-layers of an upsampling step; arguments as for :class:`_Unit`.

    In training each of the three applications updates the running statistics. Three updates with the same batch and
    momentum m equal one with momentum 1 - (1 - m)^3.
    """

    def __init__(self, in_channels: int, out_channels: int, copied: int = 0) -> None:
        super().__init__()
        self.copied = copied
        self.transconv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        weight, x = _match(self.transconv.weight, x, self.copied, dim=0)
        y = F.conv_transpose2d(x, weight, stride=2, padding=1)
        if _plain.get():
            return F.relu(torch.cat([self.bn(y) for _ in range(_COPIES)], 1), inplace=True)
        bn = self.bn
        if not self.training:
            return F.relu(bn(y), inplace=True)
        momentum = cast(float, bn.momentum)
        # By the layer itself, which under distributed training may be synchronised across processes.
        bn.momentum = 1 - (1 - momentum) ** _COPIES
        y = bn(y)
        bn.momentum = momentum
        cast(Tensor, bn.num_batches_tracked).add_(_COPIES - 1)
        return F.relu(y, inplace=True)


def _match(weight: Tensor, x: Tensor, copied: int, dim: int) -> tuple[Tensor, Tensor]:
    """Fold the kernel for an input that holds its first ``copied`` channels once instead of three times."""
    if not copied or x.shape[1] == weight.shape[dim]:
        return weight, x
    equal, rest = torch.split(weight, [_COPIES * copied, weight.shape[dim] - _COPIES * copied], dim)
    return torch.cat((torch.stack(torch.split(equal, copied, dim)).sum(dim=0), rest), dim), x


# --------------------------------------------------------------------------------------------------------------------
# Feature extraction: "Reduction A" and "B" of Inception-ResNet-v2, without reduction of the size


class _ExtractionA(nn.Module):
    """Three parallel paths over one map, concatenated: 7x7, 3x3, and two successive 3x3."""

    def __init__(self, scale: _Scale) -> None:
        super().__init__()
        c = scale
        self.path1 = nn.Sequential(_Unit(c(256), c(96), 1), _Unit(c(96), c(192), 7))
        self.path2 = _Unit(c(256), c(192), 3)
        self.path3 = nn.Sequential(_Unit(c(256), c(256), 1), _Unit(c(256), c(256), 3), _Unit(c(256), c(192), 3))
        self.channels = 3 * c(192)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.path1(x), self.path2(x), self.path3(x)), 1)


class _ExtractionB(nn.Module):
    """Four parallel paths over one map, each starting with a 1x1 convolution, concatenated."""

    def __init__(self, scale: _Scale, in_channels: int, copied: int) -> None:
        super().__init__()
        c = scale

        def path(*units: tuple[int, int]) -> nn.Sequential:
            """Make a path from (output channels, kernel) of each unit after the 1x1."""
            layers, before = [_Unit(in_channels, c(128), 1, copied)], c(128)
            for channels, kernel in units:
                layers.append(_Unit(before, c(channels), kernel))
                before = c(channels)
            return nn.Sequential(*layers)

        self.path1 = path((192, 7))
        self.path2 = path((192, 3))
        self.path3 = path((128, 3))
        self.path4 = path((128, 3), (128, 3))
        self.channels = 2 * c(192) + 2 * c(128)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.path1(x), self.path2(x), self.path3(x), self.path4(x)), 1)


_LEAST = 16
"""Published channels of the last layers; scaled down, a narrow network would have too few for three colours."""


class _Scale:
    """Scales published channel numbers to another width, with a minimum of 16 or, if smaller, of the width itself."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, channels: int) -> int:
        return max(channels * self.width // 64, min(channels, self.width, _LEAST))


# --------------------------------------------------------------------------------------------------------------------


class CoRRNNet(nn.Module):
    """The cooperative network: context encoder, gradient decoder and image decoder.

    Paper Sec. 4.1, Fig. 2; class ReflectionNetwork in the program, 59,512,039 parameters. As in the program, images are
    not normalised, although the encoder starts from ImageNet weights.

    Args:
        width: channels of the first convolution, 64 as published; all others in proportion. ImageNet weights fit 64
            only.
        gradient_decoder: False removes GdecN and its guidance, as in the last row of Table 3.
        brightness: factor of the transmission in evaluation mode. According to the authors' note, the paper's PSNR was
            measured with 1.1 ("colour rescaling") and everything else with 1.

    Raises:
        UserError: if ``width`` is below 4.
    """

    @checked("model.net")
    def __init__(
        self, width: Annotated[int, Ge(4)] = 64, gradient_decoder: bool = True, brightness: float = 1.0
    ) -> None:
        super().__init__()
        self.width = width
        self.gradient_decoder = gradient_decoder
        self.brightness = brightness
        c = _Scale(width)
        guide = c if gradient_decoder else (lambda channels: 0)

        self.convs1R, self.convs2R, self.convs3R, self.convs4R, self.convs5R = (stage(n, width) for n in STAGES)

        # Image decoder. Input of each step: three copies of the previous result, the encoder's map of that size, the
        # gradient decoder's guide.
        self.conv6R = _Unit(c(512), c(256), 3)
        self.featureExtractionA = _ExtractionA(c)
        self.deconv0R = nn.Sequential(_TripleUpUnit(self.featureExtractionA.channels, c(256)))
        joined = _COPIES * c(256) + c(512) + guide(128)
        self.deconv1R = nn.Sequential(_TripleUpUnit(joined, c(128), copied=c(256)))
        joined = _COPIES * c(128) + c(256) + guide(64)
        self.featureExtractionB = _ExtractionB(c, joined, copied=c(128))
        self.deconv2R = nn.Sequential(_TripleUpUnit(self.featureExtractionB.channels, c(64)))
        joined = _COPIES * c(64) + c(128) + guide(32)
        self.deconv3R = nn.Sequential(_TripleUpUnit(joined, c(32), copied=c(64)))
        joined = _COPIES * c(32) + c(64) + guide(16)
        self.deconv4R = nn.Sequential(_TripleUpUnit(joined, c(16), copied=c(32)))
        joined = _COPIES * c(16) + int(gradient_decoder)
        # Even the last layer has batch normalisation and ReLU: the transmission is >= 0 and has no upper bound.
        last = _Unit(c(16), 3, 3)
        self.output = nn.Sequential(_Unit(joined, c(16), 3, copied=c(16)), last)
        # Initialise the output with the standard deviation and mean of photographs. With 1 and 0, ReLU would zero half
        # of all pixels, and Adam at 1e-4 would need thousands of steps just to correct this.
        nn.init.constant_(last.bn.weight, 0.25)
        nn.init.constant_(last.bn.bias, 0.45)

        if gradient_decoder:
            self.conv6_1 = _Unit(c(512), c(1024), 7)
            self.conv6_2 = _Unit(c(1024), c(512), 1)
            self.deconv5_1 = _Unit(c(512), c(256), 3)
            self.deconv5_2 = _Unit(c(256), c(256), 5)
            self.featureEnhance5 = _Unit(c(256), c(128), 7)
            self.deconv4_1 = _Unit(c(256) + c(512), c(128), 3)
            self.deconv4_2 = _UpUnit(c(128), c(128))
            self.featureEnhance4 = _Unit(c(128), c(64), 7)
            self.deconv3_1 = _Unit(c(128) + c(256), c(64), 3)
            self.deconv3_2 = _UpUnit(c(64), c(64))
            self.featureEnhance3 = _Unit(c(64), c(32), 7)
            self.deconv2_1 = _Unit(c(64) + c(128), c(32), 3)
            self.deconv2_2 = _UpUnit(c(32), c(32))
            self.featureEnhance2 = _Unit(c(32), c(16), 7)
            self.deconv1 = _UpUnit(c(32) + c(64), c(64))
            self.pred1_contour = nn.Conv2d(c(64), 1, 5, padding=2)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; sides that are not multiples of 32 are padded by
                reflection and the result cropped.

        Returns:
            ``transmission`` (B, 3, H, W) >= 0; ``reflection`` = mixture - transmission, which may be negative; with the
            gradient decoder ``aux["gradient"]`` (B, 1, H, W) in (0, 1), the magnitude of the transmission's gradient.

        Raises:
            UserError: in training, if the deepest map is a single pixel of a single image, which batch normalisation
                does not support.
        """
        image = pad_to_multiple(mixture, _STRIDE)
        if self.training and image.shape[0] * image[0, 0].numel() == _STRIDE**2:
            raise UserError(
                "CoRRN normalises over the batch and cannot train on one image of 32x32 pixels or fewer: set a larger "
                "data.crop or data.batch_size."
            )
        if image.device.type == "cpu" and not torch.is_grad_enabled() and not _plain.get():
            # The following layers preserve this layout, in which CPU convolutions and poolings are faster in the
            # forward pass (measured on AVX2), though not in the backward pass.
            image = image.contiguous(memory_format=torch.channels_last)
        skips = [image]
        for encode in (self.convs1R, self.convs2R, self.convs3R, self.convs4R, self.convs5R):
            skips.append(encode(skips[-1]))
        guides, gradient = self._gradient(skips) if self.gradient_decoder else ([()] * 4, None)

        x = self.deconv0R(self.featureExtractionA(self.conv6R(skips[5])))
        x = self.deconv1R(torch.cat((x, skips[4], *guides[0]), 1))
        x = self.featureExtractionB(torch.cat((x, skips[3], *guides[1]), 1))
        x = self.deconv3R(torch.cat((self.deconv2R(x), skips[2], *guides[2]), 1))
        x = self.deconv4R(torch.cat((x, skips[1], *guides[3]), 1))
        transmission = self.output(x if gradient is None else torch.cat((x, gradient), 1))

        if self.brightness != 1 and not self.training:
            transmission = self.brightness * transmission
        height, width = mixture.shape[-2:]
        transmission = transmission[..., :height, :width]
        outputs: Outputs = {"transmission": transmission, "reflection": mixture - transmission}
        if gradient is not None:
            outputs["aux"] = {"gradient": gradient[..., :height, :width]}
        return outputs

    def _gradient(self, skips: list[Tensor]) -> tuple[list[tuple[Tensor]], Tensor]:
        """Run GdecN: enhanced features at 1/16 to 1/2 of the size, for the image decoder, and the gradient itself."""
        x = self.deconv5_2(self.deconv5_1(self.conv6_2(self.conv6_1(skips[4]))))
        guides: list[Tensor] = [self.featureEnhance5(x)]
        x = self.deconv4_2(self.deconv4_1(torch.cat((x, skips[4]), 1)))
        guides.append(self.featureEnhance4(x))
        x = self.deconv3_2(self.deconv3_1(torch.cat((x, skips[3]), 1)))
        guides.append(self.featureEnhance3(x))
        x = self.deconv2_2(self.deconv2_1(torch.cat((x, skips[2]), 1)))
        guides.append(self.featureEnhance2(x))
        x = self.deconv1(torch.cat((x, skips[1]), 1))
        return [(guide,) for guide in guides], torch.sigmoid(self.pred1_contour(x))
