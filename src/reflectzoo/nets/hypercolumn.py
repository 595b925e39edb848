"""The hypercolumn of a photograph, and a 3x3 convolution over it that never builds it.

A hypercolumn lays the image and five rectified VGG-19 maps, all brought to image size, one above the other:
3 + 64 + 128 + 256 + 512 + 512 = 1475 channels (Hariharan et al., CVPR 2015; as the released program of Hu and Guo,
"Trash or Treasure?", NeurIPS 2021, feeds it to its networks). At 512x512 that is 1.5 GB, and the first 3x3
convolution over it is the dearest operation of the network, although 1408 of the channels are only blown up from
much smaller maps.

The convolution here uses that upsampling and projecting commute. With U the 1-D interpolation matrix of a level and
S_k its rows shifted by the tap k (zero outside the picture, which is the convolution's padding),

    y = sum_ky S_ky [ sum_kx (W[ky, kx] F) S_kx^T ]^

so each level is projected by the nine taps at its own resolution, then interpolated along rows, then along columns.
Sums over kx are taken before the vertical step, sums over levels in place. The matrices are banded, so they are
applied block by block as small dense products, channels innermost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reflectzoo.nets.shared_vgg import UsesVGG

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
LEVEL_CHANNELS = (64, 128, 256, 512, 512)
CHANNELS = 3 + sum(LEVEL_CHANNELS)

# Four halvings: below this side VGG has nothing left to look at.
_SMALLEST_SIDE = 16
# Rows of output that one small dense product makes; measured on AVX2, flat around these values.
_COLUMN_BLOCK = 64
_ROW_BLOCK = 32
# Elements of a projected map that are worked on at a time, so that they stay in the cache between two products.
_CHUNK = 1 << 22

_plain: ContextVar[bool] = ContextVar("plain_hypercolumn", default=False)


@contextmanager
def plain_hypercolumn() -> Iterator[None]:
    """Within this block the convolutions build the hypercolumn and convolve it, as the reference to compare with."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class HyperFeatures(NamedTuple):
    """What a hypercolumn is made of, before anything is brought to image size.

    Attributes:
        image: (B, 3, H, W), RGB in [0, 1], as it came in, not normalised, not detached.
        levels: VGG-19 maps ``LAYERS`` at their own resolutions, (B, C, h, w), detached.
    """

    image: Tensor
    levels: list[Tensor]


def dense(features: HyperFeatures) -> Tensor:
    """Build the hypercolumn: (B, 3 + sum of level channels, H, W), image first, then the levels from fine to coarse.

    Every level is resized bilinearly (align_corners=False, no antialiasing) to the size of the image.
    """
    image, levels = features
    size = image.shape[-2:]
    resized = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
    return torch.cat([image, *resized], dim=1)


class Hypercolumn(UsesVGG):
    """From an image to the parts of its hypercolumn; see :class:`HyperFeatures` and :func:`dense`."""

    def forward(self, image: Tensor) -> HyperFeatures:
        """Look at an image through VGG-19.

        Args:
            image: (B, 3, H, W), RGB, [0, 1]. It is not normalised first; the released program does not.

        Returns:
            The features. A side below 16 has no coarsest map in VGG: such an image is continued by its last rows and
            columns for VGG alone, and its levels come back already at image size.
        """
        height, width = image.shape[-2:]
        below, right = max(0, _SMALLEST_SIDE - height), max(0, _SMALLEST_SIDE - width)
        with torch.no_grad():
            seen = F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
            levels = [level.detach() for level in self.vgg(seen, LAYERS)]
            if below or right:
                size = seen.shape[-2:]
                levels = [
                    F.interpolate(level, size=size, mode="bilinear", align_corners=False)[..., :height, :width]
                    for level in levels
                ]
        return HyperFeatures(image, levels)


class HypercolumnConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 that takes a tensor or :class:`HyperFeatures`; the parameters are Conv2d's.

    Args:
        in_channels: 1475 for hypercolumns, any other number for plain tensors.
        out_channels: any number.
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor | HyperFeatures) -> Tensor:  # type: ignore[override]
        """(B, in_channels, H, W), or features that make that many channels, to (B, out_channels, H, W)."""
        if isinstance(x, HyperFeatures):
            return hypercolumn_conv2d(x, self.weight, self.bias)
        return super().forward(x)


def joint_hypercolumn_conv2d(features: HyperFeatures, convs: Sequence[nn.Conv2d]) -> list[Tensor]:
    """Run several 3x3 convolutions (padding 1) over the same hypercolumn in one pass.

    Args:
        features: what all of them look at.
        convs: convolutions that all have a bias, or all have none.

    Returns:
        One (B, out_channels, H, W) per convolution: views of one tensor, so write into none of them in place.
    """
    weight = torch.cat([conv.weight for conv in convs])
    biases = [conv.bias for conv in convs if conv.bias is not None]
    if len(biases) not in (0, len(convs)):
        raise ValueError("convolutions that share one pass must all have a bias, or none of them")
    joint = hypercolumn_conv2d(features, weight, torch.cat(biases) if biases else None)
    return list(torch.split(joint, [conv.out_channels for conv in convs], dim=1))


def hypercolumn_conv2d(features: HyperFeatures, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``conv2d(dense(features), weight, bias, padding=1)`` without the dense map; exact up to rounding.

    Differentiable once in weight, bias, image and, where they ask for it, the levels. Under autocast it computes in
    autocast's type, as a convolution would. Odd sizes, batches, float64 and both memory formats are fine; the result
    lies in memory channels-last, which is also how the products below want it.

    Args:
        features: image (B, 3, H, W) and levels (B, C_i, h_i, w_i).
        weight: (O, 3 + sum C_i, 3, 3).
        bias: (O,) or none.

    Returns:
        (B, O, H, W).

    Raises:
        ValueError: if the weight is not 3x3, or does not have as many input channels as the features.
    """
    image, levels = features
    channels = image.shape[1] + sum(level.shape[1] for level in levels)
    if weight.ndim != 4 or weight.shape[1:] != (channels, 3, 3):
        raise ValueError(
            f"a hypercolumn of {channels} channels needs a weight (O, {channels}, 3, 3), got {tuple(weight.shape)}"
        )
    if _plain.get():
        return F.conv2d(dense(features), weight, bias, padding=1)

    kind = image.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    dtype = weight.dtype
    size = image.shape[-2:]
    # Levels at image size gain nothing from the detour: they go with the image through an ordinary convolution.
    whole = 0
    while whole < len(levels) and levels[whole].shape[-2:] == size:
        whole += 1
    split = image.shape[1] + sum(level.shape[1] for level in levels[:whole])
    top = torch.cat([image.to(dtype), *(level.to(dtype) for level in levels[:whole])], dim=1)
    top = top.contiguous(memory_format=torch.channels_last)
    result = F.conv2d(top, weight[:, :split], bias, padding=1)
    if whole == len(levels):
        return result
    coarse = [level.to(dtype) for level in levels[whole:]]
    out: Tensor = _AddUpsampledTaps.apply(result, weight[:, split:], *coarse)  # type: ignore[no-untyped-call]
    return out


class _Block(NamedTuple):
    rows: slice
    columns: slice
    matrix: Tensor


@lru_cache(maxsize=256)
def _tap_blocks(
    source: int, target: int, block: int, transposed: bool, dtype: torch.dtype, device: torch.device
) -> tuple[_Block, ...]:
    """The three shifted interpolation matrices of one axis as one banded matrix, cut into dense blocks.

    The matrix is (target, 3 * source): entry (y, 3 c + k) is what sample c of the small axis gives to place y + k - 1
    of the large one, and zero where that lies outside. It is taken from ``interpolate`` itself, so odd sizes come out
    right without a formula of our own.
    """
    # The cache outlives the caller, who may be in inference mode; its tensors could not be used in training later.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        exact = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        identity = torch.eye(source, dtype=exact).unsqueeze(0)
        upsample = F.interpolate(identity, size=target, mode="linear", align_corners=False)[0].t()
        padded = F.pad(upsample, (0, 0, 1, 1))
        matrix = torch.stack([padded[k : k + target] for k in range(3)], dim=2).flatten(1)
        if transposed:
            matrix = matrix.t()
        blocks = []
        for start in range(0, matrix.shape[0], block):
            part = matrix[start : start + block]
            used = part.abs().sum(dim=0).nonzero()
            # Whole samples (multiples of three) on the small axis, since its taps lie interleaved in memory.
            first, last = int(used[0]), int(used[-1]) + 1
            blocks.append(
                _Block(
                    slice(start, start + part.shape[0]),
                    slice(first, last),
                    part[:, first:last].to(device=device, dtype=dtype, copy=True).contiguous(),
                )
            )
        return tuple(blocks)


class _AddUpsampledTaps(torch.autograd.Function):
    """result += the share of the upsampled levels in the convolution; in place, in channels-last."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, weight: Tensor, *levels: Tensor) -> Tensor:
        batch, out_channels, height, width = result.shape
        total = result.permute(0, 2, 3, 1)
        if not total.is_contiguous():
            raise AssertionError("the convolution of the top level must come back channels-last")
        ctx.mark_dirty(result)
        ctx.save_for_backward(weight, *levels)
        for level, kernel in zip(levels, _tap_kernels(weight, levels), strict=True):
            small_height, small_width = level.shape[-2:]
            across = _tap_blocks(small_width, width, _COLUMN_BLOCK, False, result.dtype, result.device)
            down = _tap_blocks(small_height, height, _ROW_BLOCK, False, result.dtype, result.device)
            rows = result.new_empty(small_height, 3, width, out_channels)
            for picture, sink in zip(level.permute(0, 2, 3, 1), total.view(batch, height, -1), strict=True):
                for tap in range(3):
                    for part in _chunks(small_height, small_width * 3 * out_channels):
                        pixels = picture[part].flatten(0, 1)
                        taps = torch.mm(pixels, kernel[tap]).view(-1, small_width * 3, out_channels)
                        for block in across:
                            _spread(block, taps, rows[part, tap])
                flat = rows.view(small_height * 3, -1)
                for block in down:
                    sink[block.rows].addmm_(block.matrix, flat[block.columns])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *levels = ctx.saved_tensors
        batch, out_channels, height, width = grad.shape
        total = grad.permute(0, 2, 3, 1).contiguous().view(batch, height, -1)
        wants_weight, wants_levels = ctx.needs_input_grad[1], ctx.needs_input_grad[2:]
        level_grads: list[Tensor | None] = []
        kernel_grads: list[Tensor] = []
        for level, kernel, wants_level in zip(levels, _tap_kernels(weight, levels), wants_levels, strict=True):
            small_height, small_width = level.shape[-2:]
            across = _tap_blocks(small_width, width, _COLUMN_BLOCK, True, grad.dtype, grad.device)
            down = _tap_blocks(small_height, height, _ROW_BLOCK, True, grad.dtype, grad.device)
            rows = grad.new_empty(small_height, 3, width, out_channels)
            kernel_grad = torch.zeros_like(kernel) if wants_weight else None
            level_grad = grad.new_zeros(batch, small_height, small_width, level.shape[1]) if wants_level else None
            for index, source in enumerate(total):
                if kernel_grad is None and level_grad is None:
                    break
                picture = level[index].permute(1, 2, 0)
                flat = rows.view(small_height * 3, -1)
                for block in down:
                    torch.mm(block.matrix, source[block.columns], out=flat[block.rows])
                for tap in range(3):
                    for part in _chunks(small_height, small_width * 3 * out_channels):
                        taps = rows.new_empty(part.stop - part.start, small_width * 3, out_channels)
                        for block in across:
                            _spread(block, rows[part, tap], taps)
                        per_pixel = taps.view(-1, 3 * out_channels)
                        if kernel_grad is not None:
                            kernel_grad[tap].addmm_(picture[part].flatten(0, 1).t(), per_pixel)
                        if level_grad is not None:
                            level_grad[index, part].view(-1, level.shape[1]).addmm_(per_pixel, kernel[tap].t())
            if kernel_grad is not None:
                # (ky, C, kx * O) back to (O, C, ky, kx)
                kernel_grads.append(kernel_grad.view(3, level.shape[1], 3, out_channels).permute(3, 1, 0, 2))
            level_grads.append(None if level_grad is None else level_grad.permute(0, 3, 1, 2))
        return (grad, torch.cat(kernel_grads, dim=1) if wants_weight else None, *level_grads)


def _tap_kernels(weight: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """Cut (O, sum C, 3, 3) into one (ky, C, kx * O) per level, the right-hand sides of the projections."""
    parts = torch.split(weight, [level.shape[1] for level in levels], dim=1)
    return [part.permute(2, 1, 3, 0).flatten(2) for part in parts]


def _chunks(rows: int, elements_per_row: int) -> Iterator[slice]:
    step = max(1, _CHUNK // elements_per_row)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _spread(block: _Block, source: Tensor, sink: Tensor) -> None:
    """sink[:, block.rows] = block.matrix @ source[:, block.columns], for each row of the picture (first dimension)."""
    matrix = block.matrix.expand(source.shape[0], -1, -1)
    torch.bmm(matrix, source[:, block.columns], out=sink[:, block.rows])
