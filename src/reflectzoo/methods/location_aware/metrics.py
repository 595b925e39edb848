"""How well a confidence map tells where the reflection dominates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.classification import binary_auroc

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.composition import confidence_map
from reflectzoo.ops.checks import check_same_shape
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.distributed import across_any


def confidence_auc(confidence: Tensor, transmission: Tensor, reflection: Tensor) -> Tensor:
    """Area under the ROC curve of a map against the pixels where the true reflection is brighter than the transmission.

    It is the probability that the map is higher at a random pixel where the reflection dominates than at a random one
    of the same picture where it does not: 1 for a map that marks it, 0.5 for one that knows nothing of it. Own measure;
    Dong et al., ICCV 2021, show their maps and do not score them.

    Args:
        confidence: C, (B, 1, H, W), any values, higher where the reflection dominates.
        transmission: true T, (B, 3, H, W) in [0, 1].
        reflection: true R, likewise, as it lies in the mixture.

    Returns:
        (B,) in [0, 1]; NaN for a picture where one of the layers dominates everywhere.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> truth = torch.tensor([0.0, 0.2, 0.6, 0.8]).expand(1, 3, 1, 4)
        >>> confidence_auc(truth[:, :1], torch.full_like(truth, 0.5), truth)
        tensor([1.])
    """
    check_same_shape(transmission=transmission, reflection=reflection)
    check_same_shape(confidence=confidence, truth=transmission[:, :1])
    dominated = luminance(reflection) > luminance(transmission)
    areas = []
    for scores, marks in zip(confidence.detach().float().flatten(1), dominated.flatten(1), strict=True):
        one_sided = bool(marks.all() or not marks.any())
        areas.append(scores.new_tensor(float("nan")) if one_sided else binary_auroc(scores, marks.long()))
    return torch.stack(areas)


class ConfidenceMetrics(nn.Module):
    """Mean of :func:`confidence_auc` over one data set: of the map of the last iteration, as ``confidence_auc``.

    Pictures whose layers are unknown, or one of which dominates everywhere, do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.auc = MeanMetric()

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch; one of a network without a confidence map adds nothing."""
        if "confidence" not in outputs.get("aux", {}):
            return
        known = batch["has_transmission"] & batch["has_reflection"]
        if not known.any():
            return
        areas = confidence_auc(confidence_map(outputs)[known], batch["transmission"][known], batch["reflection"][known])
        decided = areas[areas.isfinite()]
        if len(decided):
            self.auc.update(decided)

    def compute(self) -> dict[str, Tensor]:
        """The mean, if any picture counted."""
        # A process without a picture of its own must still take part in the others' sums.
        return {"confidence_auc": self.auc.compute()} if across_any(self.auc.update_called, self.auc.device) else {}

    def reset(self) -> None:
        """Forget everything."""
        self.auc.reset()
