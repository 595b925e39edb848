"""Maps of structural similarity (SSIM) and of its contrast-structure factor alone (SI).

Both use the window of CoRRN's program: an 11x11 Gaussian of sigma 1.5 over the whole image, with zero padding. Other
libraries use reflection padding or crop the border, so that their values differ near it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.windows import windowed

_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """SSIM of every pixel of every channel.

    Wang et al., TIP 2004, with C1 = 0.01^2, C2 = 0.03^2; CoRRN, TPAMI 2019, Eq. (4).

    Args:
        prediction: (B, C, H, W), values in about [0, 1]; negative ones are not clamped.
        target: same shape.

    Returns:
        (B, C, H, W), at most 1.

    Raises:
        ValueError: if the shapes differ.
    """
    mean_p, mean_t, variances, covariance = _moments(prediction, target)
    luminance_part = (2 * mean_p * mean_t + _C1) / (mean_p.square() + mean_t.square() + _C1)
    return luminance_part * (2 * covariance + _C2) / (variances + _C2)


def structure_map(prediction: Tensor, target: Tensor) -> Tensor:
    """SI of every pixel of every channel: SSIM without its luminance factor.

    CoRRN, TPAMI 2019, Eq. (7); arguments, result and errors as for :func:`ssim_map`. Insensitive to a constant offset,
    but not to contrast.
    """
    _mean_p, _mean_t, variances, covariance = _moments(prediction, target)
    return (2 * covariance + _C2) / (variances + _C2)


def _moments(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Local means of both, the sum of their variances, and their covariance."""
    check_same_shape(prediction=prediction, target=target)
    p, t = full_precision(prediction), full_precision(target)
    # Only the sum of the two variances is needed.
    mean_p, mean_t, squares, product = _blur(torch.stack((p, t, p * p + t * t, p * t))).unbind()
    return mean_p, mean_t, squares - mean_p.square() - mean_t.square(), product - mean_p * mean_t


def _blur(images: Tensor) -> Tensor:
    """Weighted mean over the window around each pixel of (..., H, W), with zero padding."""
    return windowed(images, gaussian_window(images.dtype, images.device), padding=_WINDOW // 2)


@lru_cache(maxsize=8)
def gaussian_window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """One axis of the window, (11,), with the sum 1."""
    # Tensors created in inference mode could not be used in training later, but the cache outlives the caller.
    with torch.inference_mode(False):
        places = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
        taps = torch.exp(-places.square() / (2 * _SIGMA**2))
        return (taps / taps.sum()).to(device, dtype)
