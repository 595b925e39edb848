"""3x3 convolutions with a quarter of the multiplications, for inference on a CPU.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: a tile of 4x4 results needs 36 products
of transformed numbers instead of 144. oneDNN uses this only on processors with AVX-512; here the transformations and
products are ordinary matrix multiplications over a band of rows that stays in the cache.

The results are the same up to rounding. The error depends on the interpolation points of the underlying polynomials:
at 0, +-1/sqrt 2, +-sqrt 2 and infinity it is little more than that of the direct sum (about 1.4 times, over 256
channels), at the usual 0, +-1, +-2 and infinity four times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from math import sqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_TILE = 4
_SIDE = _TILE + 2
_POINTS = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))  # and infinity
_PRODUCTS = 64 * 128  # minimum of input times output channels; below, the transformations cost more than is saved
_SMALLEST = 12  # minimum side in pixels; below, tiles are mostly border
_BAND = 2**19  # transformed numbers per band, so that it stays in the L2 and L3 caches

_direct: ContextVar[bool] = ContextVar("direct_convolutions", default=False)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Within this block :func:`convolve` calls the layer directly."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute ``layer(x)``, by Winograd's method if that is faster.

    Args:
        layer: any convolution. Winograd's method is used for 3x3 ones of stride 1 and zero padding 1 with many
            channels, on a CPU in float32, if no gradient is recorded (see :func:`winograd_is_faster`).
        x: (B, C, H, W), any memory format.

    Returns:
        (B, C', H', W'); channels-last if computed by Winograd's method.
    """
    form = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    if form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and winograd_is_faster(x, layer.weight):
        return winograd(x, layer.weight, layer.bias)
    return cast(Tensor, layer(x))


def winograd_is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd's method is applicable to a 3x3 convolution of stride 1, and faster.

    Args:
        x: (B, C, H, W).
        weight: (C', C, 3, 3).
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    free = not (traced or _direct.get() or torch.is_grad_enabled())
    return (
        free
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[0] * weight.shape[1] >= _PRODUCTS
        and min(x.shape[-2:]) >= _SMALLEST
    )


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution of stride 1 with zero padding of 1, by Winograd's method, without a gradient.

    Args:
        x: (B, C, H, W), any memory format.
        weight: (C', C, 3, 3).
        bias: (C',).

    Returns:
        (B, C', H, W), channels-last.
    """
    size, _, height, width = x.shape
    out = x.new_empty(size, height, width, len(weight))
    for band in winograd_bands(x, weight, bias):
        out[band.sample, band.rows] = band.values
    return out.permute(0, 3, 1, 2)


class RowBand(NamedTuple):
    """A band of rows of the result for one sample.

    Attributes:
        sample: index of the sample.
        rows: range of rows.
        values: (rows, W, C'), channels last; overwritten when the next band is computed.
    """

    sample: int
    rows: slice
    values: Tensor


@torch.no_grad()
def _kernels(weight: Tensor) -> Tensor:
    """Transform kernels: (C', C, 3, 3) -> (36, C, C')."""
    before, _, _ = _transformations(weight.dtype)
    out_channels, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, channels * out_channels)
    return torch.mm(before, taps).view(_SIDE**2, channels, out_channels)


def winograd_bands(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Iterator[RowBand]:
    """:func:`winograd` as an iterator over bands of rows, for further processing while they are in the cache.

    Arguments as for :func:`winograd`.
    """
    size, channels, height, width = x.shape
    out_channels = len(weight)
    kernels = _kernels(weight)
    _, into, back = _transformations(x.dtype)
    down, across = -(-height // _TILE), -(-width // _TILE)
    tiles_down = min(max(_BAND // (_SIDE**2 * across * max(channels, out_channels)), 1), down)
    tiles = tiles_down * across
    # Allocated once: allocation costs more than the arithmetic.
    view = x.new_zeros(_TILE * tiles_down + 2, _TILE * across + 2, channels)
    gathered, transformed = (x.new_empty(_SIDE**2 * tiles * channels) for _ in range(2))
    products, finished = (x.new_empty(count * tiles * out_channels) for count in (_SIDE**2, _TILE**2))
    rows_out = x.new_empty(_TILE * tiles_down, _TILE * across, out_channels)
    for sample in range(size):
        source = x[sample].permute(1, 2, 0)
        for first in range(0, down, tiles_down):
            count = min(tiles_down, down - first)
            tiles = count * across
            _bring_into_view(source, _TILE * first - 1, view[: _TILE * count + 2])
            row, column, _ = view.stride()
            shape, steps = (_SIDE, _SIDE, count, across, channels), (row, column, _TILE * row, _TILE * column, 1)
            number = _SIDE**2 * tiles
            gathered[: number * channels].view(shape).copy_(view.as_strided(shape, steps))
            seen = torch.mm(
                into,
                gathered[: number * channels].view(_SIDE**2, -1),
                out=transformed[: number * channels].view(_SIDE**2, -1),
            )
            multiplied = torch.bmm(
                seen.view(_SIDE**2, tiles, channels),
                kernels,
                out=products[: number * out_channels].view(_SIDE**2, tiles, out_channels),
            )
            done = torch.mm(
                back,
                multiplied.view(_SIDE**2, -1),
                out=finished[: _TILE**2 * tiles * out_channels].view(_TILE**2, -1),
            ).view(_TILE, _TILE, count, across, out_channels)
            result = rows_out[: _TILE * count]
            placed = result.view(count, _TILE, across, _TILE, out_channels).permute(1, 3, 0, 2, 4)
            placed.copy_(done) if bias is None else torch.add(done, bias, out=placed)
            rows = slice(_TILE * first, min(_TILE * (first + count), height))
            yield RowBand(sample, rows, result[: rows.stop - rows.start, :width])


def _bring_into_view(source: Tensor, top: int, view: Tensor) -> None:
    """Copy the rows of (H, W, C) from ``top`` on into a buffer with a margin of one pixel; zeros outside the image."""
    height, width = source.shape[:2]
    start, stop = max(top, 0), min(top + len(view), height)
    view[: start - top].zero_()
    view[stop - top :].zero_()
    view[start - top : stop - top, 1 : width + 1] = source[start:stop]


@lru_cache(maxsize=4)
def _transformations(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Toom-Cook matrices that transform kernels (36, 9), tiles (36, 36), and products to results (16, 36)."""
    # The cache outlives the caller, which may be in inference mode.
    with torch.inference_mode(False):
        points = torch.tensor(_POINTS, dtype=torch.float64)

        def powers(count: int) -> Tensor:
            infinity = torch.zeros(1, count, dtype=torch.float64)
            infinity[0, -1] = 1
            return torch.cat((points[:, None] ** torch.arange(count), infinity))

        kernel, into, back = powers(3), torch.linalg.inv(powers(_SIDE)).T, powers(_TILE).T
        # A factor may be moved from a tile's row to the kernel's: rows of similar magnitude reduce rounding errors.
        scale = into.abs().amax(dim=1, keepdim=True)
        both = [torch.kron(each, each).to(dtype) for each in (kernel * scale, into / scale, back)]
        return both[0], both[1], both[2]
