"""How the teacher finds what moves how: matching, motion fields, and what the other views tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.methods.dynamics.parts import WIDTH, convolutions, enlarging
from reflectzoo.methods.dynamics.warp import warp
from reflectzoo.ops.checks import full_precision

FINER = 2
"""How much larger than the features the frames are that a matching compares: features are coarse for small steps."""
ROUNDS = 4
"""How often a matching of both layers looks for the reflection, each time in a better estimate of it."""


class LayerDecoder(nn.Module):
    """G_T or G_R: the features of one layer to that layer at twice their size, equation (1).

    Besides the image it returns its last hidden features, averaged back to the size of the input: the paper's low-level
    features Psi, which its text names and does not define.

    Args:
        channels: of the features and of all layers, 128 as published.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(enlarging(channels, channels, 2), convolutions([channels] * 4, [1, 1, 1]))
        self.image = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> image (B, 3, 2h, 2w), not clamped; low-level features (B, C, h, w)."""
        hidden = self.body(features)
        return self.image(hidden), F.avg_pool2d(hidden, 2)


class LayerMatching(nn.Module):
    """How far one layer moved between two frames, by comparing them; not in the paper.

    A linear 3x3 convolution, which starts as a Sobel operator, makes the features to compare. The squared distance
    between those of a place in the centre frame and those of every place in the neighbour at most ``radius`` away is
    divided by their variance and averaged around the place, or over the whole picture. The displacement is the mean
    over all of them under a softmax of the negative distance, to which a learnt number for each displacement is added:
    what moves is always both layers, and which of two displacements that fit is this one's, only experience says. What
    lies outside the neighbour is not compared, nor is the margin that padding left its mark on.

    Args:
        channels: of the frames.
        radius: largest displacement along each axis, in pixels of what is compared.
        rigid: whether the whole layer moves by one displacement.
        sharpness: first value of the softmax's factor, which is learnt.
        margin: pixels at each border that are not compared, unless the picture is smaller than four of them.
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
        """Two (B, channels, h, w) -> displacement (B, 2, h, w) in feature pixels, to the right and down."""
        first, second = full_precision(self.compared(torch.cat([centre, other]))).chunk(2)
        (height, width), radius, side = first.shape[-2:], self.radius, 2 * self.radius + 1
        margin = self.margin if min(height, width) >= 4 * self.margin else 0
        valid = F.pad(first.new_ones(1, 1, height - 2 * margin, width - 2 * margin), [margin] * 4)
        padded, there = (F.pad(each, [radius] * 4) for each in (second, valid))
        # One row of displacements after the other, since all at once fill the memory of large pictures.
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
    """Two frames' features to the motion of each layer, section 3.1.2.

    Five 3x3 convolutions, 512, 128, 128, 128 and the fields. The paper's last layer has two kernels, "two 1-channel
    motion fields", which can only move along one axis; by default each field has two channels here. The last layer
    starts at zero, so that nothing moves before anything is known.

    Args:
        channels: of both frames' features together, 1024 as published.
        width: of the wide layers' quarter, 128 as published.
        layers: number of fields (transmission, reflection).
        axes: 2, or 1 for the literal reading (a displacement along the width only).
        rigid: whether each layer moves as a whole, by the mean of its field.
        more: further channels of the input, which are not of frames.
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
        """(B, channels + more, h, w) -> dynamics (B, width, h, w); a field (B, 2, h, w) a layer, in feature pixels."""
        dynamics = self.body(pair)
        # Not in half precision: a displacement of 16 pixels would have a step of 1/8 in bfloat16.
        fields = full_precision(self.fields(dynamics))
        if self.rigid:
            fields = fields.mean(dim=(2, 3), keepdim=True).expand_as(fields)
        each = list(torch.split(fields, self.axes, dim=1))
        return dynamics, [_along_width(field) for field in each] if self.axes == 1 else each


def _along_width(field: Tensor) -> Tensor:
    return torch.cat([field[:, :1], torch.zeros_like(field[:, :1])], dim=1)


@dataclass
class Knowledge:
    """What the MKL module finds; fields and features by the name of the layer, lists over the neighbours.

    Attributes:
        representation: (B, R, h, w).
        features: Phi of each layer, (B, N, C, h, w).
        flow: (B, N - 1, 2, h, w) of each layer, in feature pixels: where a pixel of the centre frame lies in each other
            frame, relative to its place in the centre.
        images: what the decouple net's decoders make of each frame, (B, N, 3, 2h, 2w).
    """

    representation: Tensor
    features: dict[str, Tensor]
    flow: dict[str, Tensor]
    images: dict[str, Tensor]


class MultiViewKnowledge(nn.Module):
    """The MKL module: decouple net, flow net and fusion net (section 3.1.2, figure 3).

    One flow net serves every pair of the centre frame and a neighbour. The switches are those of Table 2; without the
    decouple net nothing tells layers apart, so that there is one motion, of undivided features.

    Args:
        width: channels of the encoder's features.
        frames: number of frames, odd.
        decouple: whether there is a decouple net.
        flow: whether there is a flow net; without it the neighbours' features are used where they are.
        fusion: whether there is a fusion net; without it the representation is the centre's features beside the
            (warped) ones of the neighbours.
        motion: axes of a motion field, 2 or 1.
        flow_width: channels of the flow net, whose first layer has four times as many; None for half of ``width``.
        matching: how many feature pixels a layer may move along each axis for :class:`LayerMatching` to find it; None,
            as published, for none. The flow net then sees the neighbour moved by what was matched, and the
            displacements, and finds what is to be added to them.
        rigid: whether each layer moves as a whole, as in synthetic sequences.
        correction: factor of what the flow net adds to motions that were matched.
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
            # Signed at the end, in teacher and student, so that distances and the discriminator see both directions.
            self.fuse_all = convolutions([half + neighbours * shared, half, half], [1, 1], last_relu=False)

    def forward(self, encoded: Tensor, shown: Tensor | None = None) -> Knowledge:
        """Features (B, N, width, h, w) of the frames -> :class:`Knowledge`; matching looks at the frames themselves.

        Args:
            encoded: the features.
            shown: the frames, (B, N, 3, s h, s w); needed for matching only.
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
        # All that is known of a frame, layer by layer: Phi, Psi.
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
        """First displacements (B, 2, h, w) in feature pixels, for each neighbour those of the layers.

        The transmission is sharp, and is found first, by what is sharp in the frames. The mean of the frames moved by
        that is taken for it, and in what it leaves of them the reflection is found. With both motions the
        layers are estimated better, each as the mean of what the other leaves, and then the reflection's motion again.
        """
        factor = frames.shape[-1] // (FINER * width)
        views = [F.avg_pool2d(frame, factor) for frame in frames.unbind(1)]
        sharp = [view - F.avg_pool2d(F.pad(view, [1] * 4, mode="replicate"), 3, 1) for view in views]
        found = [self._match(0, sharp)]
        if len(self.layers) > 1:
            back, there = found[0], [-field.detach() for field in found[0]]
            behind = _mean_of(views, back)
            for turn in range(ROUNDS):
                # Only the last turn is learnt from.
                with torch.set_grad_enabled(torch.is_grad_enabled() and turn + 1 == ROUNDS):
                    found[1:] = [self._match(1, _less(views, behind, there))]
                with torch.no_grad():
                    away = [-field for field in found[1]]
                    for _ in range(3):
                        mirrored = _mean_of(_less(views, behind, there), found[1])
                        behind = _mean_of(_less(views, mirrored, away), back)
        return [[F.avg_pool2d(fields[other], FINER) / FINER for fields in found] for other in others]

    def _match(self, index: int, views: Sequence[Tensor]) -> list[Tensor]:
        """The displacement of one layer in every frame, (B, 2, H, W) each, zero in the centre one."""
        centre = len(views) // 2
        still = views[0].new_zeros(len(views[0]), 2, *views[0].shape[-2:])
        fields = [still if i == centre else self.matches[index](views[centre], view) for i, view in enumerate(views)]
        return [_along_width(field) for field in fields] if self.motion == 1 else fields


def _mean_of(views: Sequence[Tensor], fields: Sequence[Tensor]) -> Tensor:
    """The mean of frames that were moved onto the centre."""
    return torch.stack([warp(view, field.detach()) for view, field in zip(views, fields, strict=True)]).mean(dim=0)


def _less(views: Sequence[Tensor], layer: Tensor, fields: Sequence[Tensor]) -> list[Tensor]:
    """What a layer, moved to where it is in each frame, leaves of them."""
    return [view - warp(layer, field) for view, field in zip(views, fields, strict=True)]
