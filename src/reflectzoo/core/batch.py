"""The two dictionaries that all parts of the zoo exchange: the input and the output of a method."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

Layer = Literal["transmission", "reflection"]
LAYERS: tuple[Layer, ...] = get_args(Layer)


class _BatchRequired(TypedDict):
    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    has_transmission: Tensor
    has_reflection: Tensor
    name: list[str]
    dataset: list[str]


class Batch(_BatchRequired, total=False):
    """Input of a method, with the ground truth. Images are RGB float32 in [0, 1], display-referred (sRGB-encoded).

    Keys:
        mixture: (B, 3, H, W), the photograph taken through glass.
        transmission: (B, 3, H, W), the scene behind the glass; zeros where unknown.
        reflection: (B, 3, H, W), the reflection layer as it appears in the mixture; zeros where unknown.
        has_transmission: (B,) bool, false where the transmission is unknown.
        has_reflection: (B,) bool, false where the reflection is unknown.
        name: B strings, unique within a data set.
        dataset: B strings, the data set each sample came from.
        unaligned_transmission: (B, 3, H, W), the scene behind the glass taken from a slightly different position,
            suitable only for comparing deep features; ``has_transmission`` is false for such a sample, so that no loss
            term compares pixels.
        has_unaligned: (B,) bool, false where there is none.
        frames: (B, N, 3, H, W), sequences only; ``mixture`` is then the centre frame.
        frame_transmissions: (B, N, 3, H, W), the transmission of every frame, zeros where unknown.
        frame_reflections: (B, N, 3, H, W), the reflection of every frame, zeros where unknown.
        has_frame_transmission: (B, N) bool.
        has_frame_reflection: (B, N) bool.
        frame_motion: (B, 2, N, 2), displacement in pixels (right, down) of the transmission and of the reflection in
            each frame relative to the centre frame; synthetic sequences only, elsewhere zeros with
            ``has_frame_reflection`` false.
        has_frames: (B,) bool, false for a still picture in a batch with sequences; its frames are zeros.
        draws: random parameters that the synthesis drew for each sample (sigma, alpha, ...), tensors of shape (B, ...);
            NaN for samples without a parameter of that name.
        seed: (B,) int64, the seed of all random choices for that sample.
        source_size: (B, 2) int64, height and width of the stored picture, evaluations only.
        protocol: B strings, how the stored pictures were resized for the evaluation.
        tags: B dictionaries of strings, further properties of a sample (subset, scene, aperture, glass).
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
    """Output of a method, at the size of the input; not clamped, except by the last layer of the paper's network.

    Keys:
        transmission: (B, 3, H, W).
        reflection: (B, 3, H, W), if the method estimates one.
        stages: intermediate results, coarse to fine, each with ``transmission`` and optionally ``reflection``.
        aux: other outputs that the paper defines (confidence map, gradient, iterates, motion).
    """

    reflection: Tensor
    stages: list[dict[str, Tensor]]
    aux: dict[str, Any]


def check_batch(batch: Batch) -> None:
    """Check that the required keys and ``frames`` of a batch have the documented shapes, types and lengths.

    Raises:
        ValueError: naming the first invalid key and the problem.
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
