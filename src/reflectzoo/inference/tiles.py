"""Any size in bounded memory: overlapping tiles, joined so smoothly that one cannot see where.

Tiles begin at multiples of a stride, so that every network pools and pads in them as in the whole. In the overlap of
two tiles their shares rise and fall as sin^2 and cos^2 (Hann windows), which sum to one; the outermost quarter of the
overlap, where a network already sees the tile's border, has no share at all.

Two things a network does depend on the whole picture, and would differ from tile to tile: means and maxima over all
pixels (channel attention), and enlargements that pin the corners (``align_corners=True``), whose grid depends on the
size. :class:`WholeView` gives each tile what the whole would give it: the first as they are in a reduced picture, the
second exactly. It watches the calls of torch, so no network has to know.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Every network of the zoo halves at most five times.
STRIDE = 32
#: Pixels by which neighbouring tiles reach into each other, each.
HALO = 96
#: Pixels of the reduced picture that global statistics are taken from.
REDUCED_PIXELS = 512 * 512


class Span(NamedTuple):
    """A tile along one axis.

    Attributes:
        start: its first pixel.
        stop: behind its last.
        first: whether it begins where the picture does.
        last: whether it ends where the picture does.
    """

    start: int
    stop: int
    first: bool
    last: bool


@dataclass(frozen=True)
class Plan:
    """How a picture is cut.

    Attributes:
        height: of the picture, continued to a multiple of the stride.
        width: likewise.
        halo: overlap of neighbours, half of it.
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


def spans(length: int, size: int, halo: int, stride: int = STRIDE) -> tuple[Span, ...]:
    """Cut one axis into as few and as equal tiles as fit.

    Args:
        length: of the axis, a multiple of the stride.
        size: of the largest tile, at least three times the halo; both are rounded to multiples of the stride.
        halo: how far a tile reaches beyond the middle of the overlap; the overlap is twice as wide.
        stride: where tiles may begin.
    """
    halo = -(-halo // stride) * stride
    size = max(size // stride * stride, _least(halo, stride))
    if length <= size:
        return (Span(0, length, True, True),)
    count = -(-(length - 2 * halo) // (size - 2 * halo))
    # Never less than the halo, or one tile would rise while another still falls.
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
    """The smallest tile."""
    return max(3 * halo, 2 * halo + stride)


def plan_tiles(
    height: int, width: int, pixels: int, halo: int = HALO, stride: int = STRIDE, side: int | None = None
) -> Plan:
    """Choose tiles of at most so many pixels.

    Among sizes that fit, the one with the least to compute, overlaps included.

    Args:
        height: of the picture.
        width: of the picture.
        pixels: of a tile; where this is less than the smallest tile there is, the smallest is taken.
        halo: see :func:`spans`.
        stride: see :func:`spans`.
        side: no tile is longer or wider than this, unless that is less than the smallest there is.
    """
    high, wide = -(-height // stride) * stride, -(-width // stride) * stride
    halo = -(-halo // stride) * stride
    longest = max(high, wide) if side is None else side
    if high * wide <= pixels and max(high, wide) <= longest:
        return Plan(high, wide, halo, spans(high, high, halo, stride), spans(wide, wide, halo, stride))
    best: tuple[float, Plan] | None = None
    least = _least(halo, stride)
    for tall in range(min(least, high), max(min(high, longest), min(least, high)) + 1, stride):
        across = max(min(pixels // tall, wide, longest) // stride * stride, least)
        rows, columns = spans(high, tall, halo, stride), spans(wide, across, halo, stride)
        plan = Plan(high, wide, halo, rows, columns)
        largest = plan.tile[0] * plan.tile[1]
        cost = sum(row.stop - row.start for row in rows) * sum(each.stop - each.start for each in columns)
        # One that is too large is better only than one that is larger.
        rank = cost if largest <= pixels else largest * 1e9
        if best is None or rank < best[0]:
            best = (rank, plan)
    assert best is not None
    return best[1]


def window(span: Span, halo: int) -> Tensor:
    """The share of a tile's result along one axis, (stop - start,); shares of neighbours sum to one."""
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


class Where(NamedTuple):
    """A tile within its picture."""

    top: int
    left: int
    height: int
    width: int
    whole_height: int
    whole_width: int


# -- what depends on the whole ---------------------------------------------------------------------------------------

_OVER_PIXELS = ({2, 3}, {-2, -1})
_POOLINGS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.adaptive_avg_pool1d)


class WholeView(TorchFunctionMode):
    """Makes a network see a tile as a part of its picture.

    First within ``with view.learning():`` the network runs on the reduced picture, and its means, maxima and adaptive
    poolings over all pixels are noted. Then within ``with view.at(where):`` it runs on each tile: in the same order
    they are answered from the notes, and enlargements are computed on the grid of the whole picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[Tensor] = []
        self._place: Where | None = None
        self._next = 0
        self._pooled: set[tuple[int, ...]] = set()

    @property
    def statistics(self) -> int:
        """How many results over all pixels the network asked for."""
        return len(self._notes)

    def learning(self) -> WholeView:
        """Note statistics from now on."""
        self._notes.clear()
        self._place = None
        return self

    def at(self, where: Where) -> WholeView:
        """Answer for a tile."""
        self._place, self._next = where, 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the mode; after a tile all notes must have been used."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is None and self._place is not None and self._next != len(self._notes):
            raise RuntimeError(f"a tile asked for {self._next} of {len(self._notes)} statistics of the whole picture")

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What torch asks before each of its functions."""
        kwargs = kwargs or {}
        if _sees_all_pixels(func, args, kwargs):
            return self._statistic(func, args, kwargs)
        if func is F.interpolate and self._place is not None:
            return self._enlarged(args, kwargs)
        return func(*args, **kwargs)

    def _statistic(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if self._place is None:
            found: Tensor = func(*args, **kwargs)
            self._notes.append(found.detach().clone())
            return found
        if self._next >= len(self._notes):
            raise RuntimeError("a tile asks for more statistics of the whole picture than were noted")
        note = self._notes[self._next]
        self._next += 1
        if note.shape[1] != args[0].shape[1]:
            raise RuntimeError("a tile asks for statistics in another order than they were noted")
        if note.ndim == 4 and note.shape[2:] != (1, 1):
            self._pooled.add(tuple(note.shape[2:]))
        return note.clone()

    def _enlarged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        image: Tensor = args[0]
        names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
        given = dict(zip(names, args[1:], strict=False)) | kwargs
        plain = cast(Callable[..., Tensor], F.interpolate)
        if image.ndim != 4 or given.get("mode") != "bilinear" or given.get("antialias"):
            return plain(*args, **kwargs)
        source = self._level(image.shape[-2:])
        is_map = tuple(image.shape[-2:]) in self._pooled and source is None
        pinned = bool(given.get("align_corners"))
        if source is None and not is_map:
            return plain(*args, **kwargs)
        size = given.get("size")
        if size is None:
            factor = given["scale_factor"]
            both = factor if isinstance(factor, tuple | list) else (factor, factor)
            size = [int(length * each) for length, each in zip(image.shape[-2:], both, strict=True)]
        elif isinstance(size, int):
            size = (size, size)
        target = self._level(size) if source is None or size != tuple(image.shape[-2:]) else source
        finer = source is None or (target is not None and target < source)
        # On the half-pixel grid a tile that begins at a multiple of the stride has the points of the whole.
        if target is None or not finer or not (pinned or is_map):
            return plain(*args, **kwargs)
        assert self._place is not None
        place = self._place
        for axis, start, whole in ((2, place.top, place.whole_height), (3, place.left, place.whole_width)):
            length = image.shape[axis]
            first, everything = (0, length) if source is None else (start >> source, whole >> source)
            image = _along(image, axis, size[axis - 2], start >> target, whole >> target, first, everything, pinned)
        return image

    def _level(self, size: Sequence[int]) -> int | None:
        """How often the tile was halved to give this size."""
        assert self._place is not None
        for level in range(7):
            if (self._place.height >> level, self._place.width >> level) == (int(size[0]), int(size[1])):
                return level
        return None


def _sees_all_pixels(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return False
    if func in _POOLINGS:
        return True
    if func in (torch.mean, Tensor.mean, torch.amax, Tensor.amax, torch.amin, Tensor.amin):
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return isinstance(dims, tuple | list) and set(dims) in _OVER_PIXELS
    return False


def _along(
    image: Tensor, axis: int, count: int, start: int, total: int, first: int, everything: int, pinned: bool
) -> Tensor:
    """Linear interpolation of one axis on the grid of the whole.

    Args:
        image: (B, C, H, W).
        axis: 2 or 3.
        count: results wanted, those from ``start`` on of ``total``.
        start: see there.
        total: see there.
        first: which of ``everything`` the first sample here is.
        everything: samples of the whole.
        pinned: ``align_corners``.
    """
    places = torch.arange(start, start + count, dtype=torch.float64, device=image.device)
    if pinned:
        places = places * ((everything - 1) / max(total - 1, 1))
    else:
        places = ((places + 0.5) * (everything / total) - 0.5).clamp(min=0)
    places = (places - first).clamp(0, image.shape[axis] - 1)
    lower = places.floor().to(torch.int64)
    share = (places - lower).to(image.dtype).view((-1, 1) if axis == 2 else (-1,))
    upper = (lower + 1).clamp(max=image.shape[axis] - 1)
    return torch.lerp(image.index_select(axis, lower), image.index_select(axis, upper), share)


# -- running ---------------------------------------------------------------------------------------------------------

Layers = dict[str, Tensor]
Network = Callable[[Tensor], Layers]


def in_tiles(
    network: Network, mixture: Tensor, plan: Plan, view: WholeView | None, device: torch.device
) -> Iterator[Layers | None]:
    """Separate tile by tile; yields None after each tile, at last the joined layers.

    Args:
        network: (1, 3, h, w) on ``device`` to layers of that size.
        mixture: (3, H, W) in [0, 1], on the CPU.
        plan: of this size.
        view: that has learnt this picture; None leaves each tile alone.
        device: where the network computes.

    Yields:
        None, as often as there are tiles, then (3, H, W) float32 on the CPU by name.
    """
    height, width = mixture.shape[-2:]
    padded = continued(mixture, plan.height, plan.width)
    joined: Layers = {}
    for row in plan.rows:
        for column in plan.columns:
            tile = padded[:, row.start : row.stop, column.start : column.stop]
            share = window(row, plan.halo)[:, None] * window(column, plan.halo)
            where = Where(row.start, column.start, tile.shape[-2], tile.shape[-1], plan.height, plan.width)
            image = tile[None].to(device)
            if view is None or plan.count == 1:
                layers = network(image)
            else:
                with view.at(where):
                    layers = network(image)
            bottom, right = min(row.stop, height), min(column.stop, width)
            for name, layer in layers.items():
                if name not in joined:
                    # Written to, not only promised: what a run takes is seen at its first tile.
                    joined[name] = torch.full((layer.shape[1], height, width), 0.0)
                part = layer[0].to("cpu", torch.float32) * share
                inside = part[:, : bottom - row.start, : right - column.start]
                joined[name][:, row.start : bottom, column.start : right] += inside
            del layers
            yield None
    yield joined


def continued(image: Tensor, height: int, width: int) -> Tensor:
    """Continue (C, H, W) below and on the right, by reflection where it is large enough, else by its last pixels."""
    down, right = height - image.shape[-2], width - image.shape[-1]
    if not (down or right):
        return image
    mode = "reflect" if down < image.shape[-2] and right < image.shape[-1] else "replicate"
    return F.pad(image[None], (0, right, 0, down), mode=mode)[0]


def reduced(mixture: Tensor, pixels: int = REDUCED_PIXELS, stride: int = STRIDE) -> Tensor:
    """The picture small enough to be seen at once, as (1, 3, h, w), sides multiples of the stride."""
    height, width = mixture.shape[-2:]
    factor = min(1.0, math.sqrt(pixels / (height * width)))
    size = [max(round(side * factor / stride), 1) * stride for side in (height, width)]
    return F.interpolate(mixture[None], size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


# -- memory ----------------------------------------------------------------------------------------------------------


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes the results of torch's operators hold."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._released, size).atexit = False

    def _released(self, size: int) -> None:
        self.now -= size


def bytes_per_pixel(network: Network, device: torch.device, side: int = 4 * STRIDE) -> float:
    """What a network holds at its peak for each pixel it looks at, found by looking at a small picture.

    Args:
        network: as for :func:`in_tiles`.
        device: where it computes.
        side: of the picture.
    """
    held = _Held()
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with held:
        network(image)
    return held.peak / side**2
