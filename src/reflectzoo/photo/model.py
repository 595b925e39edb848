"""A photograph with all that its file says about it: read whole, worked on, written back as the same kind of file.

What is kept: size, bit depth (8 or 16), grey or colour, transparency, embedded colour profile, EXIF and XMP data,
resolution, and for JPEG the quantisation tables and chroma subsampling. The EXIF orientation is applied on reading and
its tag reset, so that the picture stands upright whoever looks at it.

**Colour.** Values are worked on in the file's own encoding and its profile is embedded again untouched: a conversion to
sRGB and back would clip colours that sRGB does not have, and strength 0 would no longer give the picture back. The
exception is CMYK (and other models that no network sees, as Lab): such a file becomes sRGB, through its profile where
it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from reflectzoo.data.images import SUFFIXES
from reflectzoo.errors import UserError
from reflectzoo.photo.files import shown, write_atomically

Values: TypeAlias = npt.NDArray[Any]
"""uint8 or uint16."""
#: What a folder is searched for.
PICTURE_SUFFIXES = SUFFIXES | {".jpe", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".tga"}
_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".jp2": "JPEG2000",
}
_SIXTEEN = ("PNG", "TIFF")


@dataclass(frozen=True)
class Origin:
    """What a file says beside its values, kept for writing.

    Attributes:
        format: Pillow's name, ``JPEG``, ``PNG``, ...; empty for a picture that came from no file.
        icc: the embedded colour profile.
        exif: EXIF data with the orientation reset, without its thumbnail's orientation.
        xmp: likewise.
        dpi: dots per inch.
        text: comments of a PNG.
        jpeg: quantisation tables, subsampling and whether it is progressive, as Pillow's writer takes them.
        lossless: of a WebP.
    """

    format: str = ""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    jpeg: Mapping[str, Any] = field(default_factory=dict)
    lossless: bool = False


@dataclass(frozen=True)
class Picture:
    """Upright values, and where they came from.

    Attributes:
        values: (H, W, 1) grey or (H, W, 3) colour, uint8 or uint16, in the encoding of the profile (sRGB if none).
        alpha: (H, W) of the same type, or None.
        origin: what writing it back needs.
        notes: sentences about what could not be kept.
    """

    values: Values
    alpha: Values | None = None
    origin: Origin = Origin()
    notes: tuple[str, ...] = ()

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
        """Bits of a value, 8 or 16."""
        return 8 * self.values.itemsize

    def tensor(self) -> Tensor:
        """The values as float32 (1 or 3, H, W) in [0, 1]; what :meth:`with_values` rounds back to the same integers."""
        wide = torch.from_numpy(self.values.astype(np.int32) if self.depth == 16 else self.values)
        image: Tensor = wide.permute(2, 0, 1).to(torch.float32) / (2**self.depth - 1)
        return image

    def with_values(self, image: Tensor) -> Picture:
        """Another picture of the same kind and origin.

        Args:
            image: (1 or 3, H, W) in [0, 1], clamped and rounded.
        """
        top = 2**self.depth - 1
        numbers = (image.detach().cpu().to(torch.float32).clamp(0, 1) * top).round().permute(1, 2, 0).numpy()
        values: Values = numbers.astype(np.uint16) if self.depth == 16 else numbers.astype(np.uint8)
        return replace(self, values=values)

    def to_pil(self) -> Image.Image:
        """As Pillow has it: modes L, LA, RGB, RGBA or I;16; colour of 16 bits is rounded to 8."""
        if self.depth == 16 and self.values.shape[2] == 1 and self.alpha is None:
            return Image.fromarray(self.values[..., 0])
        layers = eight_bit(self.values)
        if self.alpha is not None:
            layers = np.concatenate((layers, eight_bit(self.alpha)[..., None]), axis=2)
        return Image.fromarray(layers[..., 0] if layers.shape[2] == 1 else layers)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write it, complete or not at all; the format follows the suffix.

        What the format cannot hold is rounded to 8 bits, or seen on white instead of transparent.

        Args:
            path: with a suffix that says the format.
            overwrite: whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            UserError: if the suffix is none that can be written, the file exists, or it cannot be written.
        """
        from reflectzoo.photo.write import encode  # which builds on this module

        target = Path(path)
        kind = format_of(target)
        write_atomically(target, encode(self, kind), overwrite)
        return target


def format_of(path: Path) -> str:
    """Pillow's name of the format that a suffix stands for.

    Raises:
        UserError: for any other suffix.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{shown(path)} cannot be written, '{path.suffix}' is no format for it: use one of {', '.join(_FORMATS)}."
        )
    return kind


def suffix_for(path: Path, picture: Picture) -> str:
    """The suffix of a result: that of its source where this format can hold it without loss of kind, else ``.png``."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None or kind != picture.origin.format or (picture.depth == 16 and kind not in _SIXTEEN):
        return ".png"
    return path.suffix


def eight_bit(values: Values) -> npt.NDArray[np.uint8]:
    """The same values in 0..255, rounded."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
