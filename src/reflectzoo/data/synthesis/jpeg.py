"""The losses of JPEG compression, for a batch on any device.

Baseline JPEG as in libjpeg: luma and chroma, chroma at half the resolution, 8 x 8 cosine transforms, and coefficients
rounded to multiples of a table's entries. The lossless entropy coding is omitted. kornia's codec is differentiable and
therefore rounds softly, which reproduces only part of the artefacts.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, annex K, tables K.1 and K.2, row by row.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def compress(image: Tensor, quality: Tensor, subsample: bool = True) -> Tensor:
    """Compress and decompress.

    Args:
        image: (B, 3, H, W) in [0, 1].
        quality: (B,) from 1 to 100, as in libjpeg.
        subsample: whether chroma is stored at half the resolution in both directions.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    height, width = image.shape[-2:]
    unit = 16 if subsample else 8
    red, green, blue = (image * 255).round_().clamp_(0, 255).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blueness, redness = (blue - luma) * (0.5 / 0.886), (red - luma) * (0.5 / 0.701)
    # Values are centred on 0, as the transform requires, and rounded to integers at every stage, as in libjpeg.
    planes = torch.stack((luma - 128, blueness, redness), dim=1).round_().clamp_(-128, 127)
    planes = F.pad(planes, (0, -width % unit, 0, -height % unit), mode="replicate")
    bright, colour = planes[:, :1], planes[:, 1:]
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    bright = _quantise(bright, _table(_LUMA, scale))
    if subsample:
        colour = _quantise(F.avg_pool2d(colour, 2).round_(), _table(_CHROMA, scale))
        colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False).round_()
    else:
        colour = _quantise(colour, _table(_CHROMA, scale))
    luma = bright[:, 0, :height, :width] + 128
    blueness, redness = colour[:, :, :height, :width].unbind(1)
    red = luma + redness * (0.701 / 0.5)
    blue = luma + blueness * (0.886 / 0.5)
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack((red, green, blue), dim=1).round_().clamp_(0, 255).div_(255)


def _quantise(planes: Tensor, table: Tensor) -> Tensor:
    """Round the cosine transform of each 8 x 8 block of (B, C, H, W) to multiples of (B, 8, 8)."""
    count, channels, height, width = planes.shape
    basis = _basis().to(planes)
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8)
    step = table[:, None, None, :, None, :]
    rounded = _along(_along(blocks, basis, 3), basis, 5).div_(step).round_().mul_(step)
    return _along(_along(rounded, basis.T, 3), basis.T, 5).reshape(planes.shape).round_().clamp_(-128, 127)


def _along(blocks: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """Multiply one dimension by a matrix.

    As a sum of eight terms: a matrix product might use TF32, or a different order for another batch size, which would
    be visible for coefficients halfway between two multiples.
    """
    shape = [1] * blocks.ndim
    shape[dim] = 8
    result = blocks.narrow(dim, 0, 1) * matrix[:, 0].reshape(shape)
    for index in range(1, 8):
        result = result.addcmul_(blocks.narrow(dim, index, 1), matrix[:, index].reshape(shape))
    return result


def _table(base: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    """The quantisation table of each sample, (B, 8, 8)."""
    table = torch.tensor(base, dtype=scale.dtype, device=scale.device)
    return torch.floor((table * scale[:, None, None] + 50) / 100).clamp_(1, 255)


@lru_cache(maxsize=1)
def _basis() -> Tensor:
    """The orthonormal cosine transform of 8 values, (8, 8), one frequency per row."""
    places = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * places + 1) * places[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis.float()
