"""Gaussian blur with a separate width for every sample, which takes most of the time of most synthesis models."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["zero", "reflect", "replicate"]
"""Padding: zeros, the picture mirrored at its border pixels, or the border pixels repeated."""


def gaussian_taps(sigma: Tensor, taps: int, side: Tensor | None = None) -> Tensor:
    """``exp(-(i - c)^2 / (2 sigma^2))``, normalised to sum 1.

    Args:
        sigma: (B,), in pixels, > 0.
        taps: odd number of taps.
        side: (B,), number of taps that each sample uses, odd; the others are zero. None for all.

    Returns:
        (B, taps), the kernel of each sample.
    """
    # In double precision, so that the sum does not depend on the number of unused taps.
    wide = sigma if sigma.device.type == "mps" else sigma.double()
    offsets = torch.arange(taps, device=wide.device, dtype=wide.dtype) - (taps - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * wide.square())[:, None])
    if side is not None:
        weights = weights * (offsets.abs() <= ((side - 1) / 2)[:, None])
    return (weights / weights.sum(dim=1, keepdim=True)).to(sigma.dtype)


def side_of(sigma: Tensor) -> Tensor:
    """The number of taps for a sigma in the programs of Zhang et al. and IBCLN, ``2 ceil(2 sigma) + 1``, (B,)."""
    return 2 * torch.ceil(2 * sigma) + 1


def most_taps(widest: float, sigma: Tensor) -> int:
    """Number of taps for a batch: on a CPU, for the largest ``sigma`` (B,) of it; otherwise for ``widest``."""
    if sigma.device.type == "cpu" and sigma.numel():
        return int(side_of(sigma).max())
    return int(side_of(torch.tensor(widest)))


@torch.no_grad()
def separable_blur(image: Tensor, kernel: Tensor, border: Border = "zero") -> Tensor:
    """Blur each sample along both axes with its own symmetric kernel.

    Equal (to rounding) to a convolution with the outer product of the kernel with itself, at a fraction of the cost.

    Args:
        image: (B, C, H, W) float.
        kernel: (B, taps), symmetric, an odd number of taps.
        border: padding of the picture.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if the number of taps is even, there is not one kernel per sample, or the border is unknown.
    """
    if kernel.shape[1] % 2 == 0 or kernel.shape[0] != image.shape[0]:
        raise ValueError(f"an odd kernel for each of {image.shape[0]} samples is needed, got {tuple(kernel.shape)}")
    if border not in get_args(Border):
        raise ValueError(f"the border must be one of {', '.join(get_args(Border))}, got {border!r}")
    if kernel.device.type == "cpu" and kernel.shape[1] > 1:
        # Drop outer taps that no sample uses. Not on an accelerator, where this would have to synchronise.
        unused = int((kernel != 0).any(dim=0).int().argmax())
        kernel = kernel[:, unused : kernel.shape[1] - unused]
    return _by_shifts(_by_shifts(image, kernel, -2, border), kernel, -1, border)


def pad_along(image: Tensor, radius: int, dim: int, border: Border) -> Tensor:
    """Pad (B, C, H, W) by ``radius``, of any size, on both sides of one of the last two dimensions."""
    size = image.shape[dim]
    if border == "zero" or radius < size:
        mode = "constant" if border == "zero" else border
        return F.pad(image, (0, 0, radius, radius) if dim == -2 else (radius, radius, 0, 0), mode=mode)
    index = torch.arange(-radius, size + radius, device=image.device)
    if border == "replicate" or size == 1:
        index = index.clamp(0, size - 1)
    else:
        period = 2 * (size - 1)
        index = index.remainder(period)
        index = torch.minimum(index, period - index)
    return image.index_select(dim, index)


def _by_shifts(image: Tensor, kernel: Tensor, dim: int, border: Border) -> Tensor:
    """Convolve one dimension as a weighted sum of shifted images, adding taps of equal weight first.

    On a CPU, one sample at a time, this is as fast as products with banded matrices, three times as fast as a grouped
    convolution, and over ten times as fast as the full 2-D one. All operations are elementwise, so that neither TF32
    nor the batch size changes the result.
    """
    radius = kernel.shape[1] // 2
    size = image.shape[dim]
    padded = pad_along(image, radius, dim, border)
    weight = kernel[:, :, None, None, None]
    result = image * weight[:, radius]
    pair = torch.empty_like(result)  # one buffer for all offsets stays in the cache
    for offset in range(1, radius + 1):
        torch.add(padded.narrow(dim, radius - offset, size), padded.narrow(dim, radius + offset, size), out=pair)
        result.addcmul_(pair, weight[:, radius + offset])
    return result
