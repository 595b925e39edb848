"""The blocks of DSRNet: two streams that gate each other, and a single stream that gates itself.

Both streams pass through the same layers, so they are stored in one tensor, (2 B, C, H, W): the transmission's samples,
then the reflection's. The only activation in a block of Chen et al. ("Simple Baselines for Image Restoration", ECCV
2022) is the product of two halves of its channels; here (Hu and Guo, ICCV 2023, "mutually gated interaction") one half
of a stream is multiplied by the other half of the other stream.

Shortcuts that do not change the result, up to rounding: all tensors are channels-last, so that 1x1 convolutions and the
normalisation over channels are contiguous. Without gradients a block processes the image in bands of rows that stay in
the cache: only the gated features of the first half are kept as a whole, because their means are needed first, and the
second half, which is pointwise, replaces them band by band. If both streams have the same input, as in the pyramid, the
first half is computed once. :func:`~reflectzoo.nets.plain.plain_form` disables the shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.nets.plain import is_plain, must_not_overwrite

StreamCount = Literal[1, 2]

_EPSILON = 1e-6  # added to the variance
# Size of the widest features in a band, in numbers: on a CPU they should stay in the L2 and L3 caches; elsewhere few,
# large bands are preferable.
_BAND_CPU = 2**19
_BAND_ELSEWHERE = 2**25


def separately(layer: nn.Module, both: Tensor) -> Tensor:
    """Apply a layer to both streams: together, or in the plain form separately."""
    if not is_plain():
        return cast(Tensor, layer(both))
    return torch.cat([layer(stream) for stream in both.chunk(2)])


class Shared(nn.Module):
    """Layers shared by both streams, under the authors' attribute name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.seq = nn.Sequential(*layers)

    def forward(self, both: Tensor) -> Tensor:
        """(2 B, C, H, W) -> (2 B, C', H', W')."""
        return separately(self.seq, both)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel (biased variance), with a scale and an offset per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, channels-last."""
        if is_plain():
            centred = x - x.mean(dim=1, keepdim=True)
            scaled = centred / (centred.square().mean(dim=1, keepdim=True) + _EPSILON).sqrt()
            return self.weight[:, None, None] * scaled + self.bias[:, None, None]
        pixels = x.permute(0, 2, 3, 1)
        return F.layer_norm(pixels, self.weight.shape, self.weight, self.bias, _EPSILON).permute(0, 3, 1, 2)


class _Factors(nn.Module):
    """One factor per channel: a 1x1 convolution of the means over the image, without a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1)."""
        return cast(Tensor, self.ca["1"](x.mean(dim=(2, 3), keepdim=True)))


def _gate(x: Tensor, streams: int) -> Tensor:
    """Product of the two halves of the channels; with two streams the second half is that of the other stream.

    Args:
        x: (streams * B, 2 C, H, W).
        streams: 1 or 2.
    """
    first, second = x.chunk(2, dim=1)
    if streams == 1:
        return first * second
    count = len(x) // 2
    return torch.cat((first[:count] * second[count:], first[count:] * second[:count]))


class _Gated(nn.Module):
    """Base class of both kinds of block; subclasses register the layers under the authors' names.

    ``y = x + a * reduce(factors * gate(spatial(expand(norm(x)))))``, then
    ``y + b * reduce2(gate(expand2(norm2(y))))``.
    """

    streams: StreamCount

    def _layers(self) -> tuple[nn.Module, ...]:
        """The layers norm, expand, spatial, factors, reduce, norm2, expand2, reduce2."""
        raise NotImplementedError

    def _scales(self, count: int) -> tuple[Tensor, Tensor]:
        """Both scales, a and b, for ``count`` samples of each stream, (streams * count, C, 1, 1)."""
        raise NotImplementedError

    def forward(self, x: Tensor, twins: bool = False) -> Tensor:
        """(streams * B, C, H, W) -> the same shape.

        Args:
            x: samples of the streams, one stream after the other.
            twins: whether x is (B, C, H, W) and represents two equal streams; the result is (2 B, C, H, W).
        """
        if must_not_overwrite() or torch.compiler.is_compiling():
            if twins and is_plain():
                x, twins = torch.cat((x, x)), False
            return self._at_once(x, twins)
        return self._in_bands(x.contiguous(memory_format=torch.channels_last), twins)

    def _at_once(self, x: Tensor, twins: bool) -> Tensor:
        norm, expand, spatial, factors, reduce, norm2, expand2, reduce2 = self._layers()
        streams = 1 if twins else self.streams
        a, b = self._scales(len(x) // streams)
        run = separately if streams == 2 else _on
        gated = _gate(run(nn.Sequential(norm, expand, spatial), x), streams)
        x, change = _paired(twins, x, run(reduce, gated * run(factors, gated)))
        x = x + change * a
        return x + _again(self.streams, nn.Sequential(norm2, expand2), reduce2, x) * b

    def _in_bands(self, x: Tensor, twins: bool) -> Tensor:
        norm, expand, spatial, factors, reduce, norm2, expand2, reduce2 = self._layers()
        streams = 1 if twins else self.streams
        count, (height, width) = len(x) // streams, x.shape[-2:]
        a, b = self._scales(count)
        widest = self.streams * 2 * x.shape[1] * width
        rows = max((_BAND_CPU if x.device.type == "cpu" else _BAND_ELSEWHERE) // widest, 1)
        bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
        gated = torch.empty_like(x)
        for sample in range(count):
            source, sink = x[sample::count], gated[sample::count]
            for band in bands:
                sink[:, :, band] = _gate(_rows_of(spatial, expand, norm, source, band), streams)
        factor = factors(gated)
        out = gated
        if twins:
            out = torch.empty(
                (2 * count, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
            )
        for sample in range(count):
            for band in bands:
                here = (slice(sample, None, count), slice(None), band)
                change = reduce(gated[here] * factor[sample::count])
                y = x[here] + change * a[sample::count]
                out[here] = y + reduce2(_gate(expand2(norm2(y)), self.streams)) * b[sample::count]
        return out


def _on(layer: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, layer(x))


def _paired(twins: bool, *tensors: Tensor) -> Sequence[Tensor]:
    """Duplicate tensors that were computed once for two equal streams."""
    return [torch.cat((each, each)) for each in tensors] if twins else tensors


def _again(streams: int, before: nn.Module, after: nn.Module, x: Tensor) -> Tensor:
    run = separately if streams == 2 else _on
    return run(after, _gate(run(before, x), streams))


def _rows_of(spatial: nn.Module, expand: nn.Module, norm: nn.Module, x: Tensor, band: slice) -> Tensor:
    """A band of rows of ``spatial(expand(norm(x)))``, with zeros outside the image."""
    assert isinstance(spatial, nn.Conv2d)
    height = x.shape[2]
    top, bottom = max(band.start - 1, 0), min(band.stop + 1, height)
    y = expand(norm(x[:, :, top:bottom]))
    outside = top - (band.start - 1), band.stop + 1 - bottom
    if any(outside):
        y = F.pad(y, (0, 0, *outside))
    return F.conv2d(y, spatial.weight, spatial.bias, padding=(0, 1), groups=spatial.groups)


class MutualBlock(_Gated):
    """Two streams that share their layers and gate each other: the paper's MuGI block, MuGIBlock in the program.

    Args:
        channels: C.
        shared_b: whether both streams share the scale b, as in the large published network.

    Shape:
        (2 B, C, H, W) -> the same.
    """

    streams = 2

    def __init__(self, channels: int, shared_b: bool = False) -> None:
        super().__init__()
        self.shared_b = shared_b
        for name in ("a_l", "a_r", *(["b"] if shared_b else ["b_l", "b_r"])):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, channels, 1, 1)))
        self.block1 = nn.ModuleDict(
            {
                "0": Shared(
                    ChannelNorm(channels),
                    nn.Conv2d(channels, 2 * channels, 1),
                    nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
                ),
                "2": Shared(_Factors(channels)),
                "3": Shared(nn.Conv2d(channels, channels, 1)),
            }
        )
        self.block2 = nn.ModuleDict(
            {
                "0": Shared(ChannelNorm(channels), nn.Conv2d(channels, 2 * channels, 1)),
                "2": Shared(nn.Conv2d(channels, channels, 1)),
            }
        )

    def _layers(self) -> tuple[nn.Module, ...]:
        first, second = self.block1, self.block2
        parts = (first["0"], first["2"], first["3"], second["0"], second["2"])
        return tuple(layer for part in parts for layer in cast(Shared, part).seq)

    def _scales(self, count: int) -> tuple[Tensor, Tensor]:
        def of_both(*names: str) -> Tensor:
            return torch.cat([cast(Tensor, getattr(self, name)).expand(count, -1, -1, -1) for name in names])

        return of_both("a_l", "a_r"), of_both(*(("b", "b") if self.shared_b else ("b_l", "b_r")))


class SingleBlock(_Gated):
    """A single stream that gates itself; SinBlock in the program.

    Shape:
        (B, C, H, W) -> the same.
    """

    streams = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.block1 = nn.ModuleDict(
            {
                "0": ChannelNorm(channels),
                "1": nn.Conv2d(channels, 2 * channels, 1),
                "2": nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
                "4": _Factors(channels),
                "5": nn.Conv2d(channels, channels, 1),
            }
        )
        self.block2 = nn.ModuleDict(
            {
                "0": ChannelNorm(channels),
                "1": nn.Conv2d(channels, 2 * channels, 1),
                "3": nn.Conv2d(channels, channels, 1),
            }
        )

    def _layers(self) -> tuple[nn.Module, ...]:
        return (*self.block1.values(), *self.block2.values())

    def _scales(self, count: int) -> tuple[Tensor, Tensor]:
        return self.a.expand(count, -1, -1, -1), self.b.expand(count, -1, -1, -1)
