"""Padding and memory layout of input images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.nets.plain import is_plain
from reflectzoo.ops.checks import full_precision


def pad_to_multiple(image: Tensor, stride: int, least: int = 1) -> Tensor:
    """Pad an image at the bottom and on the right, by reflection, until its sides are multiples of ``stride``.

    Args:
        image: (B, C, H, W), H and W >= 1. If it is too small for reflection, its border is replicated.
        stride: at least 1.
        least: minimum side of the result.

    Returns:
        The padded image; ``image`` itself if no padding is needed.
    """
    height, width = image.shape[-2:]
    down, right = (-(-max(side, least) // stride) * stride - side for side in (height, width))
    if not (down or right):
        return image
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


def prepare_input(mixture: Tensor, stride: int, least: int = 1) -> Tensor:
    """Convert to at least float32, pad, and choose the memory layout for the device.

    Args:
        mixture: (B, C, H, W), H and W >= 1.
        stride: see :func:`pad_to_multiple`.
        least: see :func:`pad_to_multiple`.
    """
    image = pad_to_multiple(full_precision(mixture), stride, least)
    if image.device.type == "cpu" and not is_plain():
        # On CPUs, this layout halves the time of narrow and of transposed convolutions.
        image = image.contiguous(memory_format=torch.channels_last)
    return image
