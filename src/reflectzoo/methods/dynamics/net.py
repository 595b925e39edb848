"""The teacher that watches frames and the student that sees one photograph.

Zheng et al., "Distilling Reflection Dynamics for Single-Image Reflection Removal", ICCV 2021, section 3. Channels below
are those of the published width, 256. What the paper leaves open is decided as README.md in this folder says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.core.batch import Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.layers import full_precision
from reflectzoo.nets.attention import ChannelAttention
from reflectzoo.nets.warp import enlarged_motion, warp

WIDTH = 256
POOLS = (4, 8, 16, 32)
FINER = 2
"""How much larger than the features the frames are that a matching compares: features are coarse for small steps."""
ROUNDS = 4
"""How often a matching of both layers looks for the reflection, each time in a better estimate of it."""
_STRIDES = {4: (1, 2, 1, 2), 2: (1, 2, 1, 1)}


# -- parts that teacher and student share -----------------------------------------------------------------------------


def convolutions(channels: Sequence[int], strides: Sequence[int], last_relu: bool = True) -> nn.Sequential:
    """3x3 convolutions with rectifiers and no normalisation.

    Args:
        channels: of the input and of every layer's output.
        strides: of each layer.
        last_relu: whether a rectifier follows the last layer, too.
    """
    layers: list[nn.Module] = []
    for before, after, stride in zip(channels[:-1], channels[1:], strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def enlarging(before: int, after: int, factor: int) -> nn.Sequential:
    """A transposed convolution to ``factor`` (1 or 2) times the size, 4x4 for 2, with a rectifier."""
    layer = nn.ConvTranspose2d(before, after, 2 + factor, factor, padding=1)
    return nn.Sequential(layer, nn.ReLU())


class PyramidPooling(nn.Module):
    """Features beside their means over squares of 4, 8, 16 and 32 pixels (Zhao et al., CVPR 2017; four levels here).

    Args:
        channels: of the input and the output; each level has a quarter of them.
        sizes: sides of the squares.

    Shape:
        (B, C, H, W) -> the same. Squares that stick out of the picture are means of what lies inside.
    """

    def __init__(self, channels: int, sizes: Sequence[int] = POOLS) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        level = max(channels // 4, 1)
        self.levels = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, level, 1), nn.ReLU()) for _ in self.sizes)
        self.fuse = nn.Sequential(nn.Conv2d(channels + level * len(self.sizes), channels, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        height, width = x.shape[-2:]
        found = [x]
        for size, level in zip(self.sizes, self.levels, strict=True):
            means = F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
            spread = F.interpolate(level(means), scale_factor=size, mode="nearest")
            found.append(spread[..., :height, :width])
        return cast(Tensor, self.fuse(torch.cat(found, dim=1)))


class ImageDecoder(nn.Module):
    """Features to an image, section 3.1.3: two up-sampling blocks, the first with pyramid pooling.

    The paper gives no layer that makes three channels of 256: a linear 3x3 convolution does.

    Args:
        channels: of the features.
        width: of all layers.
        scale: 4 or 2, how much smaller the features are than the image.
        residual: whether the image is what is to be added to another one; it starts at zero then.
    """

    def __init__(self, channels: int, width: int = WIDTH, scale: int = 4, residual: bool = False) -> None:
        super().__init__()
        self.up1 = nn.Sequential(
            enlarging(channels, width, scale // 2), convolutions([width] * 2, [1]), PyramidPooling(width)
        )
        self.up2 = nn.Sequential(enlarging(width, width, 2), convolutions([width] * 3, [1, 1]))
        self.image = nn.Conv2d(width, 3, 3, padding=1)
        if residual:
            nn.init.zeros_(self.image.weight)
            nn.init.zeros_(cast(Tensor, self.image.bias))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, scale h, scale w), not clamped."""
        return cast(Tensor, self.image(self.up2(self.up1(features))))


def initialise(net: nn.Module, gain: float | None) -> None:
    """Start the rectified convolutions from He et al.'s normal distribution times a gain; None changes nothing.

    The flow net then starts with the difference of its two frames.

    The paper says nothing about first values. Under PyTorch's own a signal loses half of its strength in each of a
    dozen layers in a row, which takes a short training long to make up for.
    """
    if gain is None:
        return
    for name, module in net.named_modules():
        # Not those that make images or motions or what is compared, nor the attention's.
        rectified = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.kernel_size[0] > 1
        if not rectified or name.rsplit(".", 1)[-1] in ("image", "fields", "compared"):
            continue
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        inputs = module.in_channels * module.kernel_size[0] ** 2
        if isinstance(module, nn.ConvTranspose2d):
            inputs //= module.stride[0] ** 2
        nn.init.normal_(module.weight, std=gain * (2 / inputs) ** 0.5)
        nn.init.zeros_(cast(Tensor, module.bias))
    for module in net.modules():
        if isinstance(module, FlowNet):
            first = cast(nn.Conv2d, module.body[0]).weight
            # What the two frames have in common says nothing about motion: start with their difference.
            with torch.no_grad():
                half = module.channels // 2
                first[:, half : 2 * half] = -first[:, :half]


def _padded(images: Tensor, scale: int) -> Tensor:
    """(B, 3, H, W) with both sides extended to multiples of ``scale`` by reflection (repetition if too small)."""
    height, width = images.shape[-2:]
    down, right = -height % scale, -width % scale
    if not (down or right):
        return images
    return F.pad(images, (0, right, 0, down), mode="reflect" if down < height and right < width else "replicate")


def _check_setting(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        words = ", ".join(str(each) for each in allowed)
        raise UserError(f"model.net.{name} must be one of {words}, got {value!r}.")


def _check_width(width: int) -> None:
    if not isinstance(width, int) or width < 2 or width % 2:
        raise UserError(f"model.net.width must be an even number from 2 on, got {width!r}.")


# -- the teacher ------------------------------------------------------------------------------------------------------


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


class DynamicsTeacher(nn.Module):
    """The teacher: a sequence of frames to the transmission of the centre one (section 3.1).

    Args:
        width: channels of the encoder and the decoder, even; 256 as published.
        frames: in a sequence, odd, from 3 on.
        mkl: whether there is a multi-view knowledge learning module. Table 2's "w/o MKL" fuses all frames' features by
            one convolution.
        decouple: see :class:`MultiViewKnowledge`; Table 2's "w/o Decouple Net".
        flow: likewise, "w/o Flow Net".
        fusion: likewise, "w/o Fusion Net".
        motion: axes of a motion field: 2; 1 is the paper's literal reading, a displacement along the width only.
        flow_width: channels of the flow net, whose first layer has four times as many; None for half of ``width``, as
            published. Finding motions takes more channels than a narrow network has.
        matching: how many feature pixels a layer may move along each axis to be found by comparing features, see
            :class:`MultiViewKnowledge`; None as published.
        rigid: whether each layer moves as a whole, as in synthetic sequences.
        correction: factor of what the flow net adds to motions that were matched; 0 leaves them as they are.
        scale: 4, or 2 for features of half the image's size (encoder strides 1, 2, 1, 1 and a first transposed
            convolution that does not enlarge), which costs four times as much.
        residual: whether the decoder's output is added to the centre frame. Not in the paper; helps narrow networks,
            through whose features no sharp photograph fits. What is added starts at zero.
        init_gain: see :func:`initialise`.

    Raises:
        UserError: for a value that makes no network.
    """

    def __init__(
        self,
        width: int = WIDTH,
        frames: int = 3,
        mkl: bool = True,
        decouple: bool = True,
        flow: bool = True,
        fusion: bool = True,
        motion: int = 2,
        flow_width: int | None = None,
        matching: int | None = None,
        rigid: bool = False,
        correction: float = 1.0,
        scale: int = 4,
        residual: bool = False,
        init_gain: float | None = None,
    ) -> None:
        super().__init__()
        _check_width(width)
        _check_setting("motion", motion, (1, 2))
        _check_setting("scale", scale, tuple(_STRIDES))
        if matching is not None and (not isinstance(matching, int) or isinstance(matching, bool) or matching < 1):
            raise UserError(
                f"model.net.matching must be a number of feature pixels from 1 on, or null, got {matching!r}."
            )
        if not isinstance(frames, int) or frames < 3 or frames % 2 == 0:
            raise UserError(f"model.net.frames must be an odd number from 3 on, got {frames!r}.")
        self.frames, self.scale, self.residual = frames, scale, residual
        self.encoder = convolutions([3, *[width] * 4], _STRIDES[scale])
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
        """Channels of the representation that the student is to find: 128 as published."""
        return self.knowledge.channels if self.knowledge is not None else cast(nn.Conv2d, self.fuse).out_channels

    def forward(self, frames: Tensor | Sequence[Tensor]) -> Outputs:
        """Separate the centre frame.

        Args:
            frames: (B, N, 3, H, W) in [0, 1], or a list of N frames (B, 3, H, W), in order. One picture (B, 3, H, W)
                stands for a camera that does not move.

        Returns:
            ``transmission`` (B, 3, H, W). ``stages`` has one entry, what the decouple net's decoders make of the
            centre frame, enlarged to its size. ``aux``: ``representation`` (B, R, h, w); with the parts that make them
            ``motion`` of each layer, (B, N - 1, 2, H, W) in pixels: where a pixel of the centre frame lies in the other
            frames, relative to its own place; ``flow``, the same in features, (B, N - 1, 2, h, w); ``features`` of each
            layer (B, N, C, h, w); ``frame_transmissions`` and ``frame_reflections`` (B, N, 3, 2H/scale, 2W/scale),
            rounded up: the decoders' outputs. No values are clamped.

        Raises:
            UserError: if the number of frames is not the network's, or their sizes differ.
        """
        sequence = self._sequence(frames)
        size, count, _, height, width = sequence.shape
        padded = _padded(sequence.flatten(0, 1), self.scale)
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
                raise UserError(f"The frames of a sequence must be of one size, these are {shown}.")
            frames = torch.stack(list(frames), dim=1)
        if frames.ndim == 4:
            frames = frames[:, None].expand(-1, self.frames, -1, -1, -1)
        if frames.ndim != 5 or frames.shape[1] != self.frames:
            got = f"{frames.shape[1]} frames" if frames.ndim == 5 else f"a tensor of shape {tuple(frames.shape)}"
            raise UserError(
                f"The teacher watches {self.frames} frames (model.net.frames), but these are {got}: "
                "set data.frames to the same number."
            )
        return frames


def _enlarged(image: Tensor, factor: int, height: int, width: int) -> Tensor:
    if factor == 1:
        return image[..., :height, :width]
    whole = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    return whole[..., :height, :width]


# -- the student ------------------------------------------------------------------------------------------------------


class ResidualChannelBlock(nn.Module):
    """v + v' u with v' two convolutions of v and u the attention of its channels (section 3.2).

    Args:
        channels: of input and output.
        scale: of what is added; 1 as the text has it, ERRNet has 0.1.
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
    """The student: one photograph to its transmission (section 3.2).

    Args:
        width: channels, even; 256 as published.
        representation: channels of the representation it is to hallucinate, 128 as published; None for half the
            width, as the full teacher has it.
        hallucination: whether there is a hallucination module. Table 2's "w/o Hallucination" asks the encoder for the
            representation instead (through a 1x1 convolution that serves only the losses).
        encoder: whether there is a feature encoder; Table 2's "w/o Encoder".
        blocks: residual blocks of the context module.
        residual_scale: of these blocks, see :class:`ResidualChannelBlock`.
        scale: as for :class:`DynamicsTeacher`, whose must be the same.
        residual: likewise.
        init_gain: likewise.

    Raises:
        UserError: for a value that makes no network.
    """

    def __init__(
        self,
        width: int = WIDTH,
        representation: int | None = None,
        hallucination: bool = True,
        encoder: bool = True,
        blocks: int = 10,
        residual_scale: float = 1.0,
        scale: int = 4,
        residual: bool = False,
        init_gain: float | None = None,
    ) -> None:
        super().__init__()
        _check_width(width)
        _check_setting("scale", scale, tuple(_STRIDES))
        if not hallucination and not encoder:
            raise UserError("A student without hallucination and without encoder sees nothing: leave it one of them.")
        channels = width // 2 if representation is None else representation
        strides = _STRIDES[scale]
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
        padded = _padded(mixture, self.scale)
        seen: list[Tensor] = []
        if self.hallucination is not None:
            seen.append(self.hallucination(padded))
        if self.encoder is not None:
            seen.append(self.encoder(padded))
        representation = seen[0] if self.projection is None else self.projection(seen[0])
        image = self.decoder(self.context(torch.cat(seen, dim=1)))[..., :height, :width]
        transmission = mixture + image if self.residual else image
        return {"transmission": transmission, "aux": {"representation": representation}}


class TeacherAndStudent(nn.Module):
    """Both, for a training in which the second learns from the first.

    Args:
        teacher: watches frames.
        student: looks at one photograph; must hallucinate as many channels as the teacher's representation has.

    Raises:
        UserError: if the two do not fit together.
    """

    def __init__(self, teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
        super().__init__()
        check_pair(teacher, student)
        self.teacher = teacher
        self.student = student

    def forward(self, mixture: Tensor) -> Outputs:
        """What the student sees, see :meth:`DynamicsStudent.forward`."""
        return cast(Outputs, self.student(mixture))


def check_pair(teacher: DynamicsTeacher, student: DynamicsStudent) -> None:
    """Raise unless the student can learn the teacher's representation.

    Raises:
        UserError: in one sentence.
    """
    theirs = (teacher.representation_channels, teacher.scale)
    ours = (student.representation_channels, student.scale)
    if theirs != ours:
        raise UserError(
            f"The teacher's representation has {theirs[0]} channels at 1/{theirs[1]} of the size, the student's "
            f"{ours[0]} at 1/{ours[1]}: give both the same width and scale, or set the student's representation="
            f"{theirs[0]}."
        )


def teacher_and_student(
    width: int = WIDTH,
    scale: int = 4,
    residual: bool = False,
    init_gain: float | None = None,
    teacher: dict[str, object] | None = None,
    student: dict[str, object] | None = None,
) -> TeacherAndStudent:
    """A teacher and the student that fits it.

    Args:
        width: of both.
        scale: of both.
        residual: of both.
        init_gain: of both.
        teacher: further arguments of :class:`DynamicsTeacher`.
        student: further arguments of :class:`DynamicsStudent`; its ``representation`` follows the teacher.
    """
    shared: dict[str, object] = {"width": width, "scale": scale, "residual": residual, "init_gain": init_gain}
    first = DynamicsTeacher(**{**shared, **(teacher or {})})  # type: ignore[arg-type]
    wanted = {"representation": first.representation_channels}
    return TeacherAndStudent(first, DynamicsStudent(**{**shared, **wanted, **(student or {})}))  # type: ignore[arg-type]
