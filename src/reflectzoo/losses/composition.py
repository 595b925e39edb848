"""What the layers and the confidence map of Location-aware SIRR must compose to."""

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
"""Exponent of the inverse gamma correction; the paper does not say which, its predecessors' programs have 2.2."""

_DARKEST = 0.01  # what brightness is bounded by from below, in squared stored values: 0.1 of full white

_AVERAGED = 9  # pixels a side over which a difference of real pairs is averaged

_GREY = (0.299, 0.587, 0.114)


def linear_light(image: Tensor) -> Tensor:
    """Inverse gamma correction; negative values count as 0."""
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
    light 1 - C would be the blend's constant alpha wherever nothing is clipped, and locate nothing.)

    Args:
        confidence: C, (B, 1, H, W) in [0, 1], 1 where the reflection dominates.
        transmission: true T, (B, 3, H, W) in [0, 1], gamma-corrected as files hold it.
        reflection: true R, likewise, as it lies in the mixture.
        mixture: I, likewise.
        valid: (B,) bool, the samples that count; all when None.
        relative: own variant: every pixel's error divided by its brightness, the mean of T^2 over the channels plus
            0.01. As published an error of C counts T^2 times, hence hardly where T is dark, which is where reflections
            dominate; divided, it counts about the same wherever T is not nearly black.

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

    Dong et al., ICCV 2021, equation 6 and the text below equation 8; one of its two forms. First in IBCLN (Li et al.,
    CVPR 2020).

    Args:
        transmission: T, true or predicted, (B, 3, H, W), gamma-corrected.
        reflection: R, predicted or true, likewise.
        mixture: I, likewise.
        alpha: (B,), the blend's weight of the transmission; not looked at where a sample is not valid.
        valid: (B,) bool, the samples that count; all when None.

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
        # Unknown ones are NaN, and NaN times a zero mask would still be NaN on the way back.
        alpha = torch.where(valid, alpha, torch.zeros_like(alpha))
    weight = alpha.to(mixture.device, full_precision(mixture).dtype).view(-1, 1, 1, 1)
    composed = weight * linear_light(transmission) + linear_light(reflection)
    return mse_loss(composed, linear_light(mixture), valid)


def reflection_mask(mixture: Tensor, transmission: Tensor, threshold: float = 0.3) -> Tensor:
    """Where a true pair differs much: the thresholded truth that the paper compares its own loss with.

    Dong et al., ICCV 2021, below equation 16, after Qian et al., CVPR 2018: with D the grey version of the absolute
    difference of I and T, 1 where D is above max(min D + b (max D - min D), b).

    Args:
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: T, same shape.
        threshold: b.

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
"""A difference of grey values, of full white, that anyone sees."""


def difference_mask(mixture: Tensor, transmission: Tensor, threshold: float = CLEARLY_VISIBLE) -> Tensor:
    """Where a true pair visibly differs: own truth for real pairs, whose reflections nobody knows.

    The signed difference is averaged over 9x9 pixels first, so that a pair shifted by less than a pixel differs hardly
    more along its edges than elsewhere.

    Args:
        mixture: I, (B, 3, H, W) in [0, 1].
        transmission: T, same shape.
        threshold: what the difference must exceed.

    Returns:
        (B, 1, H, W), 1 where the averaged difference of the grey I and T is above the threshold, or below minus it.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(mixture=mixture, transmission=transmission)
    difference = luminance(full_precision(mixture)) - luminance(full_precision(transmission))
    margin = _AVERAGED // 2
    difference = F.avg_pool2d(F.pad(difference, (margin,) * 4, mode="replicate"), _AVERAGED, stride=1)
    return (difference.abs() > threshold).to(difference.dtype)


class ConfidenceLoss(LossTerm):
    """:func:`confidence_loss` of ``aux["confidence"]``; samples whose true layers are unknown are left out.

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

    Dong et al., ICCV 2021, equation 16, one iteration: an ablation in Table 3. Real pairs count, too.

    Args:
        threshold: of the mask, in [0, 1].
        balanced: ours: the mask is :func:`difference_mask`, and in each picture the pixels that are marked weigh as
            much as those that are not.
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
        # Not with logits, which the network does not return; autocast forbids this form in half precision.
        with torch.autocast(confidence.device.type, enabled=False):
            entropy = F.binary_cross_entropy(confidence, truth, reduction="none")
        if self.balanced:
            share = truth.mean(dim=(1, 2, 3), keepdim=True).clamp(1e-4, 1 - 1e-4)
            entropy = entropy * (truth / (2 * share) + (1 - truth) / (2 * (1 - share)))
        return masked_mean(entropy, batch["has_transmission"])


class CompositionLoss(LossTerm):
    """The sum of :func:`composition_loss` in several forms: some layers predicted, the other ones true.

    By default true T with predicted R, plus predicted T with true R: Dong et al., ICCV 2021, L_res below equation 8.
    Needs ``alpha`` among the batch's draws, as ``synthesis=location_aware``, ``ibcln`` and ``zhang`` have it. Samples
    without it or without a true reflection, such as real pairs, are left out.

    Args:
        forms: for each form, the layers that are predicted in it. IBCLN's residual reconstruction loss is
            ``[[transmission, reflection]]``, its loss on the reflection ``[[reflection]]``.
        decimals: to how many decimals alpha is rounded; None leaves it as it was drawn. IBCLN's program: 1.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.

    Raises:
        UserError: if there is no form, or one predicts nothing or an unknown layer.
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
            UserError: if the samples were synthesised without an alpha.
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
    """``aux["confidence"]``, of the last iteration if there are several.

    Raises:
        UserError: if the network predicts none.
    """
    maps = aux_output(outputs, "confidence")
    return cast(Tensor, maps[-1] if isinstance(maps, list) else maps)
