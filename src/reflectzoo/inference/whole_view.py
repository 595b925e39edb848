"""Modes of torch for tiles: substitute operations on the whole picture, and measure memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TilePosition(NamedTuple):
    """Position and size of a tile within the padded picture, in pixels."""

    top: int
    left: int
    height: int
    width: int
    whole_height: int
    whole_width: int


_OVER_PIXELS = ({2, 3}, {-2, -1})
_POOLINGS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.adaptive_avg_pool1d)


class GlobalStatistics(TorchFunctionMode):
    """Makes a network process a tile as part of its picture.

    First, within ``with view.learning():``, the network runs on the reduced picture, and the results of its means,
    maxima, minima and adaptive poolings over all pixels are recorded. Then, within ``with view.at(where):``, it runs on
    each tile: these operations return the recorded results in the same order, and bilinear upsampling is computed on
    the grid of the whole picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[Tensor] = []
        self._place: TilePosition | None = None
        self._next = 0
        self._pooled: set[tuple[int, ...]] = set()

    @property
    def statistics(self) -> int:
        """Number of recorded results over all pixels."""
        return len(self._notes)

    def learning(self) -> GlobalStatistics:
        """Discard earlier records, and record statistics from now on."""
        self._notes.clear()
        self._place = None
        return self

    def at(self, where: TilePosition) -> GlobalStatistics:
        """Return recorded statistics from now on, for a tile at this position."""
        self._place, self._next = where, 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the mode.

        Raises:
            RuntimeError: if a tile did not use all recorded statistics.
        """
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        if kind is None and self._place is not None and self._next != len(self._notes):
            raise RuntimeError(f"a tile asked for {self._next} of {len(self._notes)} statistics of the whole picture")

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Intercept a torch function.

        Raises:
            RuntimeError: if a tile asks for more statistics than were recorded, or in another order.
        """
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
        # Without aligned corners, the grid of a tile that begins at a multiple of the stride is part of the whole's.
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
        """How many times the tile was halved to give this size, 0 to 6; None if it was not."""
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
    """Interpolate one axis linearly on the grid of the whole picture.

    Args:
        image: (B, C, H, W).
        axis: 2 or 3.
        count: number of output samples.
        start: index of the first output sample in the whole output.
        total: length of the whole output.
        first: index of the first input sample in the whole input.
        everything: length of the whole input.
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


class HeldBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the memory held by the results of torch operators, in bytes.

    Attributes:
        now: current amount.
        peak: maximum so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler on the first operator: two seconds of every ``reflectzoo remove``."""
        return False

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
