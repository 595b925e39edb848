"""CoRRN's statistic loss, which matches the distributions of predicted and true gradients.

The distance is the maximum mean discrepancy (MMD), E k(x, x') + E k(y, y') - 2 E k(x, y), with the mean of three
Gaussian kernels exp(-g d^2), g = 0.5, 0.1, 0.05. It compares the horizontal and the vertical gradients of the grey
image, each normalised by a softmax over all pixels. Paper and program differ in what they take as a sample:

* paper (TPAMI 2019, Eq. 9-11): every pixel is a sample, a scalar. Computed directly, that is a sum over all pairs of
  pixels. Since a Gaussian is a mixture of cosines, k(d) = integral of p(w) cos(w d) dw, the MMD is also

      integral of p(w) |phi_x(w) - phi_y(w)|^2 dw,     phi_x(w) = mean exp(i w x),

  and the trapezoidal sum over equally spaced w equals the sum over pairs up to rounding, as long as the spacing is fine
  enough for the range of the samples (Poisson's summation formula) and extends far enough for the narrowest kernel.
  Time and memory are linear in the number of pixels instead of quadratic, and the result is deterministic.
* program: every image of the batch is a sample, a vector with one dimension per pixel. After the softmax such vectors
  are so short that the value is near 1e-5 and has hardly any effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.utils.checkpoint import checkpoint

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import UnknownReflection, layer_pair
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.distributed import masked_mean, processes
from reflectzoo.ops.gradients import forward_differences, sobel

StatisticForm = Literal["paper", "program"]
Unit = Literal["truth", "none"]
BANDWIDTHS = (0.5, 0.1, 0.05)
_CHUNK = 1 << 20
"""Number of sine and cosine values held at a time."""
_FAR = 128.0
"""Absolute value at which samples are clamped; see :func:`pixel_mmd`."""


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy of two sets of vectors, over all pairs including the diagonal.

    CoRRN, TPAMI 2019, Eq. (9), with the kernels of its program.

    Args:
        x: (n, d), n samples.
        y: (m, d), m samples.
        bandwidths: g of the kernels exp(-g d^2), which are averaged.
        weights: (n,) and (m,), the weights of the samples, each summing to 1; uniform if None.

    Returns:
        Scalar, >= 0 up to rounding. Needs memory for about (n + m) (n + m + d) numbers.

    Raises:
        ValueError: if ``x`` and ``y`` are not matrices with the same number of columns.

    Example:
        >>> mmd(torch.zeros(1, 1), torch.ones(1, 1), bandwidths=(0.5,))  # 2 - 2 exp(-0.5)
        tensor(0.7869)
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"samples must be (n, d) and (m, d), got {tuple(x.shape)} and {tuple(y.shape)}")
    if weights is None:
        weights = x.new_full((len(x),), 1 / max(len(x), 1)), y.new_full((len(y),), 1 / max(len(y), 1))
    samples, signed = torch.cat((x, y)), torch.cat((weights[0], -weights[1]))
    # Distances do not depend on the origin; centring the samples minimises cancellation in the products.
    centred = samples - samples.detach().mean(dim=0)
    products = centred @ centred.t()
    squared = products.diagonal()[:, None] + products.diagonal()[None] - 2 * products
    # exp(..) - 1 instead of exp(..): the weights sum to zero, so the ones cancel, and small values stay precise.
    kernel = torch.stack([torch.expm1(-g * squared) for g in bandwidths]).mean(dim=0)
    return signed @ kernel @ signed


def pixel_mmd(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """:func:`mmd` of scalar samples, per row, in time and memory linear in their number.

    Equal to the sum over all pairs up to the rounding of the dtype, for samples in [-128, 128]. Others are clamped to
    that range, without a gradient: no kernel connects them with samples near zero anyway.

    Args:
        x: (B, n), n samples for each of B distributions, centred near zero.
        y: (B, m).
        bandwidths: g of the kernels exp(-g d^2), which are averaged.

    Returns:
        (B,), >= 0.

    Raises:
        ValueError: if there are no samples or B differs.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.numel() and y.numel()):
        raise ValueError(f"samples must be (B, n) and (B, m), got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.clamp(-_FAR, _FAR), y.clamp(-_FAR, _FAR)
    coarse, fine, shares = _waves(x.detach(), y.detach(), bandwidths)
    sines_x, versines_x = _characteristic(x, coarse, fine)
    sines_y, versines_y = _characteristic(y, coarse, fine)
    return ((sines_x - sines_y).square() + (versines_x - versines_y).square()).flatten(1) @ shares


def _waves(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies as sums of a coarse one (J,) and a fine one (K,), and the weight of each sum in the kernel (J * K,).

    A sum over frequencies w = h, 2h, ... repeats the kernel with period 2 pi / h, which must exceed the range of the
    samples plus the reach of the widest kernel. The spectrum exp(-w^2 / 4g) of the narrowest kernel determines the
    highest frequency.
    """
    reach = math.sqrt(-math.log(torch.finfo(x.dtype).eps / 10))
    low, high = torch.aminmax(torch.cat((x.flatten(), y.flatten())))
    extent = float(high - low)
    if not math.isfinite(extent):
        extent = 0.0  # the samples are not finite, nor will the result be
    spacing = 2 * math.pi / (extent + reach / math.sqrt(min(bandwidths)))
    count = math.ceil(2 * math.sqrt(max(bandwidths)) * reach / spacing)
    side = math.ceil(math.sqrt(count))
    fine = spacing * torch.arange(1, side + 1, dtype=torch.float64)
    coarse = spacing * side * torch.arange(math.ceil(count / side), dtype=torch.float64)
    waves = (coarse[:, None] + fine).flatten()
    # The factor 2 accounts for negative w; the density of w is normal with variance 2 g.
    densities = [torch.exp(-waves.square() / (4 * g)) / math.sqrt(4 * math.pi * g) for g in bandwidths]
    shares = 2 * spacing * torch.stack(densities).mean(dim=0)
    return coarse.to(x), fine.to(x), shares.to(x)


def _characteristic(samples: Tensor, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
    """Means of sin(w x) and of 1 - cos(w x) over the samples, (B, J, K) each; a chunk of samples at a time."""
    sines = versines = samples.new_zeros(len(samples), len(coarse), len(fine))
    held = 2 * (len(coarse) + len(fine)) * len(samples)
    for chunk in torch.split(samples, max(_CHUNK // held, 1), dim=1):
        # Recomputed in the backward pass; otherwise the sines and cosines of all pixels would be stored.
        if torch.is_grad_enabled() and chunk.requires_grad:
            part = cast(tuple[Tensor, Tensor], checkpoint(_wave_sums, chunk, coarse, fine, use_reentrant=False))
        else:
            part = _wave_sums(chunk, coarse, fine)
        sines, versines = sines + part[0], versines + part[1]
    return sines / samples.shape[1], versines / samples.shape[1]


def _wave_sums(samples: Tensor, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of sin((u + v) x) and 1 - cos((u + v) x) over the samples, for every coarse u and fine v.

    With e(w) = exp(i w x) - 1, e(u + v) = e(u) + e(v) + e(u) e(v): this takes few sines and one matrix product.
    """
    (sines_u, versines_u), (sines_v, versines_v) = (_sine_and_versine(samples, waves) for waves in (coarse, fine))
    products = torch.cat((versines_u, sines_u), dim=2).transpose(1, 2) @ torch.cat((versines_v, sines_v), dim=2)
    many, more = len(coarse), len(fine)
    both_versines, versine_sine = products[:, :many, :more], products[:, :many, more:]
    sine_versine, both_sines = products[:, many:, :more], products[:, many:, more:]
    sines = sines_u.sum(dim=1)[:, :, None] + sines_v.sum(dim=1)[:, None] - versine_sine - sine_versine
    versines = versines_u.sum(dim=1)[:, :, None] + versines_v.sum(dim=1)[:, None] - both_versines + both_sines
    return sines, versines


def _sine_and_versine(samples: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
    half = 0.5 * samples[..., None] * waves
    sine, cosine = torch.sin(half), torch.cos(half)
    # 1 - cos(a) = 2 sin(a / 2)^2 keeps its precision for small a.
    return 2 * sine * cosine, 2 * sine.square()


def statistic_loss(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    form: StatisticForm = "paper",
    unit: Unit = "truth",
    bandwidths: Sequence[float] = BANDWIDTHS,
) -> Tensor:
    """Sum of the MMDs between the softmax-normalised horizontal and vertical gradients of two images.

    CoRRN, TPAMI 2019, Eq. (9)-(11).

    ``paper``: differences of neighbouring grey values; the pixels of an image are the samples; mean over the images.
    ``program``: zero-padded Sobel derivatives; the images of the batch (of all processes) are the samples.

    Args:
        prediction: (B, 3, H, W), values of about [0, 1].
        target: same shape, at least 2x2.
        valid: (B,) bool, the samples to include; all if None.
        form: ``paper`` or ``program``, see above.
        unit: scale of the bandwidths in the paper's form, for which the paper gives none. ``truth``: the program's
            bandwidths in units of the typical deviation of the true image's samples from their mean (the median; at
            least 1/255), so that the kernels resolve the peak of the heavy-tailed distribution, which reflections
            flatten. ``none``: the program's bandwidths on the unscaled softmax values; these are near 1 / (H W), so
            that every kernel is 1 within 1e-9 and the loss below 1e-15.
        bandwidths: g of the kernels exp(-g d^2), which are averaged.

    Returns:
        Scalar >= 0 (in the program's form up to rounding); zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ, there are not three channels, or the images are smaller than 2x2.

    Example:
        >>> image = torch.rand(1, 3, 8, 8)
        >>> statistic_loss(image, image)
        tensor(0.)
    """
    check_same_shape(prediction=prediction, target=target)
    if prediction.ndim != 4 or prediction.shape[1] != 3:
        raise ValueError(f"the statistic loss compares RGB images (B, 3, H, W), got {tuple(prediction.shape)}")
    if valid is None:
        valid = prediction.new_ones(len(prediction), dtype=torch.bool)
    with torch.autocast(prediction.device.type, enabled=False):
        images = [luminance(full_precision(image)) for image in (prediction, target)]
        if form == "program":
            directions = zip(*(sobel(image, border="zeros") for image in images), strict=True)
            return torch.stack(
                [_over_images(p.flatten(1), t.flatten(1), valid, bandwidths) for p, t in directions]
            ).sum()
        directions = zip(*(forward_differences(image) for image in images), strict=True)
        values = [_over_pixels(p.flatten(1), t.flatten(1), unit, bandwidths) for p, t in directions]
        return masked_mean(torch.stack(values).sum(dim=0)[:, None], valid)


def _over_pixels(prediction: Tensor, target: Tensor, unit: Unit, bandwidths: Sequence[float]) -> Tensor:
    """The paper's form, (B,), from derivatives (B, n)."""
    found, wanted = _softmax_excess(prediction), _softmax_excess(target)
    if unit == "none":
        scale = wanted.new_full((1, 1), float(wanted.shape[1]))
    else:
        scale = wanted.abs().median(dim=1, keepdim=True).values.clamp(min=1 / 255)
    return pixel_mmd(found / scale, wanted / scale, bandwidths)


def _softmax_excess(derivatives: Tensor) -> Tensor:
    """Relative deviation of the softmax over the pixels from its mean: n softmax(g) - 1."""
    return derivatives.shape[1] * torch.softmax(derivatives, dim=1) - 1


def _over_images(prediction: Tensor, target: Tensor, valid: Tensor, bandwidths: Sequence[float]) -> Tensor:
    found, wanted = (torch.softmax(values, dim=1) for values in (prediction, target))
    counts = valid.to(found.dtype)
    if processes() > 1:
        found, wanted, counts = _from_all(found), _from_all(wanted), _from_all(counts)
    share = counts / counts.sum().clamp(min=1)
    return mmd(found, wanted, bandwidths, (share, share))


def _from_all(rows: Tensor) -> Tensor:
    # all_gather sums gradients over processes; DistributedDataParallel's averaging compensates for that.
    gathered: tuple[Tensor, ...] = all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(gathered)


class StatisticLoss(LossTerm):
    """:func:`statistic_loss` of one layer.

    Args:
        layer: ``transmission`` or ``reflection``.
        form: ``paper`` or ``program``.
        unit: ``truth`` or ``none``, for the paper's form.
        bandwidths: g of the kernels exp(-g d^2).
        unknown_reflection: for real pairs, whose true reflection is unknown. ``residual``: the target is mixture -
            transmission; ``skip``: such samples are left out.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for an invalid argument.
    """

    def __init__(
        self,
        layer: Layer = "transmission",
        form: StatisticForm = "paper",
        unit: Unit = "truth",
        bandwidths: Sequence[float] = BANDWIDTHS,
        unknown_reflection: UnknownReflection = "residual",
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.layer = layer
        self.form = form
        self.unit = unit
        self.bandwidths = tuple(bandwidths)
        self.unknown_reflection = unknown_reflection

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        prediction, target, valid = layer_pair(outputs, batch, self.layer, self.unknown_reflection)
        return statistic_loss(prediction, target, valid, self.form, self.unit, self.bandwidths)
