"""What the weights are before training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.methods.dynamics.motion import FlowNet


def initialise(net: nn.Module, gain: float | None) -> None:
    """Start the rectified convolutions from He et al.'s normal distribution times a gain; None changes nothing.

    The flow net then starts with the difference of its two frames.

    The paper says nothing about first values. Under PyTorch's own a signal loses half of its strength in each of a
    dozen layers in a row, which takes a short training long to make up for.
    """
    if gain is None:
        return
    for name, module in net.named_modules():
        # Not those that make images or motions or what is compared, nor the attention's.
        rectified = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.kernel_size[0] > 1
        if not rectified or name.rsplit(".", 1)[-1] in ("image", "fields", "compared"):
            continue
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        inputs = module.in_channels * module.kernel_size[0] ** 2
        if isinstance(module, nn.ConvTranspose2d):
            inputs //= module.stride[0] ** 2
        nn.init.normal_(module.weight, std=gain * (2 / inputs) ** 0.5)
        nn.init.zeros_(cast(Tensor, module.bias))
    for module in net.modules():
        if isinstance(module, FlowNet):
            first = cast(nn.Conv2d, module.body[0]).weight
            # What the two frames have in common says nothing about motion: start with their difference.
            with torch.no_grad():
                half = module.channels // 2
                first[:, half : 2 * half] = -first[:, :half]
