"""Visualisation of motion fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from kornia.color import hsv_to_rgb
from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs

_LAYERS = ("transmission", "reflection")


def motion_colours(motion: Tensor, most: float) -> Tensor:
    """Draw a motion field: the hue shows the direction, the saturation the length; white means no motion.

    Right is red, down yellow-green, left cyan, up violet; see :func:`colour_wheel`.

    Args:
        motion: (2, H, W) in pixels, to the right and downwards.
        most: length in pixels from which colours are fully saturated.

    Returns:
        (3, H, W) in [0, 1].

    Example:
        >>> right = torch.tensor([2.0, 0.0]).view(2, 1, 1)
        >>> motion_colours(right, most=2.0).flatten().tolist()
        [1.0, 0.0, 0.0]
    """
    across, down = motion.detach().float()
    hue = torch.atan2(down, across) % (2 * math.pi)
    length = (torch.hypot(across, down) / max(most, 1e-6)).clamp(max=1)
    colours: Tensor = hsv_to_rgb(torch.stack([hue, length, torch.ones_like(hue)])[None])[0]
    return colours.clamp(0, 1)


def colour_wheel(side: int) -> Tensor:
    """Colour key of :func:`motion_colours`, (3, side, side): each pixel shows the motion from the centre to itself."""
    place = torch.linspace(-1, 1, side)
    down, across = torch.meshgrid(place, place, indexing="ij")
    field = torch.stack([across, down])
    return torch.where(field.square().sum(dim=0) <= 1, motion_colours(field, 1.0), torch.ones(3, 1, 1))


def motion_images(outputs: Outputs, batch: Batch, index: int) -> tuple[dict[str, Tensor], str]:
    """Draw the other frames of one sequence and the motion of its layers, with a legend.

    If the true motion is known, a square in the top left corner has its colour. Colours are fully saturated at the
    largest true motion of the layer, or if that is unknown, at the largest estimated one, but not below 1 pixel.

    Args:
        outputs: with ``aux["motion"]``: layer -> (B, N - 1, 2, H, W) in pixels.
        batch: with ``frames``, and optionally ``frame_motion``.
        index: index of the sample.

    Returns:
        Title -> (3, H, W), and the legend; empty for outputs without motion, or a still picture.
    """
    fields: Mapping[str, Any] = outputs.get("aux", {}).get("motion", {})
    if not fields or "frames" not in batch or not bool(batch["has_frames"][index]):
        return {}, ""
    frames = batch["frames"].shape[1]
    others = [other for other in range(frames) if other != frames // 2]
    names = [f"{other - frames // 2:+d}" for other in others]
    images = {f"frame {name}": batch["frames"][index, other] for name, other in zip(names, others, strict=True)}
    true = batch["frame_motion"][index] if "frame_motion" in batch else None
    if true is not None and not bool(batch["has_frame_reflection"][index].all()):
        true = None
    full = []
    for place, layer in enumerate(_LAYERS):
        if layer not in fields:
            continue
        field: Tensor = fields[layer][index].detach().float()
        lengths = (true[place] if true is not None else field.flatten(2).transpose(1, 2)).norm(dim=-1)
        most = max(float(lengths.max()), 1.0)
        full.append(f"{layer} {most:.1f} px")
        for number, (name, other) in enumerate(zip(names, others, strict=True)):
            picture = motion_colours(field[number], most)
            if true is not None:
                side = max(1, min(picture.shape[-2:]) // 6)
                corner = motion_colours(true[place, other].to(picture)[:, None, None], most)
                picture[:, :side, :side] = corner
            images[f"{layer[0].upper()} moves, {name}"] = picture
    return images, "full colour: " + ", ".join(full)
