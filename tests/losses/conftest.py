from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reflectzoo.core.batch import Batch


def make_batch(
    transmission: Tensor,
    reflection: Tensor,
    mixture: Tensor | None = None,
    has_transmission: list[bool] | None = None,
    has_reflection: list[bool] | None = None,
) -> Batch:
    size = len(transmission)
    names = [str(index) for index in range(size)]
    return {
        "mixture": transmission + reflection if mixture is None else mixture,
        "transmission": transmission,
        "reflection": reflection,
        "has_transmission": torch.tensor([True] * size if has_transmission is None else has_transmission),
        "has_reflection": torch.tensor([True] * size if has_reflection is None else has_reflection),
        "name": names,
        "dataset": names,
    }


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch


class SmallVGG(nn.Module):
    """In place of VGG-19: two named maps, smooth, any precision."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(4, 3, 3, 3, generator=generator), requires_grad=False)
        self.second = nn.Parameter(torch.randn(2, 4, 3, 3, generator=generator), requires_grad=False)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor, layers: list[str]) -> list[Tensor]:
        self.seen.append(image)
        first = torch.nn.functional.conv2d(image, self.first)
        maps = {"relu1_1": first, "relu2_1": torch.nn.functional.conv2d(torch.tanh(first), self.second)}
        return [maps[name] for name in layers]


@pytest.fixture
def small_vgg() -> SmallVGG:
    return SmallVGG()
