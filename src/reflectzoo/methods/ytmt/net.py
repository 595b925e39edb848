"""The networks of "Trash or Treasure? An Interactive Dual-Stream Strategy for Single Image Reflection Separation".

Hu and Guo, NeurIPS 2021. Two streams, l for the transmission and r for the reflection, exchange the activations that
their ReLUs discard: Eq. (1) relu-(x) = x - relu(x) = min(x, 0), Eq. (2) x_l = relu(l) (+) relu-(r) and vice versa,
where (+) is a concatenation followed by a 1x1 convolution (C) or an addition (A).

Module names are those of the authors' program (github.com/mingcv/YTMT-Strategy, ca181ef), so that its files load
unchanged. Where paper and program differ, this code follows the program; README.md beside this file lists the
differences.
"""

from __future__ import annotations

from typing import Annotated, cast

from annotated_types import Ge
from torch import Tensor, nn

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.methods.ytmt.blocks import Augmented, Block, Down, Entrance, Exit, ImageOrFeatures, Pattern, Up
from reflectzoo.nets.exchange import Streams
from reflectzoo.nets.shared_vgg import FeatureNet


class YTMTUNet(Augmented):
    """The U-shaped networks YTMT-UCS and YTMT-UAS, and the ablations of Table 4.

    Paper Sec. 3.2, Fig. 2 (a); class YTMT_US in the program. With 1475 input channels C and P have 19,981,574
    parameters, A and none 17,175,942.

    Args:
        pattern: "C" concatenation, "A" addition, "P" the ReLU-only ablation (concatenation with the other stream's
            *positive* part), "none" no interaction (see :class:`~reflectzoo.nets.exchange.SeparateHead`).
        in_channels: channels of the input without the hypercolumn; defaults to 3.
        hypercolumn: augment images by frozen features (1475 channels with VGG-19). VGG-19 must be attached, see
            :mod:`reflectzoo.nets.shared_vgg`, and is not part of ``state_dict``.
        width: channels at full resolution; deeper levels are 2, 4, 8 and 8 times as wide.
        out_channels: channels of each returned layer.
        features: features of the hypercolumn; ``efficientnet_lite0`` needs no download and gives 515 channels.

    Raises:
        UserError: for an unknown pattern, or ``in_channels`` that contradict the hypercolumn.
    """

    @checked("model.net")
    def __init__(
        self,
        pattern: Pattern = "C",
        in_channels: Count | None = None,
        hypercolumn: bool = True,
        width: Count = 64,
        out_channels: Count = 3,
        features: FeatureNet = "vgg19",
    ) -> None:
        super().__init__(in_channels, hypercolumn, features)
        self.pattern = pattern
        self.inc = Entrance([self._first_conv(width) for _ in range(2)], pattern)
        self.down1 = Down(width, 2 * width, pattern)
        self.down2 = Down(2 * width, 4 * width, pattern)
        self.down3 = Down(4 * width, 8 * width, pattern)
        self.down4 = Down(8 * width, 8 * width, pattern)
        self.up1 = Up(16 * width, 4 * width, pattern)
        self.up2 = Up(8 * width, 2 * width, pattern)
        self.up3 = Up(4 * width, width, pattern)
        self.up4 = Up(2 * width, width, pattern)
        self.outc = Exit(width, out_channels, sigmoid=True, bias=True)

    def _separate(self, l: ImageOrFeatures, r: ImageOrFeatures) -> Streams:  # noqa: E741
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

    Paper Fig. 2 (b); class YTMT_PS in the program. 772,496 parameters (C) or 623,888 (A). They do not appear in the
    paper's tables; the program uses them for denoising with one channel, nine layers and no sigmoid.

    Args:
        pattern: as for :class:`YTMTUNet`.
        in_channels: channels of the input.
        out_channels: channels of each returned layer.
        width: channels of the hidden layers.
        layers: 3x3 convolutions per stream, including the first and the last. The last has no bias.
        sigmoid: whether to end in a sigmoid, so that values lie in (0, 1).

    Raises:
        UserError: for an unknown pattern or fewer than two layers.
    """

    @checked("model.net")
    def __init__(
        self,
        pattern: Pattern = "C",
        in_channels: Count = 3,
        out_channels: Count = 3,
        width: Count = 64,
        layers: Annotated[int, Ge(2)] = 10,
        sigmoid: bool = True,
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.conv1 = Entrance([nn.Conv2d(in_channels, width, 3, padding=1) for _ in range(2)], pattern)
        self.convs = nn.ModuleList(Block(width, width, pattern) for _ in range(layers - 2))
        self.out = Exit(width, out_channels, sigmoid=sigmoid, bias=False)

    def forward(self, mixture: Tensor, other: Tensor | None = None) -> Outputs:
        """Separate a mixture, or refine a pair of layers.

        Args:
            mixture: (B, in_channels, H, W), RGB in [0, 1], any H and W >= 1.
            other: input of the r stream, same shape; defaults to ``mixture``.

        Returns:
            ``transmission`` and ``reflection``, each (B, out_channels, H, W), in (0, 1) with the sigmoid.
        """
        streams: Streams = self.conv1(mixture, mixture if other is None else other)
        for block in self.convs:
            streams = block(*streams)
        transmission, reflection = self.out(*streams)
        return {"transmission": transmission, "reflection": reflection}
