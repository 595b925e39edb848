"""The hypercolumn of a photograph, and convolutions over it that do not materialise it.

A hypercolumn stacks the image and five VGG-19 maps after their ReLUs, all resized to image size:
3 + 64 + 128 + 256 + 512 + 512 = 1475 channels (Hariharan et al., CVPR 2015; used as network input by the authors'
programs of ERRNet and of Hu and Guo, "Trash or Treasure?", NeurIPS 2021). At 512x512 that is 1.5 GB, and the first 3x3
convolution over it is the most expensive operation of the network, although 1408 of the channels are merely upsampled
from much smaller maps.

The 3x3 convolution here exploits that upsampling and projection commute. With U the 1-D interpolation matrix of a level
and S_k its rows shifted by the tap k (zero outside the image, which is the convolution's padding),

    y = sum_ky S_ky [ sum_kx (W[ky, kx] F) S_kx^T ]^

so each level is projected by the nine taps at its own resolution, then interpolated along rows, then along columns.
Sums over kx are taken in the horizontal step, sums over ky and the levels in the vertical one. The matrices are banded,
so the computation proceeds tile by tile, as small dense products with the channels innermost. A 1x1 convolution has a
single tap: each level is projected at its own resolution and then resized to image size.
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

from reflectzoo.core.settings import checked
from reflectzoo.nets import efficientnet
from reflectzoo.nets.plain import is_plain
from reflectzoo.nets.shared_vgg import FeatureNet, UsesVGG

VGG_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
LEVEL_CHANNELS = (64, 128, 256, 512, 512)
HYPERCOLUMN_CHANNELS = 3 + sum(LEVEL_CHANNELS)
EFFICIENTNET_CHANNELS = 3 + sum(efficientnet.CHANNELS)
"""515: the image and the five maps of EfficientNet-Lite0, of which the finest has half the image's size."""

# Smallest side after whose four halvings VGG's coarsest map is not empty.
_SMALLEST_SIDE = 16
# Maximum side of the tiles of the result. Larger tiles waste work on zeros outside the band, smaller ones on overlap
# and call overhead. Measured on CPUs (AVX2; flat from 48 to 128); elsewhere fewer and larger products are preferable.
_TILE_CPU = 96
_TILE_ELSEWHERE = 256

_plain: ContextVar[bool] = ContextVar("plain_hypercolumn", default=False)


@contextmanager
def plain_hypercolumn() -> Iterator[None]:
    """Within this block the convolutions materialise the hypercolumn, as a reference for comparison."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class HyperFeatures(NamedTuple):
    """The components of a hypercolumn before resizing to image size.

    Attributes:
        image: (B, 3, H, W), RGB in [0, 1], as given: neither normalised nor detached.
        levels: detached maps at their own resolutions, (B, C, h, w): VGG-19's ``VGG_LAYERS``, or EfficientNet-Lite0's.
    """

    image: Tensor
    levels: list[Tensor]


def channels_over(features: FeatureNet) -> int:
    """The number of channels of a hypercolumn over the given features, including the image's three."""
    return HYPERCOLUMN_CHANNELS if features == "vgg19" else EFFICIENTNET_CHANNELS


def dense_hypercolumn(features: HyperFeatures) -> Tensor:
    """Build the hypercolumn, (B, 3 + sum of level channels, H, W): the image, then the levels from fine to coarse.

    Every level is resized bilinearly (align_corners=False, no antialiasing) to the size of the image.
    """
    image, levels = features
    size = image.shape[-2:]
    resized = [F.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
    return torch.cat([image, *resized], dim=1)


class Hypercolumn(UsesVGG):
    """Computes the components of an image's hypercolumn; see :class:`HyperFeatures` and :func:`dense_hypercolumn`.

    Args:
        features: ``vgg19`` as in the papers, 1475 channels including the image; or ``efficientnet_lite0``, which needs
            no download, 515 channels.

    Raises:
        UserError: for any other ``features``.
    """

    @checked("model.net")
    def __init__(self, features: FeatureNet = "vgg19") -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> HyperFeatures:
        """Run the frozen network on an image.

        Args:
            image: (B, 3, H, W), RGB, [0, 1]. As in the authors' program, it is not normalised for VGG.

        Returns:
            The features. Since VGG's coarsest map is empty for a side below 16, the frozen network then gets the image
            padded by replication to 16, and the levels are returned at image size.
        """
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            # The following layers preserve this layout, in which oneDNN's fp32 forward pass is up to 1.7 times as fast
            # (AVX2). Weight gradients are several times slower in it, so training keeps the caller's layout.
            image = image.contiguous(memory_format=torch.channels_last)
        height, width = image.shape[-2:]
        below, right = max(0, _SMALLEST_SIDE - height), max(0, _SMALLEST_SIDE - width)
        with torch.no_grad():
            seen = F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
            if image.device.type == "cpu":
                seen = seen.contiguous(memory_format=torch.channels_last)
            seen_maps = self.vgg(seen, VGG_LAYERS) if self.features == "vgg19" else self.efficientnet_maps(seen)
            levels = [level.detach() for level in seen_maps]
            if below or right:
                size = seen.shape[-2:]
                levels = [
                    F.interpolate(level, size=size, mode="bilinear", align_corners=False)[..., :height, :width]
                    for level in levels
                ]
        return HyperFeatures(image, levels)


class HypercolumnConv2d(nn.Conv2d):
    """A size-preserving convolution of a tensor or of :class:`HyperFeatures`, with the parameters of ``nn.Conv2d``.

    Args:
        in_channels: 1475 or 515 for hypercolumns (see :func:`channels_over`); any number for plain tensors.
        out_channels: any number.
        bias: whether to add a bias.
        kernel_size: 3 or 1.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor | HyperFeatures) -> Tensor:  # type: ignore[override]
        """(B, in_channels, H, W), or features with that many channels in total, -> (B, out_channels, H, W)."""
        if isinstance(x, HyperFeatures):
            return hypercolumn_conv2d(x, self.weight, self.bias)
        return super().forward(x)


def joint_hypercolumn_conv2d(features: HyperFeatures, convs: Sequence[nn.Conv2d]) -> list[Tensor]:
    """Run several 3x3 convolutions (padding 1) over the same hypercolumn in one pass.

    Args:
        features: their common input.
        convs: convolutions that all have a bias, or all have none.

    Returns:
        One (B, out_channels, H, W) per convolution: views of one tensor, which must not be modified in place.

    Raises:
        ValueError: if only some of the convolutions have a bias, or a kernel does not fit the features.
    """
    weight = torch.cat([conv.weight for conv in convs])
    biases = [conv.bias for conv in convs if conv.bias is not None]
    if len(biases) not in (0, len(convs)):
        raise ValueError("convolutions that share one pass must all have a bias, or none of them")
    joint = hypercolumn_conv2d(features, weight, torch.cat(biases) if biases else None)
    return list(torch.split(joint, [conv.out_channels for conv in convs], dim=1))


def hypercolumn_conv2d(features: HyperFeatures, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``conv2d(dense(features), weight, bias)``, zero-padded, without the dense map; exact up to rounding.

    Differentiable once with respect to weight, bias, image and those levels that require a gradient. Under autocast it
    computes in autocast's dtype, like a convolution. Any image and batch size, float64 and both memory formats are
    supported; the result has the image's memory format. Within :func:`plain_hypercolumn`,
    :func:`~reflectzoo.nets.plain.plain_form` and during export the dense map is materialised.

    Args:
        features: image (B, 3, H, W) and levels (B, C_i, h_i, w_i).
        weight: (O, 3 + sum C_i, 3, 3) or (O, 3 + sum C_i, 1, 1).
        bias: (O,) or None.

    Returns:
        (B, O, H, W).

    Raises:
        ValueError: if the weight is neither 3x3 nor 1x1, or its input channels do not match the features.
    """
    image, levels = features
    channels = image.shape[1] + sum(level.shape[1] for level in levels)
    if tuple(weight.shape[1:]) not in ((channels, 3, 3), (channels, 1, 1)):
        raise ValueError(
            f"a hypercolumn of {channels} channels needs a weight (O, {channels}, 3, 3) or (O, {channels}, 1, 1), got "
            f"{tuple(weight.shape)}"
        )
    padding = weight.shape[2] // 2
    # An exported program should consist of standard operators and not be tied to one size.
    if _plain.get() or is_plain() or torch.compiler.is_exporting():
        return F.conv2d(dense_hypercolumn(features), weight, bias, padding=padding)

    kind = image.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:  # autocast does not convert float64
        dtype = torch.get_autocast_dtype(kind)
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    dtype = weight.dtype
    size = image.shape[-2:]
    # Levels already at image size join the image in an ordinary convolution.
    whole = 0
    while whole < len(levels) and levels[whole].shape[-2:] == size:
        whole += 1
    split = image.shape[1] + sum(level.shape[1] for level in levels[:whole])
    top = torch.cat([image.to(dtype), *(level.to(dtype) for level in levels[:whole])], dim=1)
    packed = _is_channels_last(image)
    top = top.contiguous(memory_format=torch.channels_last if packed else torch.contiguous_format)
    result = F.conv2d(top, weight[:, :split], bias, padding=padding)
    if whole == len(levels):
        return result
    coarse = [level.to(dtype) for level in levels[whole:]]
    if padding == 0:
        return _add_upsampled(result, weight[:, split:], coarse)
    pixels = result.permute(0, 2, 3, 1)
    if packed:
        return _add_upsampled_taps(pixels.contiguous(), weight[:, split:], coarse).permute(0, 3, 1, 2)
    rest = _add_upsampled_taps(
        torch.zeros_like(pixels, memory_format=torch.contiguous_format), weight[:, split:], coarse
    )
    return result + rest.permute(0, 3, 1, 2)


def _add_upsampled(total: Tensor, weight: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """Add the contribution of the coarse levels to a 1x1 convolution, in place, to ``total`` (B, O, H, W)."""
    size = total.shape[-2:]
    kernels = torch.split(weight, [level.shape[1] for level in levels], dim=1)
    for level, kernel in zip(levels, kernels, strict=True):
        projected = F.conv2d(level, kernel)
        total.add_(F.interpolate(projected, size=size, mode="bilinear", align_corners=False))
    return total


def _is_channels_last(image: Tensor) -> bool:
    return image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def _add_upsampled_taps(total: Tensor, weight: Tensor, levels: Sequence[Tensor]) -> Tensor:
    added: Tensor = _UpsampledTaps.apply(total, weight, *levels)  # type: ignore[no-untyped-call]
    return added


class _Strip(NamedTuple):
    """A range of positions along one axis of the result, and the samples of each level that it depends on.

    Attributes:
        places: the m positions in the result.
        samples: the n samples needed of each level.
        taps: the shifted interpolation matrices of each level, (3, m, n).
    """

    places: slice
    samples: tuple[slice, ...]
    taps: tuple[Tensor, ...]


def _upsampling(source: int, target: int) -> Tensor:
    """The 1-D interpolation matrix (target, source), computed by ``interpolate`` itself to be right for odd sizes."""
    identity = torch.eye(source, dtype=torch.float64).unsqueeze(0)
    return F.interpolate(identity, size=target, mode="linear", align_corners=False)[0].t()


def _strips(sources: tuple[int, ...], target: int, step: int) -> Iterator[_Strip]:
    levels = [_upsampling(source, target) for source in sources]
    # As few strips as ``step`` allows, all of about the same width.
    step = -(-target // -(-target // step))
    for start in range(0, target, step):
        places = slice(start, min(start + step, target))
        length = places.stop - start
        samples, taps = [], []
        for level in levels:
            # One more position on each side, for the taps; zero outside the image, as the convolution's padding.
            reach = level[max(start - 1, 0) : places.stop + 1]
            reach = F.pad(reach, (0, 0, int(start == 0), int(places.stop == target)))
            used = reach.sum(dim=0).nonzero()
            samples.append(slice(int(used[0]), int(used[-1]) + 1))
            taps.append(torch.stack([reach[tap : tap + length, samples[-1]] for tap in range(3)]))
        yield _Strip(places, tuple(samples), tuple(taps))


class _Columns(NamedTuple):
    """A range of columns. ``spread``: one (m, 3 n) per level, ordered by sample, then tap."""

    places: slice
    samples: tuple[slice, ...]
    spread: tuple[Tensor, ...]


class _Rows(NamedTuple):
    """A range of rows. ``spread``: (m, sum of 3 n), ordered by level, then tap, then sample."""

    places: slice
    samples: tuple[slice, ...]
    spread: Tensor


@lru_cache(maxsize=64)
def _column_strips(
    sources: tuple[int, ...], target: int, step: int, dtype: torch.dtype, device: torch.device
) -> tuple[_Columns, ...]:
    # The cache outlives the caller, and tensors made in inference mode could not be used in training later.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return tuple(
            _Columns(
                strip.places,
                strip.samples,
                tuple(taps.permute(1, 2, 0).flatten(1).to(device, dtype).contiguous() for taps in strip.taps),
            )
            for strip in _strips(sources, target, step)
        )


@lru_cache(maxsize=64)
def _row_strips(
    sources: tuple[int, ...], target: int, step: int, dtype: torch.dtype, device: torch.device
) -> tuple[_Rows, ...]:
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        return tuple(
            _Rows(
                strip.places,
                strip.samples,
                torch.cat([tap for taps in strip.taps for tap in taps], dim=1).to(device, dtype).contiguous(),
            )
            for strip in _strips(sources, target, step)
        )


class _UpsampledTaps(torch.autograd.Function):
    """Adds the contribution of the coarse levels to a 3x3 convolution, in place, to ``total`` (B, H, W, O), contiguous.

    Tile by tile, the pixels needed of each level are projected by the taps, interpolated along rows and, for all levels
    and taps at once, interpolated along columns. The first two are batched products on contiguous tensors, so that each
    is a single BLAS call: every call synchronises the threads, which on a busy machine costs more than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, weight: Tensor, *levels: Tensor) -> Tensor:
        ctx.mark_dirty(total)
        ctx.save_for_backward(weight, *levels)
        batch, height, width, outputs = total.shape
        flat = total.view(batch, height, width * outputs)
        kernels = _tap_kernels(weight, levels)
        for index, rows, columns in _tiles(levels, total):
            length = (columns.places.stop - columns.places.start) * outputs
            spread_out = total.new_empty(rows.spread.shape[1], length)
            done = 0
            for number, kernel in enumerate(kernels):
                pixels = _window(levels[number], index, rows.samples[number], columns.samples[number])
                count = 3 * (rows.samples[number].stop - rows.samples[number].start)
                taps = torch.bmm(pixels.expand(3, -1, -1), kernel).view(count, -1, outputs)
                sink = spread_out[done : done + count].view(count, -1, outputs)
                torch.bmm(columns.spread[number].expand(count, -1, -1), taps, out=sink)
                done += count
            start = columns.places.start * outputs
            flat[index, rows.places, start : start + length].addmm_(rows.spread, spread_out)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *levels = ctx.saved_tensors
        wants_weight, wants_levels = ctx.needs_input_grad[1], ctx.needs_input_grad[2:]
        if not wants_weight and not any(wants_levels):
            return (grad, None, *([None] * len(levels)))
        grad = grad.contiguous()
        batch, height, width, outputs = grad.shape
        flat = grad.view(batch, height, width * outputs)
        kernels = _tap_kernels(weight, levels)
        kernel_grads = [torch.zeros_like(kernel) if wants_weight else None for kernel in kernels]
        level_grads = [
            torch.zeros_like(level) if wants else None for level, wants in zip(levels, wants_levels, strict=True)
        ]
        for index, rows, columns in _tiles(levels, grad):
            start, stop = columns.places.start * outputs, columns.places.stop * outputs
            gathered = torch.mm(rows.spread.t(), flat[index, rows.places, start:stop])
            done = 0
            for number, (kernel, kernel_grad, level_grad) in enumerate(
                zip(kernels, kernel_grads, level_grads, strict=True)
            ):
                place = (index, rows.samples[number], columns.samples[number])
                pixels = _window(levels[number], *place)
                count = 3 * (rows.samples[number].stop - rows.samples[number].start)
                source = gathered[done : done + count].view(count, -1, outputs)
                taps = torch.bmm(columns.spread[number].t().expand(count, -1, -1), source).view(3, -1, 3 * outputs)
                done += count
                if kernel_grad is not None:
                    kernel_grad.baddbmm_(pixels.t().expand(3, -1, -1), taps)
                if level_grad is not None:
                    share = torch.bmm(taps, kernel.mT).sum(dim=0).view(count // 3, -1, level_grad.shape[1])
                    level_grad[index, :, place[1], place[2]] += share.permute(2, 0, 1)
        weight_grad = None
        if wants_weight:
            # (ky, C, kx * O) back to (O, C, ky, kx)
            weight_grad = torch.cat(
                [part.view(3, -1, 3, outputs).permute(3, 1, 0, 2) for part in kernel_grads if part is not None], dim=1
            )
        return (grad, weight_grad, *level_grads)


def _tap_kernels(weight: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """Split (O, sum C, 3, 3) into one (ky, C, kx * O) per level, the right-hand sides of the projections."""
    parts = torch.split(weight, [level.shape[1] for level in levels], dim=1)
    return [part.permute(2, 1, 3, 0).flatten(2) for part in parts]


def _tiles(levels: Sequence[Tensor], total: Tensor) -> Iterator[tuple[int, _Rows, _Columns]]:
    batch, height, width, _ = total.shape
    step = _TILE_CPU if total.device.type == "cpu" else _TILE_ELSEWHERE
    all_columns = _column_strips(tuple(level.shape[3] for level in levels), width, step, total.dtype, total.device)
    all_rows = _row_strips(tuple(level.shape[2] for level in levels), height, step, total.dtype, total.device)
    return ((index, rows, columns) for index in range(batch) for rows in all_rows for columns in all_columns)


def _window(level: Tensor, index: int, rows: slice, columns: slice) -> Tensor:
    """The pixels of a window as the rows of a matrix, (n, C)."""
    return level[index, :, rows, columns].permute(1, 2, 0).reshape(-1, level.shape[1])
