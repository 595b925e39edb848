"""Validation metrics: PSNR and SSIM of each predicted layer and of the untouched input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image import StructuralSimilarityIndexMeasure

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.ops.distributed import across_any

SSIM_WINDOW = 11
"""Side of the Gaussian SSIM window in pixels; smaller images cannot be scored."""


class _ChannelPSNR(Metric):
    """PSNR per colour channel of each image, for values in [0, 1], averaged over all channels and images.

    ``torchmetrics.image.PeakSignalNoiseRatio`` stores lists for this; if one process has an empty list, gathering them
    fails, because 64-bit and 32-bit values are mixed, and the training crashes.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add images, (B, 3, H, W)."""
        values = peak_signal_noise_ratio(preds, target, data_range=1.0, dim=(2, 3), reduction="none")
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean, in dB."""
        return self.total / self.count


def _psnr_and_ssim(prefix: str) -> MetricCollection:
    # The field computes PSNR per colour channel of each image and then averages; torchmetrics by default pools the
    # error over the whole data set, which differs by decibels. SSIM has the 11x11 Gaussian window; its name differs
    # from the "ssim" of an evaluation with protocol=plain, which has the uniform 7x7 window.
    return MetricCollection(
        {
            "psnr": _ChannelPSNR(),
            "ssim_gaussian11": StructuralSimilarityIndexMeasure(data_range=1.0),
        },
        prefix=prefix,
        compute_groups=False,
    )


class LayerMetrics(nn.Module):
    """PSNR and SSIM of the transmission, of the reflection and of the untouched input, over one data set.

    ``psnr`` and ``ssim_gaussian11`` score the predicted transmission, ``input_…`` the mixture in place of the
    transmission (the baseline of doing nothing), ``reflection_…`` the predicted reflection. Predictions are first
    clamped to [0, 1]. Samples without ground truth are excluded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transmission = _psnr_and_ssim("")
        self.input = _psnr_and_ssim("input_")
        self.reflection = _psnr_and_ssim("reflection_")

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch.

        Raises:
            UserError: if the images are smaller than the SSIM window.
        """
        mixture = batch["mixture"]
        if min(mixture.shape[-2:]) < SSIM_WINDOW:
            height, width = mixture.shape[-2:]
            raise UserError(
                f"Pictures of {width}x{height} pixels cannot be scored, SSIM looks at {SSIM_WINDOW}x{SSIM_WINDOW}: "
                "take larger ones for validation and test, with data.eval_crop or data.eval_size."
            )
        known = batch["has_transmission"]
        if known.any():
            truth = batch["transmission"][known]
            self.transmission.update(_displayed(outputs["transmission"])[known], truth)
            self.input.update(_displayed(mixture)[known], truth)
        known = batch["has_reflection"]
        if "reflection" in outputs and known.any():
            truth = batch["reflection"][known].clamp(0, 1)
            self.reflection.update(_displayed(outputs["reflection"])[known], truth)

    def compute(self) -> dict[str, Tensor]:
        """Values of all metrics by name, except those without any sample."""
        values: dict[str, Tensor] = {}
        for collection in (self.transmission, self.input, self.reflection):
            first = next(iter(collection.values()))
            # A process without samples must still take part in the reduction.
            if across_any(bool(first.update_called), first.device):
                values.update(collection.compute())
        return values

    def reset(self) -> None:
        """Reset all metrics."""
        for collection in (self.transmission, self.input, self.reflection):
            collection.reset()


def _displayed(image: Tensor) -> Tensor:
    return image.detach().to(torch.float32).clamp(0, 1)
