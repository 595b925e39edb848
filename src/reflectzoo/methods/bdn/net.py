"""The network of "Seeing Deeply and Bidirectionally" (Yang et al., ECCV 2018).

Three U-Nets in sequence. The first predicts a transmission B0 from the photograph I; the second, in the other
direction, the reflection R1 from B0 and I; the third the final transmission B1 from R1 and I.

Module names are those of the authors' program (github.com/yangj1e/bdn-refremv, c9f4447), so that its files load
unchanged. This code was written only from recorded facts about that program and its outputs.

Most layers work on small maps, which leaves little to optimise without changing results: on a CPU all tensors are
channels-last, and without gradients ReLUs work in place. :func:`~reflectzoo.nets.plain.plain_form` disables both, as
the reference for tests.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.nets.plain import must_not_overwrite
from reflectzoo.nets.sizes import prepare_input

_SLOPE = 0.2  # of the leaky ReLUs in the encoder
_WIDEST = 8  # channels of the deep levels, as a multiple of the width


class _Level(nn.Module):
    """One level of a U-Net and everything below it.

    Encoder: leaky ReLU, 4x4 convolution of stride 2, batch normalisation; decoder: ReLU, 4x4 transposed convolution of
    stride 2, batch normalisation. The positions in ``model`` are the authors'; activations are included only to keep
    the numbering.

    Args:
        outer: channels of input and output.
        inner: channels one level below.
        below: the next level; None at the bottom, whose encoder has no normalisation.
    """

    def __init__(self, outer: int, inner: int, below: _Level | None) -> None:
        super().__init__()
        down = [nn.LeakyReLU(_SLOPE), nn.Conv2d(outer, inner, 4, stride=2, padding=1)]
        middle = [] if below is None else [nn.BatchNorm2d(inner), below]
        enlarged = inner if below is None else 2 * inner
        up = [nn.ReLU(), nn.ConvTranspose2d(enlarged, outer, 4, stride=2, padding=1), nn.BatchNorm2d(outer)]
        self.model = nn.Sequential(*down, *middle, *up)
        self.bottom = below is None

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the features from below with the input after its leaky ReLU.

        Args:
            x: (B, outer, H, W), each side at least 2.

        Returns:
            (B, 2 outer, H, W): first the features from below, then the input.
        """
        layers = self.model
        skip = F.leaky_relu(x, _SLOPE, inplace=not must_not_overwrite())
        y = layers[1](skip)
        if not self.bottom:
            y = layers[3](layers[2](y))
        y = F.relu(y, inplace=not must_not_overwrite())
        y = layers[-1](layers[-2](y))
        return torch.cat((_fitted(y, skip), skip), 1)


class _Outermost(nn.Module):
    """The first and the last layer of a U-Net, without normalisation; the result passes through tanh."""

    def __init__(self, in_channels: int, out_channels: int, width: int, below: _Level) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            below,
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, out_channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.model[1](self.model[0](x))
        y = F.relu(y, inplace=not must_not_overwrite())
        # Without autocast, since the result is an image and the input of the next network.
        with torch.autocast(y.device.type, enabled=False):
            last = cast(nn.ConvTranspose2d, self.model[3])
            return torch.tanh(last(y.to(last.weight.dtype)))


class UNet(nn.Module):
    """A U-Net, built from the innermost level outwards.

    Args:
        in_channels: channels of the input; the output has three.
        width: channels after the first convolution; doubled at each level, up to eight times the width.
        levels: number of times the size is halved, at least 2.
    """

    def __init__(self, in_channels: int, width: int, levels: int) -> None:
        super().__init__()
        channels = [width * min(2**level, _WIDEST) for level in range(levels)]
        below: _Level | None = None
        for outer, inner in zip(reversed(channels[:-1]), reversed(channels[1:]), strict=True):
            below = _Level(outer, inner, below)
        assert below is not None
        self.model = _Outermost(in_channels, 3, width, below)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [-1, 1], H and W even and at least 2^levels -> (B, 3, H, W) in (-1, 1)."""
        return cast(Tensor, self.model(x))


_Depth = Annotated[int, Ge(2)]


class BDNNet(nn.Module):
    """Three U-Nets for transmission, reflection and transmission; ``Generator_cascade`` in the authors' program.

    75,162,633 parameters as published.

    Args:
        width: channels after the first convolution of each U-Net, 64 as published.
        levels: number of times each of the three halves the size; 7, 5 and 5 as published.

    Raises:
        UserError: for a width below 1, or levels that are not three numbers of at least 2.
    """

    @checked("model.net")
    def __init__(self, width: Count = 64, levels: tuple[_Depth, _Depth, _Depth] = (7, 5, 5)) -> None:
        super().__init__()
        self.width = width
        self.levels = tuple(levels)
        self.model1, self.model2, self.model3 = (
            UNet(channels, width, each) for channels, each in zip((3, 6, 6), levels, strict=True)
        )

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W >= 1; odd sides, and those shorter than 2^levels, are
                padded by reflection and the results cropped.

        Returns:
            ``transmission`` B1 and ``reflection`` R1, (B, 3, H, W) in (0, 1); ``aux["transmission"]`` lists B0 and B1.
            In the dtype of the weights, also under autocast.
        """
        height, width = mixture.shape[-2:]
        image = 2 * prepare_input(mixture, 2, least=2 ** max(self.levels)) - 1
        first = self.model1(image)
        reflection = self.model2(torch.cat((first, image), 1))
        second = self.model3(torch.cat((reflection, image), 1))
        first, reflection, second = ((each[..., :height, :width] + 1) / 2 for each in (first, reflection, second))
        return {"transmission": second, "reflection": reflection, "aux": {"transmission": [first, second]}}


def _fitted(y: Tensor, skip: Tensor) -> Tensor:
    """Zero-pad ``y`` to the size of ``skip`` where halving dropped a row or column; less above and on the left."""
    down, right = skip.shape[-2] - y.shape[-2], skip.shape[-1] - y.shape[-1]
    if not (down or right):
        return y
    return F.pad(y, (right // 2, right - right // 2, down // 2, down - down // 2))
