"""The current lite: ImageNet features added to the encoder, two streams with exchange, a gain and an offset per pixel.

A design of reflectzoo. The first lite (:mod:`reflectzoo.methods.lite.net`) added a correction to the mixture; this one
also multiplies, since a pane absorbs part of the light, and gets semantic features from an EfficientNet-Lite0, which is
frozen except in a sprint with ``--unfreeze``. Its own layers still work at a quarter of the size and below, without
normalisation over positions and without pooling over the image, so that tiles of a large photograph give the same
result as the whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count, NotNegative
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.methods.lite.net import FOLD, STRIDE, Four, Residual, Three, Up, scaled_widths, zero_init
from reflectzoo.nets.efficientnet import CHANNELS, EfficientNetLite0, OptionalFeatures, efficientnet_lite0
from reflectzoo.nets.sizes import pad_to_multiple

Head = Literal["gain", "residual"]
BlockKind = Literal["plain", "naf"]
JointBlocks = tuple[NotNegative, NotNegative, NotNegative]
_LEVELS = 5
"""Number of feature maps, at strides 2 (not used), 4, 8, 16 and 32."""


class GatedBlock(nn.Module):
    """NAFNet's block without its pooling attention: 1x1, depthwise 3x3, gate of two halves, 1x1; starts as identity.

    Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, Fig. 3 (c), without the attention over the whole
    image, with which tiles would give other results; the normalisation is over the channels of each pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _PixelNorm(channels)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.narrow = zero_init(nn.Conv2d(channels, channels, 1))
        self.norm_2 = _PixelNorm(channels)
        self.widen_2 = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow_2 = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        first, second = self.depthwise(self.widen(self.norm(x))).chunk(2, 1)
        x = x + self.narrow(first * second)
        first, second = self.widen_2(self.norm_2(x)).chunk(2, 1)
        out: Tensor = x + self.narrow_2(first * second)
        return out


class _PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        spread = (centred.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return centred * spread * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def begin(net: nn.Module) -> None:
    """Load the ImageNet weights of a new network's features, if it uses any.

    Raises:
        UserError: if they are not installed or not the published ones.
    """
    if isinstance(net, LiteNet2) and net.features is not None:
        net.features.load_state_dict(efficientnet_lite0(_LEVELS).state_dict())


class LiteNet2(nn.Module):
    """One encoder with ImageNet features, and two decoder streams; T = (1 + gain) * I + offset.

    Args:
        widths: channels of the encoder at 1/4, 1/8, 1/16 and 1/32 of the photograph's size.
        blocks: numbers of blocks at these levels.
        stream_widths: channels of each stream at 1/4, 1/8 and 1/16.
        stream_blocks: numbers of exchanges at these levels.
        joint_blocks: numbers of :class:`GatedBlock` after the exchanges at these levels, each over both streams.
        features: ``efficientnet_lite0`` adds its maps to the encoder's by 1x1 convolutions; ``none`` adds nothing.
        head: ``gain`` for T = (1 + gain) * I + offset per pixel and colour; ``residual`` for T = I + offset.
        block: block of the encoder, ``plain`` (two 3x3 convolutions) or ``naf`` (:class:`GatedBlock`).
        negative: exchange what the ReLU discards (YTMT); False exchanges what it keeps.
        width: scale all widths so that the encoder's first has this value; None keeps them.

    Raises:
        UserError: for lists of the wrong length, numbers that are not positive integers, or an invalid choice.
    """

    @checked("model.net")
    def __init__(
        self,
        widths: Four = (48, 96, 160, 224),
        blocks: Four = (2, 2, 4, 4),
        stream_widths: Three = (40, 64, 80),
        stream_blocks: Three = (2, 2, 2),
        joint_blocks: JointBlocks = (0, 0, 0),
        features: OptionalFeatures = "efficientnet_lite0",
        head: Head = "gain",
        block: BlockKind = "plain",
        negative: bool = True,
        width: Count | None = None,
    ) -> None:
        super().__init__()
        if width is not None:
            widths, stream_widths = scaled_widths(width, widths, stream_widths)
        self.head = head
        kind = Residual if block == "plain" else GatedBlock
        self.stem = nn.Conv2d(3 * FOLD**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(kind(wide) for _ in range(count))) for wide, count in zip(widths, blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        incoming = (stream_widths[1], stream_widths[2], widths[3])
        self.decoder = nn.ModuleList(
            Up(come, skip, wide, count, negative)
            for come, skip, wide, count in zip(incoming, widths[:3], stream_widths, stream_blocks, strict=True)
        )
        self.joint = nn.ModuleList(
            nn.Sequential(*(GatedBlock(2 * wide) for _ in range(count)))
            for wide, count in zip(stream_widths, joint_blocks, strict=True)
        )
        self.features = EfficientNetLite0(_LEVELS) if features != "none" else None
        self.seen = nn.ModuleList(
            zero_init(nn.Conv2d(channels, wide, 1)) for channels, wide in zip(CHANNELS[1:], widths, strict=True)
        ) if features != "none" else nn.ModuleList()  # fmt: skip
        out = 3 * FOLD**2
        self.out_l = zero_init(nn.Conv2d(stream_widths[0], out * (2 if head == "gain" else 1), 3, padding=1))
        self.out_r = zero_init(nn.Conv2d(stream_widths[0], out, 3, padding=1))

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W; padded to multiples of
                :data:`~reflectzoo.methods.lite.net.STRIDE` internally.

        Returns:
            ``transmission`` and ``reflection``, each (B, 3, H, W), about [0, 1], not clamped.
        """
        height, width = mixture.shape[-2:]
        mixture = pad_to_multiple(mixture, STRIDE)
        known: list[Tensor] = self.features(mixture)[1:] if self.features is not None else []
        features = self.stem(F.pixel_unshuffle(mixture, FOLD))
        skips = []
        for level, stage in enumerate(self.encoder):
            if known:
                features = features + self.seen[level](known[level])
            features = stage(features)
            if level < len(self.down):
                skips.append(features)
                features = self.down[level](features)
        l = r = features  # noqa: E741
        for stage, skip, joint in zip(reversed(self.decoder), reversed(skips), reversed(self.joint), strict=True):
            l, r = stage(l, r, skip)  # noqa: E741
            if len(cast(nn.Sequential, joint)):
                l, r = joint(torch.cat((l, r), 1)).chunk(2, 1)  # noqa: E741
        correction = F.pixel_shuffle(self.out_l(l), FOLD)
        if self.head == "gain":
            offset, gain = correction.chunk(2, 1)
            correction = torch.addcmul(offset, gain, mixture)
        reflection = F.pixel_shuffle(self.out_r(r), FOLD)
        return {
            "transmission": (mixture + correction)[..., :height, :width],
            "reflection": reflection[..., :height, :width],
        }
