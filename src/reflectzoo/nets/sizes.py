"""What networks do to a picture before they look at it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.nets.plain import is_plain
from reflectzoo.ops.checks import full_precision


def continued(image: Tensor, stride: int, least: int = 1) -> Tensor:
    """A picture continued by reflection below and on the right, to sides that are multiples of ``stride``.

    Args:
        image: (B, C, H, W), H and W >= 1. Where it is too small to be reflected, its border is repeated.
        stride: at least 1.
        least: no side is shorter afterwards.

    Returns:
        The picture itself if nothing is missing.
    """
    height, width = image.shape[-2:]
    down, right = (-(-max(side, least) // stride) * stride - side for side in (height, width))
    if not (down or right):
        return image
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


def prepared(mixture: Tensor, stride: int, least: int = 1) -> Tensor:
    """In float32 at least, of a size that ``stride`` divides (see :func:`continued`), and laid out for the device."""
    image = continued(full_precision(mixture), stride, least)
    if image.device.type == "cpu" and not is_plain():
        # In this layout a CPU's narrow and its transposed convolutions take half the time.
        image = image.contiguous(memory_format=torch.channels_last)
    return image
