"""Distances of deep features: LPIPS, DISTS, and two alternatives of ours, EFD and EFST, which need no download.

LPIPS and DISTS use AlexNet and VGG-16, trained on ImageNet; torchvision's weight files (244 and 553 MB) are downloaded
to torch.hub's cache when first needed, and checked by the hash in their names. The networks are implemented here, so
that torchvision is not required. The weights learnt from human judgements (6 and 12 kB) are included in torchmetrics.

EFD (EfficientNet feature distance) and EFST (EfficientNet structure and texture) are computed like LPIPS and DISTS, but
with features of EfficientNet-Lite0 and without weights learnt from human judgements. Their values are not comparable
with those of LPIPS and DISTS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.errors import UserError
from reflectzoo.metrics.functional import undefined_scores
from reflectzoo.metrics.images import ImageMetric
from reflectzoo.nets.efficientnet import efficientnet_lite0
from reflectzoo.weights.download import DownloadError, fetch_state_dict
from reflectzoo.weights.read import read_state_dict

ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Channels, kernel, stride, padding of AlexNet's convolutions by their index in torchvision's file; pooling before two.
_ALEXNET = {0: (64, 11, 4, 2), 3: (192, 5, 1, 2), 6: (384, 3, 1, 1), 8: (256, 3, 1, 1), 10: (256, 3, 1, 1)}
_ALEXNET_POOLED = (3, 6)
_VGG16 = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21)), (512, (24, 26, 28)))
_STABLE = 1e-6


# -- the networks -----------------------------------------------------------------------------------------------------


class AlexNet(nn.Module):
    """The convolutions of AlexNet ("one weird trick", Krizhevsky 2014), named as in torchvision; frozen."""

    channels = tuple(spec[0] for spec in _ALEXNET.values())

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        inputs = 3
        for place, (outputs, kernel, stride, padding) in _ALEXNET.items():
            self.features[str(place)] = nn.Conv2d(inputs, outputs, kernel, stride, padding)
            inputs = outputs
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps after the five ReLUs, of normalised images (B, 3, H, W) with sides of at least 63 pixels."""
        maps = []
        for place in _ALEXNET:
            x = F.max_pool2d(x, 3, 2) if place in _ALEXNET_POOLED else x
            x = F.relu(self.features[str(place)](x))
            maps.append(x)
        return maps


class SmoothVGG16(nn.Module):
    """The convolutions of VGG-16 with DISTS's pooling: the square root of 3x3 Hann-weighted squares; frozen."""

    channels = (3, *(block[0] for block in _VGG16))
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        inputs = 3
        for outputs, places in _VGG16:
            for place in places:
                self.features[str(place)] = nn.Conv2d(inputs, outputs, 3, padding=1)
                inputs = outputs
        taps = torch.from_numpy(np.hanning(5)[1:-1]).float()
        self.register_buffer("window", torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The image itself, (B, 3, H, W) in [0, 1], and the feature maps after the five blocks."""
        maps = [image]
        x = _normalised(image)
        for block, (_, places) in enumerate(_VGG16):
            if block:
                kernel = self.window.expand(x.shape[1], 1, 3, 3)
                x = (F.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
            for place in places:
                x = F.relu(self.features[str(place)](x))
            maps.append(x)
        return maps


def load_features(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a network's convolutions from torchvision's weights, ignoring the classifier.

    Args:
        net: network to fill.
        state: torchvision's weights.
        name: name of the file, for the message.

    Raises:
        UserError: if the weights belong to another network.
    """
    wanted = {key: value.shape for key, value in net.state_dict().items()}
    found = {key: value for key, value in state.items() if key in wanted}
    if {key: value.shape for key, value in found.items()} != wanted:
        raise UserError(f"{name} is not the expected network: delete it from torch.hub's cache and try again.")
    net.load_state_dict(found)


# -- the distances ----------------------------------------------------------------------------------------------------


def unit_distance(maps: Sequence[Tensor], others: Sequence[Tensor], heads: Sequence[Tensor]) -> Tensor:
    """Distance of LPIPS: squared differences of unit-length features, weighted per channel, averaged over positions.

    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, Eq. (1).

    Args:
        maps: (B, C_i, H_i, W_i) for each layer.
        others: same shapes.
        heads: (C_i,) for each layer, weights of the channels.

    Returns:
        (B,), >= 0 for non-negative weights, the sum over the layers.
    """
    total = maps[0].new_zeros(len(maps[0]))
    for one, other, head in zip(maps, others, heads, strict=True):
        apart = (_unit(one) - _unit(other)).square()
        total = total + (apart * head.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
    return total


def structure_and_texture(
    maps: Sequence[Tensor], others: Sequence[Tensor], alphas: Sequence[Tensor], betas: Sequence[Tensor]
) -> Tensor:
    """Distance of DISTS: 1 minus the weighted similarity of the means and correlations of all channels.

    Ding, Ma, Wang and Simoncelli, "Image Quality Assessment: Unifying Structure and Texture Similarity", TPAMI 2022,
    Eq. (6)-(8), with c1 = c2 = 1e-6.

    Args:
        maps: (B, C_i, H_i, W_i) for each layer, the image itself first.
        others: same shapes.
        alphas: (C_i,) for each layer, weights of the means; normalised such that ``alphas`` and ``betas`` sum to 1.
        betas: (C_i,) for each layer, weights of the correlations.

    Returns:
        (B,), 0 for equal maps.
    """
    total = sum(float(weights.sum()) for weights in (*alphas, *betas))
    similarity = maps[0].new_zeros(len(maps[0]))
    for one, other, alpha, beta in zip(maps, others, alphas, betas, strict=True):
        mean_a, mean_b = one.mean(dim=(2, 3)), other.mean(dim=(2, 3))
        texture = (2 * mean_a * mean_b + _STABLE) / (mean_a.square() + mean_b.square() + _STABLE)
        centred_a, centred_b = one - mean_a[..., None, None], other - mean_b[..., None, None]
        variances = centred_a.square().mean(dim=(2, 3)) + centred_b.square().mean(dim=(2, 3))
        covariance = (centred_a * centred_b).mean(dim=(2, 3))
        structure = (2 * covariance + _STABLE) / (variances + _STABLE)
        similarity = similarity + (alpha * texture + beta * structure).sum(dim=1) / total
    return 1 - similarity


# -- the metrics ------------------------------------------------------------------------------------------------------


class _Deep(ImageMetric):
    """Distance of features of a network, which is created lazily."""

    higher_is_better = False
    smallest = 1

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net: nn.Module | None = None

    def open(self) -> nn.Module:
        """Create the network, with the learnt weights of the distance as buffers."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it looks through")

    def prepare(self) -> None:
        """Create the network before anything is scored.

        Raises:
            UserError: if its weights are not available.
        """
        if self.net is None:
            self.net = self.open().eval()

    def distance(self, preds: Tensor, target: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [0, 1], float32."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its distance is")

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), in float64, computed in float32; NaN for images too small for the network.

        Raises:
            UserError: if the weights of the network are not available.
        """
        if min(preds.shape[-2:]) < self.smallest:
            return undefined_scores(preds)
        self.prepare()
        assert self.net is not None
        self.net.to(preds.device)
        with torch.no_grad():
            return self.distance(preds.float(), target.float()).double()


class LPIPS(_Deep):
    """LPIPS 0.1 with AlexNet, lower is better; see :func:`unit_distance`. NaN for sides below 63 pixels."""

    key = "lpips"
    title = "LPIPS"
    smallest = 63

    def open(self) -> nn.Module:
        """AlexNet, with the channel weights learnt from human judgements."""
        net = AlexNet()
        load_features(net, _fetched(ALEXNET_URL, self), ALEXNET_URL)
        state = read_state_dict(str(files("torchmetrics.functional.image") / "lpips_models" / "alex.pth"))
        for layer in range(len(net.channels)):
            net.register_buffer(f"head{layer}", state[f"lin{layer}.model.1.weight"].flatten())
        return net

    def distance(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), >= 0, of images normalised as in LPIPS."""
        net = self.net
        assert isinstance(net, AlexNet)
        heads = [net.get_buffer(f"head{layer}") for layer in range(len(net.channels))]
        shift = preds.new_tensor((-0.030, -0.088, -0.188)).view(1, 3, 1, 1)
        scale = preds.new_tensor((0.458, 0.448, 0.450)).view(1, 3, 1, 1)
        maps, others = (net((2 * image - 1 - shift) / scale) for image in (preds, target))
        return unit_distance(maps, others, heads)


class DISTS(_Deep):
    """DISTS without resizing, lower is better; see :func:`structure_and_texture`. NaN for sides below 16 pixels."""

    key = "dists"
    title = "DISTS"
    smallest = 16

    def open(self) -> nn.Module:
        """VGG-16 with smooth pooling, and the weights learnt from human judgements."""
        net = SmoothVGG16()
        load_features(net, _fetched(VGG16_URL, self), VGG16_URL)
        state = read_state_dict(str(files("torchmetrics.functional.image") / "dists_models" / "weights.pt"))
        for name in ("alpha", "beta"):
            net.register_buffer(name, state[name].flatten())
        return net

    def distance(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,)."""
        net = self.net
        assert isinstance(net, SmoothVGG16)
        alphas, betas = (torch.split(net.get_buffer(name), list(net.channels)) for name in ("alpha", "beta"))
        return structure_and_texture(net(preds), net(target), alphas, betas)


class _Efficient(_Deep):
    """Distance of features of EfficientNet-Lite0 at strides 2 to 32; NaN for sides below 32 pixels."""

    smallest = 32

    def open(self) -> nn.Module:
        """EfficientNet-Lite0.

        Raises:
            UserError: if the package with its weights is not installed.
        """
        try:
            return efficientnet_lite0()
        except UserError as error:
            raise UserError(f"{self.title}: {error} Or leave {self.key} out of protocol.metrics.") from error


class EFD(_Efficient):
    """EFD, lower is better: :func:`unit_distance` in EfficientNet-Lite0, all channels and layers weighted equally."""

    key = "efd"
    title = "EFD"

    def distance(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,), in [0, 4]: the mean over the layers."""
        assert self.net is not None
        maps, others = self.net(preds), self.net(target)
        heads = [one.new_full((one.shape[1],), 1 / len(maps)) for one in maps]
        return unit_distance(maps, others, heads)


class EFST(_Efficient):
    """EFST, lower is better: :func:`structure_and_texture` in EfficientNet-Lite0, all layers weighted equally."""

    key = "efst"
    title = "EFST"

    def distance(self, preds: Tensor, target: Tensor) -> Tensor:
        """(B,): equal weights for the image and all layers, and for the channels within each."""
        assert self.net is not None
        maps, others = ([image, *self.net(image)] for image in (preds, target))
        weights = [one.new_full((one.shape[1],), 1 / one.shape[1]) for one in maps]
        return structure_and_texture(maps, others, weights, weights)


def _normalised(image: Tensor) -> Tensor:
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (image - mean) / std


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _fetched(url: str, metric: ImageMetric) -> dict[str, Tensor]:
    try:
        return fetch_state_dict(url)
    except DownloadError as error:
        raise UserError(
            f"{metric.title} needs ImageNet weights: {error} Or leave {metric.key} out of protocol.metrics; efd and "
            "efst are similar and need no download."
        ) from error
