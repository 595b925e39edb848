"""A small network for laptops: one encoder, then two streams that exchange the activations their ReLUs discard.

A design of reflectzoo, built from parts of the zoo. Since nearly all reflections are out of focus, nearly all
computation happens at a quarter of the photograph's size and below; fine detail bypasses the network and is corrected
instead of redrawn. There is no normalisation and no pooling over the whole image, so that tiles of a large photograph
give the same result as the whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.nets.exchange import ConcatenationHead, Streams
from reflectzoo.nets.sizes import pad_to_multiple

FOLD = 4
"""Factor of the pixel unshuffle at the input, which turns blocks of this side into channels."""
STRIDE = 32
"""Divisor of the padded height and width: the fold, times two for each of three halvings."""


Three = tuple[Count, Count, Count]
Four = tuple[Count, Count, Count, Count]


class Residual(nn.Module):
    """Residual block x + conv(relu(conv(x))), initialised as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zero_init(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return cast(Tensor, x + self.second(F.relu(self.first(x))))


class Exchange(nn.Module):
    """Residual block of a convolution per stream and YTMT's exchange, initialised as the identity."""

    def __init__(self, channels: int, negative: bool) -> None:
        super().__init__()
        self.conv_l = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_r = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = ConcatenationHead(channels, negative)
        zero_init(self.head.fusion_l), zero_init(self.head.fusion_r)

    def forward(self, l: Tensor, r: Tensor) -> Streams:  # noqa: E741
        """Two maps (B, C, H, W) -> two of the same shape."""
        from_l, from_r = self.head(self.conv_l(l), self.conv_r(r))
        return l + from_l, r + from_r


class Up(nn.Module):
    """Upsampling of both streams to twice the size, addition of the encoder's features, then exchanges.

    Args:
        in_channels: channels of each stream.
        skip_channels: channels of the encoder's features.
        channels: channels of each resulting stream.
        blocks: number of exchanges.
        negative: see :class:`LiteNet`.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int, blocks: int, negative: bool) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Conv2d(in_channels, 4 * channels, 1) for _ in range(2))
        self.skip = nn.ModuleList(nn.Conv2d(skip_channels, channels, 1) for _ in range(2))
        self.blocks = nn.ModuleList(Exchange(channels, negative) for _ in range(blocks))

    def forward(self, l: Tensor, r: Tensor, skip: Tensor) -> Streams:  # noqa: E741
        """Two maps (B, C, H, W) and the encoder's (B, S, 2H, 2W) -> two (B, channels, 2H, 2W)."""
        l, r = (  # noqa: E741
            F.pixel_shuffle(up(stream), 2) + beside(skip)
            for up, beside, stream in zip(self.up, self.skip, (l, r), strict=True)
        )
        for block in self.blocks:
            l, r = block(l, r)  # noqa: E741
        return l, r


class LiteNet(nn.Module):
    """One encoder and two decoder streams; T is the mixture plus a correction.

    Args:
        widths: channels of the encoder at 1/4, 1/8, 1/16 and 1/32 of the photograph's size.
        blocks: numbers of residual blocks at these levels.
        stream_widths: channels of each stream at 1/4, 1/8 and 1/16.
        stream_blocks: numbers of exchanges at these levels.
        negative: exchange what the ReLU discards (YTMT); False exchanges what it keeps (YTMT's ablation "ReLU only").
        width: scale all widths so that the encoder's first has this value; None keeps them.

    Raises:
        UserError: for lists of the wrong length, or numbers that are not positive integers.
    """

    @checked("model.net")
    def __init__(
        self,
        widths: Four = (48, 96, 160, 224),
        blocks: Four = (2, 2, 4, 4),
        stream_widths: Three = (40, 64, 80),
        stream_blocks: Three = (2, 2, 2),
        negative: bool = True,
        width: Count | None = None,
    ) -> None:
        super().__init__()
        if width is not None:
            widths, stream_widths = scaled_widths(width, widths, stream_widths)
        self.stem = nn.Conv2d(3 * FOLD**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(count))) for width, count in zip(widths, blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        incoming = (stream_widths[1], stream_widths[2], widths[3])
        self.decoder = nn.ModuleList(
            Up(come, skip, width, count, negative)
            for come, skip, width, count in zip(incoming, widths[:3], stream_widths, stream_blocks, strict=True)
        )
        self.out_l = zero_init(nn.Conv2d(stream_widths[0], 3 * FOLD**2, 3, padding=1))
        self.out_r = zero_init(nn.Conv2d(stream_widths[0], 3 * FOLD**2, 3, padding=1))

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W; padded to multiples of :data:`STRIDE` internally.

        Returns:
            ``transmission`` and ``reflection``, each (B, 3, H, W), about [0, 1], not clamped.
        """
        height, width = mixture.shape[-2:]
        image = pad_to_multiple(mixture, STRIDE)
        features = self.stem(F.pixel_unshuffle(image, FOLD))
        skips = []
        for level, stage in enumerate(self.encoder):
            features = stage(features)
            if level < len(self.down):
                skips.append(features)
                features = self.down[level](features)
        l = r = features  # noqa: E741
        for stage, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            l, r = stage(l, r, skip)  # noqa: E741
        transmission = image + F.pixel_shuffle(self.out_l(l), FOLD)
        reflection = F.pixel_shuffle(self.out_r(r), FOLD)
        return {
            "transmission": transmission[..., :height, :width],
            "reflection": reflection[..., :height, :width],
        }


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Zero a convolution's parameters in place, and return it, so that deep networks train without normalisation."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def scaled_widths(width: int, widths: Four, stream_widths: Three) -> tuple[Four, Three]:
    """Scale all widths in proportion so that the first becomes ``width``; each is rounded and at least 1."""
    factor = width / widths[0]
    wide, streams = ([max(round(each * factor), 1) for each in numbers] for numbers in (widths, stream_widths))
    return (wide[0], wide[1], wide[2], wide[3]), (streams[0], streams[1], streams[2])
