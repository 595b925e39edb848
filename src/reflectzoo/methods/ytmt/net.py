"""The networks of "Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation".

Hu and Guo, NeurIPS 2021. Two streams, l for the transmission and r for the reflection, hand each other what their
rectifiers throw away: Eq. (1) relu-(x) = x - relu(x) = min(x, 0), Eq. (2) x_l = relu(l) (+) relu-(r) and the mirror
image, where (+) is a concatenation followed by a 1x1 convolution (C) or an addition (A).

Module names are those of the authors' program (github.com/mingcv/YTMT-Strategy, ca181ef), so that its files load as
they are. Paper and program differ; what runs here is the program, and README.md beside this file lists the differences.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.batch import Outputs
from reflectzoo.errors import UserError, check_whole_number
from reflectzoo.nets import hypercolumn as hyper
from reflectzoo.nets.attention import ChannelAttention, PixelAttention
from reflectzoo.nets.exchange import AdditionHead, ConcatenationHead, SeparateHead, Streams, negative_part
from reflectzoo.nets.hypercolumn import Hypercolumn, HypercolumnConv2d, HyperFeatures, joint_hypercolumn_conv2d

Pattern = Literal["C", "A", "P", "none"]
Features: TypeAlias = Tensor | HyperFeatures

# Four 2x2 poolings: nothing smaller passes through the U-shaped networks.
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


# --------------------------------------------------------------------------------------------------------------------
# Blocks of the refactored networks (YTMT_US and YTMT_PS in the program)


class _Attended(nn.Module):
    """Pixel attention, channel attention and a 3x3 convolution, in this order: attention sees the block's input."""

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
    """The first 3x3 convolution alone (the paper has a 1x1 convolution here)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.model = nn.Sequential(conv)

    def forward(self, x: Features) -> Tensor:
        return cast(Tensor, self.model(x))


class _Block(nn.Module):
    """One convolution per stream (the paper's text has two), then the exchange."""

    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.conv_l = _Attended(in_channels, out_channels)
        self.conv_r = _Attended(in_channels, out_channels)
        self.ytmt_head = _head(pattern, out_channels)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        return cast(Streams, self.ytmt_head(self.conv_l(l), self.conv_r(r)))


class _Entrance(nn.Module):
    """The first block: a pair of convolutions without attention, then the exchange."""

    def __init__(self, convs: Sequence[nn.Conv2d], pattern: Pattern) -> None:
        super().__init__()
        self.conv_l, self.conv_r = (_Bare(conv) for conv in convs)
        self.ytmt_head = _head(pattern, convs[0].out_channels)

    def forward(self, l: Features, r: Features) -> Streams:  # noqa: E741
        first = _first_responses(l, r, self.conv_l.model[0], self.conv_r.model[0])
        return cast(Streams, self.ytmt_head(*first))


class _Down(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.model = _Block(in_channels, out_channels, pattern)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        return cast(Streams, self.model(F.max_pool2d(l, 2), F.max_pool2d(r, 2)))


class _Up(nn.Module):
    """Doubles the size and joins the skip connections of both streams, then a block.

    The skips carry what the encoder's exchange gave, each to its own stream.
    """

    def __init__(self, in_channels: int, out_channels: int, pattern: Pattern) -> None:
        super().__init__()
        self.model = _Block(in_channels, out_channels, pattern)

    def forward(self, l: Tensor, r: Tensor, skip_l: Tensor, skip_r: Tensor) -> Streams:  # noqa: E741
        return cast(Streams, self.model(_join(skip_l, l), _join(skip_r, r)))


class _Exit(nn.Module):
    """A 3x3 convolution per stream, no exchange."""

    def __init__(self, in_channels: int, out_channels: int, sigmoid: bool, bias: bool) -> None:
        super().__init__()
        last: type[nn.Module] = nn.Sigmoid if sigmoid else nn.Identity
        self.conv_l = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias), last())
        self.conv_r = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias), last())

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        return self.conv_l(l), self.conv_r(r)


def _join(skip: Tensor, coarse: Tensor) -> Tensor:
    """[skip, coarse at twice its size], zeros where an odd size leaves a gap (the smaller half left and above)."""
    fine = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    gap_h, gap_w = skip.shape[-2] - fine.shape[-2], skip.shape[-1] - fine.shape[-1]
    if gap_h or gap_w:
        fine = F.pad(fine, (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2))
    return torch.cat((skip, fine), 1)


def _first_responses(l: Features, r: Features, conv_l: nn.Module, conv_r: nn.Module) -> list[Tensor]:  # noqa: E741
    """The first convolutions of both streams, sharing the work where both see one hypercolumn."""
    if l is r and not isinstance(l, Tensor):
        convs = [cast(HypercolumnConv2d, conv_l), cast(HypercolumnConv2d, conv_r)]
        responses = joint_hypercolumn_conv2d(l, convs)
    else:
        responses = [conv_l(l), conv_r(r)]
    return [_in_fast_layout(cast(Tensor, conv_l.weight), response) for response in responses]


def _in_fast_layout(weight: Tensor, response: Tensor) -> Tensor:
    """Choose the memory format that the rest of the network will follow, unless its user chose channels-last.

    In float32 on a CPU, forward alone is faster in channels-last, but the way back of a wide convolution is slower than
    that gains. Results differ by rounding only.
    """
    if response.device.type != "cpu" or response.dtype != torch.float32 or not weight.is_contiguous():
        return response
    learning = torch.is_grad_enabled()
    return response.contiguous(memory_format=torch.contiguous_format if learning else torch.channels_last)


# --------------------------------------------------------------------------------------------------------------------
# Networks


class _Augmented(nn.Module):
    """What the U-shaped networks share: the hypercolumn before them, and inputs too small to be pooled four times."""

    def __init__(self, in_channels: int | None, hypercolumn: bool) -> None:
        super().__init__()
        if hypercolumn and in_channels not in (None, 3, hyper.CHANNELS):
            raise UserError(
                f"{type(self).__name__}: hypercolumn=true takes RGB images, so in_channels must be left out, 3 or "
                f"{hyper.CHANNELS}, got {in_channels}."
            )
        self.in_channels = hyper.CHANNELS if hypercolumn else (in_channels or 3)
        self.hypercolumn = Hypercolumn() if hypercolumn else None

    def _first_conv(self, width: int) -> nn.Conv2d:
        if self.hypercolumn is not None:
            return HypercolumnConv2d(self.in_channels, width)
        return nn.Conv2d(self.in_channels, width, 3, padding=1)

    def _augment(self, x: Tensor) -> Features:
        if self.hypercolumn is None or x.shape[1] == self.in_channels:
            return x
        return cast(HyperFeatures, self.hypercolumn(x))

    def _separate(self, l: Features, r: Features) -> Streams:  # noqa: E741
        raise NotImplementedError

    def forward(self, mixture: Tensor, other: Tensor | None = None) -> Outputs:
        """Separate a mixture, or refine a pair of layers.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; (B, in_channels, H, W) without the hypercolumn. With
                it, a finished map of 1475 channels is taken too.
            other: what the r stream sees, same shape; None gives both streams ``mixture``. This is how the second stage
                takes T and R of the first.

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
    """Repeat the last row and column up to the smallest size that can be pooled four times; larger ones pass as is.

    Nothing else is padded here: the decoder fits itself to the skips, and for sizes the program can take the result is
    the program's.
    """
    missing_h, missing_w = max(_MIN_SIZE - image.shape[-2], 0), max(_MIN_SIZE - image.shape[-1], 0)
    return F.pad(image, (0, missing_w, 0, missing_h), mode="replicate") if missing_h or missing_w else image


class YTMTUNet(_Augmented):
    """The U-shaped networks YTMT-UCS and YTMT-UAS, and the ablations of Table 4.

    Paper Sec. 3.2, Fig. 2 (a); the class YTMT_US of the program. With 1475 input channels C and P have 19,981,574
    parameters, A and none 17,175,942.

    Args:
        pattern: "C" concatenation, "A" addition, "P" the ReLU-only ablation (concatenation with the other stream's
            *positive* part), "none" no interaction (see :class:`SeparateHead`).
        in_channels: channels of the input without the hypercolumn, 3 if left out.
        hypercolumn: augment images by VGG-19 features (1475 channels). The VGG is attached from outside, see
            :mod:`reflectzoo.nets.shared_vgg`, and adds nothing to ``state_dict``.
        width: channels at full resolution; deeper ones are 2, 4, 8 and 8 times as wide.
        out_channels: channels of each layer returned.

    Raises:
        UserError: for an unknown pattern, or ``in_channels`` that contradict the hypercolumn.
    """

    def __init__(
        self,
        pattern: Pattern = "C",
        in_channels: int | None = None,
        hypercolumn: bool = True,
        width: int = 64,
        out_channels: int = 3,
    ) -> None:
        check_whole_number("model.net.width", width)
        super().__init__(in_channels, hypercolumn)
        self.pattern = pattern
        self.inc = _Entrance([self._first_conv(width) for _ in range(2)], pattern)
        self.down1 = _Down(width, 2 * width, pattern)
        self.down2 = _Down(2 * width, 4 * width, pattern)
        self.down3 = _Down(4 * width, 8 * width, pattern)
        self.down4 = _Down(8 * width, 8 * width, pattern)
        self.up1 = _Up(16 * width, 4 * width, pattern)
        self.up2 = _Up(8 * width, 2 * width, pattern)
        self.up3 = _Up(4 * width, width, pattern)
        self.up4 = _Up(2 * width, width, pattern)
        self.outc = _Exit(width, out_channels, sigmoid=True, bias=True)

    def _separate(self, l: Features, r: Features) -> Streams:  # noqa: E741
        streams: Streams = self.inc(l, r)
        skips = [streams]
        for down in (self.down1, self.down2, self.down3, self.down4):
            streams = down(*streams)
            skips.append(streams)
        skips.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            streams = up(*streams, *skips.pop())
        return cast(Streams, self.outc(*streams))


class YTMTPlain(nn.Module):
    """The plain networks YTMT-PCS and YTMT-PAS: constant resolution, no pooling.

    Paper Fig. 2 (b); the class YTMT_PS of the program. 772,496 parameters (C) or 623,888 (A). The paper leaves them out
    of its tables; the program uses them for denoising with one channel, nine layers and no sigmoid.

    Args:
        pattern: as for :class:`YTMTUNet`.
        in_channels: channels of the input.
        out_channels: channels of each layer returned.
        width: channels in between.
        layers: 3x3 convolutions per stream, the first and the last included. The last has no bias.
        sigmoid: end in a sigmoid, so that values lie in (0, 1).

    Raises:
        UserError: for an unknown pattern or fewer than two layers.
    """

    def __init__(
        self,
        pattern: Pattern = "C",
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        layers: int = 10,
        sigmoid: bool = True,
    ) -> None:
        super().__init__()
        check_whole_number("model.net.width", width)
        check_whole_number("model.net.layers", layers, least=2)
        self.pattern = pattern
        self.conv1 = _Entrance([nn.Conv2d(in_channels, width, 3, padding=1) for _ in range(2)], pattern)
        self.convs = nn.ModuleList(_Block(width, width, pattern) for _ in range(layers - 2))
        self.out = _Exit(width, out_channels, sigmoid=sigmoid, bias=False)

    def forward(self, mixture: Tensor, other: Tensor | None = None) -> Outputs:
        """Separate a mixture, or refine a pair of layers.

        Args:
            mixture: (B, in_channels, H, W), RGB in [0, 1], any H and W >= 1.
            other: what the r stream sees, same shape; None gives both streams ``mixture``.

        Returns:
            ``transmission`` and ``reflection``, each (B, out_channels, H, W).
        """
        streams: Streams = self.conv1(mixture, mixture if other is None else other)
        for block in self.convs:
            streams = block(*streams)
        transmission, reflection = self.out(*streams)
        return {"transmission": transmission, "reflection": reflection}


# --------------------------------------------------------------------------------------------------------------------
# The layout of the released checkpoint (YTMTUNet, "ytmt_ucs_old", in the program)


class _ReleasedUnit(nn.Module):
    """Base of the units: what leaves one is a stream's positive and negative part, kept apart."""

    @staticmethod
    def _split(x: Tensor) -> Streams:
        return F.relu(x), negative_part(x)

    @staticmethod
    def _stack(in_channels: int, out_channels: int, *before: nn.Module, conv: nn.Conv2d | None = None) -> nn.Sequential:
        # Attention comes after the convolution and before the rectifier here.
        return nn.Sequential(
            *before,
            conv or nn.Conv2d(in_channels, out_channels, 3, padding=1),
            PixelAttention(out_channels),
            ChannelAttention(out_channels, inplace=True),
        )


class _ReleasedEntrance(_ReleasedUnit):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Never used, since nothing comes in from another stream yet; the released file has it, so strict loading
        # needs it. Frozen, or DDP would wait for its gradient.
        self.fusion = nn.Conv2d(2 * conv.in_channels, conv.in_channels, 1).requires_grad_(False)
        self.model = self._stack(conv.in_channels, conv.out_channels, conv=conv)

    def forward(self, response: Tensor) -> Streams:
        """Takes the response of ``model[0]``, which both streams may have computed together."""
        return self._split(self.model[1:](response))


class _ReleasedDown(_ReleasedUnit):
    """Fuses at the finer resolution, then pools."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(2 * in_channels, in_channels, 1)
        self.model = self._stack(in_channels, out_channels, nn.MaxPool2d(2))

    def forward(self, positive: Tensor, received: Tensor) -> Streams:
        """Own positive part and the other stream's negative part, (B, C, H, W) each."""
        return self._split(self.model(self.fusion(torch.cat((positive, received), 1))))


class _ReleasedUp(_ReleasedUnit):
    """Fuses coarse and skip features separately, then joins them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion_1 = nn.Conv2d(in_channels, in_channels, 1)
        self.fusion_2 = nn.Conv2d(in_channels, in_channels, 1)
        self.model = self._stack(2 * in_channels, out_channels)

    def forward(self, positive: Tensor, received: Tensor, skip_positive: Tensor, skip_received: Tensor) -> Streams:
        """Own positive and received negative part, at half size, and the same of the skip."""
        coarse = self.fusion_1(torch.cat((positive, received), 1))
        skip = self.fusion_2(torch.cat((skip_positive, skip_received), 1))
        return self._split(self.model(_join(skip, coarse)))


class _ReleasedExit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(in_channels, in_channels, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, positive: Tensor, received: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(self.fusion(torch.cat((positive, received), 1))))


class YTMTReleasedUNet(_Augmented):
    """The network inside the authors' released two-stage checkpoint (``ytmt_uct_sirs_68_077_00595364.pt``).

    Called ytmt_ucs_old in the program, and another network than YTMT-UCS: attention after the convolution, positive and
    negative parts kept apart and fused at the *entrance* of the next unit, coarse and skip features fused separately,
    a fusion before the output. 38,448,530 parameters with 1475 input channels, of which 8.7 million
    (``inc_1.fusion``, ``inc_2.fusion``) are never used; these are frozen.

    Args:
        in_channels: channels of the input without the hypercolumn, 3 if left out.
        hypercolumn: as for :class:`YTMTUNet`.
        width: channels at full resolution; deeper ones are 2, 4, 8 and 8 times as wide.
        out_channels: channels of each layer returned.

    Raises:
        UserError: if ``in_channels`` contradict the hypercolumn.
    """

    def __init__(
        self, in_channels: int | None = None, hypercolumn: bool = True, width: int = 64, out_channels: int = 3
    ) -> None:
        check_whole_number("model.net.width", width)
        super().__init__(in_channels, hypercolumn)
        self.inc_1, self.inc_2 = (_ReleasedEntrance(self._first_conv(width)) for _ in range(2))
        self.down1_1, self.down1_2 = (_ReleasedDown(width, 2 * width) for _ in range(2))
        self.down2_1, self.down2_2 = (_ReleasedDown(2 * width, 4 * width) for _ in range(2))
        self.down3_1, self.down3_2 = (_ReleasedDown(4 * width, 8 * width) for _ in range(2))
        self.down4_1, self.down4_2 = (_ReleasedDown(8 * width, 8 * width) for _ in range(2))
        self.up1_1, self.up1_2 = (_ReleasedUp(16 * width, 4 * width) for _ in range(2))
        self.up2_1, self.up2_2 = (_ReleasedUp(8 * width, 2 * width) for _ in range(2))
        self.up3_1, self.up3_2 = (_ReleasedUp(4 * width, width) for _ in range(2))
        self.up4_1, self.up4_2 = (_ReleasedUp(2 * width, width) for _ in range(2))
        self.outc_1, self.outc_2 = (_ReleasedExit(2 * width, out_channels) for _ in range(2))

    def _separate(self, l: Features, r: Features) -> Streams:  # noqa: E741
        first = _first_responses(l, r, self.inc_1.model[0], self.inc_2.model[0])
        # Each entry holds (own positive, received negative) of the l stream, then of the r stream.
        levels = [_exchange(self.inc_1(first[0]), self.inc_2(first[1]))]
        for down_l, down_r in (
            (self.down1_1, self.down1_2),
            (self.down2_1, self.down2_2),
            (self.down3_1, self.down3_2),
            (self.down4_1, self.down4_2),
        ):
            in_l, in_r = levels[-1]
            levels.append(_exchange(down_l(*in_l), down_r(*in_r)))
        in_l, in_r = levels.pop()
        for up_l, up_r in (
            (self.up1_1, self.up1_2),
            (self.up2_1, self.up2_2),
            (self.up3_1, self.up3_2),
            (self.up4_1, self.up4_2),
        ):
            skip_l, skip_r = levels.pop()
            in_l, in_r = _exchange(up_l(*in_l, *skip_l), up_r(*in_r, *skip_r))
        return self.outc_1(*in_l), self.outc_2(*in_r)


def _exchange(parts_l: Streams, parts_r: Streams) -> tuple[Streams, Streams]:
    """Swap the negative parts of the two streams."""
    return (parts_l[0], parts_r[1]), (parts_r[0], parts_l[1])


# --------------------------------------------------------------------------------------------------------------------
# Two stages


class TwoStage(nn.Module):
    """YTMT-UCT and YTMT-UAT: a second network of the same kind refines the two layers found by the first.

    Paper Sec. 3.2. Stage 1 (``icnn``) sees the mixture in both streams; stage 2 (``icnn2``) sees T1 in the l stream and
    R1 in the r stream, and not the mixture. The second is trained after the first, which is then frozen. The names are
    those of the entries in the authors' files.

    In stage 1 the second network takes no part in ``forward``, in stage 2 the first gives no gradient; under DDP either
    needs ``find_unused_parameters=True``. The phase is not part of ``state_dict``: whoever trains or loads sets it.

    Args:
        icnn: stage 1; its ``forward`` takes one image or two.
        icnn2: stage 2; a copy of the first if left out (an attached VGG stays shared).
        active_stage: 1 while the first stage is being trained, 2 from then on.

    Raises:
        ValueError: if ``active_stage`` is neither.
    """

    def __init__(self, icnn: nn.Module, icnn2: nn.Module | None = None, active_stage: int = 1) -> None:
        super().__init__()
        self.icnn = icnn
        self.icnn2 = icnn2 if icnn2 is not None else copy.deepcopy(icnn)
        self._stage1_trains = frozenset(name for name, p in icnn.named_parameters() if p.requires_grad)
        self._active_stage = 1
        self.set_active_stage(active_stage)

    @property
    def active_stage(self) -> int:
        """The last stage that runs: 1 or 2."""
        return self._active_stage

    def set_active_stage(self, stage: int) -> None:
        """Choose the last stage that runs; stage 1 is frozen exactly while stage 2 is active. Weights stay as they are.

        Raises:
            ValueError: if ``stage`` is neither 1 nor 2.
        """
        if stage not in (1, 2):
            raise ValueError(f"TwoStage: the active stage must be 1 or 2, got {stage!r}")
        self._active_stage = stage
        for name, parameter in self.icnn.named_parameters():
            parameter.requires_grad_(stage == 1 and name in self._stage1_trains)
            if stage == 2:
                parameter.grad = None

    def start_stage2(self) -> None:
        """Copy the weights of stage 1 into stage 2, in place, freeze stage 1 and activate stage 2."""
        self.icnn2.load_state_dict(self.icnn.state_dict())
        self.set_active_stage(2)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1.

        Returns:
            ``transmission`` and ``reflection`` of the last active stage, (B, 3, H, W) in (0, 1); in stage 2 also
            ``stages`` with those of stage 1, which carry no gradient.
        """
        if self._active_stage == 1:
            return cast(Outputs, self.icnn(mixture))
        # The program leaves stage 1 in train mode here, which changes nothing: no normalisation, no dropout.
        with torch.no_grad():
            first = self.icnn(mixture)
        transmission, reflection = first["transmission"], first["reflection"]
        outputs: Outputs = self.icnn2(transmission, reflection)
        return {**outputs, "stages": [{"transmission": transmission, "reflection": reflection}]}
