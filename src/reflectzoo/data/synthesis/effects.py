"""Further effects of glass and cameras: ghosting, depth-dependent blur, coloured light, noise, compression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reflectzoo.data.synthesis.base import FRAME, Params, Synthesis, column, pair_of
from reflectzoo.data.synthesis.blur import gaussian_taps, most_taps, separable_blur, side_of
from reflectzoo.data.synthesis.jpeg import compress
from reflectzoo.data.synthesis.optics import power, to_linear, to_stored
from reflectzoo.errors import UserError


class Effect:
    """An effect on the reflected photograph before blending, or on the finished mixture.

    As in a :class:`Synthesis`, :meth:`sample_params` makes random draws, and the other methods are deterministic.
    """

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Make the random draws for one sample, with names that no other effect uses."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it draws")

    def on_reflection(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Apply the effect to the reflected photograph before blending, (B, 3, H, W) in [0, 1]."""
        return reflection

    def on_mixture(self, mixture: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Apply the effect to the finished mixture, (B, 3, H, W) in [0, 1]."""
        return mixture


class EffectSynthesis(Synthesis):
    """A synthesis model with effects before and after it.

    The target layers are those of the model: its reflection includes the effects on the reflected photograph, but
    neither layer includes those on the mixture.

    Args:
        base: the model.
        effects: the effects by name, in the order in which they are applied.

    Raises:
        UserError: if two of them use the same name for a draw.
    """

    def __init__(self, base: Synthesis, effects: Mapping[str, Effect]) -> None:
        super().__init__()
        self.base = base
        self.effects = dict(effects)
        rng = np.random.default_rng(0)
        taken = set(base.sample_params(rng))
        for name, effect in self.effects.items():
            names = set(effect.sample_params(rng))
            if both := sorted(taken & names):
                raise UserError(f"synthesis.effects: '{name}' draws {', '.join(both)}, as something before it does.")
            taken |= names

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Make the draws of the model and of each effect."""
        drawn = self.base.sample_params(rng)
        for effect in self.effects.values():
            drawn |= effect.sample_params(rng)
        return drawn

    def measure(self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Synthesis.measure`; measured by the model, after the effects on the reflection."""
        return self.base.measure(transmission, self._reflected(reflection, draws), draws)

    @torch.no_grad()
    def blend(
        self, transmission: Tensor, reflection: Tensor, draws: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Synthesis.blend`."""
        mixture, behind, layer = self.base.blend(transmission, self._reflected(reflection, draws), draws)
        for effect in self.effects.values():
            mixture = effect.on_mixture(mixture, draws)
        return mixture, behind, layer

    def _reflected(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        for effect in self.effects.values():
            reflection = effect.on_reflection(reflection, draws)
        return reflection


class Ghosting(Effect):
    """A second, weaker reflection from the back of a thick pane, displaced from the first.

    Shih et al., "Reflection Removal Using Ghosting Cues", CVPR 2015: convolution with two impulses. Here it is applied
    in linear light and normalised, so that the brightness of the reflection does not change.

    Args:
        offset: range of the distance in pixels; the direction is uniformly distributed.
        strength: range of the second reflection's strength relative to the first.

    Raises:
        UserError: if a range is not ascending or out of bounds.
    """

    def __init__(self, offset: Sequence[float] = (4.0, 16.0), strength: Sequence[float] = (0.4, 0.9)) -> None:
        self.offset = pair_of("effects.ghosting.offset", offset, low=0)
        self.strength = pair_of("effects.ghosting.strength", strength, low=0, high=1)

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw the offset in pixels, ``ghost_x`` and ``ghost_y``, and ``ghost_strength``."""
        length, angle = rng.uniform(*self.offset), rng.uniform(0, 2 * math.pi)
        return {
            "ghost_x": float(length * math.cos(angle)),
            "ghost_y": float(length * math.sin(angle)),
            "ghost_strength": float(rng.uniform(*self.strength)),
        }

    def on_reflection(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Add the second reflection, repeating the border pixels."""
        height, width = reflection.shape[-2:]
        light = to_linear(reflection)
        strength = column(draws["ghost_strength"])
        rows, columns = (torch.arange(size, device=light.device, dtype=light.dtype) for size in (height, width))
        y = (2 * (rows - draws["ghost_y"][:, None]) + 1) / height - 1
        x = (2 * (columns - draws["ghost_x"][:, None]) + 1) / width - 1
        grid = torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1)
        second = F.grid_sample(light, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return to_stored(second.mul_(strength).add_(light).div_(1 + strength).clamp_(0, 1))


class DepthBlur(Effect):
    """Blur that increases across the picture, as for a reflected scene that recedes from the focal plane.

    The depth is a ramp in a random direction: sharp at its near end, and blurred by half of ``sigma`` in the middle and
    by ``sigma`` at the far end; in between, neighbouring stages are interpolated.

    Args:
        sigma: range of the Gaussian's standard deviation at the far end in pixels.

    Raises:
        UserError: if the range is not ascending or not positive.
    """

    def __init__(self, sigma: Sequence[float] = (4.0, 8.0)) -> None:
        self.sigma = pair_of("effects.depth_blur.sigma", sigma, low=1e-3)

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``depth_sigma`` and a unit vector in the direction of depth, ``depth_x`` and ``depth_y``."""
        angle = rng.uniform(0, 2 * math.pi)
        sigma = float(rng.uniform(*self.sigma))
        return {"depth_sigma": sigma, "depth_x": math.cos(angle), "depth_y": math.sin(angle)}

    def on_reflection(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Interpolate three stages of blur by the depth of each pixel."""
        height, width = reflection.shape[-2:]
        sigma = draws["depth_sigma"]
        taps = most_taps(self.sigma[1], sigma)
        middle, far = (
            separable_blur(reflection, gaussian_taps(width, taps, side_of(width)), "reflect")
            for width in (sigma / 2, sigma)
        )
        rows, columns = (
            (torch.arange(size, device=sigma.device, dtype=sigma.dtype) + 0.5) / size - 0.5 for size in (height, width)
        )
        depth = column(draws["depth_x"]) * columns + column(draws["depth_y"]) * rows[:, None] + 0.5
        stage = depth.mul_(2).clamp_(0, 2)
        near_half = torch.lerp(reflection, middle, stage.clamp(max=1))
        return torch.lerp(near_half, far, (stage - 1).clamp_(min=0))


class ColourCast(Effect):
    """Coloured light on the reflected scene, or a coated pane.

    Args:
        strength: range of the attenuation of the weakest channel, in linear light. The strongest channel is unchanged;
            the order of the channels and the factor of the third one are random.

    Raises:
        UserError: if the range is not ascending or not within [0, 1].
    """

    def __init__(self, strength: Sequence[float] = (0.05, 0.4)) -> None:
        self.strength = pair_of("effects.colour_cast.strength", strength, low=0, high=1)

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``cast``, the factors of the three channels in linear light."""
        weakest = 1 - float(rng.uniform(*self.strength))
        gains = [1.0, float(rng.uniform(weakest, 1)), weakest]
        order = rng.permutation(3)
        return {"cast": tuple(gains[index] for index in order)}

    def on_reflection(self, reflection: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Multiply the channels, in stored values, since the power of a product is the product of the powers."""
        return reflection * column(power(draws["cast"], 1 / 2.2))


class CameraNoise(Effect):
    """Photon and read noise in linear light, with a variance of ``shot * value + read ** 2``.

    Args:
        shot: range of the photon noise's factor, log-uniformly distributed.
        read: range of the read noise's standard deviation, likewise.

    Raises:
        UserError: if a range is not ascending or not positive.
    """

    def __init__(self, shot: Sequence[float] = (1e-4, 2e-3), read: Sequence[float] = (5e-4, 5e-3)) -> None:
        self.shot = pair_of("effects.noise.shot", shot, low=1e-9)
        self.read = pair_of("effects.noise.read", read, low=1e-9)

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``noise_shot``, ``noise_read`` and ``noise_seed``, an integer below 2 ** 24."""
        return {
            "noise_shot": float(np.exp(rng.uniform(*np.log(self.shot)))),
            "noise_read": float(np.exp(rng.uniform(*np.log(self.read)))),
            "noise_seed": float(rng.integers(2**24)),
        }

    def on_mixture(self, mixture: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Add noise, different for every frame of a sequence."""
        light = to_linear(mixture)
        variance = light * column(draws["noise_shot"]) + column(draws["noise_read"]).square()
        seed = draws["noise_seed"].long()
        if FRAME in draws:
            seed = seed + draws[FRAME].long() * 2**24
        return to_stored(variance.sqrt_().mul_(normal(seed, mixture.shape[1:])).add_(light).clamp_(0, 1))


class JPEG(Effect):
    """JPEG compression, which most photographs have undergone.

    Args:
        quality: range of libjpeg's quality, integers from 1 to 100.
        subsample: whether chroma is stored at half the resolution, as usual.

    Raises:
        UserError: if the range is not ascending or out of bounds.
    """

    def __init__(self, quality: Sequence[float] = (60, 95), subsample: bool = True) -> None:
        self.quality = pair_of("effects.jpeg.quality", quality, low=1, high=100)
        self.subsample = subsample

    def sample_params(self, rng: np.random.Generator) -> Params:
        """Draw ``jpeg_quality``."""
        return {"jpeg_quality": float(rng.integers(round(self.quality[0]), round(self.quality[1]), endpoint=True))}

    def on_mixture(self, mixture: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Compress and decompress."""
        return compress(mixture, draws["jpeg_quality"], self.subsample)


def normal(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Normally distributed numbers, determined by a seed per sample, the same on every device and in every batch.

    torch's generators give different numbers on different devices. Here, as in counter-based generators, the index of
    each element and the seed are scrambled by a 32-bit integer hash (shifts and two multiplications).

    Args:
        seed: (B,) int64.
        shape: shape of one sample.

    Returns:
        (B, *shape) float32, mean 0, standard deviation 1.
    """
    places = torch.arange(math.prod(shape), device=seed.device)
    bits = _scramble(places[None] + (_scramble(seed)[:, None] << 20))
    # 23 bits, centred in their interval, so that neither 0 nor 1 occurs.
    even = ((bits >> 9).float() + 0.5) / 2**23
    return torch.erfinv(2 * even - 1).mul_(math.sqrt(2)).reshape(-1, *shape)


def _scramble(number: Tensor) -> Tensor:
    """Hash an int64 to 32 well mixed bits, stored in an int64."""
    mask = 2**32 - 1
    number = (number ^ (number >> 32)) & mask
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        number = ((number ^ (number >> shift)) * factor) & mask
    return number ^ (number >> 15)
