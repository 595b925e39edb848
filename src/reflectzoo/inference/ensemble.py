"""Test-time augmentation: the mean of a network's outputs over several views of a photograph, each at the full cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

VIEWS = tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4))
"""The eight views of a picture, as (quarter turns, mirrored)."""
MIRRORED = ((0, False), (0, True))
"""The picture itself and its mirror image."""


def turned(image: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Rotate (…, H, W) counterclockwise by a number of quarter turns, and then optionally mirror it left to right."""
    image = torch.rot90(image, quarters, (-2, -1))
    return image.flip(-1) if mirrored else image


def turned_back(image: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Inverse of :func:`turned`."""
    return torch.rot90(image.flip(-1) if mirrored else image, -quarters, (-2, -1))


class Ensemble(nn.Module):
    """The mean of a network over several views.

    Quarter turns may harm a network that was only trained on upright photographs: measure it.

    Args:
        network: ``(1, 3, h, w) in [0, 1] -> {"transmission", "reflection"?}``.
        views: as in :data:`VIEWS`.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Mapping[str, Any]],
        views: Sequence[tuple[int, bool]] = VIEWS,
    ) -> None:
        super().__init__()
        self.network = network
        self.views = views

    def forward(self, mixture: Tensor) -> dict[str, Tensor]:
        """Separate (B, 3, H, W) into the network's layers, each (B, 3, H, W)."""
        total: dict[str, Tensor] = {}
        for quarters, mirrored in self.views:
            outputs = self.network(turned(mixture, quarters, mirrored))
            for name in ("transmission", "reflection"):
                if outputs.get(name) is not None:
                    layer = turned_back(outputs[name], quarters, mirrored).float() / len(self.views)
                    total[name] = layer if name not in total else total[name].add_(layer)
        return total
