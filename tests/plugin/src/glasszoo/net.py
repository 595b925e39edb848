"""The network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.batch import Outputs
from reflectzoo.nets.sizes import pad_to_multiple


class VeilNet(nn.Module):
    """Predicts the reflection at half the size, and subtracts it.

    Args:
        channels: of the hidden layers.
        strength: factor of what is subtracted.
    """

    def __init__(self, channels: int = 16, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.first = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate (B, 3, H, W) in [0, 1], any size."""
        height, width = mixture.shape[-2:]
        image = pad_to_multiple(mixture, 2)
        hidden = F.relu(self.second(F.relu(self.first(image))))
        veil = F.interpolate(torch.sigmoid(self.last(hidden)), scale_factor=2, mode="nearest")
        reflection = self.strength * veil[..., :height, :width]
        return {"transmission": mixture - reflection, "reflection": reflection}
