"""Composition losses of Location-aware SIRR and IBCLN, and losses on the confidence map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.annotations import Share
from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output, predicted
from reflectzoo.losses.pixel import mse_loss
from reflectzoo.ops.checks import check_same_shape, full_precision
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.distributed import masked_mean

_GAMMA = 2.2
"""Exponent of the inverse gamma correction; not stated in the paper, 2.2 in the programs of its predecessors."""

_DARKEST = 0.01  # added to the squared brightness, so that the brightness is at least 0.1 of full white

_AVERAGED = 9  # side in pixels of the window over which differences of real pairs are averaged

_GREY = (0.299, 0.587, 0.114)


def linear_light(image: Tensor) -> Tensor:
    """Apply inverse gamma correction (exponent 2.2); negative values are clamped to 0."""
    return full_precision(image).clamp(min=0) ** _GAMMA


def confidence_loss(
    confidence: Tensor,
    transmission: Tensor,
    reflection: Tensor,
    mixture: Tensor,
    valid: Tensor | None = None,
    relative: bool = False,
) -> Tensor:
    """Mean squared error of (1 - C) T + R against I.

    Dong et al., ICCV 2021, equations 7 and 8, one iteration, as published: on the gamma-corrected images. (In linear
    light, 1 - C would equal the blend's constant alpha wherever nothing is clipped, and would locate nothing.)

    Args:
        confidence: C, (B, 1, H, W) in [0, 1], 1 where the reflection dominates.
        transmission: true T, (B, 3, H, W) in [0, 1], gamma-corrected as in image files.
        reflection: true R as it appears in the mixture, same shape and encoding.
        mixture: I, same shape and encoding.
        valid: (B,) bool, samples to include; None for all.
        relative: variant of ours: the squared error of each pixel is divided by its brightness, the mean of T^2 over
            the channels plus 0.01. As published, an error of C is weighted by T^2, hence hardly counts where T is dark,
            although reflections dominate there; after the division, it counts about equally unless T is nearly black.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.ones(1, 3, 2, 2)
        >>> confidence_loss(torch.full((1, 1, 2, 2), 0.5), 0.5 * image, 0.25 * image, image)  # (0.25 + 0.25 - 1)^2
        tensor(0.2500)
    """
    check_same_shape(transmission=transmission, reflection=reflection, mixture=mixture)
    check_same_shape(confidence=confidence[:, :1], mixture=mixture[:, :1])
    composed = (1 - full_precision(confidence)) * transmission + reflection
    if relative:
        brightness = (full_precision(transmission).square().mean(dim=1, keepdim=True) + _DARKEST).sqrt()
        composed, mixture = composed / brightness, mixture / brightness
    return mse_loss(composed, mixture, valid)


def composition_loss(
    transmission: Tensor, reflection: Tensor, mixture: Tensor, alpha: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Mean squared error of alpha T + R against I, all in linear light.

    Dong et al., ICCV 2021, equation 6 and the text below equation 8; one of its two forms. First proposed in IBCLN (Li
    et al., CVPR 2020).

    Args:
        transmission: T, true or predicted, (B, 3, H, W), gamma-corrected.
        reflection: R, predicted or true, same shape and encoding.
        mixture: I, same shape and encoding.
        alpha: (B,), weight of the transmission in the blend; ignored for samples that are not valid.
        valid: (B,) bool, samples to include; None for all.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.ones(1, 3, 2, 2)
        >>> composition_loss(image, 0 * image, image, torch.tensor([0.5]))
        tensor(0.2500)
    """
    check_same_shape(transmission=transmission, reflection=reflection, mixture=mixture)
    if valid is not None:
        # Unknown alphas are NaN, and a zero mask would not keep NaN out of the gradients.
        alpha = torch.where(valid, alpha, torch.zeros_like(alpha))
    weight = alpha.to(mixture.device, full_precision(mixture).dtype).view(-1, 1, 1, 1)
    composed = weight * linear_light(transmission) + linear_light(reflection)
    return mse_loss(composed, linear_light(mixture), valid)


def reflection_mask(mixture: Tensor, transmission: Tensor, threshold: float = 0.3) -> Tensor:
    """Mask of large differences in a true pair: the thresholded ground truth of the paper's ablation.

    Dong et al., ICCV 2021, below equation 16, after Qian et al., CVPR 2018: with D the grey version of the absolute
    difference of I and T, the mask is 1 where D exceeds max(min D + b (max D - min D), b).

    Args:
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: T, same shape.
        threshold: b, in [0, 1].

    Returns:
        (B, 1, H, W), 0 or 1.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(mixture=mixture, transmission=transmission)
    difference = (full_precision(mixture) - full_precision(transmission)).abs()
    grey = (difference * difference.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    low, high = grey.amin(dim=(1, 2, 3), keepdim=True), grey.amax(dim=(1, 2, 3), keepdim=True)
    return (grey > (low + threshold * (high - low)).clamp(min=threshold)).to(grey.dtype)


CLEARLY_VISIBLE = 0.1
"""Difference of grey values in [0, 1] that is clearly visible."""


def difference_mask(mixture: Tensor, transmission: Tensor, threshold: float = CLEARLY_VISIBLE) -> Tensor:
    """Mask of visible differences in a true pair: ground truth of ours for real pairs, whose reflection is unknown.

    The signed difference is first averaged over 9x9 pixels, so that a misalignment of less than a pixel hardly matters
    along edges.

    Args:
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: T, same shape.
        threshold: lower bound of the absolute difference, in [0, 1].

    Returns:
        (B, 1, H, W), 1 where the absolute averaged difference of grey I and T exceeds the threshold, otherwise 0.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(mixture=mixture, transmission=transmission)
    difference = luminance(full_precision(mixture)) - luminance(full_precision(transmission))
    margin = _AVERAGED // 2
    difference = F.avg_pool2d(F.pad(difference, (margin,) * 4, mode="replicate"), _AVERAGED, stride=1)
    return (difference.abs() > threshold).to(difference.dtype)


class ConfidenceLoss(LossTerm):
    """:func:`confidence_loss` of ``aux["confidence"]``; excludes samples unless both true layers are known.

    Args:
        relative: see :func:`confidence_loss`.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
    """

    def __init__(
        self, relative: bool = False, weight: float | Sequence[float] = 1.0, start_epoch: int | Sequence[int] = 0
    ) -> None:
        super().__init__(weight, start_epoch)
        self.relative = relative

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        valid = batch["has_transmission"] & batch["has_reflection"]
        layers = (batch["transmission"], batch["reflection"], batch["mixture"])
        return confidence_loss(confidence_map(outputs), *layers, valid, self.relative)


class ConfidenceMaskLoss(LossTerm):
    """Binary cross entropy of ``aux["confidence"]`` against :func:`reflection_mask`.

    Dong et al., ICCV 2021, equation 16, one iteration: an ablation in Table 3. Includes real pairs.

    Args:
        threshold: threshold of the mask, in [0, 1].
        balanced: variant of ours: the mask is :func:`difference_mask`, and the pixels of each picture are weighted such
            that those inside and outside of the mask have the same total weight.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: for a threshold out of bounds.
    """

    def __init__(
        self,
        threshold: Share = 0.3,
        balanced: bool = False,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        self.threshold = threshold
        self.balanced = balanced

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        confidence = full_precision(confidence_map(outputs))
        layers = batch["mixture"], batch["transmission"]
        truth = (difference_mask if self.balanced else reflection_mask)(*layers, self.threshold)
        check_same_shape(confidence=confidence, truth=truth)
        # The network returns no logits, and autocast does not allow this form of the loss in half precision.
        with torch.autocast(confidence.device.type, enabled=False):
            entropy = F.binary_cross_entropy(confidence, truth, reduction="none")
        if self.balanced:
            share = truth.mean(dim=(1, 2, 3), keepdim=True).clamp(1e-4, 1 - 1e-4)
            entropy = entropy * (truth / (2 * share) + (1 - truth) / (2 * (1 - share)))
        return masked_mean(entropy, batch["has_transmission"])


class CompositionLoss(LossTerm):
    """Sum of :func:`composition_loss` over several forms, each with some layers predicted and the others true.

    By default, true T with predicted R, plus predicted T with true R: Dong et al., ICCV 2021, L_res below equation 8.
    Requires ``alpha`` among the batch's draws, as in ``synthesis=location_aware``, ``ibcln`` and ``zhang``. Excludes
    samples without alpha or without either true layer, such as real pairs.

    Args:
        forms: for each form, its predicted layers. IBCLN's residual reconstruction loss is
            ``[[transmission, reflection]]``, its loss on the reflection ``[[reflection]]``.
        decimals: decimal places to which alpha is rounded; None for no rounding. IBCLN's program: 1.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: if there is no form, or a form is empty or contains an unknown layer.
    """

    def __init__(
        self,
        forms: Sequence[Sequence[Layer]] = (("reflection",), ("transmission",)),
        decimals: int | None = None,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, start_epoch)
        if not forms or not all(forms):
            raise UserError("forms of the composition loss must name at least one layer for each form.")
        self.forms = tuple(tuple(form) for form in forms)
        self.decimals = decimals

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if the synthesis does not draw an alpha, or the network does not predict a layer.
        """
        device = outputs["transmission"].device
        draws = batch.get("draws", {})
        if "alpha" in draws:
            alpha = draws["alpha"].to(device)
            if self.decimals is not None:
                alpha = torch.round(alpha, decimals=self.decimals)
        elif draws:
            raise UserError(
                "The composition loss needs the weight of the transmission, alpha, which this synthesis does not "
                "draw: use synthesis=location_aware, ibcln or zhang, or remove the term (~loss.terms.<name>)."
            )
        else:
            alpha = torch.full((len(batch["mixture"]),), float("nan"), device=device)
        known = batch["has_transmission"] & batch["has_reflection"] & torch.isfinite(alpha)
        values = []
        for form in self.forms:
            transmission, reflection = (
                predicted(outputs, layer) if layer in form else batch[layer] for layer in ("transmission", "reflection")
            )
            values.append(composition_loss(transmission, reflection, batch["mixture"], alpha, known))
        return torch.stack(values).sum()


def confidence_map(outputs: Outputs) -> Tensor:
    """``aux["confidence"]``, that of the last iteration if there are several.

    Raises:
        UserError: if the network does not predict a confidence map.
    """
    maps = aux_output(outputs, "confidence")
    return cast(Tensor, maps[-1] if isinstance(maps, list) else maps)
