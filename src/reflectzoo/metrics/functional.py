"""Scores of single images, in double precision: PSNR, SSIM in two conventions, LMSE, NCC, SI, and of marked regions.

All take predictions and truths of shape (B, C, H, W) in [0, 1] and return (B,) values, one for each image. NaN stands
for a score that an image does not have (an empty region, an image smaller than the window), and for nothing else.
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
"""dB that equal images score. Infinity would swallow every average; CoRRN's released program returns 100 too."""

_K1, _K2 = 0.01, 0.03
_UNIFORM = 7
_GAUSSIAN = 11
_LMSE_WINDOW, _LMSE_STEP = 20, 10
# The program compares sums over images of 0..255.
_LMSE_DARK = 1e-5 / 255**2


def channel_errors(preds: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each colour channel of each image.

    Returns:
        (B, C), in units of the images' own range squared.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    return (p - t).square().mean(dim=(2, 3))


def decibels(errors: Tensor) -> Tensor:
    """PSNR of mean squared errors of images in [0, 1], at most :data:`PSNR_CAP`.

    Example:
        >>> decibels(torch.tensor([0.01, 0.0]))
        tensor([ 20., 100.])
    """
    return (-10 * torch.log10(errors)).clamp(max=PSNR_CAP)


def channel_psnr(preds: Tensor, target: Tensor) -> Tensor:
    """PSNR of each colour channel by itself, then their mean: how most programs of the field compute it.

    ``quality_assess`` of the released programs of ERRNet, YTMT and DSRNet. Never below :func:`pooled_psnr`, since a
    channel with little error gains more decibels than one with much error loses.

    Returns:
        (B,) in dB, at most :data:`PSNR_CAP` for each channel.

    Raises:
        ValueError: if the shapes differ.
    """
    return decibels(channel_errors(preds, target)).mean(dim=1)


def pooled_psnr(preds: Tensor, target: Tensor) -> Tensor:
    """PSNR of the error of all pixels and channels of an image together, as Location-aware SIRR and CoRRN compute it.

    Returns:
        (B,) in dB, at most :data:`PSNR_CAP`.

    Raises:
        ValueError: if the shapes differ.
    """
    return decibels(channel_errors(preds, target).mean(dim=1))


def uniform_ssim(preds: Tensor, target: Tensor) -> Tensor:
    """SSIM under a uniform 7x7 window, channel by channel: scikit-image's default, and so most programs of the field.

    Wang et al., TIP 2004, with K1 = 0.01, K2 = 0.03 and sample covariances (divided by 48); the mean over all places
    where the window lies wholly inside the image. torchmetrics' uniform window divides by 49, so this is our own.

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
        return nowhere(p)
    luminance_part, structure_part = ssim_parts(p, t, p.new_full((_UNIFORM,), 1 / _UNIFORM), sample=True)
    return (luminance_part * structure_part).mean(dim=(1, 2, 3))


def gaussian_ssim(preds: Tensor, target: Tensor) -> Tensor:
    """SSIM under an 11x11 Gaussian window of sigma 1.5, as Wang et al., TIP 2004, define it, channel by channel.

    The mean over all places where the window lies wholly inside the image.

    Returns:
        (B,), at most 1; NaN for images smaller than the window.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < _GAUSSIAN:
        return nowhere(p)
    luminance_part, structure_part = ssim_parts(p, t, gaussian_window(p.dtype, p.device))
    return (luminance_part * structure_part).mean(dim=(1, 2, 3))


def ssim_parts(p: Tensor, t: Tensor, taps: Tensor, sample: bool = False) -> tuple[Tensor, Tensor]:
    """The two parts of SSIM, luminance and contrast with structure, wherever the window lies wholly inside the images.

    Wang et al., TIP 2004, Eq. (6) and (12), with K1 = 0.01 and K2 = 0.03.

    Args:
        p: (B, C, H, W) in [0, 1], double precision.
        t: same shape.
        taps: one axis of the window, (K,), adding up to 1.
        sample: divide sums of squares by one less than the window's pixels, as for a uniform window.

    Returns:
        Two maps, (B, C, H - K + 1, W - K + 1).
    """
    # The two variances are needed as a sum only.
    mean_p, mean_t, squares, product = windowed(torch.stack((p, t, p * p + t * t, p * t)), taps).unbind()
    power, common = mean_p.square() + mean_t.square(), mean_p * mean_t
    pixels = len(taps) ** 2
    correction = pixels / (pixels - 1) if sample else 1.0
    c1, c2 = _K1**2, _K2**2
    structure_part = (2 * correction * (product - common) + c2) / (correction * (squares - power) + c2)
    return (2 * common + c1) / (power + c1), structure_part


def lmse(preds: Tensor, target: Tensor) -> Tensor:
    """Local mean squared error: the error that a best brightness for each window leaves. Lower is better.

    Grosse et al., ICCV 2009, as ``quality_assess`` of YTMT, ERRNet and DSRNet has it: windows of 20x20 pixels at steps
    of 10, each channel by itself; in each the prediction is scaled by the least-squares factor; squared errors of all
    windows over squared true values of all windows.

    Returns:
        (B,), from 0 on; 0 where the truth is black; NaN for images smaller than a window.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.rand(1, 3, 40, 30)
        >>> lmse(0.5 * image, image).item() < 1e-12
        True
    """
    p, t = as_double(preds, target)
    if min(p.shape[-2:]) < _LMSE_WINDOW:
        return nowhere(p)
    error, total = p.new_zeros(len(p)), p.new_zeros(len(p))
    # Windows that begin at the same multiples of the step do not overlap: four such sets are every window.
    for top in range(0, _LMSE_WINDOW, _LMSE_STEP):
        for left in range(0, _LMSE_WINDOW, _LMSE_STEP):
            wp, wt = (_tiles(image[:, :, top:, left:]) for image in (p, t))
            power, product, truth = (each.sum(dim=(3, 5), keepdim=True) for each in (wp * wp, wp * wt, wt * wt))
            factor = torch.where(power > _LMSE_DARK, product / power.clamp(min=_LMSE_DARK), 0.0)
            # Not through the expanded square, which would lose half the digits where the error is small.
            error += (wt - factor * wp).square().flatten(1).sum(dim=1)
            total += truth.flatten(1).sum(dim=1)
    return torch.where(total > 0, error / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def ncc(preds: Tensor, target: Tensor) -> Tensor:
    """Normalised cross-correlation of all values of an image, channels together.

    ``quality_assess`` of YTMT, ERRNet and DSRNet: mean((x - mean x)(y - mean y)) / (std x * std y).

    Returns:
        (B,) in [-1, 1]. Where an image is of one value the quotient has no meaning; then 1 for equal images, else 0.

    Raises:
        ValueError: if the shapes differ.
    """
    p, t = (image.flatten(1) for image in as_double(preds, target))
    # A stored value of k/255 may have passed through float32.
    equal = (p - t).abs().amax(dim=1) < 1e-6
    p, t = p - p.mean(dim=1, keepdim=True), t - t.mean(dim=1, keepdim=True)
    covariance = (p * t).mean(dim=1)
    deviations = p.square().mean(dim=1).sqrt() * t.square().mean(dim=1).sqrt()
    # Rounding leaves a trace of variance in images of one value; real ones vary by 1/255 somewhere.
    flat = deviations < 1e-12
    return torch.where(flat, equal.to(p), covariance / torch.where(flat, 1.0, deviations))


def structure_index(preds: Tensor, target: Tensor, grey: bool = False) -> Tensor:
    """SI: SSIM without its luminance part, 1 minus CoRRN's structure loss of each image.

    CoRRN, TPAMI 2019, Eq. (7); Wan et al., ICCV 2017. The authors released no code for their scores; these are the maps
    of their losses (:mod:`reflectzoo.ops.ssim`), averaged. Images that differ by a constant have 1.

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

    CoRRN, TPAMI 2019, Sec. 5. The paper's regions, those that reflections dominate, were marked by hand and are not
    public. Windows around pixels at the rim of a region look beyond it.

    Args:
        preds: (B, C, H, W).
        target: same shape.
        mask: (B, H, W) bool.
        grey: see :func:`structure_index`.

    Returns:
        (B,), at most 1; NaN where the mask is empty.

    Raises:
        ValueError: if the shapes differ.
    """
    return _within(_quality(ssim_map, preds, target, grey), mask)


def regional_si(preds: Tensor, target: Tensor, mask: Tensor, grey: bool = False) -> Tensor:
    """SIr: mean of the SI map where the mask is not 0; otherwise as :func:`regional_ssim`."""
    return _within(_quality(structure_map, preds, target, grey), mask)


def _quality(quality: Callable[[Tensor, Tensor], Tensor], preds: Tensor, target: Tensor, grey: bool) -> Tensor:
    p, t = as_double(preds, target)
    return (quality(luminance(p), luminance(t)) if grey else quality(p, t)).mean(dim=1)


def _within(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != values.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)}, but the images are {tuple(values.shape)} (B, H, W)")
    weights = (mask != 0).to(values)
    # 0 / 0, the score of an empty region, is NaN.
    return (values * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


def _tiles(images: Tensor) -> Tensor:
    """(B, C, H, W) to windows side by side, (B, C, rows, 20, columns, 20); what is left over is cut off."""
    rows, columns = (side // _LMSE_WINDOW for side in images.shape[-2:])
    whole = images[:, :, : rows * _LMSE_WINDOW, : columns * _LMSE_WINDOW]
    return whole.reshape(*images.shape[:2], rows, _LMSE_WINDOW, columns, _LMSE_WINDOW)


def as_double(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of images in double precision.

    Raises:
        ValueError: if the shapes differ, or are not (B, C, H, W).
    """
    check_same_shape(preds=preds, target=target)
    if preds.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), got {tuple(preds.shape)}")
    return preds.double(), target.double()


def nowhere(images: Tensor) -> Tensor:
    """The score of images that have none: (B,) NaN, double precision."""
    return images.new_full((len(images),), float("nan"), dtype=torch.float64)
