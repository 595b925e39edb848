"""The network of "Single Image Reflection Separation via Component Synergy" (Hu and Guo, ICCV 2023).

Two streams, for transmission and reflection, start from the same five maps of VGG-19 and gate each other in every block
(:mod:`reflectzoo.methods.dsrnet.blocks`). A pyramid merges the maps from coarse to fine, a U-shaped network of such
blocks separates the streams, and a third output is the residue, the difference between the photograph and the sum of
the two layers: I = T + R + residue, where the residue is learnt instead of being assumed to be zero.

Module names are those of the authors' program (github.com/mingcv/DSRNet, 7953e40), except for the residue's layers,
which it registers once per stream; ``convert.py`` keeps one. :func:`~reflectzoo.nets.plain.plain_form` disables all
shortcuts of this file and of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, cast

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.methods.dsrnet.blocks import MutualBlock, Shared, SingleBlock, separately
from reflectzoo.nets.hypercolumn import LEVEL_CHANNELS, Hypercolumn
from reflectzoo.nets.plain import is_plain, must_not_overwrite
from reflectzoo.nets.sizes import pad_to_multiple
from reflectzoo.nets.start import weight_of

_VGG_STRIDE = 16  # four poolings before the coarsest map
_FINE = 32  # channels of the features of the photograph itself, and of the pyramid's at full size


class _Pyramid(nn.Module):
    """Merges five VGG maps of an image into features of both streams at full size; FeaturePyramidVGG in the program."""

    def __init__(self, width: int, shared_b: bool) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = LEVEL_CHANNELS
        self.block5 = nn.Sequential(MutualBlock(c5, shared_b))
        self.block4 = nn.Sequential(MutualBlock(c4, shared_b))
        self.ch_map4 = _merge(c5 + c4, 4 * c3, shared_b)
        self.block3 = nn.Sequential(MutualBlock(c3, shared_b))
        self.ch_map3 = _merge(2 * c3, 4 * c2, shared_b)
        self.block2 = nn.Sequential(MutualBlock(c2, shared_b))
        self.ch_map2 = _merge(2 * c2, 4 * c1, shared_b)
        self.block1 = nn.Sequential(MutualBlock(c1, shared_b))
        self.ch_map1 = nn.Sequential(
            Shared(nn.Conv2d(2 * c1, 2 * c1, 1)),
            MutualBlock(2 * c1, shared_b),
            Shared(nn.Conv2d(2 * c1, _FINE, 1)),
            MutualBlock(_FINE, shared_b),
        )
        self.block_intro = _intro(shared_b)
        self.ch_map0 = Shared(nn.Conv2d(2 * _FINE, width, 1))

    def forward(self, image: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """(B, 3, H, W), sides multiples of 16, and its maps -> (2 B, width, H, W)."""
        waiting = list(levels)
        x: Tensor = self.block5[0](waiting.pop(), twins=True)
        for number, (block, merge) in enumerate(
            ((self.block4, self.ch_map4), (self.block3, self.ch_map3), (self.block2, self.ch_map2))
        ):
            level = block[0](waiting.pop(), twins=True)
            x = merge[1](F.pixel_shuffle(self._joined(merge[0], x, level, enlarge=number == 0), 2))
        x = self._joined(self.ch_map1[0], x, self.block1[0](waiting.pop(), twins=True))
        return self._joined(self.ch_map0, self.ch_map1[1:](x), _own_features(self.block_intro, image))

    @staticmethod
    def _joined(layer: nn.Module, coarse: Tensor, fine: Tensor, enlarge: bool = False) -> Tensor:
        """A 1x1 convolution of [coarse, fine], the first optionally doubled in size (bilinear, aligned corners)."""
        conv = cast(nn.Conv2d, cast(Shared, layer).seq[0])
        if is_plain():
            coarse = _doubled(coarse) if enlarge else coarse
            return separately(conv, torch.cat((coarse, fine), 1))
        # Each map is multiplied by its own columns of the matrix, before upsampling and without concatenation.
        of_coarse, of_fine = torch.split(conv.weight, [coarse.shape[1], fine.shape[1]], dim=1)
        x = F.conv2d(coarse, of_coarse)
        return F.conv2d(fine, of_fine, conv.bias).add_(_doubled(x) if enlarge else x)


class _PhotographAlone(nn.Module):
    """Replaces the pyramid in networks without VGG; not in the authors' program."""

    def __init__(self, width: int, shared_b: bool) -> None:
        super().__init__()
        self.block_intro = _intro(shared_b)
        self.ch_map0 = Shared(nn.Conv2d(_FINE, width, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (2 B, width, H, W)."""
        return cast(Tensor, self.ch_map0(_own_features(self.block_intro, image)))


def _intro(shared_b: bool) -> nn.Sequential:
    return nn.Sequential(Shared(nn.Conv2d(3, _FINE, 3, padding=1)), MutualBlock(_FINE, shared_b))


def _own_features(intro: nn.Sequential, image: Tensor) -> Tensor:
    """The features of the image itself, with the same input for both streams."""
    first: Tensor = cast(Shared, intro[0]).seq(image)
    return cast(Tensor, intro[1](first, twins=True))


def _merge(in_channels: int, out_channels: int, shared_b: bool) -> nn.Sequential:
    # Pixel shuffle to twice the size turns four channels into one.
    return nn.Sequential(Shared(nn.Conv2d(in_channels, out_channels, 1)), MutualBlock(out_channels // 4, shared_b))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class _Residue(nn.Module):
    """Predicts the residue, in (-1, 1), from the features of both streams; LRM in the program."""

    def __init__(self, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.intro = Shared(nn.Conv2d(width, 2 * width, 1))
        self.blocks_inter = nn.Sequential(*(MutualBlock(2 * width) for _ in range(blocks[0])))
        self.blocks_merge = nn.Sequential(*(SingleBlock(4 * width) for _ in range(blocks[1])))
        self.tail = nn.Sequential(nn.Conv2d(4 * width, 3, 3, padding=1), nn.Tanh())

    def forward(self, both: Tensor) -> Tensor:
        """(2 B, width, H, W) -> (B, 3, H, W)."""
        both = self.blocks_inter(self.intro(both))
        return cast(Tensor, self.tail(self.blocks_merge(torch.cat(both.chunk(2), 1))))


class DSRNet(nn.Module):
    """Dual-stream separation with a learnt residue.

    Paper Sec. 3, Fig. 2; class DSRNet in the program. 124,602,022 parameters for the large published network (the
    defaults). Blocks start as the identity.

    Args:
        width: channels of a stream at full size; every level of the U is twice as wide as the one above.
        encoder: number of blocks per level of the encoder, from fine to coarse.
        middle: number of blocks at the bottom.
        decoder: number of blocks per level of the decoder, from coarse to fine.
        residue: numbers of blocks before and after the residue's two streams are concatenated.
        shared_b: whether the scale of a block's second half is shared by both streams, as in the large published
            network; otherwise each stream has its own.
        hypercolumn: False to leave out VGG-19 and start from features of the photograph itself. An addition of
            reflectzoo for narrow networks, since the pyramid has over six million parameters at any width.

    Raises:
        UserError: for invalid numbers, or encoder and decoder of different depths.
    """

    @checked("model.net")
    def __init__(
        self,
        width: Count = 64,
        encoder: Annotated[Sequence[Count], MinLen(1)] = (2, 2, 4, 8),
        middle: Count = 12,
        decoder: Annotated[Sequence[Count], MinLen(1)] = (2, 2, 2, 2),
        residue: tuple[Count, Count] = (2, 4),
        shared_b: bool = True,
        hypercolumn: bool = True,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise UserError(
                "model.net.encoder and model.net.decoder must have the same number of levels, got "
                f"{list(encoder)} and {list(decoder)}."
            )
        self.stride = max(_VGG_STRIDE if hypercolumn else 1, 2 ** len(encoder))
        self.hypercolumn = Hypercolumn() if hypercolumn else None
        self.intro = _Pyramid(width, shared_b) if hypercolumn else _PhotographAlone(width, shared_b)
        self.ending = Shared(nn.Conv2d(width, 3, 3, padding=1))
        widths = [width * 2**level for level in range(len(encoder) + 1)]

        def blocks(channels: int, number: int) -> nn.Sequential:
            return nn.Sequential(*(MutualBlock(channels, shared_b) for _ in range(number)))

        self.encoders = nn.ModuleList(map(blocks, widths, encoder))
        self.decoders = nn.ModuleList(map(blocks, widths[-2::-1], decoder))
        self.middle_blks = blocks(widths[-1], middle)
        self.ups = nn.ModuleList(
            Shared(nn.Conv2d(below, 2 * below, 1, bias=False), nn.PixelShuffle(2)) for below in widths[:0:-1]
        )
        self.downs = nn.ModuleList(Shared(nn.Conv2d(above, below, 2, stride=2)) for above, below in pairwise(widths))
        self.lrm = _Residue(width, residue)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1. Sides that are not multiples of ``stride`` are
                padded by reflection and the results cropped; the program resizes the photograph instead.

        Returns:
            ``transmission`` and ``reflection``, (B, 3, H, W), unbounded, and ``aux["residue"]``, same shape, in
            (-1, 1).
        """
        height, width = mixture.shape[-2:]
        image = pad_to_multiple(mixture, self.stride)
        if image.device.type == "cpu" and not is_plain():
            image = image.contiguous(memory_format=torch.channels_last)
        both = self.intro(image) if self.hypercolumn is None else self.intro(*self.hypercolumn(image))
        skips: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(both))
            both = down(skips[-1])
        both = self.middle_blks(both)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            both = decoder(_added(up(both), skips.pop()))
        layers = self.ending(both)
        residue = self.lrm(both)
        transmission, reflection = layers[..., :height, :width].chunk(2)
        return {
            "transmission": transmission,
            "reflection": reflection,
            "aux": {"residue": residue[..., :height, :width]},
        }


def _added(fresh: Tensor, skip: Tensor) -> Tensor:
    return fresh + skip if must_not_overwrite() else fresh.add_(skip)


@torch.no_grad()
def start_as_copy(net: DSRNet) -> None:
    """Initialise a network so that both layers equal the photograph and the residue is zero, for short training runs.

    Three channels carry the photograph through the network, whose blocks start as the identity. The last layer's other
    weights are scaled by 0.1, so that the copy is nearly exact.

    Raises:
        UserError: if the network has fewer than three channels.
    """
    first, last = (cast(nn.Conv2d, cast(Shared, each).seq[0]) for each in (net.intro.block_intro[0], net.ending))
    joined, up = (cast(nn.Conv2d, cast(Shared, each).seq[0]) for each in (net.intro.ch_map0, net.ups[-1]))
    if last.in_channels < 3:
        raise UserError("model.init=copy passes on three colours: set model.net.width=3 or more.")
    weight_of(last).mul_(0.1)[:, :3] = 0
    for layer, begin in ((first, 0), (joined, joined.in_channels - _FINE), (last, 0)):
        middle = layer.kernel_size[0] // 2
        if layer is not last:
            weight_of(layer)[:3] = 0
        weight_of(layer)[:3, begin : begin + 3, middle, middle] = torch.eye(3)
        cast(Tensor, layer.bias).data[:3] = 0
    weight_of(up)[:12] = 0  # pixel shuffle turns these twelve channels into the three
    nn.init.zeros_(weight_of(net.lrm.tail[0]))
    nn.init.zeros_(cast(Tensor, net.lrm.tail[0].bias))
