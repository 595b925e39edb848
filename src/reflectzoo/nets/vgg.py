"""The frozen VGG-19 of hypercolumns and perceptual losses."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reflectzoo.core.notices import warn
from reflectzoo.errors import UserError
from reflectzoo.weights.download import DownloadError, cache_path, fetch_state_dict
from reflectzoo.weights.read import read_state_dict

#: ImageNet weights published by torchvision (BSD-3-Clause); the name contains the first digits of the file's sha256.
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"

#: Fingerprint of the seeded random weights, computed with the C library of Debian 12.
RANDOM_FINGERPRINT = "17957763a7fc"

# Channels of the convolutions of each block (Simonyan and Zisserman, ICLR 2015, table 1, configuration E).
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


class VGG19(nn.Module):
    """The convolutional part of VGG-19, frozen; keys ``features.N.weight`` and ``features.N.bias``.

    The parameters never require a gradient, but gradients flow to the image. ``deepcopy`` returns the object itself, so
    that copying a network that uses a VGG does not copy the VGG.

    Args:
        state: its 32 tensors, which are used without copying; defaults to seeded random ones.
        source: origin of the weights: "imagenet", "random" or a path.

    Attributes:
        source: as given; "state dict" after a later ``load_state_dict``.
        fingerprint: the first 12 hex digits of the sha256 of all weights in float32, in the order of their keys;
            :data:`RANDOM_FINGERPRINT` for random ones, whose last bits depend on the machine.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, source: str = "random") -> None:
        super().__init__()
        # On the meta device first: PyTorch's initialisation would take time and advance the global random state.
        with torch.device("meta"):
            self.features = _features()
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]
        self.load_state_dict(random_state() if state is None else state, assign=True)
        self.requires_grad_(False)
        self.source = source

    source: str
    fingerprint: str

    def forward(self, image: Tensor, layers: Sequence[str]) -> list[Tensor]:
        """Compute the named maps, in the order of the names; layers beyond the deepest one are skipped.

        Args:
            image: (B, 3, H, W); each side at least 1, 2, 4, 8 or 16 if the deepest layer is in block 1, 2, 3, 4 or 5.
            layers: names ``relu1_1`` to ``relu5_4`` and, before the ReLU, ``conv1_1`` to ``conv5_4``.

        Returns:
            One (B, C, H / 2^k, W / 2^k) per name, for a layer in block k + 1; sizes rounded down.

        Raises:
            ValueError: for a name that VGG-19 does not have.
        """
        unknown = sorted(set(layers) - set(_POSITIONS))
        if unknown:
            raise ValueError(f"VGG-19 has no layer {unknown[0]!r}: it has conv1_1 to conv5_4 and relu1_1 to relu5_4")
        wanted = {_POSITIONS[name] for name in layers}
        found: dict[int, Tensor] = {}
        x = image
        for position in range(max(wanted, default=-1) + 1):
            layer = self.features[position]
            # In place saves a map, unless the map before the ReLU is to be returned.
            x = F.relu(x, inplace=position - 1 not in wanted) if isinstance(layer, nn.ReLU) else layer(x)
            if position in wanted:
                found[position] = x
        return [found[_POSITIONS[name]] for name in layers]

    def __deepcopy__(self, memo: dict[int, Any]) -> VGG19:
        return self


def load_vgg19(weights: str = "auto") -> VGG19:
    """Make the frozen VGG-19.

    Args:
        weights: "imagenet" reads torchvision's weights from torch.hub's cache, downloading them first if missing (548
            MB, hash checked); "random" draws seeded He-normal ones, the same on every machine; a path reads a file of
            the whole VGG-19 or only its ``features``; "auto" is "imagenet" if they are cached or can be downloaded,
            otherwise "random" with one warning. Without a network this takes about eight seconds.

    Raises:
        UserError: if "imagenet" is not available, or the file is missing, damaged or not of a VGG-19.
    """
    if weights == "random":
        return VGG19()
    if weights == "imagenet":
        return VGG19(_pick_features(fetch_state_dict(VGG19_URL), str(cache_path(VGG19_URL))), "imagenet")
    if weights == "auto":
        try:
            return load_vgg19("imagenet")
        except DownloadError as error:
            warn(
                "NO IMAGENET VGG-19: its weights are neither cached nor reachable, so seeded RANDOM ones are used and "
                "results will not be those of the paper. ImageNet features that need no download: "
                "loss.terms.perceptual.features=efficientnet_lite0 and, for a hypercolumn, "
                f"model.net.features=efficientnet_lite0. To get VGG-19: {error}",
                stacklevel=4,
            )
            return load_vgg19("random")
    return VGG19(_pick_features(read_state_dict(weights), weights), weights)


def random_state() -> dict[str, Tensor]:
    """He-normal kernels and zero biases, from NumPy generators seeded by the key; torch's random state is not used.

    C libraries differ in the last bit of a few values, since NumPy draws the tails of the distribution with ``log1pf``.
    """
    return dict(_random_items())


def _random_items() -> Iterator[tuple[str, Tensor]]:
    for key, shape in _SHAPES.items():
        if key.endswith("bias"):
            yield key, torch.zeros(shape)
            continue
        generator = np.random.default_rng(zlib.crc32(f"reflectzoo vgg19 {key}".encode()))
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        yield key, torch.from_numpy(values)


def _are_random(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of :func:`random_state` of any machine, that is, up to the last bits."""
    return all(torch.allclose(state[key].cpu().float(), each, rtol=1e-6, atol=0) for key, each in _random_items())


def _pick_features(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The 32 tensors from a file of the whole network, of its ``features``, or of ``features.state_dict()``."""
    if "0.weight" in state:
        state = {f"features.{key}": value for key, value in state.items()}
    extra = [key for key in state if key not in _SHAPES and not key.startswith("classifier.")]
    for key, shape in _SHAPES.items():
        if key not in state:
            raise UserError(f"{name} holds no VGG-19: {key} is missing; give torchvision's vgg19 file or its features.")
        if tuple(state[key].shape) != shape:
            raise UserError(
                f"{name} holds no VGG-19: {key} is {tuple(state[key].shape)} instead of {shape}; give torchvision's "
                "vgg19 file or its features."
            )
    if extra:
        raise UserError(
            f"{name} holds no plain VGG-19: it also has {extra[0]}; give torchvision's vgg19 file (not vgg19_bn) or "
            "its features."
        )
    # Copied, so that the classifier's 500 MB are released.
    return {key: state[key].detach().to(torch.float32, copy=True) for key in _SHAPES}


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for block in _BLOCKS:
        for channels in block:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _refresh(vgg: VGG19, _: object) -> None:
    digest = hashlib.sha256()
    for _key, value in sorted(vgg.state_dict().items()):
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    vgg.fingerprint = digest.hexdigest()[:12]
    if vgg.fingerprint != RANDOM_FINGERPRINT and _are_random(vgg.state_dict()):
        vgg.fingerprint = RANDOM_FINGERPRINT
    vgg.source = "state dict"


def _layout() -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    positions: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    position, before = 0, 3
    for number, block in enumerate(_BLOCKS, start=1):
        for index, channels in enumerate(block, start=1):
            positions[f"conv{number}_{index}"] = position
            positions[f"relu{number}_{index}"] = position + 1
            shapes[f"features.{position}.weight"] = (channels, before, 3, 3)
            shapes[f"features.{position}.bias"] = (channels,)
            before = channels
            position += 2
        position += 1
    return positions, shapes


_POSITIONS, _SHAPES = _layout()
