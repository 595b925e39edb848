"""How well a confidence map tells where the reflection dominates."""

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
    return _areas(confidence, luminance(reflection) > luminance(transmission))


def difference_auc(confidence: Tensor, mixture: Tensor, transmission: Tensor) -> Tensor:
    """Area under the ROC curve of a map against the pixels where a photograph visibly differs from its truth.

    Those whose difference |I - T| (grey, averaged over 9x9 pixels) is above a tenth of full white, see
    :func:`~reflectzoo.losses.composition.difference_mask`. For real pairs, whose reflection nobody knows. Own measure.

    Args:
        confidence: C, (B, 1, H, W), any values, higher where there is a reflection.
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: true T, likewise.

    Returns:
        (B,) in [0, 1]; NaN for a picture that visibly differs from its truth nowhere, or everywhere.

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
    """One area for each picture; NaN where all pixels are marked, or none."""
    areas = []
    for scores, marks in zip(confidence.detach().float().flatten(1), marked.flatten(1), strict=True):
        one_sided = bool(marks.all() or not marks.any())
        areas.append(scores.new_tensor(float("nan")) if one_sided else binary_auroc(scores, marks.long()))
    return torch.stack(areas)


class ConfidenceMetrics(nn.Module):
    """Means over one data set, of the map of the last iteration.

    ``confidence_auc``: of :func:`confidence_auc`, where both layers are known; ``difference_auc``: of
    :func:`difference_auc`, where the transmission is. Pictures for which an area is not defined do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric() for name in ("confidence_auc", "difference_auc")})

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add a batch; one of a network without a confidence map adds nothing."""
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
        """The means for which any picture counted."""
        found = {}
        for name, mean in self.means.items():
            # A process without a picture of its own must still take part in the others' sums.
            if across_any(cast(MeanMetric, mean).update_called, cast(MeanMetric, mean).device):
                found[name] = cast(MeanMetric, mean).compute()
        return found

    def reset(self) -> None:
        """Forget everything."""
        for mean in self.means.values():
            cast(MeanMetric, mean).reset()
