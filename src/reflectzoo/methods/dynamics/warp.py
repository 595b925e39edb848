"""Warping of images and features by motion fields."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(image: Tensor, motion: Tensor) -> Tensor:
    """Warp an image backwards by bilinear interpolation: ``result(x) = image(x + motion(x))``.

    Positions outside the image take the nearest border pixel. Positions are computed in at least float32, since half
    precision cannot distinguish neighbouring pixels of a large image.

    Args:
        image: (B, C, H, W), any range.
        motion: (B, 2, H, W), displacement in pixels of ``image``, first along the width (to the right), then along the
            height (downwards).

    Returns:
        Same shape and dtype as ``image``.

    Raises:
        ValueError: if the shapes do not match.

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
    # With align_corners the outermost pixels' centres are -1 and 1; max() avoids a division by 0 for a single pixel.
    scale = where.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).view(1, 2, 1, 1)
    grid = (where * scale - 1).permute(0, 2, 3, 1)
    sampled = F.grid_sample(_precise(image), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.to(image.dtype)


def pixel_grid(like: Tensor) -> Tensor:
    """Column and row index of every pixel, (1, 2, H, W) float, for a tensor (..., H, W)."""
    height, width = like.shape[-2:]
    kind = _precise(like)
    sides = (torch.arange(side, device=kind.device, dtype=kind.dtype) for side in (height, width))
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([columns, rows])[None]


def inside(motion: Tensor) -> Tensor:
    """Mask of the pixels whose source lies inside the image.

    Args:
        motion: (B, 2, H, W) in pixels, as for :func:`warp`.

    Returns:
        (B, 1, H, W) bool.
    """
    height, width = motion.shape[-2:]
    where = pixel_grid(motion) + motion
    most = where.new_tensor([width - 1, height - 1]).view(1, 2, 1, 1)
    # A tolerance of 0.005 pixels, so that rounding does not exclude points on the border.
    return ((where >= -0.005) & (where <= most + 0.005)).all(dim=1, keepdim=True)


def enlarged_motion(motion: Tensor, factor: int, height: int, width: int) -> Tensor:
    """Upsample a motion field of reduced features to the size and the pixels of the image.

    Args:
        motion: (..., 2, h, w), in pixels of the reduced features.
        factor: side of a feature pixel in image pixels.
        height: height of the image, at most ``factor * h``.
        width: width of the image, at most ``factor * w``.

    Returns:
        (..., 2, height, width), in pixels of the image.
    """
    flat = motion.flatten(0, -4) if motion.ndim > 4 else motion
    # Corners are not aligned: a feature pixel represents the centre of its factor x factor image pixels.
    whole = F.interpolate(flat * factor, scale_factor=factor, mode="bilinear", align_corners=False)
    return whole[..., :height, :width].reshape(*motion.shape[:-2], height, width)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
