"""The context encoder, VGG-16 with batch normalisation, in stages that end with a pooling; and its initial weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reflectzoo.core.notices import warn
from reflectzoo.errors import UserError
from reflectzoo.weights.download import DownloadError, cache_path, fetch_state_dict
from reflectzoo.weights.read import read_state_dict

#: ImageNet weights published by torchvision (BSD-3-Clause); the name contains the first digits of the file's sha256.
VGG16_BN_URL = "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"

# Channels of the convolutions of each block (Simonyan and Zisserman, ICLR 2015, table 1, configuration D).
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
STAGES = range(1, len(_BLOCKS) + 1)
"""Numbers of the stages, whose outputs have 1/2 to 1/32 of the image's size."""

_PARTS = ("weight", "bias", "running_mean", "running_var")


def stage(number: int, width: int) -> nn.Sequential:
    """Make one stage: 3x3 convolutions, each with batch normalisation and ReLU, then 2x2 max pooling.

    Args:
        number: 1 to 5.
        width: channels of the first convolution of the first stage, 64 in VGG.
    """
    before = 3 if number == 1 else _BLOCKS[number - 2][-1] * width // 64
    layers: list[nn.Module] = []
    for channels in _BLOCKS[number - 1]:
        after = channels * width // 64
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def fill_encoder(net: nn.Module, weights: str) -> str:
    """Load the initial weights of a network's encoder.

    Args:
        net: network with the stages ``convs1R`` to ``convs5R``; changed in place.
        weights: "imagenet" reads torchvision's VGG-16-BN from torch.hub's cache, downloading it first if missing (528
            MB, hash checked); "random" leaves the network unchanged; a path reads a file of the whole VGG-16-BN or only
            its ``features``; "auto" is "imagenet" if that is cached or can be downloaded, otherwise "random" with one
            warning. VGG's weights fit width 64 only: for any other width "auto" is "random".

    Returns:
        Their origin: "imagenet", "random" or the path.

    Raises:
        UserError: if "imagenet" is not available, the file is missing, damaged or not a VGG-16-BN, or the width is not
            64.
    """
    first = net.get_submodule("convs1R.0")
    assert isinstance(first, nn.Conv2d)
    if weights == "random" or (weights == "auto" and first.out_channels != 64):
        return "random"
    if first.out_channels != 64:
        raise UserError(
            f"model.encoder={weights} fits a CoRRN of width 64 only, but model.net.width={first.out_channels}: set "
            "model.encoder=random."
        )
    if weights == "auto":
        try:
            return fill_encoder(net, "imagenet")
        except DownloadError as error:
            warn(
                "NO IMAGENET VGG-16: its weights are neither cached nor reachable, so a new CoRRN's encoder starts "
                f"from RANDOM ones, which is not the paper's recipe; to get them: {error}",
                stacklevel=4,
            )
            return "random"
    if weights == "imagenet":
        state = _pick(fetch_state_dict(VGG16_BN_URL), str(cache_path(VGG16_BN_URL)))
    else:
        state = _pick(read_state_dict(weights), weights)
    own = net.state_dict()
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
    return weights


def _pick(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The encoder's tensors, under their names here, from a file of the whole network or of its ``features``."""
    if "0.weight" in state:
        state = {f"features.{key}": value for key, value in state.items()}
    found: dict[str, Tensor] = {}
    for theirs, (ours, shape) in _layout().items():
        if theirs not in state:
            raise UserError(
                f"{name} holds no VGG-16 with batch normalisation: {theirs} is missing; give torchvision's vgg16_bn "
                "file or its features."
            )
        if tuple(state[theirs].shape) != shape:
            raise UserError(
                f"{name} holds no VGG-16 with batch normalisation: {theirs} is {tuple(state[theirs].shape)} instead "
                f"of {shape}; give torchvision's vgg16_bn file or its features."
            )
        found[ours] = state[theirs]
    known = set(_layout()) | {key.rpartition(".")[0] + ".num_batches_tracked" for key in _layout()}
    extra = [key for key in state if key not in known and not key.startswith("classifier.")]
    if extra:
        raise UserError(
            f"{name} holds no VGG-16 with batch normalisation: it also has {extra[0]}; give torchvision's vgg16_bn "
            "file or its features."
        )
    return found


def _layout() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Key in torchvision's file -> key here and shape; without batch counters, which that old file does not have."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    position, before = 0, 3
    for number, block in zip(STAGES, _BLOCKS, strict=True):
        start = position
        for channels in block:
            shape: tuple[int, ...] = (channels, before, 3, 3)
            for part in _PARTS[:2]:
                layout[f"features.{position}.{part}"] = (f"convs{number}R.{position - start}.{part}", shape)
                shape = (channels,)
            for part in _PARTS:
                key = f"convs{number}R.{position + 1 - start}.{part}"
                layout[f"features.{position + 1}.{part}"] = (key, (channels,))
            position, before = position + 3, channels
        position += 1
    return layout
