"""A photograph in memory: its values, its transparency, and its file's metadata.

**Colour.** Values are processed in the file's own encoding, and its profile is embedded again unchanged: a conversion
to sRGB and back would clip colours outside sRGB, and strength 0 would no longer return the original. There are two
exceptions. CMYK and other models that no network accepts, such as Lab, are converted to sRGB, through the profile if
there is one. A PNG whose gAMA declares another curve is converted to the sRGB curve for the network, and back to its
own for writing.
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

#: Suffixes of training pictures.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)
#: Suffixes of camera raw files.
RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".iiq"}
    | {".3fr", ".erf", ".kdc", ".mrw", ".rwl"}
)
#: Suffixes that a folder is searched for.
PICTURE_SUFFIXES = SUFFIXES | RAW_SUFFIXES
PICTURE_SUFFIXES |= {".jpe", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".tga", ".pam", ".pfm"}
#: Default limit: a picture with more pixels is refused as a decompression bomb, as in Pillow.
MAX_PIXELS = 2 * 89_478_485


_AT_ONCE = 2**22


class UnreadableImage(UserError):
    """Raised for a file that cannot be read as a picture. The message is one sentence with the file and the reason."""


@dataclass(frozen=True)
class FileMetadata:
    """The metadata of a file, kept for writing.

    Attributes:
        format: Pillow's name, ``JPEG``, ``PNG``, ...; ``RAW`` for camera raw; empty if the picture is not from a file.
        icc: the embedded colour profile.
        exif: EXIF block with the orientation reset, without its thumbnail.
        xmp: XMP packet, likewise, without references to parts that were dropped.
        iptc: IPTC records.
        photoshop: other Photoshop resources.
        dpi: dots per inch.
        comments: comments of a JPEG.
        chunks: chunks of a PNG, copied unchanged: text and colour definitions (cICP also of AVIF and HEIC).
        gamma: exponent that the values were encoded with; None if it is that of sRGB, or overridden or unspecified.
        tags: tags of a TIFF that neither describe the layout nor duplicate other attributes; little-endian.
        boxes: boxes of a JPEG 2000, likewise.
        jpeg: quantisation tables, subsampling, progressive coding and RGB storage, as options of Pillow's writer.
        lossless: whether a WebP is lossless.
        premultiplied: whether the file's colours were multiplied by its alpha (those of a picture never are).
        quality: 1 to 100, for lossy formats; None keeps the file's own or takes the format's default.
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
    """An upright photograph.

    Attributes:
        values: (H, W, 1) grey or (H, W, 3) colour, uint8, uint16 or float32 in [0, 1], in the encoding of the profile
            (sRGB if none), not multiplied by alpha.
        alpha: (H, W) of the same type, or None.
        origin: format and metadata, for writing it back.
        notes: sentences about what could not be kept.
        extra: (H, W, n) of the same type, further channels of a TIFF or PSD other than transparency; or None.
    """

    values: Values
    alpha: Values | None = None
    origin: FileMetadata = FileMetadata()
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
        """The values as float32 (1 or 3, H, W) in [0, 1]; the round-trip through :meth:`with_values` is exact."""
        return self.rows(0, self.height)

    def rows(self, first: int, last: int) -> Tensor:
        """:meth:`tensor` of rows ``first`` to ``last - 1``, (1 or 3, rows, W)."""
        part = self.values[first:last]
        # Copied: torch requires writable arrays, and has no uint16 arithmetic.
        wide = torch.from_numpy(part.astype(np.int32 if self.depth == 16 else part.dtype))
        image: Tensor = wide.permute(2, 0, 1).to(torch.float32)
        if self.depth < 32:
            image = image / (2**self.depth - 1)
        return image if self.origin.gamma is None else srgb_encoded(image, self.origin.gamma)

    def with_values(self, image: Tensor) -> Picture:
        """A copy with other values, of the same type and origin.

        Args:
            image: (1 or 3, H, W) in [0, 1], on any device; clamped and rounded.
        """
        return replace(self, values=self.numbers(image))

    def numbers(self, image: Tensor) -> Values:
        """Convert a tensor as from :meth:`tensor` back to values of this picture's type, (H, W, 1 or 3)."""
        image = image.detach().cpu().to(torch.float32).clamp(0, 1)
        if self.origin.gamma is not None:
            image = srgb_decoded(image, self.origin.gamma)
        if self.depth == 32:
            return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        numbers = (image * (2**self.depth - 1)).round().permute(1, 2, 0).numpy()
        return np.ascontiguousarray(numbers, np.uint16 if self.depth == 16 else np.uint8)

    def to_pil(self) -> Image.Image:
        """Convert to a Pillow image: L, LA, RGB, RGBA or, for 16-bit grey, I;16; other depths are rounded to 8 bits."""
        if self.depth == 16 and self.values.shape[2] == 1 and self.alpha is None:
            return Image.fromarray(self.values[..., 0])
        layers = as_depth(self.values, 8)
        if self.alpha is not None:
            layers = np.concatenate((layers, as_depth(self.alpha, 8)[..., None]), axis=2)
        return Image.fromarray(layers[..., 0] if layers.shape[2] == 1 else layers)

    def rgb(self) -> npt.NDArray[np.uint8]:
        """The picture on white, (H, W, 3) uint8, rounded; gAMA is applied, profiles are not."""
        values = self.standard().values
        colours: npt.NDArray[np.uint8] = as_depth(values if self.alpha is None else on_white(values, self.alpha), 8)
        return np.ascontiguousarray(colours) if colours.shape[2] == 3 else np.repeat(colours, 3, axis=2)

    def standard(self) -> Picture:
        """The picture re-encoded with the sRGB curve if its gAMA declares another one; otherwise unchanged."""
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
        """Rotate or mirror from the storage order of an EXIF orientation to upright; no-op unless it is 2 to 8."""
        if orientation not in range(2, 9):
            return self
        turn = _turner(orientation)
        dpi = self.origin.dpi
        origin = replace(self.origin, dpi=dpi[::-1] if dpi and orientation >= 5 else dpi)
        layers = (None if each is None else turn(each) for each in (self.alpha, self.extra))
        alpha, extra = layers
        return replace(self, values=turn(self.values), alpha=alpha, extra=extra, origin=origin)

    def turned_back(self, orientation: int) -> Picture:
        """Inverse of :meth:`turned`."""
        return self.turned({6: 8, 8: 6}.get(orientation, orientation))

    def noted(self, *sentences: str) -> Picture:
        """A copy with further notes."""
        return replace(self, notes=(*self.notes, *sentences))

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the picture atomically, in the format of the suffix.

        Whatever the format cannot hold is dropped or rounded; :func:`reflectzoo.photo.write.reduce_to_format` lists it.

        Args:
            path: the file; its suffix determines the format.
            overwrite: whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            UserError: if the suffix is not supported, the file exists without ``overwrite``, or it cannot be written.
        """
        # Imported here to avoid a cycle.
        from reflectzoo.photo.write import write_picture

        return write_picture(self, Path(path), overwrite)


def as_depth(values: Values, depth: int) -> Values:
    """Convert values to 8 or 16 bits, or to floating point (32), rounded.

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
    """Composite values (H, W, C) over white with an alpha (H, W) of the same type."""
    if values.dtype == np.float32:
        share = alpha[..., None]
        mixed: Values = values * share + (1 - share)
        return mixed.astype(np.float32)
    top = np.uint32(np.iinfo(values.dtype).max)
    out = np.empty_like(values)
    step = max(_AT_ONCE // max(values[:1].size, 1), 1)
    for first in range(0, values.shape[0], step):
        # For 16-bit values the sum just fits into 32 bits.
        share = alpha[first : first + step, :, None].astype(np.uint32)
        mixed = values[first : first + step].astype(np.uint32) * share + top * (top - share)
        out[first : first + step] = (mixed + top // np.uint32(2)) // top
    return out


def srgb_encoded(image: Tensor, gamma: float) -> Tensor:
    """Re-encode values from a power curve to the sRGB curve (IEC 61966-2-1).

    Args:
        image: any shape, in [0, 1].
        gamma: exponent as in a PNG's gAMA: the stored value is light ** gamma.
    """
    light = image.pow(1 / gamma)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.pow(1 / 2.4) - 0.055)


def srgb_decoded(image: Tensor, gamma: float) -> Tensor:
    """Inverse of :func:`srgb_encoded`."""
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
