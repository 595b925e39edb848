"""The fast 3x3 convolution gives the direct one's numbers, and is taken only where it may be."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.nets import winograd as module
from reflectzoo.nets.winograd import convolve, direct_convolutions, winograd, winograd_bands, winograd_is_faster


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (13, 30), (3, 64)], ids=str)
@pytest.mark.parametrize("band", [1, 2**19], ids=["a row of tiles", "all at once"])
def test_same_as_direct_in_float64(size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BAND", band)
    x, weight, bias = (
        drawn(*shape, seed=n, dtype=torch.float64) for n, shape in enumerate([(2, 5, *size), (6, 5, 3, 3), (6,)])
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        for added in (bias, None):
            with torch.no_grad():
                found = winograd(x.contiguous(memory_format=layout), weight, added)
            torch.testing.assert_close(found, F.conv2d(x, weight, added, padding=1), rtol=0, atol=1e-12)


def test_rounding_is_that_of_the_direct_sum() -> None:
    x, weight = drawn(1, 256, 16, 16).relu(), drawn(32, 256, 3, 3, seed=1) / 48
    truth = F.conv2d(x.double(), weight.double(), padding=1)
    # Product by product: libraries sum in blocks, whose size, and thus the rounding, depends on the processor.
    direct = torch.zeros(1, 32, 16, 16)
    padded = F.pad(x, (1, 1, 1, 1))
    for row, column in product(range(3), range(3)):
        for channel in range(256):
            direct += (
                weight[:, channel, row, column, None, None] * padded[:, channel, row : row + 16, column : column + 16]
            )
    errors = [(found - truth).abs().max() for found in (winograd(x, weight), direct)]
    assert errors[0] < 3 * errors[1] + 1e-7


def test_bands_cover_every_row_once() -> None:
    x, weight = drawn(2, 8, 41, 9), drawn(8, 8, 3, 3, seed=1)
    seen = torch.zeros(2, 41)
    with torch.no_grad():
        for band in winograd_bands(x, weight):
            seen[band.sample, band.rows] += 1
            assert band.values.shape == (band.rows.stop - band.rows.start, 9, 8)
    assert torch.equal(seen, torch.ones(2, 41))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    fast = module.winograd
    monkeypatch.setattr(module, "winograd", lambda *arguments: calls.append(1) or fast(*arguments))
    return calls


def test_taken_where_it_may_be(counted: list[int]) -> None:
    layer, x = nn.Conv2d(64, 128, 3, padding=1), drawn(1, 64, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(convolve(layer, x), layer(x), rtol=0, atol=1e-5)
    assert counted == [1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 5, padding=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 32, 3, padding=1),
    ],
    ids=["dilated", "strided", "not padded", "5x5", "grouped", "reflected", "narrow"],
)
def test_other_layers_are_only_called(layer: nn.Conv2d, counted: list[int]) -> None:
    x = drawn(1, 128, 16, 16)
    with torch.no_grad():
        assert torch.equal(convolve(layer, x), layer(x))
    assert not counted


def test_not_with_gradients_nor_in_half_precision_nor_on_request(counted: list[int]) -> None:
    layer, x = nn.Conv2d(128, 128, 3, padding=1), drawn(1, 128, 12, 12)
    convolve(layer, x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        with direct_convolutions():
            convolve(layer, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            convolve(layer, x)
        assert not winograd_is_faster(x.double(), layer.weight)
        assert not winograd_is_faster(x[..., :11, :], layer.weight)
    assert not counted
