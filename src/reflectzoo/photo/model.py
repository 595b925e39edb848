"""A photograph in memory: its values, its transparency, and all that its file says beside them.

**Colour.** Values are worked on in the file's own encoding and its profile is embedded again untouched: a conversion to
sRGB and back would clip colours that sRGB does not have, and strength 0 would no longer give the picture back. The
exceptions are CMYK and other models that no network sees, as Lab: such a file becomes sRGB, through its profile where
it has one; and a PNG whose gAMA says another curve, which a network is shown along the curve of sRGB and written back
along its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.photo.ifd import Entry
from reflectzoo.photo.png import Chunk

Values: TypeAlias = npt.NDArray[Any]
"""uint8, uint16, or float32 in [0, 1]."""

#: Suffixes of pictures that training looks for.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)
#: Suffixes of camera raw files.
RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".iiq"}
    | {".3fr", ".erf", ".kdc", ".mrw", ".rwl"}
)
#: What a folder is searched for.
PICTURE_SUFFIXES = SUFFIXES | RAW_SUFFIXES
PICTURE_SUFFIXES |= {".jpe", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".tga", ".pam", ".pfm"}
#: More pixels than this are taken for a decompression bomb, as Pillow does, if nothing else is said.
MAX_PIXELS = 2 * 89_478_485


_AT_ONCE = 2**22


class UnreadableImage(UserError):
    """A file that should hold a picture does not. The message is one sentence naming the file and the reason."""


@dataclass(frozen=True)
class Origin:
    """What a file says beside its values, kept for writing.

    Attributes:
        format: Pillow's name, ``JPEG``, ``PNG``, ...; ``RAW`` for a camera's; empty for what came from no file.
        icc: the embedded colour profile.
        exif: EXIF block with the orientation reset, without its thumbnail.
        xmp: XMP packet, likewise, without pointers to parts that are gone.
        iptc: IPTC records.
        photoshop: Photoshop's other resources.
        dpi: dots per inch.
        comments: of a JPEG.
        chunks: of a PNG, copied as they are: texts, and what says how colours are meant (of AVIF and HEIC, too).
        gamma: exponent that the values were encoded with, where it is not that of sRGB and nothing overrules it.
        tags: of a TIFF, those that describe neither the layout nor what is told here; little-endian.
        boxes: of a JPEG 2000, likewise.
        jpeg: quantisation tables, subsampling and whether it is progressive, as Pillow's writer takes them.
        lossless: of a WebP.
        premultiplied: whether the file's colours were multiplied by its alpha (values here never are).
        quality: from 1 to 100, of a lossy format, in place of what the file itself had or the usual one.
        half: whether floating-point values had 16 bits.
    """

    format: str = ""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    photoshop: bytes | None = None
    dpi: tuple[float, float] | None = None
    comments: tuple[bytes, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    gamma: float | None = None
    tags: tuple[Entry, ...] = ()
    boxes: tuple[bytes, ...] = ()
    jpeg: Mapping[str, Any] = field(default_factory=dict)
    lossless: bool = False
    premultiplied: bool = False
    half: bool = False
    quality: int | None = None


@dataclass(frozen=True)
class Picture:
    """Upright values, and where they came from.

    Attributes:
        values: (H, W, 1) grey or (H, W, 3) colour, uint8, uint16 or float32 in [0, 1], in the encoding of the profile
            (sRGB if none), not multiplied by alpha.
        alpha: (H, W) of the same type, or None.
        origin: what writing it back needs.
        notes: sentences about what could not be kept.
        extra: (H, W, n) of the same type, further channels of a TIFF that are no transparency; or None.
    """

    values: Values
    alpha: Values | None = None
    origin: Origin = Origin()
    notes: tuple[str, ...] = ()
    extra: Values | None = None

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.values.shape[1])

    @property
    def depth(self) -> int:
        """Bits of a value: 8, 16, or 32 for floating point."""
        return 8 * self.values.itemsize

    def tensor(self) -> Tensor:
        """The values as float32 (1 or 3, H, W) in [0, 1]; what :meth:`with_values` rounds back to the same numbers."""
        return self.rows(0, self.height)

    def rows(self, first: int, last: int) -> Tensor:
        """:meth:`tensor` of some rows alone."""
        part = self.values[first:last]
        # Copied: torch wants arrays that may be written to, and knows no arithmetic of 16 bits without sign.
        wide = torch.from_numpy(part.astype(np.int32 if self.depth == 16 else part.dtype))
        image: Tensor = wide.permute(2, 0, 1).to(torch.float32)
        if self.depth < 32:
            image = image / (2**self.depth - 1)
        return image if self.origin.gamma is None else srgb_encoded(image, self.origin.gamma)

    def with_values(self, image: Tensor) -> Picture:
        """Another picture of the same kind and origin.

        Args:
            image: (1 or 3, H, W) in [0, 1], clamped and rounded.
        """
        return replace(self, values=self.numbers(image))

    def numbers(self, image: Tensor) -> Values:
        """Values of this picture's kind, (H, W, 1 or 3), for what :meth:`tensor` would give."""
        image = image.detach().cpu().to(torch.float32).clamp(0, 1)
        if self.origin.gamma is not None:
            image = srgb_decoded(image, self.origin.gamma)
        if self.depth == 32:
            return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        numbers = (image * (2**self.depth - 1)).round().permute(1, 2, 0).numpy()
        return np.ascontiguousarray(numbers, np.uint16 if self.depth == 16 else np.uint8)

    def to_pil(self) -> Image.Image:
        """As Pillow has it: modes L, LA, RGB, RGBA or I;16; other values of more than 8 bits are rounded to 8."""
        if self.depth == 16 and self.values.shape[2] == 1 and self.alpha is None:
            return Image.fromarray(self.values[..., 0])
        layers = as_depth(self.values, 8)
        if self.alpha is not None:
            layers = np.concatenate((layers, as_depth(self.alpha, 8)[..., None]), axis=2)
        return Image.fromarray(layers[..., 0] if layers.shape[2] == 1 else layers)

    def rgb(self) -> npt.NDArray[np.uint8]:
        """As a viewer shows it on white, (H, W, 3) uint8; values are rounded, a gAMA is heeded, profiles are not."""
        values = self.standard().values
        colours: npt.NDArray[np.uint8] = as_depth(values if self.alpha is None else on_white(values, self.alpha), 8)
        return np.ascontiguousarray(colours) if colours.shape[2] == 3 else np.repeat(colours, 3, axis=2)

    def standard(self) -> Picture:
        """With values along the curve of sRGB, where a gAMA says another one."""
        gamma = self.origin.gamma
        if gamma is None:
            return self
        if self.depth == 32:
            values = srgb_encoded(torch.from_numpy(self.values), gamma).numpy()
        else:
            top = 2**self.depth - 1
            curve = srgb_encoded(torch.arange(top + 1, dtype=torch.float64) / top, gamma)
            values = (curve * top).round().numpy().astype(self.values.dtype)[self.values]
        return replace(self, values=values, origin=replace(self.origin, gamma=None))

    def turned(self, orientation: int) -> Picture:
        """Upright, from how a file of this EXIF orientation stores it; nothing happens for what is none (2 to 8)."""
        if orientation not in range(2, 9):
            return self
        turn = _turner(orientation)
        dpi = self.origin.dpi
        origin = replace(self.origin, dpi=dpi[::-1] if dpi and orientation >= 5 else dpi)
        layers = (None if each is None else turn(each) for each in (self.alpha, self.extra))
        alpha, extra = layers
        return replace(self, values=turn(self.values), alpha=alpha, extra=extra, origin=origin)

    def turned_back(self, orientation: int) -> Picture:
        """From upright to how a file of this orientation stores it."""
        return self.turned({6: 8, 8: 6}.get(orientation, orientation))

    def noted(self, *sentences: str) -> Picture:
        """With further notes."""
        return replace(self, notes=(*self.notes, *sentences))

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write it, complete or not at all; the format follows the suffix.

        What the format cannot hold is left out or rounded; :func:`reflectzoo.photo.write.fitted` says what.

        Args:
            path: with a suffix that says the format.
            overwrite: whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            UserError: if the suffix is none that can be written, the file exists, or it cannot be written.
        """
        # Writing knows pictures; pictures know writing only here.
        from reflectzoo.photo.write import write_picture

        return write_picture(self, Path(path), overwrite)


def as_depth(values: Values, depth: int) -> Values:
    """The same values in 8 or 16 bits, or as floating point (32), rounded.

    Example:
        >>> as_depth(np.array([0, 128, 129, 65535], np.uint16), 8).tolist()
        [0, 0, 1, 255]
    """
    have = 8 * values.itemsize
    if have == depth:
        return values
    if depth == 32:
        return (values / np.float32(2**have - 1)).astype(np.float32)
    kind = np.uint8 if depth == 8 else np.uint16
    if have == 32:
        return np.rint(np.clip(values, 0, 1) * np.float64(2**depth - 1)).astype(kind)
    if depth == 16:
        return values.astype(np.uint16) * np.uint16(257)
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def on_white(values: Values, alpha: Values) -> Values:
    """Values (H, W, C) as they are seen before white through an alpha (H, W) of the same type."""
    if values.dtype == np.float32:
        share = alpha[..., None]
        mixed: Values = values * share + (1 - share)
        return mixed.astype(np.float32)
    top = np.uint32(np.iinfo(values.dtype).max)
    out = np.empty_like(values)
    step = max(_AT_ONCE // max(values[:1].size, 1), 1)
    for first in range(0, values.shape[0], step):
        # Of 16 bits the sum just fits into 32.
        share = alpha[first : first + step, :, None].astype(np.uint32)
        mixed = values[first : first + step].astype(np.uint32) * share + top * (top - share)
        out[first : first + step] = (mixed + top // np.uint32(2)) // top
    return out


def srgb_encoded(image: Tensor, gamma: float) -> Tensor:
    """Values that were encoded with an exponent, along the curve of sRGB instead (IEC 61966-2-1).

    Args:
        image: any shape, in [0, 1].
        gamma: as in a PNG's gAMA: the stored value is light ** gamma.
    """
    light = image.pow(1 / gamma)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.pow(1 / 2.4) - 0.055)


def srgb_decoded(image: Tensor, gamma: float) -> Tensor:
    """What :func:`srgb_encoded` undoes."""
    light = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055).pow(2.4))
    return light.pow(gamma)


def _turner(orientation: int) -> Callable[[Values], Values]:
    def turn(values: Values) -> Values:
        match orientation:
            case 2:
                out = values[:, ::-1]
            case 3:
                out = values[::-1, ::-1]
            case 4:
                out = values[::-1]
            case 5:
                out = values.swapaxes(0, 1)
            case 6:
                out = values.swapaxes(0, 1)[:, ::-1]
            case 7:
                out = values[::-1, ::-1].swapaxes(0, 1)
            case _:
                out = values.swapaxes(0, 1)[::-1]
        return np.ascontiguousarray(out)

    return turn
