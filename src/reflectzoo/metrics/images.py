"""The field's scores as torchmetrics classes: one value per image, then the mean over images.

Each score is a class that declares its key (its name in ``protocol.metrics``), title, unit, digits and direction, which
tables, reports and comparisons use. A protocol selects scores by key, or by the path of your own class
(``my_package.scores.Sharpness``).

>>> metric = ChannelPSNR()
>>> truth = torch.zeros(2, 3, 32, 32)
>>> metric.update(truth + 0.1, truth)
>>> metric.update(truth, truth)  # equal images score 100 dB, not infinity
>>> round(metric.compute().item(), 4)
60.0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from reflectzoo.metrics import functional

if TYPE_CHECKING:
    from reflectzoo.evaluation.protocol import Protocol


class ImageMetric(Metric):
    """Mean over images of a score per image, accumulated in double precision.

    Images for which the score is not defined (see :mod:`reflectzoo.metrics.functional`) are excluded. Subclasses
    implement :meth:`per_image`.

    Attributes:
        key: name of the score in ``protocol.metrics``, in result files and on command lines; empty for base classes.
        variant: if several classes share a key, the value of the protocol's attribute of that name that selects this
            class, e.g. ``pooled`` of ``protocol.psnr``.
        title: for display.
        unit: for display.
        digits: decimal places for display.
        higher_is_better: None if the score has no direction.
        regional: whether it scores marked regions, which requires ``masks``.
        blind: whether it needs no ground truth, but uses the prediction and the untouched input.
    """

    full_state_update = False
    key: ClassVar[str] = ""
    variant: ClassVar[str] = ""
    title: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 3
    regional: ClassVar[bool] = False
    blind: ClassVar[bool] = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @classmethod
    def for_protocol(cls, protocol: Protocol) -> ImageMetric:
        """Create the score with the options of a protocol."""
        return cls()

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Description of the score for a result file."""
        return {
            "key": cls.key,
            "title": cls.title,
            "unit": cls.unit,
            "digits": cls.digits,
            "higher_is_better": cls.higher_is_better,
            "blind": cls.blind,
        }

    def prepare(self) -> None:
        """Load what the score needs, such as weights, before anything is scored; does nothing by default.

        Raises:
            UserError: if something is not available.
        """

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1]; NaN for an image whose score is not defined."""
        raise NotImplementedError(f"{type(self).__name__} does not say how an image is scored")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add predictions and ground truth, both (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(self.per_image(preds, target))

    def _add(self, scores: Tensor) -> None:
        defined = ~scores.isnan()
        self.total += scores[defined].double().sum()
        self.count += defined.sum()

    def compute(self) -> Tensor:
        """The mean over all images so far; NaN if none was scored."""
        return self.total / self.count


class BlindMetric(ImageMetric):
    """Base class of scores without ground truth: ``per_image`` takes the prediction and the untouched input."""

    blind = True


class ChannelPSNR(ImageMetric):
    """PSNR per colour channel, averaged over channels, then over images; see :func:`functional.channel_psnr`."""

    higher_is_better = True
    key = "psnr"
    variant = "per_channel"
    digits = 2
    title, unit = "PSNR", "dB"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) in dB."""
        return functional.channel_psnr(preds, target)


class PooledPSNR(ImageMetric):
    """PSNR of the error over all channels of an image, averaged over images; see :func:`functional.pooled_psnr`."""

    higher_is_better = True
    key = "psnr"
    variant = "pooled"
    digits = 2
    title, unit = "PSNR", "dB"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,) in dB."""
        return functional.pooled_psnr(preds, target)


class UniformSSIM(ImageMetric):
    """SSIM with scikit-image's uniform 7x7 window; see :func:`functional.uniform_ssim`."""

    higher_is_better = True
    key = "ssim"
    variant = "uniform7"
    title = "SSIM"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.uniform_ssim(preds, target)


class GaussianSSIM(ImageMetric):
    """SSIM with a Gaussian 11x11 window; see :func:`functional.gaussian_ssim`."""

    higher_is_better = True
    key = "ssim"
    variant = "gaussian11"
    title = "SSIM"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.gaussian_ssim(preds, target)


class LMSE(ImageMetric):
    """Local mean squared error, lower is better; see :func:`functional.lmse`."""

    higher_is_better = False
    key = "lmse"
    digits = 4
    title = "LMSE"

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), >= 0."""
        return functional.lmse(preds, target)


class NCC(ImageMetric):
    """Normalised cross-correlation; see :func:`functional.ncc`."""

    higher_is_better = True
    key = "ncc"
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
    key = "si"
    title = "SI"

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grey = grey

    @classmethod
    def for_protocol(cls, protocol: Protocol) -> ImageMetric:
        """Create the score for grey values or colours, as set by ``protocol.si``."""
        return cls(protocol.si == "grey")

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.structure_index(preds, target, self.grey)


class RegionMetric(ImageMetric):
    """Base class of scores within a marked region of each image.

    Args:
        grey: compare grey values.
        **kwargs: see :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    regional = True

    def __init__(self, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grey = grey

    @classmethod
    def for_protocol(cls, protocol: Protocol) -> ImageMetric:
        """Create the score for grey values or colours, as set by ``protocol.si``."""
        return cls(protocol.si == "grey")

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1] where ``mask`` (B, H, W) is not 0; NaN for an empty region."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a region is scored")

    def update(self, preds: Tensor, target: Tensor, mask: Tensor) -> None:  # type: ignore[override]
        """Add images, (B, 3, H, W) in [0, 1], and their regions, (B, H, W).

        Raises:
            ValueError: if the shapes differ.
        """
        self._add(self.per_region(preds, target, mask))


class SSIMr(RegionMetric):
    """SSIM within regions; see :func:`functional.regional_ssim`."""

    key = "ssimr"
    title = "SSIMr"

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.regional_ssim(preds, target, mask, self.grey)


class SIr(RegionMetric):
    """SI within regions; see :func:`functional.regional_si`."""

    key = "sir"
    title = "SIr"

    def per_region(self, preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B,), at most 1."""
        return functional.regional_si(preds, target, mask, self.grey)
