"""Moving images and features along a motion field."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(image: Tensor, motion: Tensor) -> Tensor:
    """Fetch every pixel from where it came from: ``result(x) = image(x + motion(x))``, by bilinear interpolation.

    Beyond the border the nearest pixel of the border counts. Positions are computed in float32 at least, since half
    precision cannot tell neighbouring pixels of a large picture apart.

    Args:
        image: (B, C, H, W), any range.
        motion: (B, 2, H, W), displacement in pixels of ``image``, first along the width (to the right), then along the
            height (downwards).

    Returns:
        Same shape and type as ``image``.

    Raises:
        ValueError: if the two do not fit together.

    Example:
        >>> row = torch.arange(4.0).view(1, 1, 1, 4)
        >>> motion = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
        >>> [round(value, 4) for value in warp(row, motion).flatten().tolist()]
        [0.5, 1.5, 2.5, 3.0]
    """
    if motion.shape != (len(image), 2, *image.shape[-2:]):
        raise ValueError(f"motion must be (B, 2, H, W) for an image of {tuple(image.shape)}, got {tuple(motion.shape)}")
    height, width = image.shape[-2:]
    where = pixel_grid(motion) + _precise(motion)
    # With align_corners the outermost pixels' centres are -1 and 1; a side of one pixel has nowhere to go.
    scale = where.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).view(1, 2, 1, 1)
    grid = (where * scale - 1).permute(0, 2, 3, 1)
    sampled = F.grid_sample(_precise(image), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.to(image.dtype)


def pixel_grid(like: Tensor) -> Tensor:
    """Column and row of every pixel, (1, 2, H, W) float, for a tensor (..., H, W)."""
    height, width = like.shape[-2:]
    kind = _precise(like)
    sides = (torch.arange(side, device=kind.device, dtype=kind.dtype) for side in (height, width))
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([columns, rows])[None]


def inside(motion: Tensor) -> Tensor:
    """Which pixels come from within the picture.

    Args:
        motion: (B, 2, H, W) in pixels, as for :func:`warp`.

    Returns:
        (B, 1, H, W) bool.
    """
    height, width = motion.shape[-2:]
    where = pixel_grid(motion) + motion
    most = where.new_tensor([width - 1, height - 1]).view(1, 2, 1, 1)
    # Half a hundredth of a pixel: rounding must not throw out what lies on the border.
    return ((where >= -0.005) & (where <= most + 0.005)).all(dim=1, keepdim=True)


def enlarged_motion(motion: Tensor, factor: int, height: int, width: int) -> Tensor:
    """A motion field of reduced features as one of the whole image.

    Args:
        motion: (..., 2, h, w), in pixels of the reduced features.
        factor: how many image pixels one of them spans.
        height: of the image, at most ``factor * h``.
        width: likewise.

    Returns:
        (..., 2, height, width), in pixels of the image.
    """
    flat = motion.flatten(0, -4) if motion.ndim > 4 else motion
    # Not aligned at the corners: a reduced pixel stands for the middle of its factor x factor pixels.
    whole = F.interpolate(flat * factor, scale_factor=factor, mode="bilinear", align_corners=False)
    return whole[..., :height, :width].reshape(*motion.shape[:-2], height, width)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
