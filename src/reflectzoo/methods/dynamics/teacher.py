"""The teacher, which processes a sequence of frames.

Zheng et al., "Distilling Reflection Dynamics for Single-Image Reflection Removal", ICCV 2021, section 3. Channels below
are those of the published width, 256. README.md in this folder lists the choices made where the paper is incomplete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.annotations import Count, EvenCount, Positive, Rule
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.initial import initialise
from reflectzoo.methods.dynamics.motion import MultiViewKnowledge
from reflectzoo.methods.dynamics.parts import (
    STRIDES,
    WIDTH,
    ImageDecoder,
    Scale,
    convolutions,
)
from reflectzoo.methods.dynamics.warp import enlarged_motion
from reflectzoo.nets.sizes import pad_to_multiple


class DynamicsTeacher(nn.Module):
    """The teacher, which predicts the transmission of the centre frame from a sequence (section 3.1).

    Args:
        width: channels of the encoder and the decoder, even; 256 as published.
        frames: number of frames in a sequence, odd and at least 3.
        mkl: whether to use a multi-view knowledge learning module. False is Table 2's "w/o MKL": one convolution fuses
            the features of all frames.
        decouple: see :class:`MultiViewKnowledge`; False is Table 2's "w/o Decouple Net".
        flow: see :class:`MultiViewKnowledge`; False is "w/o Flow Net".
        fusion: see :class:`MultiViewKnowledge`; False is "w/o Fusion Net".
        motion: axes of a motion field: 2; or 1, the literal reading of the paper, a displacement along the width only.
        flow_width: channels of the flow net, whose first layer has four times as many; defaults to half of ``width``,
            as published. Estimating motion takes more channels than a narrow network has.
        matching: maximum displacement of a layer along each axis, in feature pixels, for matching (see
            :class:`MultiViewKnowledge`); None, as published, for no matching.
        rigid: whether each layer moves as a whole, as in synthetic sequences.
        correction: factor of the flow net's corrections to matched motions; 0 disables them.
        scale: 4, or 2 for features of half the image's size (encoder strides 1, 2, 1, 1 and a first transposed
            convolution that does not upsample), which costs four times as much.
        residual: whether the decoder's output is added to the centre frame, starting at zero. Not in the paper; helps
            narrow networks, whose features cannot represent a sharp photograph.
        init_gain: see :func:`~reflectzoo.methods.dynamics.initial.initialise`.

    Raises:
        UserError: for an invalid value.
    """

    @checked("model.net")
    def __init__(
        self,
        width: EvenCount = WIDTH,
        frames: Annotated[int, Rule("an odd number of at least 3", lambda count: count >= 3 and count % 2 == 1)] = 3,
        mkl: bool = True,
        decouple: bool = True,
        flow: bool = True,
        fusion: bool = True,
        motion: Literal[1, 2] = 2,
        flow_width: Count | None = None,
        matching: Count | None = None,
        rigid: bool = False,
        correction: float = 1.0,
        scale: Scale = 4,
        residual: bool = False,
        init_gain: Positive | None = None,
    ) -> None:
        super().__init__()
        self.frames, self.scale, self.residual = frames, scale, residual
        self.encoder = convolutions([3, *[width] * 4], STRIDES[scale])
        self.knowledge = (
            MultiViewKnowledge(width, frames, decouple, flow, fusion, motion, flow_width, matching, rigid, correction)
            if mkl
            else None
        )
        self.fuse = None if mkl else nn.Conv2d(frames * width, width // 2, 3, padding=1)
        self.decoder = ImageDecoder(self.representation_channels, width, scale, residual)
        initialise(self, init_gain)

    @property
    def representation_channels(self) -> int:
        """Channels of the representation that the student learns: 128 as published."""
        return self.knowledge.channels if self.knowledge is not None else cast(nn.Conv2d, self.fuse).out_channels

    def forward(self, frames: Tensor | Sequence[Tensor]) -> Outputs:
        """Separate the centre frame.

        Args:
            frames: (B, N, 3, H, W) in [0, 1], or a list of N frames (B, 3, H, W), in order. A single picture
                (B, 3, H, W) is repeated, as from a static camera.

        Returns:
            ``transmission`` (B, 3, H, W). ``stages`` has one entry, the layers of the centre frame from the decouple
            net's decoders, upsampled to its size. ``aux``: ``representation`` (B, R, h, w); and, if the respective
            parts are enabled, ``motion`` of each layer, (B, N - 1, 2, H, W) in pixels: the position of each pixel of
            the centre frame in the other frames, relative to its own; ``flow``, the same in feature pixels,
            (B, N - 1, 2, h, w); ``features`` of each layer (B, N, C, h, w); ``frame_transmissions`` and
            ``frame_reflections``, the decoders' outputs, (B, N, 3, 2H/scale, 2W/scale), rounded up. No values are
            clamped.

        Raises:
            UserError: if the number of frames is wrong, or their sizes differ.
        """
        sequence = self._sequence(frames)
        size, count, _, height, width = sequence.shape
        padded = pad_to_multiple(sequence.flatten(0, 1), self.scale)
        encoded = self.encoder(padded).unflatten(0, (size, count))
        aux: dict[str, Tensor | dict[str, Tensor]] = {}
        outputs: Outputs = {"transmission": padded}
        if self.knowledge is None:
            representation: Tensor = cast(nn.Conv2d, self.fuse)(encoded.flatten(1, 2))
        else:
            known = self.knowledge(encoded, padded.view(size, count, *padded.shape[1:]))
            representation = known.representation
            aux["features"] = known.features
            if known.flow:
                aux["flow"] = known.flow
                aux["motion"] = {
                    layer: enlarged_motion(flow, self.scale, height, width) for layer, flow in known.flow.items()
                }
            if known.images:
                step = self.scale // 2
                reduced = {
                    layer: images[..., : -(-height // step), : -(-width // step)]
                    for layer, images in known.images.items()
                }
                for layer, images in reduced.items():
                    aux[f"frame_{layer}s"] = images
                outputs["stages"] = [
                    {
                        layer: _enlarged(images[:, count // 2], step, height, width)
                        for layer, images in known.images.items()
                    }
                ]
        aux["representation"] = representation
        image = self.decoder(representation)[..., :height, :width]
        outputs["transmission"] = sequence[:, count // 2] + image if self.residual else image
        outputs["aux"] = aux
        return outputs

    def _sequence(self, frames: Tensor | Sequence[Tensor]) -> Tensor:
        if not isinstance(frames, Tensor):
            sizes = [tuple(frame.shape) for frame in frames]
            if len(set(sizes)) > 1:
                shown = ", ".join("x".join(map(str, each[-2:])) for each in sizes)
                raise UserError(f"The frames of a sequence must have the same size, but these are {shown}.")
            frames = torch.stack(list(frames), dim=1)
        if frames.ndim == 4:
            frames = frames[:, None].expand(-1, self.frames, -1, -1, -1)
        if frames.ndim != 5 or frames.shape[1] != self.frames:
            got = f"{frames.shape[1]} frames" if frames.ndim == 5 else f"a tensor of shape {tuple(frames.shape)}"
            raise UserError(
                f"The teacher takes {self.frames} frames (model.net.frames), but got {got}: set data.frames to the "
                "same number."
            )
        return frames


def _enlarged(image: Tensor, factor: int, height: int, width: int) -> Tensor:
    if factor == 1:
        return image[..., :height, :width]
    whole = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    return whole[..., :height, :width]
