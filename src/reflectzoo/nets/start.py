"""Weight initialisation of new networks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError

_LAYERS = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def start_normal(net: nn.Module, std: float) -> None:
    """Initialise all convolutions and linear layers from N(0, std^2) with zero biases; other modules are unchanged."""
    for module in net.modules():
        if isinstance(module, _LAYERS):
            nn.init.normal_(module.weight, std=std)
            _no_bias(module)


def start_he(net: nn.Module) -> None:
    """Initialise all convolutions and linear layers after He et al. (ICCV 2015), for ReLUs, with zero biases.

    Other modules are left unchanged.
    """
    for module in net.modules():
        if isinstance(module, _LAYERS):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            _no_bias(module)


def _no_bias(module: nn.Module) -> None:
    if module.bias is not None:
        nn.init.zeros_(cast(Tensor, module.bias))


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight, for changes in place."""
    return cast(Tensor, layer.weight).data


@torch.no_grad()
def init_as_copy(first: nn.Conv2d, up: nn.ConvTranspose2d, last: nn.Conv2d, output: nn.Conv2d, channel: int) -> None:
    """Initialise an auto-encoder so that it copies three of its input channels to the output.

    They pass through the first convolution and the skip connection at full size; nothing is added to them on the way,
    and the output depends on nothing else. For images >= 0 and ReLU activations.

    Args:
        first: the first convolution, with an odd kernel size.
        up: the last upsampling, to whose result the skip connection is added.
        last: the convolution after it. Its other weights are scaled by 0.1: Adam's first steps are as long for large
            inputs as for small ones and would spoil the copy.
        output: the layer that produces the image.
        channel: index of the image's first channel in the input.

    Raises:
        UserError: if ``first``, ``up`` or ``last`` has fewer than three output channels.
    """
    if min(first.out_channels, up.out_channels, last.out_channels) < 3:
        raise UserError("A network that starts as a copy passes on three colours: set a larger model.net.width.")
    weight_of(last).mul_(0.1)
    weight_of(output).zero_()
    weight_of(up)[:, :3] = 0
    for layer, begin in ((first, channel), (last, 0), (output, 0)):
        weight = weight_of(layer)
        middle = weight.shape[-1] // 2
        if layer is not output:
            weight[:3] = 0
        weight[:3, begin : begin + 3, middle, middle] = torch.eye(3)
