"""Pictures of any size in bounded memory, by overlapping tiles that are joined without visible seams.

Tiles begin at multiples of a stride, so that a network pools and pads in them as in the whole picture. In the overlap
of two tiles their weights rise and fall as sin^2 and cos^2 (Hann windows), which sum to one; in the outermost quarter
of the overlap, where the tile's border affects the network, its weight is zero.

Two kinds of operations depend on the whole picture and would differ from tile to tile: means and maxima over all pixels
(channel attention), and interpolation with ``align_corners=True``, whose grid depends on the size.
:class:`GlobalStatistics` substitutes the values of the whole picture: for the former, those of a reduced picture; for
the latter, exact ones. It intercepts torch functions, so that networks need no changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.inference.whole_view import GlobalStatistics, HeldBytes, TilePosition

#: Default stride at which tiles begin, in pixels; suits networks that halve the resolution at most five times.
TILE_STRIDE = 32
#: Default half overlap of neighbouring tiles, in pixels.
HALO = 96
#: Maximum number of pixels of the reduced picture from which global statistics are taken.
REDUCED_PIXELS = 512 * 512
#: Number of pixels of a photograph that are held at a time while it is downsampled.
_ROWS_PIXELS = 2**22


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
        start: index of its first pixel.
        stop: index after its last pixel.
        first: whether it begins at the picture's border.
        last: whether it ends at the picture's border.
    """

    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True)
class TilePlan:
    """How a picture is cut.

    Attributes:
        height: height of the picture, padded to a multiple of the stride.
        width: likewise.
        halo: half the overlap of neighbouring tiles, in pixels.
        rows: tiles from top to bottom.
        columns: tiles from left to right.
    """

    height: int
    width: int
    halo: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def count(self) -> int:
        """Number of tiles; 1 means that nothing is cut."""
        return len(self.rows) * len(self.columns)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the largest tile."""
        return max(row.stop - row.start for row in self.rows), max(each.stop - each.start for each in self.columns)


def spans(length: int, size: int, halo: int, stride: int = TILE_STRIDE) -> tuple[Span, ...]:
    """Cut one axis into as few tiles as possible, of nearly equal size.

    Args:
        length: length of the axis, a multiple of the stride.
        size: maximum size of a tile, rounded down to a multiple of the stride but raised to at least three halos.
        halo: how far a tile extends beyond the middle of the overlap, which is twice as wide; rounded up to a multiple
            of the stride.
        stride: tiles begin at multiples of it.
    """
    halo = -(-halo // stride) * stride
    size = max(size // stride * stride, _least(halo, stride))
    if length <= size:
        return (Span(0, length, True, True),)
    count = -(-(length - 2 * halo) // (size - 2 * halo))
    # At least the halo, or the weights of more than two tiles would overlap.
    step = max(-(-(length - 2 * halo) // (count * stride)) * stride, halo)
    found: list[Span] = []
    start = 0
    while True:
        stop = min(start + step + 2 * halo, length)
        found.append(Span(start, stop, start == 0, stop == length))
        if stop == length:
            return tuple(found)
        start += step


def _least(halo: int, stride: int) -> int:
    """Smallest size of a tile along one axis."""
    return max(3 * halo, 2 * halo + stride)


def plan_tiles(
    height: int, width: int, pixels: int, halo: int = HALO, stride: int = TILE_STRIDE, side: int | None = None
) -> TilePlan:
    """Choose the tiles that minimise the pixels computed in all, overlaps included.

    Args:
        height: height of the picture.
        width: width of the picture.
        pixels: maximum of a tile; if no tile is that small, the smallest possible is used.
        halo: see :func:`spans`.
        stride: see :func:`spans`.
        side: maximum side of a tile in pixels, raised to the smallest possible; None sets no limit.
    """
    high, wide = -(-height // stride) * stride, -(-width // stride) * stride
    halo = -(-halo // stride) * stride
    longest = max(high, wide) if side is None else side
    if high * wide <= pixels and max(high, wide) <= longest:
        return TilePlan(high, wide, halo, spans(high, high, halo, stride), spans(wide, wide, halo, stride))
    best: tuple[float, TilePlan] | None = None
    least = _least(halo, stride)
    for tall in range(min(least, high), max(min(high, longest), min(least, high)) + 1, stride):
        across = max(min(pixels // tall, wide, longest) // stride * stride, least)
        rows, columns = spans(high, tall, halo, stride), spans(wide, across, halo, stride)
        plan = TilePlan(high, wide, halo, rows, columns)
        largest = plan.tile[0] * plan.tile[1]
        cost = sum(row.stop - row.start for row in rows) * sum(each.stop - each.start for each in columns)
        # A tile beyond the limit is accepted only if every other choice is larger still.
        rank = cost if largest <= pixels else largest * 1e9
        if best is None or rank < best[0]:
            best = (rank, plan)
    assert best is not None
    return best[1]


def tile_share(span: Span, halo: int) -> Tensor:
    """Weights of a tile's result along one axis, (stop - start,) in [0, 1]; those of neighbours sum to one."""
    share = torch.ones(span.stop - span.start)
    if halo == 0:
        return share
    edge = halo // 2
    places = (torch.arange(halo, dtype=torch.float64) + 0.5) / halo
    rise = torch.sin(places * (math.pi / 2)).square().to(share.dtype)
    if not span.first:
        share[:edge] = 0
        share[edge : edge + halo] = rise
    if not span.last:
        share[-edge:] = 0
        share[-edge - halo : -edge] = rise.flip(0)
    return share


Layers = dict[str, Tensor]
Network = Callable[[Tensor], Layers]


Rows = Callable[[int, int], Tensor]
"""Returns rows ``first`` to ``last - 1`` of a picture, (3, last - first, W) in [0, 1] on the CPU."""


class FinishedRows(NamedTuple):
    """Finished rows of a picture.

    Attributes:
        first: index of the first row.
        last: index after the last row.
        layers: (C, last - first, W) float32 on the CPU by name, not clamped.
    """

    first: int
    last: int
    layers: Layers


def in_bands(
    network: Network,
    rows: Rows,
    height: int,
    width: int,
    plan: TilePlan,
    view: GlobalStatistics | None,
    device: torch.device,
) -> Iterator[FinishedRows | None]:
    """Separate tile by tile, holding only one row of tiles of the picture and of its layers.

    Args:
        network: maps (1, 3, h, w) on ``device`` to layers of that size.
        rows: returns rows of the picture.
        height: height of the picture.
        width: width of the picture.
        plan: tiles for a picture of this size.
        view: has recorded the statistics of this picture; None processes each tile independently.
        device: device of the network.

    Yields:
        None after each tile; after each row of tiles, the rows that no later tile changes.
    """
    held: Layers = {}
    start = 0
    for number, row in enumerate(plan.rows):
        band = _continued_rows(rows, height, width, plan, row)
        bottom = min(row.stop, height)
        # The overlap with the previous row of tiles is added to.
        held = {name: F.pad(layer, (0, 0, 0, bottom - start - layer.shape[1])) for name, layer in held.items()}
        for column in plan.columns:
            tile = band[:, :, column.start : column.stop]
            share = tile_share(row, plan.halo)[:, None] * tile_share(column, plan.halo)
            where = TilePosition(row.start, column.start, tile.shape[-2], tile.shape[-1], plan.height, plan.width)
            image = tile[None].to(device)
            if view is None or plan.count == 1:
                layers = network(image)
            else:
                with view.at(where):
                    layers = network(image)
            right = min(column.stop, width)
            for name, layer in layers.items():
                if name not in held:
                    # Filled rather than lazily allocated, so that the peak memory is reached at the first tile.
                    held[name] = torch.full((layer.shape[1], bottom - start, width), 0.0)
                part = layer[0].to("cpu", torch.float32) * share
                inside = part[:, : bottom - row.start, : right - column.start]
                held[name][:, row.start - start : bottom - start, column.start : right] += inside
            del layers
            yield None
        done = height if row.last else plan.rows[number + 1].start
        yield FinishedRows(start, done, {name: layer[:, : done - start] for name, layer in held.items()})
        held = {name: layer[:, done - start :].clone() for name, layer in held.items()}
        start = done


def _continued_rows(rows: Rows, height: int, width: int, plan: TilePlan, row: Span) -> Tensor:
    """The rows of one row of tiles, padded as :func:`pad_to` would pad the whole picture."""
    down, right = plan.height - height, plan.width - width
    band = rows(row.start, min(row.stop, height))
    mode = "reflect" if down < height and right < width else "replicate"
    if row.stop > height:
        mirrored = rows(height - 1 - down, height - 1).flip(1) if mode == "reflect" else rows(height - 1, height)
        band = torch.cat((band, mirrored.expand(-1, down, -1)), dim=1)
    return F.pad(band[None], (0, right, 0, 0), mode=mode)[0] if right else band


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Pad (C, H, W) at the bottom and right to a size, by reflection if it is large enough, else by edge pixels."""
    down, right = height - image.shape[-2], width - image.shape[-1]
    if not (down or right):
        return image
    mode = "reflect" if down < image.shape[-2] and right < image.shape[-1] else "replicate"
    return F.pad(image[None], (0, right, 0, down), mode=mode)[0]


def size_for_statistics(height: int, width: int, stride: int = TILE_STRIDE) -> tuple[int, int]:
    """Size of about :data:`REDUCED_PIXELS` at most, with sides that are multiples of the stride."""
    factor = min(1.0, math.sqrt(REDUCED_PIXELS / (height * width)))
    high, wide = (max(round(side * factor / stride), 1) * stride for side in (height, width))
    return high, wide


def resampled(mixture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 3, H, W) in [0, 1] to (B, 3, h, w), each smaller pixel averaged over all that it covers."""
    return F.interpolate(mixture, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def resampled_rows(rows: Rows, height: int, width: int, size: tuple[int, int]) -> Tensor:
    """:func:`resampled` of a picture from its rows, of which few are held at a time, to (1, 3, h, w)."""
    step = max(_ROWS_PIXELS // width, 1)
    spans = [(first, min(first + step, height)) for first in range(0, height, step)]
    narrow = [resampled(rows(first, last)[None], (last - first, size[1])) for first, last in spans]
    return resampled(torch.cat(narrow, dim=2), size)


def bytes_per_pixel(network: Network, device: torch.device, side: int = 4 * TILE_STRIDE) -> float:
    """Measure a network's peak memory per pixel, in bytes, by running it on a small picture.

    Args:
        network: network as for :func:`in_bands`.
        device: device of the network.
        side: side of the picture in pixels.
    """
    held = HeldBytes()
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with held:
        network(image)
    return held.peak / side**2
