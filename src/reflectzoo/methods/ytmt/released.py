"""The network of the released checkpoint (YTMTUNet, "ytmt_ucs_old", in the program)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.settings import checked
from reflectzoo.methods.ytmt.blocks import Augmented, ImageOrFeatures, first_responses, join
from reflectzoo.nets.attention import ChannelAttention, PixelAttention
from reflectzoo.nets.exchange import Streams, negative_part


class _ReleasedUnit(nn.Module):
    """Base class of the units, which return a stream's positive and negative part separately."""

    @staticmethod
    def _split(x: Tensor) -> Streams:
        return F.relu(x), negative_part(x)

    @staticmethod
    def _stack(in_channels: int, out_channels: int, *before: nn.Module, conv: nn.Conv2d | None = None) -> nn.Sequential:
        # Here attention follows the convolution and precedes the ReLU.
        return nn.Sequential(
            *before,
            conv or nn.Conv2d(in_channels, out_channels, 3, padding=1),
            PixelAttention(out_channels),
            ChannelAttention(out_channels, inplace=True),
        )


class _ReleasedEntrance(_ReleasedUnit):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Never used, since there is no other stream's input yet, but part of the released file and thus needed for
        # strict loading. Frozen, since otherwise DDP would wait for its gradient.
        self.fusion = nn.Conv2d(2 * conv.in_channels, conv.in_channels, 1).requires_grad_(False)
        self.model = self._stack(conv.in_channels, conv.out_channels, conv=conv)

    def forward(self, response: Tensor) -> Streams:
        """Apply the layers after ``model[0]`` to its output, which may have been computed jointly for both streams."""
        return self._split(self.model[1:](response))


class _ReleasedDown(_ReleasedUnit):
    """Fusion at the finer resolution, then pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(2 * in_channels, in_channels, 1)
        self.model = self._stack(in_channels, out_channels, nn.MaxPool2d(2))

    def forward(self, positive: Tensor, received: Tensor) -> Streams:
        """Own positive part and the other stream's negative part, (B, C, H, W) each."""
        return self._split(self.model(self.fusion(torch.cat((positive, received), 1))))


class _ReleasedUp(_ReleasedUnit):
    """Separate fusion of coarse and skip features, then their concatenation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion_1 = nn.Conv2d(in_channels, in_channels, 1)
        self.fusion_2 = nn.Conv2d(in_channels, in_channels, 1)
        self.model = self._stack(2 * in_channels, out_channels)

    def forward(self, positive: Tensor, received: Tensor, skip_positive: Tensor, skip_received: Tensor) -> Streams:
        """Own positive and received negative part at half size, and the same of the skip connection."""
        coarse = self.fusion_1(torch.cat((positive, received), 1))
        skip = self.fusion_2(torch.cat((skip_positive, skip_received), 1))
        return self._split(self.model(join(skip, coarse)))


class _ReleasedExit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(in_channels, in_channels, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, positive: Tensor, received: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(self.fusion(torch.cat((positive, received), 1))))


class YTMTReleasedUNet(Augmented):
    """The network inside the authors' released two-stage checkpoint (``ytmt_uct_sirs_68_077_00595364.pt``).

    Called ytmt_ucs_old in the program. It differs from YTMT-UCS: attention follows the convolution, positive and
    negative parts are kept separate and fused at the *entrance* of the next unit, coarse and skip features are fused
    separately, and there is a fusion before the output. 38,448,530 parameters with 1475 input channels, of which 8.7
    million (``inc_1.fusion``, ``inc_2.fusion``) are never used and frozen.

    Args:
        in_channels: channels of the input without the hypercolumn; defaults to 3.
        hypercolumn: as for :class:`~reflectzoo.methods.ytmt.net.YTMTUNet`.
        width: channels at full resolution; deeper levels are 2, 4, 8 and 8 times as wide.
        out_channels: channels of each returned layer.

    Raises:
        UserError: if ``in_channels`` contradict the hypercolumn.
    """

    @checked("model.net")
    def __init__(
        self, in_channels: Count | None = None, hypercolumn: bool = True, width: Count = 64, out_channels: Count = 3
    ) -> None:
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

    def _separate(self, l: ImageOrFeatures, r: ImageOrFeatures) -> Streams:  # noqa: E741
        first = first_responses(l, r, self.inc_1.model[0], self.inc_2.model[0])
        # Each entry is (own positive, received negative) of the l stream, then of the r stream.
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
