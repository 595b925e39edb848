"""Blocks of the contextual auto-encoder shared by IBCLN and Location-aware SIRR."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.nets.plain import must_not_overwrite
from reflectzoo.nets.winograd import convolve, winograd_bands, winograd_is_faster


class Rectified(nn.Sequential):
    """A convolution followed by ReLU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride) >= 0."""
        return F.relu(convolve(cast(nn.Conv2d, self[0]), x), inplace=True)


def conv_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> Rectified:
    """Make a :class:`Rectified` of odd kernel size with padding that preserves the size, up to the stride."""
    padding = dilation * (kernel // 2)
    return Rectified(nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, dilation=dilation))


class Upsampling(nn.Sequential):
    """Transposed convolution of stride 2, 2x2 mean filter against its checkerboard artefacts, and ReLU.

    One row above and one column on the left are padded by reflection before the mean, so that the first row and column
    of the result equal the second ones.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W) >= 0."""
        layer = cast(nn.ConvTranspose2d, self[0])
        if not must_not_overwrite():
            kernel = folded_kernel(layer.weight)
            if winograd_is_faster(x, kernel):
                return F.relu(self._at_once(x, kernel, cast(Tensor, layer.bias)), inplace=True)
        x = F.pad(layer(x), (1, 0, 1, 0), mode="reflect")
        return F.relu(F.avg_pool2d(x, 2, stride=1), inplace=True)

    @staticmethod
    def _at_once(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """Compute the four results per pixel of ``x`` by one convolution and place them band by band."""
        size, _, height, width = x.shape
        out = x.new_empty(size, height, 2, width, 2, len(bias))
        for band in winograd_bands(x, kernel, bias.repeat(4)):
            values = band.values.view(-1, width, 2, 2, len(bias))
            out[band.sample, band.rows] = values.permute(0, 2, 1, 3, 4)
        out = out.view(size, 2 * height, 2 * width, len(bias))
        out[:, 0] = out[:, 1]
        out[:, :, 0] = out[:, :, 1]
        return out.permute(0, 3, 1, 2)


def folded_kernel(weight: Tensor) -> Tensor:
    """Fold a 4x4 transposed convolution of stride 2 and the 2x2 mean after it into one 3x3 convolution.

    Along one axis, with y the transposed convolution of x by k, the mean is ``z[n] = (y[n-1] + y[n]) / 2``: again a
    transposed convolution, by ``K[j] = (k[j-1] + k[j]) / 2`` with five taps. Even positions of z depend on two elements
    of x, odd ones on three: ``z[2m] = K3 x[m-1] + K1 x[m]`` and ``z[2m+1] = K4 x[m-1] + K2 x[m] + K0 x[m+1]``.

    Args:
        weight: kernel of the transposed convolution, (C, C', 4, 4).

    Returns:
        Kernel of the convolution, (4 C', C, 3, 3); the four groups are even and odd rows times even and odd columns.
    """
    phases = weight.new_zeros(2, 3, 5)
    for phase, tap, place in ((0, 0, 3), (0, 1, 1), (1, 0, 4), (1, 1, 2), (1, 2, 0)):
        phases[phase, tap, place] = 1
    mean = weight.new_zeros(5, 4)
    for tap in range(4):
        mean[tap, tap] = mean[tap + 1, tap] = 0.5
    along = phases @ mean
    return torch.einsum("piu,qjv,couv->pqocij", along, along, weight).flatten(0, 2)


def add_skip(fresh: Tensor, skip: Tensor) -> Tensor:
    """Add two maps of equal shape; in place of ``fresh`` unless :func:`~reflectzoo.nets.plain.must_not_overwrite`."""
    return fresh + skip if must_not_overwrite() else fresh.add_(skip)


def image_head(head: nn.Module, x: Tensor) -> Tensor:
    """Apply an output layer in the dtype of its weights, also under autocast.

    Its result is an image that may be the input of the next iteration.
    """
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, head(x.to(next(head.parameters()).dtype)))
