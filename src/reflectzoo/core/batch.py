"""The two dictionaries that every part of the zoo speaks: what goes into a method and what comes out."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

Layer = Literal["transmission", "reflection"]


class _BatchRequired(TypedDict):
    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    has_transmission: Tensor
    has_reflection: Tensor
    name: list[str]
    dataset: list[str]


class Batch(_BatchRequired, total=False):
    """What a method learns from. Images are RGB float32 in [0, 1], display-referred (sRGB-encoded).

    Keys:
        mixture: (B, 3, H, W), the photograph through glass.
        transmission: (B, 3, H, W), the scene behind the glass; zeros where unknown.
        reflection: (B, 3, H, W), the layer as it lies in the mixture; zeros where unknown.
        has_transmission: (B,) bool, false where the transmission is unknown.
        has_reflection: (B,) bool, false where the reflection is unknown.
        name: B strings, unique within a data set.
        dataset: B strings, the data set each sample came from.
        unaligned_transmission: (B, 3, H, W), the scene behind the glass shot from a slightly different place, fit for
            comparing deep features only; such a sample has ``has_transmission`` false, so that no term compares pixels.
        has_unaligned: (B,) bool, false where there is none.
        frames: (B, N, 3, H, W), sequences only; ``mixture`` is then the centre frame.
        frame_transmissions: (B, N, 3, H, W), the transmission of every frame, zeros where unknown.
        frame_reflections: (B, N, 3, H, W), the reflection of every frame, zeros where unknown.
        has_frame_transmission: (B, N) bool.
        has_frame_reflection: (B, N) bool.
        frame_motion: (B, 2, N, 2), how much further right and down, in pixels, the points of the transmission and of
            the reflection lie in each frame than in the centre one; synthetic sequences only, elsewhere zeros with
            ``has_frame_reflection`` false.
        has_frames: (B,) bool, false for a still picture that shares a batch with sequences; its frames are zeros.
        draws: what the synthesis drew for each sample (sigma, alpha, ...), tensors of shape (B, ...); NaN for samples
            of a batch for which nothing of that name was drawn.
        seed: (B,) int64, the number that all random choices of that sample follow from.
        source_size: (B, 2) int64, height and width of the stored picture, evaluations only.
        protocol: B strings, how the stored pictures were resized for the evaluation.
        tags: B dictionaries of strings, what else is known about a sample (subset, scene, aperture, glass).
    """

    unaligned_transmission: Tensor
    has_unaligned: Tensor
    frames: Tensor
    frame_transmissions: Tensor
    frame_reflections: Tensor
    has_frame_transmission: Tensor
    has_frame_reflection: Tensor
    has_frames: Tensor
    frame_motion: Tensor
    draws: dict[str, Tensor]
    seed: Tensor
    source_size: Tensor
    protocol: list[str]
    tags: list[dict[str, str]]


class _OutputsRequired(TypedDict):
    transmission: Tensor


class Outputs(_OutputsRequired, total=False):
    """What a method returns. Full input size; not clamped beyond what the paper's last layer does.

    Keys:
        transmission: (B, 3, H, W).
        reflection: (B, 3, H, W), where the method has one.
        stages: earlier results, coarse to fine, each with ``transmission`` and perhaps ``reflection``.
        aux: whatever else the paper names (confidence map, gradient, iterates, motion).
    """

    reflection: Tensor
    stages: list[dict[str, Tensor]]
    aux: dict[str, Any]


def check_batch(batch: Batch) -> None:
    """Raise if a batch breaks the contract above.

    Raises:
        ValueError: with the key and what is wrong with it.
    """
    mixture = batch["mixture"]
    if mixture.ndim != 4 or mixture.shape[1] != 3:
        raise ValueError(f"batch['mixture'] must be (B, 3, H, W), got {tuple(mixture.shape)}")
    size = mixture.shape[0]
    for key in ("transmission", "reflection"):
        layer: Tensor = batch[key]  # type: ignore[literal-required]
        if layer.shape != mixture.shape:
            raise ValueError(f"batch['{key}'] is {tuple(layer.shape)}, but the mixture is {tuple(mixture.shape)}")
    for key in ("has_transmission", "has_reflection"):
        flag: Tensor = batch[key]  # type: ignore[literal-required]
        if flag.shape != (size,) or flag.dtype != torch.bool:
            raise ValueError(f"batch['{key}'] must be bool of shape ({size},), got {flag.dtype} {tuple(flag.shape)}")
    for key in ("name", "dataset"):
        if len(batch[key]) != size:  # type: ignore[literal-required]
            raise ValueError(f"batch['{key}'] must hold {size} strings")
    if "frames" in batch:
        frames = batch["frames"]
        if frames.ndim != 5 or (frames.shape[0], *frames.shape[2:]) != tuple(mixture.shape):
            raise ValueError(
                f"batch['frames'] must be (B, N, 3, H, W), got {tuple(frames.shape)} beside a mixture of "
                f"{tuple(mixture.shape)}"
            )
