from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from reflectzoo.methods.dynamics.warp import enlarged_motion, inside, warp


def waves(height: int, width: int, right: float = 0.0, down: float = 0.0) -> torch.Tensor:
    """A smooth picture, sampled exactly at places moved by (right, down)."""
    rows, columns = torch.meshgrid(torch.arange(height) + down, torch.arange(width) + right, indexing="ij")
    return (torch.sin(columns / 9) + torch.cos(rows / 7) * torch.sin(columns / 11 + rows / 13))[None, None].double()


def field(right: float, down: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([right, down], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, height, width)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (0, -2), (-4, 5)])
def test_whole_pixels_are_exact(right: int, down: int) -> None:
    image = torch.randn(1, 3, 17, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = warp(image, field(right, down, 17, 23))
    wide = F.pad(image, (8, 8, 8, 8), mode="replicate")
    expected = wide[..., 8 + down : 8 + down + 17, 8 + right : 8 + right + 23]
    assert torch.allclose(moved, expected, atol=1e-12)  # at the borders, too: the outermost pixel goes on


@pytest.mark.parametrize(("right", "down"), [(0.5, 0), (0, 0.25), (-1.3, 2.7)])
def test_parts_of_pixels_are_bilinear_interpolation(right: float, down: float) -> None:
    image = torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, top = math.floor(right), math.floor(down)
    wide = F.pad(image, (4, 4, 4, 4), mode="replicate")

    def at(across: int, below: int) -> torch.Tensor:
        return wide[..., 4 + below : 20 + below, 4 + across : 20 + across]

    a, b = right - left, down - top
    expected = (1 - b) * ((1 - a) * at(left, top) + a * at(left + 1, top))
    expected = expected + b * ((1 - a) * at(left, top + 1) + a * at(left + 1, top + 1))
    assert torch.allclose(warp(image, field(right, down, 16, 16)), expected, atol=1e-12)


def test_a_shift_by_parts_of_a_pixel_is_undone() -> None:
    centre, neighbour = waves(40, 50), waves(40, 50, right=-2.4, down=1.7)
    back = warp(neighbour, field(2.4, -1.7, 40, 50))
    middle = (..., slice(4, -4), slice(4, -4))
    assert (back - centre)[middle].abs().max() < 0.01 < (neighbour - centre)[middle].abs().max()


def test_gradient_reaches_image_and_motion() -> None:
    image = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    # Away from whole pixels, where bilinear interpolation has kinks.
    motion = (torch.rand(1, 2, 5, 6, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, motion))


def test_half_precision_keeps_places_apart() -> None:
    """In bfloat16 itself columns beyond 256 could no longer be told apart."""
    row = (torch.arange(600.0) % 7).view(1, 1, 1, 600).bfloat16()
    motion = torch.zeros(1, 2, 1, 600, dtype=torch.bfloat16)
    assert torch.allclose(warp(row, motion), row, atol=1e-3)


def test_a_picture_of_one_pixel() -> None:
    assert warp(torch.ones(1, 1, 1, 1), torch.full((1, 2, 1, 1), 5.0)).item() == 1


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="motion must be"):
        warp(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 5))


def test_inside_counts_what_comes_from_the_picture() -> None:
    assert inside(field(2, 0, 3, 5)).sum() == 3 * 3
    assert inside(field(0, -1, 3, 5))[0, 0].tolist() == [[False] * 5, [True] * 5, [True] * 5]
    assert inside(field(0, 0, 3, 5)).all()


def test_enlarged_motion_is_in_pixels_of_the_image() -> None:
    reduced = torch.tensor([1.5, -0.25]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    whole = enlarged_motion(reduced, 4, 13, 18)
    assert whole.shape == (1, 2, 13, 18)
    assert torch.equal(whole.unique(), torch.tensor([-1.0, 6.0]))
    # Of a field that grows along the width, a reduced pixel's value belongs to the middle of its four pixels.
    growing = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 2, 3, 5)
    assert enlarged_motion(growing, 4, 12, 20)[0, 0, 6, 5:7].mean() == pytest.approx(4 * 1)
