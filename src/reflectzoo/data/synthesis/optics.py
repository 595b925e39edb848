"""Functions shared by several synthesis models: overflow, linear light, the vignette of a reflection."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

GAMMA = 2.2
"""Exponent by which the programs convert stored values to linear light."""


def power(image: Tensor, exponent: float) -> Tensor:
    """``image ** exponent`` for values >= 0, accurate to 1e-7 and three times as fast as :func:`torch.pow` on a CPU."""
    return image.log2().mul_(exponent).exp2_()


def to_linear(image: Tensor) -> Tensor:
    """Convert stored values in [0, 1] to linear light, by the power 2.2."""
    return power(image, GAMMA)


def to_stored(image: Tensor) -> Tensor:
    """Convert linear light >= 0 to stored values, by the power 1 / 2.2."""
    return power(image, 1 / GAMMA)


def mean_overflow(total: Tensor, per_channel: bool = False) -> Tensor:
    """Mean of the values above 1, minus 1; 0 if there are none.

    Summed in double precision, so that the mean, and therefore every byte of a mixture, does not depend on the number
    of samples and threads.

    Args:
        total: (B, 3, H, W), the sum of the layers; overwritten.
        per_channel: a separate mean for each channel instead of a common one.

    Returns:
        (B, 3); the three values are equal unless ``per_channel``.
    """
    excess = total.sub_(1).clamp_min_(0)
    wide = torch.float32 if excess.device.type == "mps" else torch.float64
    over = (2, 3) if per_channel else (1, 2, 3)
    amount = excess.sum(dim=over, dtype=wide)
    count = excess.sign().sum(dim=over, dtype=wide)  # four times as fast as counting booleans
    mean = (amount / count.clamp_min(1)).to(excess.dtype)
    return mean if per_channel else mean[:, None].expand(-1, excess.shape[1])


def mean_of(image: Tensor) -> Tensor:
    """The mean of all values of each sample, (B,), summed in double precision."""
    wide = torch.float32 if image.device.type == "mps" else torch.float64
    return image.mean(dim=(1, 2, 3), dtype=wide).to(image.dtype)


_VIGNETTE = 560
_MARGIN = 10


def vignette(height: int, width: int, x: Tensor, y: Tensor) -> Tensor:
    """A window of the map by which the programs of Zhang et al. and IBCLN darken reflections away from a centre.

    The map is 560 x 560: the square root of the outer product of ``w`` with itself, divided by its maximum, where ``w``
    are the weights of a normal distribution in 560 intervals from -3 to 3. Windows do not start in the last 10 possible
    rows or columns. For larger pictures, for which the programs fail, the map is twice as large as the longer side.

    Args:
        height: height of the window.
        width: width of the window.
        x: (B,) in [0, 1], relative position of the window, from left to right.
        y: (B,), likewise from top to bottom.

    Returns:
        (B, 1, height, width) in (0, 1].
    """
    longest = max(height, width)
    side = _VIGNETTE if longest + _MARGIN < _VIGNETTE else 2 * longest + _MARGIN
    profile = _profile(side).to(device=x.device, dtype=torch.float32)

    def cut(place: Tensor, length: int) -> Tensor:
        first = torch.floor(place * (side - length - _MARGIN)).long()
        return profile[first[:, None] + torch.arange(length, device=place.device)]

    return (cut(y, height)[:, :, None] * cut(x, width)[:, None, :])[:, None]


@lru_cache(maxsize=8)
def _profile(side: int) -> Tensor:
    """Square root of the weights along one axis, (side,), maximum 1; the map is its outer product with itself."""
    half = (2 * 3 + 1) / side / 2
    edges = torch.linspace(-3 - half, 3 + half, side + 1, dtype=torch.float64)
    weights = torch.special.ndtr(edges).diff()
    profile: Tensor = (weights / weights.max()).sqrt()
    return profile
