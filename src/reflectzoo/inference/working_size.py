"""Separate a photograph at the size that suits a network, and apply the change, resized, to the photograph itself.

A network trained on small crops depends on their size in two ways. At ten times the usual size, a reflection with soft
edges is a flat area, and the network takes parts of the scene for reflections. And it sees where a crop ends: pixels
padded to a multiple of its stride move that edge and disturb a wide margin. So large photographs are downsampled to a
working size, and sides are rounded to the stride by resampling instead of padding. The change T - I is then resized and
added to the photograph, whose fine detail thus stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.core.batch import LAYERS
from reflectzoo.core.method import Size
from reflectzoo.inference.ensemble import MIRRORED, Ensemble
from reflectzoo.inference.tiles import FinishedRows, Layers, resampled

BAND = 256
"""Rows of the photograph for which the change is resized at a time."""
_ROUNDED_FROM = 4
"""Strides in the shorter side from which sides are rounded to the stride."""


def working_size(height: int, width: int, size: Size) -> tuple[int, int] | None:
    """Height and width at which a network separates a photograph.

    Args:
        height: height of the photograph.
        width: width of the photograph.
        size: of the network; without ``working``, photographs keep their size.

    Returns:
        Multiples of ``size.multiple``, the shorter side about ``size.working`` at most; None for the photograph's own
        size, which small photographs keep as well, because rounding would distort them.
    """
    shorter = min(height, width)
    if size.working is None or shorter < _ROUNDED_FROM * size.multiple:
        return None
    factor = min(1.0, size.working / shorter) / size.multiple
    high, wide = (max(round(side * factor), 1) * size.multiple for side in (height, width))
    return None if (high, wide) == (height, width) else (high, wide)


class Change:
    """The change that separation makes to a resized photograph, for the photograph itself.

    Args:
        small: the resized photograph, (B, 3, h, w) in [0, 1].
        layers: its layers, of the same shape; the change of the transmission and the reflection itself are resized.
        size: height and width of the photograph.
    """

    def __init__(self, small: Tensor, layers: Layers, size: tuple[int, int]) -> None:
        self._size = size
        # In the picture's precision: mixed precision returns layers, and would give positions, of 8 significant bits.
        own = {name: layer.to(small) for name, layer in layers.items()}
        self._maps = {name: layer - small if name == "transmission" else layer for name, layer in own.items()}

    def applied(self, image: Tensor, first: int, last: int) -> Layers:
        """The layers of rows ``first`` to ``last - 1``.

        Args:
            image: these rows of the photograph, (B, C, last - first, W).
            first: index of the first row.
            last: index after the last row.

        Returns:
            Layers (B, 3, last - first, W), not clamped.
        """
        height, width = self._size
        # The pixels' centres, as F.interpolate without aligned corners places them.
        y = (2 * torch.arange(first, last, device=image.device) + 1) / height - 1
        x = (2 * torch.arange(width, device=image.device) + 1) / width - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).expand(len(image), -1, -1, -1)
        layers: Layers = {}
        for name, low in self._maps.items():
            found = F.grid_sample(low, grid, mode="bicubic", padding_mode="border", align_corners=False)
            layers[name] = found.add_(image) if name == "transmission" else found
        return layers

    def band(self, image: Tensor, first: int, last: int) -> FinishedRows:
        """Same as :meth:`applied`, for rows (C, last - first, W) of a single photograph on the CPU."""
        return FinishedRows(
            first, last, {name: each[0] for name, each in self.applied(image[None], first, last).items()}
        )


def separate_resized(
    network: Callable[[Tensor], Mapping[str, Any]], mixture: Tensor, size: Size, mirrored: bool = False
) -> Layers:
    """Separate (B, 3, H, W) in [0, 1] at its working size.

    Args:
        network: (B, 3, h, w) in [0, 1] -> its outputs by name.
        mixture: the mixtures.
        size: of the network.
        mirrored: average over the mixtures and their mirror images.

    Returns:
        The network's layers of the size of the mixture, not clamped.
    """
    own = (mixture.shape[-2], mixture.shape[-1])
    small = working_size(*own, size)
    image = mixture if small is None else resampled(mixture, small)
    outputs = Ensemble(network, MIRRORED)(image) if mirrored else network(image)
    layers: Layers = {name: cast(Tensor, outputs[name]) for name in LAYERS if outputs.get(name) is not None}
    if small is None:
        return layers
    return Change(image, {name: layer.clamp(0, 1) for name, layer in layers.items()}, own).applied(mixture, 0, own[0])
