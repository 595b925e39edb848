"""Realistic windows: glass over a part of the picture; sharp, double and uneven reflections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reflectzoo.core.annotations import Share
from reflectzoo.data.synthesis.base import Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, most_taps, separable_blur, side_of

_FIELD = 4
"""Side of the grid of random brightness outside, interpolated bilinearly in between."""
_SMALLEST = 1e-6


class GlassSynthesis(Synthesis):
    """Adds the light transmitted and reflected by a pane, in linear light, similar to a real window.

    Developed for this zoo. With ``t``, ``r`` in linear light, by a camera curve with a random exponent, and ``m`` the
    share of a pixel that the pane covers (1 everywhere unless the pane ends within the picture)::

        layer   = m * s * u * (r_blurred + g * r_blurred shifted) / (1 + g)
        mixture = clip((1 - m) * t + m * alpha * tint * t + layer)

    ``s`` is the strength, ``g`` the weight of the second reflection, and ``u`` a smooth random field, since bright
    places outside reflect and dark ones do not. Rough glass adds a wide halo to the blur. Overflow is clipped as by a
    sensor; nothing is subtracted. The true transmission is the photograph itself, not darkened or tinted by the glass,
    as in pairs taken by removing the pane.

    Args:
        strength: range of ``s``, log-uniformly distributed.
        sharp: probability that the reflection is in focus, and blurred by ``sharp_sigma`` instead of ``sigma``.
        sharp_sigma: range of the Gaussian's standard deviation in that case, in pixels, log-uniformly distributed.
        sigma: range of the standard deviation otherwise, likewise.
        halo: probability that the glass is rough, and spreads a share of 0.2 to 0.6 of the light over ``halo_sigma``.
        halo_sigma: range of that standard deviation, likewise.
        ghost: probability of a second reflection from the back of the pane, with ``g`` from 0.3 to 0.8.
        ghost_shift: range of the distance between both reflections, in pixels.
        partial: probability that the pane ends within the picture.
        uneven: probability that ``u`` is not 1 everywhere.
        alpha: range of the share of light that the pane transmits.
        tint: maximum additional loss of light in each colour channel.
        curve: range of the camera's exponent.

    Raises:
        UserError: if a range is not ascending or a probability outside [0, 1].
    """

    def __init__(
        self,
        strength: Sequence[float] = (0.12, 1.1),
        sharp: Share = 0.35,
        sharp_sigma: Sequence[float] = (0.3, 1.2),
        sigma: Sequence[float] = (1.2, 6.0),
        halo: Share = 0.2,
        halo_sigma: Sequence[float] = (4.0, 9.0),
        ghost: Share = 0.35,
        ghost_shift: Sequence[float] = (1.0, 9.0),
        partial: Share = 0.3,
        uneven: Share = 0.6,
        alpha: Sequence[float] = (0.72, 1.0),
        tint: Share = 0.04,
        curve: Sequence[float] = (1.9, 2.5),
    ) -> None:
        super().__init__()
        self.strength = pair_of("strength", strength, low=1e-3)
        self.sharp_sigma = pair_of("sharp_sigma", sharp_sigma, low=1e-2)
        self.sigma = pair_of("sigma", sigma, low=1e-2)
        self.halo_sigma = pair_of("halo_sigma", halo_sigma, low=1e-2)
        self.ghost_shift = pair_of("ghost_shift", ghost_shift, low=0)
        self.alpha = pair_of("alpha", alpha, low=0, high=1)
        self.curve = pair_of("curve", curve, low=1)
        self.sharp, self.halo, self.ghost = sharp, halo, ghost
        self.partial, self.uneven, self.tint = partial, uneven, tint

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Make all draws for one pane; effects that a mixture lacks are drawn with weight 0."""

        def spread(low: float, high: float) -> float:
            return float(math.exp(rng.uniform(math.log(low), math.log(high))))

        def often(share: float) -> bool:
            return bool(rng.random() < share)

        widths = self.sharp_sigma if often(self.sharp) else self.sigma
        angle = float(rng.uniform(0, 2 * math.pi))
        shift = float(rng.uniform(*self.ghost_shift))
        level = float(rng.uniform(self.alpha[0], self.alpha[1]))
        field = rng.random(_FIELD * _FIELD) ** 1.5 * 1.6
        return {
            "strength": spread(*self.strength),
            "sigma": spread(*widths),
            "halo": float(rng.uniform(0.2, 0.6)) if often(self.halo) else 0.0,
            "halo_sigma": spread(*self.halo_sigma),
            "ghost": float(rng.uniform(0.3, 0.8)) if often(self.ghost) else 0.0,
            "ghost_shift": (shift * math.cos(angle), shift * math.sin(angle)),
            "alpha": level,
            "tint": tuple(float(each) for each in 1 - rng.uniform(0, self.tint, 3)),
            "curve": float(rng.uniform(*self.curve)),
            "uneven": float(often(self.uneven)),
            "field": tuple(float(each) for each in field),
            "partial": float(often(self.partial)),
            "edge": (
                float(rng.uniform(0, 2 * math.pi)),
                float(rng.uniform(-0.5, 0.5)),
                spread(0.004, 0.15),
            ),
        }

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`; the draws are those of :meth:`sample_params`."""
        height, width = transmission.shape[-2:]
        curve = column(draws["curve"])
        behind = _raised(transmission, curve)
        layer = self._spread(_raised(reflection, curve), draws)
        weight = column(draws["ghost"])
        if _any(draws["ghost"]):
            layer = (layer + weight * _shifted(layer, draws["ghost_shift"])) / (1 + weight)
        layer = layer * column(draws["strength"]) * _light(draws, height, width)
        cover = _pane(draws, height, width)
        share = column(draws["tint"]) * column(draws["alpha"])
        layer = cover * layer
        mixture = behind * (1 + cover * (share - 1)) + layer
        return (
            _raised(mixture.clamp_(0, 1), 1 / curve),
            transmission,
            _raised(layer.clamp_(0, 1), 1 / curve),
        )

    def _spread(self, layer: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Blur the reflection; for rough glass, blend it with a second, wider blur."""
        widest = max(self.sharp_sigma[1], self.sigma[1])
        sigma = draws["sigma"]
        blurred = separable_blur(layer, gaussian_taps(sigma, most_taps(widest, sigma), side_of(sigma)), "replicate")
        if not _any(draws["halo"]):
            return blurred
        wide = draws["halo_sigma"]
        taps = gaussian_taps(wide, most_taps(self.halo_sigma[1], wide), side_of(wide))
        return blurred.lerp(separable_blur(blurred, taps, "replicate"), column(draws["halo"]))


def _any(weights: Tensor) -> bool:
    """Whether any weight is positive; always True on an accelerator, where checking would have to synchronise."""
    return weights.device.type != "cpu" or bool((weights > 0).any())


def _raised(image: Tensor, exponent: Tensor) -> Tensor:
    """``image ** exponent`` with an exponent per sample; the image is clamped to at least 1e-6."""
    return image.clamp(min=_SMALLEST).log2().mul_(exponent).exp2_()


def _shifted(image: Tensor, shift: Tensor) -> Tensor:
    """Shift each sample by its (x, y) pixels, with bilinear interpolation and repeated borders."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device, dtype=torch.float32)
    columns = torch.arange(width, device=image.device, dtype=torch.float32)
    x = (columns[None] - shift[:, :1]).clamp(0, width - 1) * (2 / max(width - 1, 1)) - 1
    y = (rows[None] - shift[:, 1:]).clamp(0, height - 1) * (2 / max(height - 1, 1)) - 1
    grid = torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), -1)
    return F.grid_sample(image, grid, align_corners=True, padding_mode="border")


def _light(draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
    """The uneven light outside, (B, 1, H, W); 1 everywhere for samples with even light."""
    field = draws["field"].reshape(-1, 1, _FIELD, _FIELD)
    even = column(1 - draws["uneven"])
    field = field * (1 - even) + even
    return F.interpolate(field, (height, width), mode="bilinear", align_corners=True)


def _pane(draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
    """The share of each pixel that the pane covers, (B, 1, H, W): 1, or a soft step along a straight edge."""
    angle, place, softness = (column(draws["edge"][:, each]) for each in range(3))
    device = draws["edge"].device
    x = torch.linspace(-0.5, 0.5, width, device=device).view(1, 1, 1, -1)
    y = torch.linspace(-0.5, 0.5, height, device=device).view(1, 1, -1, 1)
    distance = x * torch.cos(angle) + y * torch.sin(angle) - place * 0.7
    cover = torch.sigmoid(distance / (softness * 0.25))
    return torch.where(column(draws["partial"]) > 0, cover, torch.ones_like(cover))
