"""Blocks of the refactored networks (YTMT_US and YTMT_PS in the program)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.batch import Outputs
from reflectzoo.errors import UserError
from reflectzoo.nets import hypercolumn as hyper
from reflectzoo.nets.attention import ChannelAttention, PixelAttention
from reflectzoo.nets.exchange import AdditionHead, ConcatenationHead, SeparateHead, Streams
from reflectzoo.nets.hypercolumn import Hypercolumn, HypercolumnConv2d, HyperFeatures, joint_hypercolumn_conv2d
from reflectzoo.nets.shared_vgg import FeatureNet

Pattern = Literal["C", "A", "P", "none"]
ImageOrFeatures: TypeAlias = Tensor | HyperFeatures
# Minimum side for the four 2x2 poolings of the U-shaped networks.
_MIN_SIZE = 16


def _head(pattern: Pattern, channels: int) -> nn.Module:
    match pattern:
        case "C":
            return ConcatenationHead(channels)
        case "P":
            return ConcatenationHead(channels, negative=False)
        case "A":
            return AdditionHead()
        case "none":
            return SeparateHead()
    raise UserError(f"YTMT: pattern must be one of {', '.join(get_args(Pattern))}, got {pattern!r}.")


class _Attended(nn.Module):
    """Pixel attention, channel attention and a 3x3 convolution, in this order: attention is applied to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            PixelAttention(in_channels),
            ChannelAttention(in_channels, inplace=True),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


class _Bare(nn.Module):
    """The first convolution alone, 3x3 (1x1 in the paper)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.model = nn.Sequential(conv)

    def forward(self, x: ImageOrFeatures) -> Tensor:
        return cast(Tensor, self.model(x))


class Block(nn.Module):
    """One convolution per stream (the paper's text has two), then the exchange."""

    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.conv_l = _Attended(in_channels, out_channels)
        self.conv_r = _Attended(in_channels, out_channels)
        self.ytmt_head = _head(pattern, out_channels)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """(B, C, H, W) of both streams -> both streams after the exchange."""
        return cast(Streams, self.ytmt_head(self.conv_l(l), self.conv_r(r)))


class Entrance(nn.Module):
    """The first block: a pair of convolutions without attention, then the exchange."""

    def __init__(self, convs: Sequence[nn.Conv2d], pattern: Pattern) -> None:
        super().__init__()
        self.conv_l, self.conv_r = (_Bare(conv) for conv in convs)
        self.ytmt_head = _head(pattern, convs[0].out_channels)

    def forward(self, l: ImageOrFeatures, r: ImageOrFeatures) -> Streams:  # noqa: E741
        """(B, C, H, W) of both streams -> both streams after the exchange."""
        first = first_responses(l, r, self.conv_l.model[0], self.conv_r.model[0])
        return cast(Streams, self.ytmt_head(*first))


class Down(nn.Module):
    """2x2 max pooling, then a block."""

    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.model = Block(in_channels, out_channels, pattern)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """(B, C, H, W) of both streams -> both at half the size, rounded down."""
        return cast(Streams, self.model(F.max_pool2d(l, 2), F.max_pool2d(r, 2)))


class Up(nn.Module):
    """Upsampling to twice the size, concatenation with the skip connections of both streams, then a block.

    The skip connections hold the results of the encoder's exchange, each for its own stream.
    """

    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.model = Block(in_channels, out_channels, pattern)

    def forward(self, l: Tensor, r: Tensor, skip_l: Tensor, skip_r: Tensor) -> Streams:  # noqa: E741
        """Both streams and skip connections of twice their size -> both at the latter size."""
        return cast(Streams, self.model(join(skip_l, l), join(skip_r, r)))


class Exit(nn.Module):
    """A 3x3 convolution per stream, without exchange."""

    def __init__(self, in_channels: int, out_channels: int, sigmoid: bool, bias: bool) -> None:
        super().__init__()
        last: type[nn.Module] = nn.Sigmoid if sigmoid else nn.Identity
        self.conv_l = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias), last())
        self.conv_r = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias), last())

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """(B, C, H, W) of both streams -> both layers."""
        return self.conv_l(l), self.conv_r(r)


def join(skip: Tensor, coarse: Tensor) -> Tensor:
    """Concatenate [skip, coarse at twice its size], zero-padded at odd sizes (less on the left and above).

    Args:
        skip: (B, C, H, W).
        coarse: (B, C', H // 2, W // 2), upsampled bilinearly with aligned corners.

    Returns:
        (B, C + C', H, W).
    """
    fine = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    gap_h, gap_w = skip.shape[-2] - fine.shape[-2], skip.shape[-1] - fine.shape[-1]
    if gap_h or gap_w:
        fine = F.pad(fine, (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2))
    return torch.cat((skip, fine), 1)


def first_responses(l: ImageOrFeatures, r: ImageOrFeatures, conv_l: nn.Module, conv_r: nn.Module) -> list[Tensor]:  # noqa: E741
    """Apply the first convolutions of both streams, jointly if both have the same hypercolumn as input.

    Args:
        l: input of the l stream.
        r: input of the r stream; the same object as ``l`` for the same input.
        conv_l: convolution of the l stream.
        conv_r: convolution of the r stream.

    Returns:
        The two responses, (B, C, H, W) each.
    """
    if l is r and not isinstance(l, Tensor):
        convs = [cast(HypercolumnConv2d, conv_l), cast(HypercolumnConv2d, conv_r)]
        responses = joint_hypercolumn_conv2d(l, convs)
    else:
        responses = [conv_l(l), conv_r(r)]
    return [_in_fast_layout(cast(Tensor, conv_l.weight), response) for response in responses]


def _in_fast_layout(weight: Tensor, response: Tensor) -> Tensor:
    """Choose the memory format of the following layers, unless the user chose channels-last.

    In float32 on a CPU, channels-last makes the forward pass faster, but the backward pass of a wide convolution slower
    by more than that. Results differ by rounding only.
    """
    if response.device.type != "cpu" or response.dtype != torch.float32 or not weight.is_contiguous():
        return response
    learning = torch.is_grad_enabled()
    return response.contiguous(memory_format=torch.contiguous_format if learning else torch.channels_last)


class Augmented(nn.Module):
    """Base class of the U-shaped networks: adds the hypercolumn, and pads inputs too small for four poolings.

    Args:
        in_channels: channels of the input without the hypercolumn; defaults to 3.
        hypercolumn: whether to augment images by frozen features.
        features: features of the hypercolumn.

    Raises:
        UserError: if ``in_channels`` contradict the hypercolumn.
    """

    def __init__(self, in_channels: int | None, hypercolumn: bool, features: FeatureNet = "vgg19") -> None:
        super().__init__()
        self.hypercolumn = Hypercolumn(features) if hypercolumn else None
        channels = hyper.channels_over(features)
        if hypercolumn and in_channels not in (None, 3, channels):
            raise UserError(
                f"{type(self).__name__}: hypercolumn=true takes RGB images, so in_channels must be left out, 3 or "
                f"{channels}, got {in_channels}."
            )
        self.in_channels = channels if hypercolumn else (in_channels or 3)

    def _first_conv(self, width: int) -> nn.Conv2d:
        if self.hypercolumn is not None:
            return HypercolumnConv2d(self.in_channels, width)
        return nn.Conv2d(self.in_channels, width, 3, padding=1)

    def _augment(self, x: Tensor) -> ImageOrFeatures:
        if self.hypercolumn is None or x.shape[1] == self.in_channels:
            return x
        return cast(HyperFeatures, self.hypercolumn(x))

    def _separate(self, l: ImageOrFeatures, r: ImageOrFeatures) -> Streams:  # noqa: E741
        raise NotImplementedError

    def forward(self, mixture: Tensor, other: Tensor | None = None) -> Outputs:
        """Separate a mixture, or refine a pair of layers.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; (B, in_channels, H, W) without the hypercolumn. With
                it, a precomputed hypercolumn, also of ``in_channels`` channels, is accepted as well.
            other: input of the r stream, same shape; defaults to ``mixture``. The second stage gets T and R of the
                first in this way.

        Returns:
            ``transmission`` and ``reflection``, each (B, out_channels, H, W) in (0, 1).
        """
        height, width = mixture.shape[-2:]
        l = self._augment(_grow(mixture))  # noqa: E741
        r = l if other is None else self._augment(_grow(other))
        transmission, reflection = self._separate(l, r)
        return {
            "transmission": transmission[..., :height, :width],
            "reflection": reflection[..., :height, :width],
        }


def _grow(image: Tensor) -> Tensor:
    """Replicate the last row and column up to the smallest size that can be pooled four times.

    Larger images are not padded: the decoder adapts to the skip connections, so that for all sizes that the program
    supports the result matches the program's.
    """
    missing_h, missing_w = max(_MIN_SIZE - image.shape[-2], 0), max(_MIN_SIZE - image.shape[-1], 0)
    return F.pad(image, (0, missing_w, 0, missing_h), mode="replicate") if missing_h or missing_w else image
