"""Perceptual loss of the transmission at several scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import aux_output, predicted
from reflectzoo.losses.perceptual import feature_loss, layers_for
from reflectzoo.nets.shared_vgg import FeatureNet, UsesVGG
from reflectzoo.ops.checks import full_precision

SECOND_CONVOLUTIONS: Mapping[str, float] = {f"relu{block}_2": 1.0 for block in range(1, 6)}
"""Dong et al., ICCV 2021, below equation 10: "the layers conv k_2 (k = 1...5)". The paper does not state their weights
and whether the ReLU is included; here it is, with equal weights."""

SCALES: Mapping[str, float] = {"full": 1.0, "half": 0.8, "quarter": 0.6}
"""The same paper: gamma of the last, third and fifth last layer of the auto-encoder."""


class MultiScalePerceptualLoss(UsesVGG, LossTerm):
    """``sum over scales of gamma * perceptual loss`` of the transmission and its coarse versions.

    Dong et al., ICCV 2021, equation 10. The coarse predictions are ``aux["half"]`` and ``aux["quarter"]`` (of the last
    iteration, if they are lists); the ground truth is resized to match them (bilinear, antialiased). Samples without a
    true transmission are excluded.

    Args:
        scales: ``full``, ``half``, ``quarter`` -> weight; scales with weight 0 are skipped.
        layers: VGG-19 layer -> weight, by default :data:`SECOND_CONVOLUTIONS`; for EfficientNet-Lite0
            see :func:`~reflectzoo.losses.perceptual.layers_for`.
        normalise: whether to normalise images for VGG with ImageNet's mean and standard deviation.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
        features: ``vgg19``, or ``efficientnet_lite0``, which needs no download.

    Raises:
        UserError: for an unknown scale or feature network, or if no scale or layer is left.
    """

    def __init__(
        self,
        scales: Mapping[str, float] = SCALES,
        layers: Mapping[str, float] | None = None,
        normalise: bool = True,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
        features: FeatureNet = "vgg19",
    ) -> None:
        super().__init__(weight, start_epoch)
        self.features = features
        unknown = [name for name in scales if name not in SCALES]
        if unknown:
            raise UserError(
                f"scales of the multi-scale perceptual loss names '{unknown[0]}', but knows only {', '.join(SCALES)}."
            )
        self.scales = {name: float(factor) for name, factor in scales.items() if factor}
        layers = SECOND_CONVOLUTIONS if layers is None else layers
        self.layers = layers_for(features, layers, "layers of the multi-scale perceptual loss")
        if not self.scales or not self.layers:
            raise UserError("The multi-scale perceptual loss needs at least one scale and one VGG layer.")
        self.normalise = normalise

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0.

        Raises:
            UserError: if the network has no coarse transmissions, or they are too small for the deepest VGG-19 layer.
            ValueError: for an unknown VGG-19 layer.
        """
        total = outputs["transmission"].new_zeros((), dtype=full_precision(outputs["transmission"]).dtype)
        for name, factor in self.scales.items():
            prediction = predicted(outputs, "transmission") if name == "full" else _coarse(outputs, name)
            self._check_size(prediction, name)
            truth = full_precision(batch["transmission"])
            if truth.shape[-2:] != prediction.shape[-2:]:
                truth = F.interpolate(
                    truth, prediction.shape[-2:], mode="bilinear", align_corners=False, antialias=True
                )
            value = feature_loss(self, prediction, truth, self.layers, batch["has_transmission"], self.normalise)
            total = total + factor * value
        return total

    def _check_size(self, prediction: Tensor, name: str) -> None:
        if self.features != "vgg19":
            return  # EfficientNet rounds sizes up, so that its maps are never empty
        deepest = max(int(layer[4]) for layer in self.layers)
        least = 2 ** (deepest - 1)
        if min(prediction.shape[-2:]) < least:
            height, width = prediction.shape[-2:]
            times = {"full": 1, "half": 2, "quarter": 4}[name]
            raise UserError(
                f"The perceptual loss at {name} size gets {height}x{width} pixels, but VGG-19's block {deepest} needs "
                f"{least} per side: set data.crop to {least * times} or more, or loss.terms.<name>.scales.{name}=0."
            )


def _coarse(outputs: Outputs, name: str) -> Tensor:
    images = aux_output(outputs, name)
    return cast(Tensor, images[-1] if isinstance(images, list) else images)
