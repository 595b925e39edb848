"""The context encoder: VGG-16 with batch normalisation, cut at its poolings, and where its first weights come from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reflectzoo.core.notices import warn
from reflectzoo.errors import UserError
from reflectzoo.weights.download import DownloadError, cache_path, fetch_state_dict
from reflectzoo.weights.read import read_state_dict

#: ImageNet weights as torchvision publishes them (BSD-3-Clause); the name carries the head of the file's sha256.
VGG16_BN_URL = "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"

# Channels of the convolutions of each block (Simonyan and Zisserman, ICLR 2015, table 1, configuration D).
_BLOCKS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
STAGES = range(1, len(_BLOCKS) + 1)
"""Numbers of the stages, of 1/2 to 1/32 of the size."""

_PARTS = ("weight", "bias", "running_mean", "running_var")


def stage(number: int, width: int) -> nn.Sequential:
    """One stage: 3x3 convolutions, each with batch normalisation and a rectifier, then a 2x2 max pooling.

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
    """Give the encoder of a network the weights that training starts from.

    Args:
        net: with the stages ``convs1R`` to ``convs5R``; filled in place.
        weights: "imagenet" takes torchvision's VGG-16-BN from torch.hub's cache or downloads it there (528 MB, hash
            checked); "random" leaves the network as it was made; a path takes a file with the whole VGG-16-BN or only
            its ``features``; "auto" is "imagenet" if that is cached or can be had, otherwise "random", said in one
            warning. A network of another width than VGG's cannot take any: "auto" is then "random".

    Returns:
        Where they came from: "imagenet", "random" or the path.

    Raises:
        UserError: if "imagenet" cannot be had, the file is missing, damaged or no VGG-16-BN, or the width is not 64.
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
    """The encoder's tensors, by our keys, out of a file of the whole network or of its ``features``."""
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
    """Key in torchvision's file -> key here and shape. The file is older than counting batches: no such entries."""
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
