"""MS-SSIM and GMSD: structural similarity at several scales, and deviation of the gradient similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.metrics.functional import as_double, ssim_parts, undefined_scores
from reflectzoo.metrics.images import ImageMetric
from reflectzoo.ops.ssim import gaussian_window

_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# 0.299, 0.587, 0.114 with the digits of MATLAB's rgb2gray.
_GREY = (0.2989360213, 0.5870430745, 0.1140209043)
_GMSD_C = 170 / 255**2


def ms_ssim(preds: Tensor, target: Tensor) -> Tensor:
    """MS-SSIM of each channel, averaged over the channels.

    Wang, Simoncelli and Bovik, Asilomar 2003, Eq. (7), with the weights of its Sec. 3.2, over five scales, each half
    the size of the previous one (means of 2x2 pixels). The factor of a scale is the mean of SSIM's contrast-structure
    factor, at the last scale that of full SSIM, with a Gaussian 11x11 window inside the image. Negative means are
    clamped to 0.

    Args:
        preds: (B, C, H, W) in [0, 1].
        target: same shape.

    Returns:
        (B,), in [0, 1]; NaN for images with a side below 176 pixels, whose smallest scale is smaller than the window.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < 11 * 2 ** (len(_SCALES) - 1):
        return undefined_scores(p)
    value = p.new_ones(p.shape[:2])
    for place, weight in enumerate(_SCALES):
        luminance, structure = ssim_parts(p, t, gaussian_window(p.dtype, p.device))
        last = place == len(_SCALES) - 1
        mean = (luminance * structure if last else structure).mean(dim=(2, 3))
        value = value * mean.clamp(min=0) ** weight
        if not last:
            p, t = F.avg_pool2d(p, 2), F.avg_pool2d(t, 2)
    return value.mean(dim=1)


def gmsd(preds: Tensor, target: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation of grey values, lower is better.

    Xue, Zhang, Mou and Bovik, "Gradient Magnitude Similarity Deviation", TIP 23(2), 2014, Eq. (2)-(6), as in the
    authors' program: downsampling by means of 2x2 pixels, Prewitt gradients with zero padding, T = 170 for values in
    0..255, and the sample standard deviation of the map.

    Args:
        preds: (B, 3, H, W) in [0, 1].
        target: same shape.

    Returns:
        (B,), >= 0; NaN for images with a side below 4 pixels.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < 4:
        return undefined_scores(p)
    magnitude_p, magnitude_t = (_prewitt(image) for image in (p, t))
    similarity = (2 * magnitude_p * magnitude_t + _GMSD_C) / (magnitude_p.square() + magnitude_t.square() + _GMSD_C)
    return similarity.flatten(1).std(dim=1)


def _prewitt(image: Tensor) -> Tensor:
    """Gradient magnitudes (B, H', W') of the grey values of (B, 3, H, W) at half the size, rounded up."""
    grey = (image * image.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    # Zeros after the last row or column of odd sizes, as in MATLAB's conv2(..., 'same').
    grey = F.avg_pool2d(F.pad(grey, (0, grey.shape[-1] % 2, 0, grey.shape[-2] % 2)), 2)
    slope = torch.tensor([[1.0, 0.0, -1.0]], dtype=grey.dtype, device=grey.device).expand(3, 3) / 3
    kernels = torch.stack((slope, slope.T))[:, None]
    along = F.conv2d(grey, kernels, padding=1)
    return along.square().sum(dim=1).sqrt()


class MSSSIM(ImageMetric):
    """MS-SSIM; see :func:`ms_ssim`."""

    key = "ms_ssim"
    title = "MS-SSIM"
    higher_is_better = True

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), in [0, 1]."""
        return ms_ssim(preds, target)


class GMSD(ImageMetric):
    """GMSD, lower is better; see :func:`gmsd`."""

    key = "gmsd"
    title = "GMSD"
    digits = 4
    higher_is_better = False

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), >= 0."""
        return gmsd(preds, target)
