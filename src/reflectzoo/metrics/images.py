"""The field's scores as torchmetrics: one value for each image, then the mean over images.

>>> metric = ChannelPSNR()
>>> truth = torch.zeros(2, 3, 32, 32)
>>> metric.update(truth + 0.1, truth)
>>> metric.update(truth, truth)  # equal images score 100 dB, not infinity
>>> round(metric.compute().item(), 4)
60.0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from reflectzoo.metrics import functional


class ImageMetric(Metric):
    """Mean over images of a score that each image has by itself, summed up in double precision.

    Images for which a score is not defined (see :mod:`reflectzoo.metrics.functional`) do not count. Subclasses
    implement :meth:`per_image`.
    """

    full_state_update = False
    title = ""
    unit = ""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) scores of images (B, 3, H, W) in [0, 1]; NaN for an image that has none."""
        raise NotImplementedError(f"{type(self).__name__} does not say how an image is scored")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images, (B, 3, H, W) in [0, 1] each.

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(self.per_image(preds, target))

    def _add(self, scores: Tensor) -> None:
        defined = ~scores.isnan()
        self.total += scores[defined].double().sum()
        self.count += defined.sum()

    def compute(self) -> Tensor:
        """The mean over all images so far; NaN only if none was scored."""
        return self.total / self.count


class ChannelPSNR(ImageMetric):
    """PSNR per colour channel, averaged over channels, then over images; see :func:`functional.channel_psnr`."""

    higher_is_better = True
    title, unit = "PSNR", "dB"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) in dB."""
        return functional.channel_psnr(preds, target)


class PooledPSNR(ImageMetric):
    """PSNR of all channels of an image together, averaged over images; see :func:`functional.pooled_psnr`."""

    higher_is_better = True
    title, unit = "PSNR", "dB"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) in dB."""
        return functional.pooled_psnr(preds, target)


class UniformSSIM(ImageMetric):
    """SSIM under scikit-image's uniform 7x7 window; see :func:`functional.uniform_ssim`."""

    higher_is_better = True
    title = "SSIM"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.uniform_ssim(preds, target)


class GaussianSSIM(ImageMetric):
    """SSIM under a Gaussian 11x11 window; see :func:`functional.gaussian_ssim`."""

    higher_is_better = True
    title = "SSIM"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.gaussian_ssim(preds, target)


class LMSE(ImageMetric):
    """Local mean squared error, lower is better; see :func:`functional.lmse`."""

    higher_is_better = False
    title = "LMSE"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), from 0 on."""
        return functional.lmse(preds, target)


class NCC(ImageMetric):
    """Normalised cross-correlation; see :func:`functional.ncc`."""

    higher_is_better = True
    title = "NCC"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) in [-1, 1]."""
        return functional.ncc(preds, target)


class SI(ImageMetric):
    """Structure index; see :func:`functional.structure_index`.

    Args:
        grey: compare grey values.
        **kwargs: see :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    title = "SI"

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grey = grey

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.structure_index(preds, target, self.grey)


class RegionMetric(ImageMetric):
    """A score of the marked region of each image.

    Args:
        grey: compare grey values.
        **kwargs: see :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grey = grey

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B,) scores of images (B, 3, H, W) in [0, 1] where ``mask`` (B, H, W) is not 0; NaN for an empty region."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a region is scored")

    def update(self, preds: Tensor, target: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Add images, (B, 3, H, W) in [0, 1], and their regions, (B, H, W).

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(self.per_region(preds, target, mask))


class SSIMr(RegionMetric):
    """SSIM of a region; see :func:`functional.regional_ssim`."""

    title = "SSIMr"

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.regional_ssim(preds, target, mask, self.grey)


class SIr(RegionMetric):
    """SI of a region; see :func:`functional.regional_si`."""

    title = "SIr"

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.regional_si(preds, target, mask, self.grey)
