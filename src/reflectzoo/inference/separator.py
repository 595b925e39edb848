"""Apply a network to photographs of any size and kind, on any device, in bounded memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from reflectzoo.core.annotations import Share
from reflectzoo.core.batch import LAYERS
from reflectzoo.core.method import Size, Tiling
from reflectzoo.core.settings import check_value
from reflectzoo.errors import UserError
from reflectzoo.inference.ensemble import MIRRORED, VIEWS, Ensemble
from reflectzoo.inference.load import LoadedModel
from reflectzoo.inference.tiles import (
    HALO,
    TILE_STRIDE,
    FinishedRows,
    Layers,
    Rows,
    TilePlan,
    bytes_per_pixel,
    in_bands,
    pad_to,
    plan_tiles,
    resampled_rows,
    size_for_statistics,
)
from reflectzoo.inference.whole_view import GlobalStatistics
from reflectzoo.inference.working_size import BAND, Change, working_size
from reflectzoo.photo.model import Picture, Values

Precision = Literal["32", "16", "bf16"]
Quality = Literal["fast", "normal", "best"]
ProgressFunction = Callable[[int, int], None]

#: Default memory budget: this share of the free memory, but at most so many bytes on the CPU.
_SHARE_OF_FREE = 0.7
_MOST = int(3.4 * 2**30)
#: Allowances for scratch memory of the libraries below torch, which the measurement of a tile does not include.
_SAFETY = 1.3
_SCRATCH = 256 * 2**20
#: Bytes per pixel of a whole picture in float32: the picture, its padded copy, and both layers.
_WHOLE = 4 * 3 * 4
#: Copies of a row of tiles held at a time: the picture, its padded copy, both layers, and the summands.
_BAND_COPIES = 5
#: Pictures of up to this many pixels are processed whole, without measuring memory.
_SMALL = 256 * 256


class Separation(NamedTuple):
    """Both layers of a picture.

    Attributes:
        transmission: the scene behind the glass.
        reflection: the reflected light, as it appears in the picture.
    """

    transmission: Any
    reflection: Any


@dataclass(frozen=True)
class TileUse:
    """How a picture was cut into tiles, for reports.

    Attributes:
        tiles: number of tiles; 1 if the picture was processed whole.
        tile: height and width of the largest tile.
        statistics: number of means and maxima over all pixels that were taken from the reduced picture.
    """

    tiles: int
    tile: tuple[int, int]
    statistics: int


class Separator:
    """Separates photographs with one network.

    Args:
        network: ``(1, 3, h, w) in [0, 1] -> {"transmission", "reflection"?}``; a model of the zoo, its network, or any
            callable, such as an ONNX session. Modules are moved to the device and put into evaluation mode.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``32``, or mixed precision ``bf16``, or on a GPU ``16``.
        memory: limit in bytes of the whole process on the CPU, or of the tiles on a GPU; None derives it from the free
            memory.
        tile: maximum side of a tile in pixels, in place of a choice by memory; 0 disables tiling.
        halo: half the overlap of tiles in pixels, see :mod:`reflectzoo.inference.tiles`; None takes the method's value,
            or the default.
        smallest: shorter sides are padded to this many pixels before the network runs.
        quality: ``fast`` separates the photograph once; ``normal`` also its mirror image, where the model says so, and
            averages both; ``best`` averages over eight mirrored and rotated views.
        working: shorter side in pixels to which larger photographs are downsampled, see
            :mod:`reflectzoo.inference.working_size`; None takes the method's, 0 keeps their own size.
        mirrored: see ``quality``; None takes the method's.

    Attributes:
        last: the tiles of the last picture, at the size at which it was separated; None before the first.
        views: number of views of a photograph over which results are averaged.

    Raises:
        UserError: if the device, precision or quality is not available.
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Mapping[str, Any]],
        device: str = "auto",
        precision: Precision = "32",
        memory: int | None = None,
        tile: int | None = None,
        halo: int | None = None,
        smallest: int = 1,
        quality: Quality = "normal",
        working: int | None = None,
        mirrored: bool | None = None,
    ) -> None:
        self.device = choose_device(device)
        if quality not in get_args(Quality):
            raise UserError(f"The quality must be one of {', '.join(get_args(Quality))}, got {quality!r}.")
        if precision not in ("32", "16", "bf16"):
            raise UserError(f"The precision must be 32, 16 or bf16, got {precision!r}.")
        if precision == "16" and self.device.type == "cpu":
            raise UserError("The precision 16 needs a GPU: use 32 or bf16.")
        self.precision = precision
        self.memory = memory
        self.tile = tile
        size, tiling = Size(multiple=TILE_STRIDE), Tiling(HALO)
        if isinstance(network, LoadedModel):
            size, tiling = network.size, network.tiling
            mirrored = network.mirrored if mirrored is None else mirrored
        self.halo = tiling.halo if halo is None else halo
        self.smallest = max(smallest, size.minimum)
        self.size = size if working is None else replace(size, working=working or None)
        self.last: TileUse | None = None
        """Tiles of the last picture; None before the first."""
        self._per_pixel: float | None = None
        self.network = network
        views = VIEWS if quality == "best" else MIRRORED if quality == "normal" and mirrored else ()
        if views:
            self.network = network = Ensemble(network, views)
        self.views = max(len(views), 1)
        """Number of views of a photograph over which results are averaged."""
        if isinstance(network, nn.Module):
            network.eval().to(self.device)

    # -- one image -----------------------------------------------------------------------------------------------------

    def layers(self, mixture: Tensor, progress: ProgressFunction | None = None) -> Layers:
        """Separate a float32 tensor into its layers.

        Args:
            mixture: (3, H, W) in [0, 1], H and W at least 1.
            progress: called after each tile with the number of finished tiles and of all tiles.

        Returns:
            ``transmission`` and ``reflection``, float32 (3, H, W) on the CPU, clamped to [0, 1]. For a network without
            a reflection, that is the mixture minus the transmission.

        Raises:
            UserError: if the device's memory is too small, or the output is not finite.
        """
        return self._layers(mixture, working_size(mixture.shape[-2], mixture.shape[-1], self.size), progress)

    def _layers(self, mixture: Tensor, small: tuple[int, int] | None, progress: ProgressFunction | None) -> Layers:
        """:meth:`layers`, separated at the height and width ``small``, or at the mixture's own if None."""
        height, width = mixture.shape[-2:]
        image = mixture if small else pad_to(mixture, max(height, self.smallest), max(width, self.smallest))
        size = (image.shape[-2], image.shape[-1])
        layers: Layers = {}

        def take(band: FinishedRows) -> None:
            for name, layer in band.layers.items():
                if band.last - band.first == size[0]:
                    layers[name] = layer
                    continue
                if name not in layers:
                    layers[name] = torch.empty(layer.shape[0], *size)
                layers[name][:, band.first : band.last] = layer

        def rows(first: int, last: int) -> Tensor:
            return image[:, first:last]

        if small is None:
            plan = self._plan(*size, held=size[0] * size[1] * _WHOLE)
            self._separate(rows, size, plan, progress, take)
        else:
            self._separate_resized(rows, size, small, progress, take)
        # In place, to avoid copies of a large photograph.
        transmission = layers["transmission"][:, :height, :width].clamp_(0, 1)
        if "reflection" in layers:
            reflection = layers["reflection"][:, :height, :width].clamp_(0, 1)
        else:
            reflection = (mixture - transmission).clamp(0, 1)
        return {"transmission": transmission, "reflection": reflection}

    def picture(
        self, picture: Picture, strength: float = 1.0, progress: ProgressFunction | None = None, reflection: bool = True
    ) -> Separation:
        """Separate a picture into pictures of the same kind, size, depth, profile and metadata.

        If the picture is cut into tiles or separated at another size, only a band of its rows is held in floating
        point in addition to the results.

        Args:
            picture: picture as from :func:`~reflectzoo.photo.read.read_picture`.
            strength: how much of the removal is applied, from 0 (exactly the input) to 1.
            progress: see :meth:`layers`.
            reflection: also return the reflection, which is None otherwise.

        Raises:
            UserError: if the strength is not in [0, 1], the device's memory is too small, or the network's output is
                not finite.
        """
        size = (picture.height, picture.width)
        names = LAYERS if reflection else LAYERS[:1]
        small = working_size(*size, self.size)
        if small is None:
            plan = self._plan(*size, held=size[0] * size[1] * _WHOLE)
            if plan.count > 1:
                plan = self._plan(*size, held=len(names) * picture.values.nbytes, banded=True)
            if plan.count == 1:
                layers = self.blended(picture.tensor(), strength, progress)
                return Separation(*(picture.with_values(layers[name]) if name in names else None for name in LAYERS))
        check_strength(strength)
        values = {name: np.empty_like(picture.values) for name in names}

        def rows(first: int, last: int) -> Tensor:
            return picture.rows(first, last).expand(3, -1, -1)

        def take(band: FinishedRows) -> None:
            image = picture.rows(band.first, band.last)
            layers = {name: layer.clamp(0, 1) for name, layer in band.layers.items()}
            layers.setdefault("reflection", (image - layers["transmission"]).clamp(0, 1))
            for name, layer in blend(image, layers, strength).items():
                if name in values:
                    values[name][band.first : band.last] = picture.numbers(layer)

        if small is None:
            self._separate(rows, size, plan, progress, take)
        else:
            self._separate_resized(rows, size, small, progress, take)
        return Separation(*(replace(picture, values=values[name]) if name in names else None for name in LAYERS))

    def blended(self, image: Tensor, strength: float = 1.0, progress: ProgressFunction | None = None) -> Layers:
        """Same as :meth:`layers`, also for grey (1, H, W), with the transmission ``I + strength (T - I)``.

        Raises:
            UserError: if the strength is not in [0, 1], or as in :meth:`layers`.
        """
        check_strength(strength)
        return blend(image, self.layers(image.expand(3, -1, -1), progress), strength)

    # -- tiles and memory ----------------------------------------------------------------------------------------------

    def _separate_resized(
        self,
        rows: Rows,
        size: tuple[int, int],
        small: tuple[int, int],
        progress: ProgressFunction | None,
        take: Callable[[FinishedRows], None],
    ) -> None:
        """Separate a picture at its working size, and pass all bands of its layers at its own size to ``take``."""
        image = resampled_rows(rows, *size, small)
        layers = self._layers(image[0], None, progress)
        change = Change(image, {name: layer[None] for name, layer in layers.items()}, size)
        for first in range(0, size[0], BAND):
            last = min(first + BAND, size[0])
            take(change.band(rows(first, last), first, last))

    def _separate(
        self,
        rows: Rows,
        size: tuple[int, int],
        plan: TilePlan,
        progress: ProgressFunction | None,
        take: Callable[[FinishedRows], None],
    ) -> None:
        """Pass all bands of a picture to ``take``; if memory runs out, start again with tiles of half the size."""
        with torch.no_grad():
            while True:
                try:
                    for band in self._bands(rows, size, plan, progress):
                        self._check_numbers(band)
                        take(band)
                    return
                except torch.OutOfMemoryError:
                    smaller = plan_tiles(
                        plan.height, plan.width, plan.tile[0] * plan.tile[1] // 2, self.halo, self.size.multiple
                    )
                    if smaller.tile[0] * smaller.tile[1] >= plan.tile[0] * plan.tile[1]:
                        raise UserError(
                            f"The memory of {self.device} is too small for a tile of {plan.tile[1]}x{plan.tile[0]} "
                            "pixels: use --device cpu, or a smaller model."
                        ) from None
                    plan = smaller
                    torch.cuda.empty_cache()

    def _bands(
        self, rows: Rows, size: tuple[int, int], plan: TilePlan, progress: ProgressFunction | None
    ) -> Iterator[FinishedRows]:
        if plan.count == 1:
            self.last = TileUse(1, size, 0)
            # Not padded to the stride: the network handles odd sizes in its authors' way.
            found = self._call(rows(0, size[0])[None].to(self.device))
            if progress:
                progress(1, 1)
            layers = {name: layer[0].to("cpu", torch.float32, copy=True) for name, layer in found.items()}
            yield FinishedRows(0, size[0], layers)
            return
        view = GlobalStatistics()
        with view.learning():
            self._call(resampled_rows(rows, *size, size_for_statistics(*size, self.size.multiple)).to(self.device))
        self.last = TileUse(plan.count, plan.tile, view.statistics)
        number = 0
        for band in in_bands(self._call, rows, *size, plan, view, self.device):
            if band is not None:
                yield band
                continue
            number += 1
            if progress:
                progress(number, plan.count)

    def _check_numbers(self, band: FinishedRows) -> None:
        """Raise a UserError for NaN or infinity, which a picture would show as black or white."""
        for layer in band.layers.values():
            if not bool(torch.isfinite(torch.stack(torch.aminmax(layer))).all()):
                reason = "its weights are damaged" if self.precision == "32" else "--precision 32 may help"
                raise UserError(
                    "The network's output contains non-finite values (NaN or infinity), so nothing is written: "
                    f"{reason}, or its training diverged; try other weights."
                )

    def _call(self, image: Tensor) -> Layers:
        kind = self.device.type
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(kind, dtype, enabled=True) if self.precision != "32" else contextlib.nullcontext():
            outputs = self.network(image)
        return {name: outputs[name] for name in LAYERS if outputs.get(name) is not None}

    def _plan(self, height: int, width: int, held: float = 0, banded: bool = False) -> TilePlan:
        """Choose tiles.

        Args:
            height: height of the picture.
            width: width of the picture.
            held: bytes needed in addition to the tiles.
            banded: whether only a row of tiles of picture and layers is held in floating point at a time.
        """
        pixels = height * width
        if self.tile == 0 or (self.tile is None and pixels <= _SMALL):
            limit = math.inf
        elif self.tile is not None:
            limit = self.tile**2
        else:
            limit = self._pixels_in_budget(held, width if banded else 0)
        return plan_tiles(
            height,
            width,
            int(min(limit, 4 * (height + self.size.multiple) * (width + self.size.multiple))),
            self.halo,
            self.size.multiple,
            side=self.tile or None,
        )

    def _pixels_in_budget(self, held: float, width: int) -> float:
        """Maximum number of pixels per tile.

        Args:
            held: bytes needed in addition to the tiles.
            width: width of the picture if a row of tiles is held; otherwise 0.
        """
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            room = float(self.memory if self.memory is not None else _SHARE_OF_FREE * free)
            width = 0
        else:
            room = float(self.memory if self.memory is not None else min(_SHARE_OF_FREE * free_memory(), _MOST))
            if self.memory is not None or _SHARE_OF_FREE * free_memory() > _MOST:
                room -= resident()
            room -= held + _SCRATCH
        if self._per_pixel is None:
            with torch.no_grad():
                self._per_pixel = max(bytes_per_pixel(self._call, self.device), 1.0)
        # Solve tile x^2 + row x = room for the side x of a square tile, in a row of height x.
        tile, row = self._per_pixel * _SAFETY, width * 3 * 4 * _BAND_COPIES
        return float(((math.sqrt(row**2 + 4 * tile * max(room, 0.0)) - row) / (2 * tile)) ** 2)


def check_strength(strength: float) -> None:
    """Raise a UserError unless a strength lies in [0, 1]."""
    check_value("The strength", strength, Share)


def blend(image: Tensor, layers: Layers, strength: float) -> Layers:
    """Reduce layers to the picture's number of channels, and blend the transmission to ``I + strength (T - I)``.

    Args:
        image: I, (1 or 3, H, W).
        layers: (3, H, W) by name, in [0, 1]; for a colour picture, modified in place.
        strength: share of the removal that is applied, in [0, 1].
    """
    if image.shape[0] == 1:
        layers = {name: layer.mean(dim=0, keepdim=True) for name, layer in layers.items()}
    if strength < 1:
        layers["transmission"] = image + strength * (layers["transmission"] - image)
    return layers


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device '{name}': use auto, cpu, cuda or cuda:NUMBER.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False) or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(f"This machine (or this build of torch) has no device '{name}': use --device cpu.")
    return device


def parse_bytes(text: str) -> int:
    """Parse an amount of memory, as ``2G``, ``800M`` or ``1.5GiB``, to bytes; units are powers of 1024.

    Raises:
        UserError: for anything else.

    Example:
        >>> parse_bytes("1.5G") == 3 * 2**29
        True
    """
    word = text.strip().upper().removesuffix("IB").removesuffix("B")
    factors = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    with contextlib.suppress(ValueError, OverflowError):
        number = float(word[:-1]) * factors[word[-1]] if word[-1:] in factors else float(word)
        if number > 0 and math.isfinite(number):
            return int(number)
    raise UserError(f"'{text}' is not an amount of memory: write 2G or 800M.")


def free_memory() -> int:
    """Bytes available on this machine, or within the limit of this process's container."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        # In a container, its own limit applies.
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, max(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()), 0))
    return free


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def difference(separator: Separator, mixture: Tensor, tile: int) -> dict[str, float]:
    """Largest absolute difference between tiled and whole processing, by layer.

    The sides should be multiples of the stride, because only tiled processing pads them to it.

    Args:
        separator: its setting for tiles is restored afterwards.
        mixture: (3, H, W) in [0, 1].
        tile: maximum side of a tile in pixels.
    """
    before = separator.tile
    try:
        separator.tile = 0
        whole = separator.layers(mixture)
        separator.tile = tile
        cut = separator.layers(mixture)
    finally:
        separator.tile = before
    return {name: float((whole[name] - cut[name]).abs().max()) for name in whole}


def side_by_side(pictures: list[Picture]) -> Picture:
    """Join pictures of the same height from left to right, with the metadata of the first.

    Raises:
        IndexError: if there are none.
        ValueError: if they differ in height, channels or type.
    """
    first = pictures[0]
    if len({(each.height, each.values.shape[2], each.values.dtype) for each in pictures}) > 1:
        raise ValueError("pictures of different heights or kinds cannot stand side by side")

    def joined(layers: list[Values | None]) -> Values | None:
        there = [each for each in layers if each is not None]
        return np.concatenate(there, axis=1) if there else None

    values = np.concatenate([each.values for each in pictures], axis=1)
    alpha, extra = joined([each.alpha for each in pictures]), joined([each.extra for each in pictures])
    return replace(first, values=values, alpha=alpha, extra=extra)
