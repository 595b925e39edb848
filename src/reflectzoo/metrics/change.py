"""Scores without ground truth: how much of a photograph changed, and how smooth the change is."""

from __future__ import annotations

import torch
from torch import Tensor

from reflectzoo.metrics.functional import as_double, undefined_scores
from reflectzoo.metrics.images import BlindMetric
from reflectzoo.ops.windows import windowed

CHANGE_THRESHOLD = 2 / 255
"""Smallest difference in a channel for which a pixel counts as changed; one step may be due to rounding."""
_SMOOTH = 15


def changed_share(preds: Tensor, mixture: Tensor) -> Tensor:
    """Share of the pixels that differ from the input by :data:`CHANGE_THRESHOLD` or more in some channel.

    Args:
        preds: (B, 3, H, W) in [0, 1].
        mixture: same shape.

    Returns:
        (B,) in [0, 1].

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> photo = torch.zeros(1, 3, 2, 2)
        >>> better = photo.clone()
        >>> better[0, 0, 0, 0] = 0.5
        >>> changed_share(better, photo).tolist()
        [0.25]
    """
    p, m = as_double(preds, mixture)
    # A tolerance of half a step, since 2/255 cannot be represented exactly in float32.
    return ((p - m).abs().amax(dim=1) >= CHANGE_THRESHOLD - 0.5 / 255).double().mean(dim=(1, 2))


def smooth_share(preds: Tensor, mixture: Tensor) -> Tensor:
    """Share of the change's energy that remains after averaging it over a 15x15 window.

    Most reflections are out of focus, so that their removal is a smooth change; if details of the photograph itself are
    removed, the change is as sharp as they are. Low values are a warning, not a proof, since reflections can be sharp.

    Args:
        preds: (B, 3, H, W) in [0, 1].
        mixture: same shape.

    Returns:
        (B,) in [0, 1]; NaN if nothing changed, or for images smaller than the window.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> photo = torch.zeros(1, 3, 32, 32)
        >>> round(smooth_share(photo + 0.5, photo).item(), 6)
        1.0
    """
    p, m = as_double(preds, mixture)
    change = p - m
    if min(change.shape[-2:]) < _SMOOTH:
        return undefined_scores(change)
    taps = change.new_full((_SMOOTH,), 1 / _SMOOTH)
    smooth = windowed(change, taps)
    rim = _SMOOTH // 2
    inner = change[..., rim:-rim, rim:-rim]
    energy = inner.square().sum(dim=(1, 2, 3))
    share = smooth.square().sum(dim=(1, 2, 3)) / energy
    return torch.where(energy > 0, share.clamp(max=1), float("nan"))


class Changed(BlindMetric):
    """Share of the picture that changed; see :func:`changed_share`. Has no direction."""

    key = "changed"
    title = "changed"
    unit = "%"
    digits = 1
    higher_is_better = None

    def per_image(self, preds: Tensor, mixture: Tensor) -> Tensor:
        """(B,), in percent."""
        return 100 * changed_share(preds, mixture)


class Smooth(BlindMetric):
    """Share of the change that is smooth; see :func:`smooth_share`. Has no direction."""

    key = "smooth"
    title = "smooth"
    unit = "%"
    digits = 0
    higher_is_better = None

    def per_image(self, preds: Tensor, mixture: Tensor) -> Tensor:
        """(B,), in percent."""
        return 100 * smooth_share(preds, mixture)
