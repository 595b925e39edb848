"""Motion estimation of the teacher: matching, motion fields, and fusion of the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.methods.dynamics.parts import WIDTH, convolutions, upsampling_layer
from reflectzoo.methods.dynamics.warp import warp
from reflectzoo.ops.checks import full_precision

FINER = 2
"""Size of the frames compared in matching, relative to the features, which are too coarse for small steps."""
ROUNDS = 4
"""Number of times that the reflection is matched, each time in a better estimate of it."""


class LayerDecoder(nn.Module):
    """G_T or G_R: decodes one layer from its features, at twice their size, equation (1).

    It also returns its last hidden features, averaged down to the size of the input: the low-level features Psi, which
    the paper mentions without defining them.

    Args:
        channels: channels of the features and of all layers, 128 as published.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(upsampling_layer(channels, channels, 2), convolutions([channels] * 4, [1, 1, 1]))
        self.image = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> image (B, 3, 2h, 2w), not clamped; low-level features (B, C, h, w)."""
        hidden = self.body(features)
        return self.image(hidden), F.avg_pool2d(hidden, 2)


class LayerMatching(nn.Module):
    """Estimates the displacement of one layer between two frames by matching; not in the paper.

    A 3x3 convolution without activation, initialised as a Sobel operator, computes the features to compare. The squared
    distance between the features at a position of the centre frame and those at every position of the neighbour within
    ``radius`` is averaged over a window, or over the whole image, and divided by the features' variance. The result is
    the mean of all displacements, weighted by a softmax of the negative distances plus a learnt prior per displacement:
    both layers move, and when two displacements match, only a prior can tell which of them belongs to this layer.
    Positions outside the neighbour and within the margin, which is affected by padding, are not compared.

    Args:
        channels: channels of the frames.
        radius: maximum displacement along each axis, in pixels of the compared frames.
        rigid: whether the whole layer has a single displacement.
        sharpness: initial value of the softmax's learnt factor.
        margin: width in pixels of the border that is not compared; 0 if a side is shorter than four margins.
    """

    def __init__(
        self,
        channels: int,
        radius: int,
        rigid: bool = False,
        sharpness: float = 10.0,
        margin: int = 2,
    ) -> None:
        super().__init__()
        self.radius, self.rigid, self.margin = radius, rigid, margin
        self.compared = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        nn.init.zeros_(cast(Tensor, self.compared.bias))
        with torch.no_grad():
            sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
            self.compared.weight.copy_(
                torch.einsum("io,kyx->koiyx", torch.eye(channels), torch.stack([sobel, sobel.T])).flatten(0, 1)
            )
        self.sharpness = nn.Parameter(torch.tensor(sharpness).log())
        self.prior = nn.Parameter(torch.zeros((2 * radius + 1) ** 2))

    def forward(self, centre: Tensor, other: Tensor) -> Tensor:
        """Two (B, channels, h, w) -> displacement (B, 2, h, w) in pixels of the input, to the right and down."""
        first, second = full_precision(self.compared(torch.cat([centre, other]))).chunk(2)
        (height, width), radius, side = first.shape[-2:], self.radius, 2 * self.radius + 1
        margin = self.margin if min(height, width) >= 4 * self.margin else 0
        valid = F.pad(first.new_ones(1, 1, height - 2 * margin, width - 2 * margin), [margin] * 4)
        padded, there = (F.pad(each, [radius] * 4) for each in (second, valid))
        # One row of displacements at a time, since all at once need too much memory for large pictures.
        rows = []
        for row in range(side):
            views = padded[:, :, row : row + height].unfold(3, width, 1).movedim(3, 2)
            rows.append((first[:, :, None] - views).square().mean(dim=1))
        counted = valid * there.unfold(2, height, 1).unfold(3, width, 1).reshape(1, side**2, height, width)
        distance = torch.cat(rows, dim=1) * counted
        if self.rigid:
            distance, counted = (each.mean(dim=(2, 3), keepdim=True) for each in (distance, counted))
        else:
            distance, counted = (F.avg_pool2d(each, side, 1, radius) for each in (distance, counted))
        variance = first.var(dim=(2, 3), correction=0).mean(dim=1)[:, None, None, None]
        relative = distance / (counted.clamp(min=1e-6) * (variance + 1e-6))
        likely = self.prior[:, None, None] - relative
        fit = (likely * self.sharpness.exp()).masked_fill(counted == 0, -1e9).softmax(dim=1)
        steps = torch.arange(-radius, radius + 1, device=fit.device, dtype=fit.dtype)
        fit = fit.reshape(len(fit), side, side, *fit.shape[2:])
        right, down = (fit.sum(dim=1).movedim(1, -1) @ steps, fit.sum(dim=2).movedim(1, -1) @ steps)
        return torch.stack([right, down], dim=1).expand(-1, -1, height, width)


class FlowNet(nn.Module):
    """Estimates the motion of each layer from the features of two frames, section 3.1.2.

    Five 3x3 convolutions with 512, 128, 128 and 128 channels and those of the fields. The paper's last layer has two
    kernels, "two 1-channel motion fields", which describe motion along one axis only; by default each field has two
    channels here. The last layer starts at zero, so that all motion is zero before training.

    Args:
        channels: channels of both frames' features together, 1024 as published.
        width: channels of the hidden layers, 128 as published; the first has four times as many.
        layers: number of fields (transmission, reflection).
        axes: 2, or 1 for the literal reading of the paper (a displacement along the width only).
        rigid: whether each layer moves as a whole, by the mean of its field.
        more: number of additional input channels that are not features of the frames.
    """

    def __init__(
        self, channels: int, width: int, layers: int = 2, axes: int = 2, rigid: bool = False, more: int = 0
    ) -> None:
        super().__init__()
        self.layers, self.axes, self.rigid, self.channels = layers, axes, rigid, channels
        self.body = convolutions([channels + more, 4 * width, width, width, width], [1, 1, 1, 1])
        self.fields = nn.Conv2d(width, layers * axes, 3, padding=1)
        nn.init.zeros_(self.fields.weight)
        nn.init.zeros_(cast(Tensor, self.fields.bias))

    def forward(self, pair: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, channels + more, h, w) -> dynamics (B, width, h, w), and a field (B, 2, h, w) in pixels per layer."""
        dynamics = self.body(pair)
        # Not in half precision: the resolution of bfloat16 at 16 pixels is 1/8 of a pixel.
        fields = full_precision(self.fields(dynamics))
        if self.rigid:
            fields = fields.mean(dim=(2, 3), keepdim=True).expand_as(fields)
        each = list(torch.split(fields, self.axes, dim=1))
        return dynamics, [_along_width(field) for field in each] if self.axes == 1 else each


def _along_width(field: Tensor) -> Tensor:
    return torch.cat([field[:, :1], torch.zeros_like(field[:, :1])], dim=1)


@dataclass
class Knowledge:
    """Outputs of the MKL module; dictionaries are keyed by layer.

    Attributes:
        representation: (B, R, h, w).
        features: Phi of each layer, (B, N, C, h, w).
        flow: motion of each layer in feature pixels, (B, N - 1, 2, h, w): the position of each pixel of the centre
            frame in every other frame, relative to its own.
        images: each layer of every frame, decoded by the decouple net, (B, N, 3, 2h, 2w).
    """

    representation: Tensor
    features: dict[str, Tensor]
    flow: dict[str, Tensor]
    images: dict[str, Tensor]


class MultiViewKnowledge(nn.Module):
    """The MKL module: decouple net, flow net and fusion net (section 3.1.2, figure 3).

    One flow net is shared by all pairs of the centre frame and a neighbour. The switches are those of Table 2; without
    the decouple net the layers are not distinguished, so there is a single motion, of the undivided features.

    Args:
        width: channels of the encoder's features.
        frames: number of frames, odd.
        decouple: whether to use a decouple net.
        flow: whether to use a flow net; without it the neighbours' features are not warped.
        fusion: whether to use a fusion net; without it the representation is the concatenation of the centre's features
            and the (warped) ones of the neighbours.
        motion: axes of a motion field, 2 or 1.
        flow_width: channels of the flow net, whose first layer has four times as many; defaults to half of ``width``.
        matching: maximum displacement along each axis, in feature pixels, found by :class:`LayerMatching`; None, as
            published, for no matching. With matching, the flow net gets the neighbour warped by the matched
            displacements, and the displacements, and predicts corrections to them.
        rigid: whether each layer moves as a whole, as in synthetic sequences.
        correction: factor of the flow net's corrections to matched displacements.
    """

    def __init__(
        self,
        width: int = WIDTH,
        frames: int = 3,
        decouple: bool = True,
        flow: bool = True,
        fusion: bool = True,
        motion: int = 2,
        flow_width: int | None = None,
        matching: int | None = None,
        rigid: bool = False,
        correction: float = 1.0,
    ) -> None:
        super().__init__()
        half = width // 2
        moving = half if flow_width is None else flow_width
        self.frames = frames
        neighbours = frames - 1
        shared = half if decouple else width
        low = half if decouple else 0
        self.layers = ("transmission", "reflection") if decouple else ("transmission",)
        self.decoders = nn.ModuleDict({layer: LayerDecoder(half) for layer in self.layers} if decouple else {})
        count = len(self.layers)
        matched = count if flow and matching is not None else 0
        self.matches = nn.ModuleList(LayerMatching(3, FINER * cast(int, matching), rigid) for _ in range(matched))
        self.motion, self.correction = motion, correction
        self.flow_net = FlowNet(2 * count * (shared + low), moving, count, motion, rigid, 2 * matched) if flow else None
        self.channels = half if fusion else frames * shared
        dynamics = neighbours * moving if flow else 0
        self.fuse_centre, self.fuse_all = None, None
        if fusion:
            self.fuse_centre = convolutions([dynamics + shared + low, 5 * half, half, half], [1, 1, 1])
            # Without a final ReLU in teacher and student, so that the representation and its losses are signed.
            self.fuse_all = convolutions([half + neighbours * shared, half, half], [1, 1], last_relu=False)

    def forward(self, encoded: Tensor, shown: Tensor | None = None) -> Knowledge:
        """Compute the :class:`Knowledge` of a sequence.

        Args:
            encoded: the frames' features, (B, N, width, h, w).
            shown: the frames themselves, (B, N, 3, s h, s w); needed for matching only.
        """
        size, frames = encoded.shape[:2]
        centre = frames // 2
        others = [index for index in range(frames) if index != centre]
        images: dict[str, Tensor] = {}
        low: dict[str, Tensor] = {}
        if self.decoders:
            features = dict(zip(self.layers, encoded.chunk(2, dim=2), strict=True))
            for layer, decoder in self.decoders.items():
                image, psi = decoder(features[layer].flatten(0, 1))
                images[layer] = image.unflatten(0, (size, frames))
                low[layer] = psi.unflatten(0, (size, frames))
        else:
            features = {"transmission": encoded}
        # The features of each frame, by layer: Phi, Psi.
        known = torch.cat([part[layer] for layer in self.layers for part in (features, low) if part], dim=2)
        dynamics: list[Tensor] = []
        fields: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        moved: list[Tensor] = []
        matched = (
            self._matched(shown, encoded.shape[-1], others)
            if self.matches and shown is not None
            else [[] for _ in others]
        )
        for other, first in zip(others, matched, strict=True):
            neighbour = features["transmission"][:, other]
            if self.flow_net is not None:
                seen = known[:, other]
                if first:
                    parts = seen.chunk(len(first), dim=1)
                    seen = torch.cat([*map(warp, parts, first), *(field.to(seen.dtype) for field in first)], dim=1)
                found, motion = self.flow_net(torch.cat([known[:, centre], seen], dim=1))
                if first:
                    motion = [start + self.correction * field for field, start in zip(motion, first, strict=True)]
                dynamics.append(found)
                for layer, field in zip(self.layers, motion, strict=True):
                    fields[layer].append(field)
                neighbour = warp(neighbour, motion[0])
            moved.append(neighbour)
        centre_features = [part["transmission"][:, centre] for part in (features, low) if part]
        if self.fuse_centre is not None and self.fuse_all is not None:
            fused = self.fuse_centre(torch.cat([*dynamics, *centre_features], dim=1))
            representation = self.fuse_all(torch.cat([fused, *moved], dim=1))
        else:
            representation = torch.cat([centre_features[0], *moved], dim=1)
        flow = {layer: torch.stack(each, dim=1) for layer, each in fields.items() if each}
        return Knowledge(representation, features, flow, images)

    def _matched(self, frames: Tensor, width: int, others: Sequence[int]) -> list[list[Tensor]]:
        """Match the displacements (B, 2, h, w) in feature pixels, per neighbour and layer.

        The transmission is sharp, so its motion is matched first, on the high frequencies of the frames. The mean of
        the frames warped by that motion is the first estimate of the transmission, and the reflection is matched in the
        remainder. With both motions each layer is estimated again, as the mean of the frames without the other one, and
        the reflection is matched again, :data:`ROUNDS` times in total.
        """
        factor = frames.shape[-1] // (FINER * width)
        views = [F.avg_pool2d(frame, factor) for frame in frames.unbind(1)]
        sharp = [view - F.avg_pool2d(F.pad(view, [1] * 4, mode="replicate"), 3, 1) for view in views]
        found = [self._match(0, sharp)]
        if len(self.layers) > 1:
            back, there = found[0], [-field.detach() for field in found[0]]
            behind = _mean_of(views, back)
            for turn in range(ROUNDS):
                # Gradients flow through the last round only.
                with torch.set_grad_enabled(torch.is_grad_enabled() and turn + 1 == ROUNDS):
                    found[1:] = [self._match(1, _less(views, behind, there))]
                with torch.no_grad():
                    away = [-field for field in found[1]]
                    for _ in range(3):
                        mirrored = _mean_of(_less(views, behind, there), found[1])
                        behind = _mean_of(_less(views, mirrored, away), back)
        return [[F.avg_pool2d(fields[other], FINER) / FINER for fields in found] for other in others]

    def _match(self, index: int, views: Sequence[Tensor]) -> list[Tensor]:
        """The displacement of one layer in every frame, (B, 2, H, W) each; zero in the centre frame."""
        centre = len(views) // 2
        still = views[0].new_zeros(len(views[0]), 2, *views[0].shape[-2:])
        fields = [still if i == centre else self.matches[index](views[centre], view) for i, view in enumerate(views)]
        return [_along_width(field) for field in fields] if self.motion == 1 else fields


def _mean_of(views: Sequence[Tensor], fields: Sequence[Tensor]) -> Tensor:
    """The mean of the frames after warping onto the centre; fields are detached."""
    return torch.stack([warp(view, field.detach()) for view, field in zip(views, fields, strict=True)]).mean(dim=0)


def _less(views: Sequence[Tensor], layer: Tensor, fields: Sequence[Tensor]) -> list[Tensor]:
    """The frames minus a layer warped to its position in each of them."""
    return [view - warp(layer, field) for view, field in zip(views, fields, strict=True)]
