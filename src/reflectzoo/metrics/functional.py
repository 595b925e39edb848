"""Scores of single images, in double precision: PSNR and SSIM in two conventions, LMSE, NCC, SI, and scores of regions.

Unless stated otherwise, they take predictions and ground truth of shape (B, C, H, W) in [0, 1] and return (B,), one
value per image. For finite images, NaN only means that the score is not defined (an empty region, an image smaller than
the window).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reflectzoo.ops.checks import check_same_shape
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.ssim import gaussian_window, ssim_map, structure_map
from reflectzoo.ops.windows import windowed

PSNR_CAP = 100.0
"""PSNR of equal images, in dB, since infinity would dominate every average; as in CoRRN's released program."""

_K1, _K2 = 0.01, 0.03
_UNIFORM = 7
_GAUSSIAN = 11
_LMSE_WINDOW, _LMSE_STEP = 20, 10
# The program has the threshold 1e-5 for sums over images of 0..255.
_LMSE_DARK = 1e-5 / 255**2


def channel_errors(preds: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each colour channel of each image.

    Returns:
        (B, C), for values in the range of the images.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    return (p - t).square().mean(dim=(2, 3))


def decibels(errors: Tensor) -> Tensor:
    """Convert mean squared errors of images in [0, 1] to PSNR in dB, at most :data:`PSNR_CAP`.

    Example:
        >>> decibels(torch.tensor([0.01, 0.0]))
        tensor([ 20., 100.])
    """
    return (-10 * torch.log10(errors)).clamp(max=PSNR_CAP)


def channel_psnr(preds: Tensor, target: Tensor) -> Tensor:
    """PSNR of each colour channel, averaged over the channels, as in most programs of the field.

    Same as ``quality_assess`` in the released programs of ERRNet, YTMT and DSRNet. By convexity not below
    :func:`pooled_psnr`, except for the effect of the cap.

    Returns:
        (B,) in dB, at most :data:`PSNR_CAP` per channel.

    Raises:
        ValueError: if the shapes differ.
    """
    return decibels(channel_errors(preds, target)).mean(dim=1)


def pooled_psnr(preds: Tensor, target: Tensor) -> Tensor:
    """PSNR of the error over all pixels and channels of an image, as in Location-aware SIRR and CoRRN.

    Returns:
        (B,) in dB, at most :data:`PSNR_CAP`.

    Raises:
        ValueError: if the shapes differ.
    """
    return decibels(channel_errors(preds, target).mean(dim=1))


def uniform_ssim(preds: Tensor, target: Tensor) -> Tensor:
    """SSIM per channel with a uniform 7x7 window: scikit-image's default, and hence that of most programs of the field.

    Wang et al., TIP 2004, with K1 = 0.01, K2 = 0.03 and sample covariances (divided by 48); the mean over all positions
    where the window lies inside the image. Implemented here because torchmetrics' uniform window divides by 49.

    Returns:
        (B,), at most 1; NaN for images smaller than the window.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.rand(1, 3, 8, 9)
        >>> uniform_ssim(image, image)
        tensor([1.], dtype=torch.float64)
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < _UNIFORM:
        return undefined_scores(p)
    luminance_part, structure_part = ssim_parts(p, t, p.new_full((_UNIFORM,), 1 / _UNIFORM), sample=True)
    return (luminance_part * structure_part).mean(dim=(1, 2, 3))


def gaussian_ssim(preds: Tensor, target: Tensor) -> Tensor:
    """SSIM per channel with an 11x11 Gaussian window of sigma 1.5, as defined by Wang et al., TIP 2004.

    The mean over all positions where the window lies inside the image.

    Returns:
        (B,), at most 1; NaN for images smaller than the window.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < _GAUSSIAN:
        return undefined_scores(p)
    luminance_part, structure_part = ssim_parts(p, t, gaussian_window(p.dtype, p.device))
    return (luminance_part * structure_part).mean(dim=(1, 2, 3))


def ssim_parts(p: Tensor, t: Tensor, taps: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, luminance and contrast-structure, wherever the window lies inside the images.

    Wang et al., TIP 2004, Eq. (6) and (12), with K1 = 0.01 and K2 = 0.03.

    Args:
        p: (B, C, H, W) in [0, 1], double precision.
        t: same shape.
        taps: one axis of the separable window, (K,), with the sum 1.
        sample: use sample variances, divided by the number of pixels in the window minus 1; for uniform windows.

    Returns:
        Two maps, (B, C, H - K + 1, W - K + 1).
    """
    # Only the sum of the two variances is needed.
    mean_p, mean_t, squares, product = windowed(torch.stack((p, t, p * p + t * t, p * t)), taps).unbind()
    power, common = mean_p.square() + mean_t.square(), mean_p * mean_t
    pixels = len(taps) ** 2
    correction = pixels / (pixels - 1) if sample else 1.0
    c1, c2 = _K1**2, _K2**2
    structure_part = (2 * correction * (product - common) + c2) / (correction * (squares - power) + c2)
    return (2 * common + c1) / (power + c1), structure_part


def lmse(preds: Tensor, target: Tensor) -> Tensor:
    """Local mean squared error: the error that remains after an optimal scaling of each window. Lower is better.

    Grosse et al., ICCV 2009, as in ``quality_assess`` of YTMT, ERRNet and DSRNet: windows of 20x20 pixels at steps of
    10, separately per channel; in each window, the prediction is multiplied by the least-squares factor. The score is
    the sum of squared errors over all windows, divided by the sum of squared true values over all windows.

    Returns:
        (B,), >= 0; 0 if the ground truth is black; NaN for images smaller than a window.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.rand(1, 3, 40, 30)
        >>> lmse(0.5 * image, image).item() < 1e-12
        True
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < _LMSE_WINDOW:
        return undefined_scores(p)
    error, total = p.new_zeros(len(p)), p.new_zeros(len(p))
    # All windows are covered by four sets of non-overlapping windows, one for each offset.
    for top in range(0, _LMSE_WINDOW, _LMSE_STEP):
        for left in range(0, _LMSE_WINDOW, _LMSE_STEP):
            wp, wt = (_tiles(image[:, :, top:, left:]) for image in (p, t))
            power, product, truth = (each.sum(dim=(3, 5), keepdim=True) for each in (wp * wp, wp * wt, wt * wt))
            factor = torch.where(power > _LMSE_DARK, product / power.clamp(min=_LMSE_DARK), 0.0)
            # Expanding the square would lose half of the digits where the error is small.
            error += (wt - factor * wp).square().flatten(1).sum(dim=1)
            total += truth.flatten(1).sum(dim=1)
    return torch.where(total > 0, error / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def ncc(preds: Tensor, target: Tensor) -> Tensor:
    """Normalised cross-correlation over all values of an image, channels together.

    As in ``quality_assess`` of YTMT, ERRNet and DSRNet: mean((x - mean x)(y - mean y)) / (std x * std y).

    Returns:
        (B,) in [-1, 1]. If an image is constant, the quotient is not defined; then 1 for equal images, otherwise 0.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = (image.flatten(1) for image in as_double(preds, target))
    # With a tolerance, since values k/255 may have been rounded to float32.
    equal = (p - t).abs().amax(dim=1) < 1e-6
    p, t = p - p.mean(dim=1, keepdim=True), t - t.mean(dim=1, keepdim=True)
    covariance = (p * t).mean(dim=1)
    deviations = p.square().mean(dim=1).sqrt() * t.square().mean(dim=1).sqrt()
    # Constant images have a tiny variance due to rounding; all others vary by at least 1/255 somewhere.
    flat = deviations < 1e-12
    return torch.where(flat, equal.to(p), covariance / torch.where(flat, 1.0, deviations))


def structure_index(preds: Tensor, target: Tensor, grey: bool = False) -> Tensor:
    """SI: SSIM without its luminance factor, which equals 1 - CoRRN's structure loss of each image.

    CoRRN, TPAMI 2019, Eq. (7); Wan et al., ICCV 2017. The authors released no code for their scores; this is the mean
    of the maps of their losses (:mod:`reflectzoo.ops.ssim`). Images that differ by a constant score 1.

    Args:
        preds: (B, C, H, W); three channels if ``grey``.
        target: same shape.
        grey: compare grey values (0.2989 R + 0.5870 G + 0.1140 B).

    Returns:
        (B,), at most 1.

    Raises:
        ValueError: if the shapes differ.
    """
    return _quality(structure_map, preds, target, grey).mean(dim=(1, 2))


def regional_ssim(preds: Tensor, target: Tensor, mask: Tensor, grey: bool = False) -> Tensor:
    """SSIMr: mean of the SSIM map where the mask is not 0.

    CoRRN, TPAMI 2019, Sec. 5. The paper's regions, those dominated by reflections, were annotated manually and are not
    public. Windows around pixels at the edge of a region extend beyond it.

    Args:
        preds: (B, C, H, W).
        target: same shape.
        mask: (B, H, W) bool.
        grey: see :func:`structure_index`.

    Returns:
        (B,), at most 1; NaN if the mask is empty.

    Raises:
        ValueError: if the shapes differ.
    """
    return _within(_quality(ssim_map, preds, target, grey), mask)


def regional_si(preds: Tensor, target: Tensor, mask: Tensor, grey: bool = False) -> Tensor:
    """SIr: mean of the SI map where the mask is not 0; arguments, result and errors as for :func:`regional_ssim`."""
    return _within(_quality(structure_map, preds, target, grey), mask)


def _quality(quality: Callable[[Tensor, Tensor], Tensor], preds: Tensor, target: Tensor, grey: bool) -> Tensor:
    p, t = as_double(preds, target)
    return (quality(luminance(p), luminance(t)) if grey else quality(p, t)).mean(dim=1)


def _within(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != values.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)}, but the images are {tuple(values.shape)} (B, H, W)")
    weights = (mask != 0).to(values)
    # The score of an empty region, 0 / 0, is NaN.
    return (values * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def _tiles(images: Tensor) -> Tensor:
    """Split (B, C, H, W) into adjacent windows, (B, C, rows, 20, columns, 20); the remainder is cropped."""
    rows, columns = (side // _LMSE_WINDOW for side in images.shape[-2:])
    whole = images[:, :, : rows * _LMSE_WINDOW, : columns * _LMSE_WINDOW]
    return whole.reshape(*images.shape[:2], rows, _LMSE_WINDOW, columns, _LMSE_WINDOW)


def as_double(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Convert two batches of images to double precision.

    Raises:
        ValueError: if the shapes differ, or are not (B, C, H, W).
    """
    check_same_shape(preds=preds, target=target)
    if preds.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), got {tuple(preds.shape)}")
    return preds.double(), target.double()


def undefined_scores(images: Tensor) -> Tensor:
    """The undefined score of a batch of images: (B,) NaN in double precision."""
    return images.new_full((len(images),), float("nan"), dtype=torch.float64)
