"""Weight initialisation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.methods.dynamics.motion import FlowNet


def initialise(net: nn.Module, gain: float | None) -> None:
    """Initialise the convolutions followed by ReLU from He et al.'s normal distribution times a gain.

    The first layer of a flow net is also initialised to take the difference of the two frames. The paper does not
    mention initialisation. With PyTorch's a signal loses half of its magnitude in each of a dozen successive layers,
    which a short training run needs a long time to make up for.

    Args:
        net: teacher or student, changed in place.
        gain: factor of the standard deviation; None leaves the network unchanged.
    """
    if gain is None:
        return
    for name, module in net.named_modules():
        # Not those that output images, motion fields or features for matching, nor the 1x1 ones of the attention.
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
            # What both frames have in common says nothing about motion, hence their difference.
            with torch.no_grad():
                half = module.channels // 2
                first[:, half : 2 * half] = -first[:, :half]
