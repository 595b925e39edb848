"""The student, which needs only one photograph."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from reflectzoo.core.annotations import Count, EvenCount, NotNegative
from reflectzoo.core.batch import Outputs
from reflectzoo.core.settings import checked
from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.initial import initialise
from reflectzoo.methods.dynamics.parts import (
    STRIDES,
    WIDTH,
    ImageDecoder,
    Scale,
    convolutions,
)
from reflectzoo.nets.attention import ChannelAttention
from reflectzoo.nets.sizes import pad_to_multiple


class ResidualChannelBlock(nn.Module):
    """Residual block v + v' u, where v' is two convolutions of v and u its channel attention (section 3.2).

    Args:
        channels: channels of input and output.
        scale: factor of the residual; 1 as in the paper, ERRNet has 0.1.
    """

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.body = convolutions([channels] * 3, [1, 1], last_relu=False)
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.scale * cast(Tensor, self.attention(self.body(x)))


class DynamicsStudent(nn.Module):
    """The student, which predicts the transmission from one photograph (section 3.2).

    Args:
        width: channels, even; 256 as published.
        representation: channels of the representation to hallucinate, 128 as published; defaults to half the width, as
            in the full teacher.
        hallucination: whether to use a hallucination module. False is Table 2's "w/o Hallucination": the representation
            is computed from the encoder's features (by a 1x1 convolution that serves only the losses).
        encoder: whether to use a feature encoder; False is Table 2's "w/o Encoder".
        blocks: number of residual blocks in the context module.
        residual_scale: scale of these blocks, see :class:`ResidualChannelBlock`.
        scale: see :class:`~reflectzoo.methods.dynamics.teacher.DynamicsTeacher`; must equal the teacher's.
        residual: see :class:`~reflectzoo.methods.dynamics.teacher.DynamicsTeacher`.
        init_gain: see :func:`~reflectzoo.methods.dynamics.initial.initialise`.

    Raises:
        UserError: for an invalid value, or with neither hallucination nor encoder.
    """

    @checked("model.net")
    def __init__(
        self,
        width: EvenCount = WIDTH,
        representation: Count | None = None,
        hallucination: bool = True,
        encoder: bool = True,
        blocks: NotNegative = 10,
        residual_scale: float = 1.0,
        scale: Scale = 4,
        residual: bool = False,
        init_gain: float | None = None,
    ) -> None:
        super().__init__()
        if not hallucination and not encoder:
            raise UserError("A student with neither hallucination nor encoder has no input: keep one of them.")
        channels = width // 2 if representation is None else representation
        strides = STRIDES[scale]
        self.scale, self.residual, self.representation_channels = scale, residual, channels
        self.hallucination = (
            convolutions([3, *[width] * 4, channels], [*strides, 1], last_relu=False) if hallucination else None
        )
        self.encoder = convolutions([3, *[width] * 4], strides) if encoder else None
        self.projection = None if hallucination else nn.Conv2d(width, channels, 1)
        seen = (channels if hallucination else 0) + (width if encoder else 0)
        self.context = nn.Sequential(
            convolutions([seen, width], [1]), *(ResidualChannelBlock(width, residual_scale) for _ in range(blocks))
        )
        self.decoder = ImageDecoder(width, width, scale, residual)
        initialise(self, init_gain)

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate (B, 3, H, W) in [0, 1], any size.

        Returns:
            ``transmission`` of the same size, not clamped; ``aux["representation"]`` (B, R, h, w).
        """
        height, width = mixture.shape[-2:]
        padded = pad_to_multiple(mixture, self.scale)
        seen: list[Tensor] = []
        if self.hallucination is not None:
            seen.append(self.hallucination(padded))
        if self.encoder is not None:
            seen.append(self.encoder(padded))
        representation = seen[0] if self.projection is None else self.projection(seen[0])
        image = self.decoder(self.context(torch.cat(seen, dim=1)))[..., :height, :width]
        transmission = mixture + image if self.residual else image
        return {"transmission": transmission, "aux": {"representation": representation}}
