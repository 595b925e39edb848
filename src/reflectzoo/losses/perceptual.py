"""Perceptual losses: distances between features of VGG-19, as in the papers, or of EfficientNet-Lite0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reflectzoo.core.batch import Batch, Layer, Outputs
from reflectzoo.errors import UserError, check_choice
from reflectzoo.losses.base import LossTerm
from reflectzoo.losses.layers import layer_pair
from reflectzoo.losses.pixel import l1_loss
from reflectzoo.nets.shared_vgg import FeatureNet, UsesVGG
from reflectzoo.ops.checks import check_same_shape, full_precision

if TYPE_CHECKING:
    from reflectzoo.nets.vgg import VGG19

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PROGRAM_LAYERS: Mapping[str, float] = {
    "relu1_1": 1 / 2.6,
    "relu2_1": 1 / 4.8,
    "relu3_1": 1 / 3.7,
    "relu4_1": 1 / 5.6,
    "relu5_1": 10 / 1.5,
}
"""Layers and weights of the programs of YTMT, ERRNet and DSRNet."""

PAPER_LAYERS: Mapping[str, float] = {
    "relu1_2": 0.38,
    "relu2_2": 0.21,
    "relu3_2": 0.27,
    "relu4_2": 0.18,
    "relu5_2": 6.67,
}
"""YTMT, NeurIPS 2021, below Eq. (4), our reading.

The text names four layers (conv2_2 to conv5_2) but gives five weights. They are the rounded weights of Chen and
Koltun, ICCV 2017, and of Zhang et al., CVPR 2018, who use conv1_2 to conv5_2 after the ReLU; we therefore assume that
conv1_2 was omitted by mistake.
"""


EFFICIENTNET_LAYERS: Mapping[str, float] = {
    "stride2": 0.42,
    "stride4": 0.33,
    "stride8": 0.30,
    "stride16": 0.32,
    "stride32": 0.72,
}
"""Inverse of the mean absolute difference of each map between 16 mixtures (``synthesis=ceilnet``, held-out photographs)
and their transmissions, so that all maps contribute equally."""


def imagenet_normalised(image: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel.

    Args:
        image: (B, 3, H, W), RGB in [0, 1].

    Returns:
        Same shape.
    """
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def vgg_features(
    vgg: VGG19, prediction: Tensor, target: Tensor, layers: Sequence[str], normalise: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """VGG-19 feature maps of a prediction and, without gradients, of its target, in the order of ``layers``.

    Arguments and errors as for :func:`perceptual_loss`.
    """
    check_same_shape(prediction=prediction, target=target)
    images = full_precision(prediction), full_precision(target)
    if normalise:
        images = imagenet_normalised(images[0]), imagenet_normalised(images[1])
    found = vgg(images[0], layers)
    with torch.no_grad():
        wanted = vgg(images[1], layers)
    return found, wanted


def perceptual_loss(
    vgg: VGG19,
    prediction: Tensor,
    target: Tensor,
    layers: Mapping[str, float] = PROGRAM_LAYERS,
    valid: Tensor | None = None,
    normalise: bool = True,
) -> Tensor:
    """Weighted sum of the mean absolute differences of VGG-19 features.

    YTMT, NeurIPS 2021, Eq. (4), for one of the two image layers.

    Args:
        vgg: frozen network.
        prediction: (B, 3, H, W), RGB, about [0, 1].
        target: same shape; no gradient flows to it.
        layers: name -> weight, e.g. ``{"relu1_1": 0.4}``.
        valid: (B,) bool, samples to include; None for all.
        normalise: whether to normalise images for VGG with ImageNet's mean and standard deviation.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ, or VGG-19 has no such layer.
    """
    found, wanted = vgg_features(vgg, prediction, target, list(layers), normalise)
    total = full_precision(prediction).new_zeros(())
    for weight, a, b in zip(layers.values(), found, wanted, strict=True):
        total = total + weight * l1_loss(a, b, valid)
    return total


def efficientnet_loss(
    looker: UsesVGG,
    prediction: Tensor,
    target: Tensor,
    layers: Mapping[str, float] = EFFICIENTNET_LAYERS,
    valid: Tensor | None = None,
) -> Tensor:
    """:func:`perceptual_loss` with features of EfficientNet-Lite0, which needs no download; a variant of ours.

    Args:
        looker: provides the features, see :meth:`UsesVGG.efficientnet_maps`.
        prediction: (B, 3, H, W), RGB, about [0, 1].
        target: same shape; no gradient flows to it.
        layers: ``stride2`` to ``stride32`` -> weight.
        valid: (B,) bool, samples to include; None for all.

    Returns:
        Scalar >= 0; zero if no sample is valid.

    Raises:
        ValueError: if the shapes differ.
        UserError: if the weights are not installed.
    """
    check_same_shape(prediction=prediction, target=target)
    # In half precision, small differences of such large features would be lost.
    with torch.autocast(prediction.device.type, enabled=False):
        found = looker.efficientnet_maps(full_precision(prediction))
        with torch.no_grad():
            wanted = looker.efficientnet_maps(full_precision(target))
    total = full_precision(prediction).new_zeros(())
    for name, weight in layers.items():
        level = list(EFFICIENTNET_LAYERS).index(name)
        total = total + weight * l1_loss(found[level], wanted[level], valid)
    return total


def feature_loss(
    looker: UsesVGG,
    prediction: Tensor,
    target: Tensor,
    layers: Mapping[str, float],
    valid: Tensor | None = None,
    normalise: bool = True,
) -> Tensor:
    """:func:`perceptual_loss` or :func:`efficientnet_loss`, depending on ``looker.features``."""
    if looker.features == "efficientnet_lite0":
        return efficientnet_loss(looker, prediction, target, layers, valid)
    return perceptual_loss(looker.vgg, prediction, target, layers, valid, normalise)


def layers_for(features: FeatureNet, layers: Mapping[str, float], setting: str) -> dict[str, float]:
    """Layers and weights of a loss for the chosen feature network.

    Recipes name layers of VGG-19. With EfficientNet-Lite0, these are replaced by :data:`EFFICIENTNET_LAYERS`, so that a
    single override changes the features of any recipe. Names of VGG-19 layers are not checked here, but in its forward
    pass.

    Args:
        features: the feature network.
        layers: name -> weight.
        setting: name of the setting, for the message.

    Raises:
        UserError: for a name that is not a layer of EfficientNet-Lite0, if that is chosen.
    """
    if features == "vgg19":
        return dict(layers)
    if all(name.startswith(("conv", "relu")) for name in layers):
        return dict(EFFICIENTNET_LAYERS)
    for name in layers:
        check_choice(setting, name, tuple(EFFICIENTNET_LAYERS))
    return dict(layers)


class PerceptualLoss(UsesVGG, LossTerm):
    """:func:`perceptual_loss` of one or both layers; excludes samples without ground truth for a layer.

    YTMT's released program applies it to the transmission only, with the first convolution of each block; the paper
    (Eq. (4)) to both layers, with the second one: ``applied_to=[transmission, reflection]``, ``layers=paper``.

    Args:
        applied_to: ``transmission`` and/or ``reflection``; their losses are added.
        layers: VGG layer -> weight, or ``program`` or ``paper`` for :data:`PROGRAM_LAYERS` or :data:`PAPER_LAYERS`.
        normalise: whether to normalise images for VGG with ImageNet's mean and standard deviation.
        weight: see :class:`LossTerm`.
        start_epoch: see :class:`LossTerm`.
        features: ``vgg19``, or ``efficientnet_lite0``, which needs no download; see :func:`layers_for` for its
            layers.

    Raises:
        UserError: for an unknown name in ``applied_to`` or ``features``, an unknown set or EfficientNet-Lite0 layer in
            ``layers``, or if one of them is empty. Unknown VGG-19 layers raise ``ValueError`` in ``forward``.
    """

    def __init__(
        self,
        applied_to: Sequence[Layer] = ("transmission",),
        layers: Mapping[str, float] | str = "program",
        normalise: bool = True,
        weight: float | Sequence[float] = 1.0,
        start_epoch: int | Sequence[int] = 0,
        features: FeatureNet = "vgg19",
    ) -> None:
        super().__init__(weight, start_epoch)
        self.features = features
        if isinstance(layers, str):
            check_choice("layers of the perceptual loss", layers, ("program", "paper"))
            layers = PROGRAM_LAYERS if layers == "program" else PAPER_LAYERS
        if not layers or not applied_to:
            raise UserError("The perceptual loss needs at least one VGG layer and one image layer (applied_to).")
        self.applied_to = tuple(applied_to)
        self.layers = layers_for(features, layers, "layers of the perceptual loss")
        self.normalise = normalise

    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted scalar >= 0."""
        total = outputs["transmission"].new_zeros((), dtype=torch.float32)
        for layer in self.applied_to:
            prediction, target, valid = layer_pair(outputs, batch, layer)
            total = total + feature_loss(self, prediction, target, self.layers, valid, self.normalise)
        return total
