"""Metrics of confidence maps: how well they locate the reflection."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.classification import binary_auroc

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.losses.composition import confidence_map, difference_mask
from reflectzoo.ops.checks import check_same_shape
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.distributed import across_any


def confidence_auc(confidence: Tensor, transmission: Tensor, reflection: Tensor) -> Tensor:
    """Area under the ROC curve of a map for pixels whose true reflection is brighter than the true transmission.

    This is the probability that the map is higher at a random pixel where the reflection dominates than at a random
    pixel of the same image where it does not: 1 for a perfect map, 0.5 for an uninformative one. A measure of
    reflectzoo: Dong et al., ICCV 2021, show maps without scoring them.

    Args:
        confidence: C, (B, 1, H, W), any values, higher where the reflection dominates.
        transmission: true T, (B, 3, H, W) in [0, 1].
        reflection: true R, (B, 3, H, W) in [0, 1], as it appears in the mixture.

    Returns:
        (B,) in [0, 1]; NaN for an image where the same layer dominates everywhere.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> truth = torch.tensor([0.0, 0.2, 0.6, 0.8]).expand(1, 3, 1, 4)
        >>> confidence_auc(truth[:, :1], torch.full_like(truth, 0.5), truth)
        tensor([1.])
    """
    check_same_shape(transmission=transmission, reflection=reflection)
    check_same_shape(confidence=confidence, truth=transmission[:, :1])
    return _areas(confidence, luminance(reflection) > luminance(transmission))


def difference_auc(confidence: Tensor, mixture: Tensor, transmission: Tensor) -> Tensor:
    """Area under the ROC curve of a map for pixels where the photograph visibly differs from the true transmission.

    Those are the pixels whose difference |I - T| (grey, averaged over 9x9 pixels) exceeds 0.1, see
    :func:`~reflectzoo.losses.composition.difference_mask`. For real pairs, whose true reflection is unknown. A measure
    of reflectzoo.

    Args:
        confidence: C, (B, 1, H, W), any values, higher where there is a reflection.
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: true T, (B, 3, H, W) in [0, 1].

    Returns:
        (B,) in [0, 1]; NaN for an image that differs visibly nowhere, or everywhere.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> mixture = torch.full((1, 3, 1, 40), 0.5)
        >>> truth = torch.cat((mixture[..., :20], 0.5 * mixture[..., 20:]), -1)
        >>> difference_auc(torch.linspace(0, 1, 40).view(1, 1, 1, 40), mixture, truth)
        tensor([1.])
    """
    check_same_shape(confidence=confidence, truth=transmission[:, :1])
    return _areas(confidence, difference_mask(mixture, transmission).bool())


def _areas(confidence: Tensor, marked: Tensor) -> Tensor:
    """One area per image; NaN if all pixels are marked, or none."""
    areas = []
    for scores, marks in zip(confidence.detach().float().flatten(1), marked.flatten(1), strict=True):
        one_sided = bool(marks.all() or not marks.any())
        areas.append(scores.new_tensor(float("nan")) if one_sided else binary_auroc(scores, marks.long()))
    return torch.stack(areas)


class ConfidenceMetrics(nn.Module):
    """Mean scores over one data set of the last iteration's map.

    ``confidence_auc``: mean of :func:`confidence_auc`, where both layers are known; ``difference_auc``: mean of
    :func:`difference_auc`, where the transmission is known. Images with an undefined area are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric() for name in ("confidence_auc", "difference_auc")})

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch; outputs without a confidence map are ignored."""
        if "confidence" not in outputs.get("aux", {}):
            return
        confidence, transmission = confidence_map(outputs), batch["transmission"]
        known = batch["has_transmission"]
        if known.any():
            self._add("difference_auc", difference_auc(confidence[known], batch["mixture"][known], transmission[known]))
        known = known & batch["has_reflection"]
        if known.any():
            areas = confidence_auc(confidence[known], transmission[known], batch["reflection"][known])
            self._add("confidence_auc", areas)

    def _add(self, name: str, areas: Tensor) -> None:
        decided = areas[areas.isfinite()]
        if len(decided):
            cast(MeanMetric, self.means[name]).update(decided)

    def compute(self) -> dict[str, Tensor]:
        """The means to which at least one image contributed."""
        found = {}
        for name, mean in self.means.items():
            # A process without any image must still take part in the others' reductions.
            if across_any(cast(MeanMetric, mean).update_called, cast(MeanMetric, mean).device):
                found[name] = cast(MeanMetric, mean).compute()
        return found

    def reset(self) -> None:
        """Reset all metrics."""
        for mean in self.means.values():
            cast(MeanMetric, mean).reset()
