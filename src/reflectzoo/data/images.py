"""Photographs from files: any colour model and depth in, 8-bit RGB out, one clear sentence if that cannot be."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from reflectzoo.errors import UserError

Photo = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})

_ORIENTATION = 0x0112  # the EXIF tag
_BEHIND = (255, 255, 255)  # transparent pictures are seen on white, as a browser shows them


class UnreadableImage(UserError):
    """A file that should hold a picture does not. The message is one sentence naming the file and the reason."""


def read_rgb(path: str | os.PathLike[str], shorter: int | None = None) -> Photo:
    """Read a picture the way a viewer shows it.

    The EXIF orientation is applied; grey, CMYK, palette and other colour models become RGB (embedded colour profiles
    are not); 16-bit values are scaled, not cut off; transparency is composited on white; of an animation the first
    frame is read.

    Args:
        path: the file.
        shorter: the shorter side that is needed. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never
            below this, which saves most of the time; other formats ignore it.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        UnreadableImage: if the file is missing, empty, truncated, too large for Pillow's guard against decompression
            bombs, or no picture.
    """
    try:
        with Image.open(path) as image:
            if shorter is not None:
                image.draft(None, (shorter, shorter))
            picture = _upright(_deep_colour(image, path) or image)
            return _eight_bit_rgb(picture, path)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"{_name(path)} {_what_it_is(path)}.") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            f"{_name(path)} is too large: {str(error).rstrip('.')}; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableImage(f"{_name(path)} {_why_not(path, reason)}.") from None
    # Pillow's decoders raise these for damaged headers and chunks.
    except (SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, ArithmeticError, MemoryError) as error:
        raise UnreadableImage(f"{_name(path)} is damaged ({type(error).__name__}: {error}).") from None


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height as shown, from the file's header alone.

    Raises:
        UnreadableImage: as :func:`read_rgb` does, as far as the header shows it.
    """
    try:
        with Image.open(path) as image:
            # Not the PNG reader's own method, which decodes the whole picture in case EXIF data stands behind it.
            turned = Image.Image.getexif(image).get(_ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else (image.width, image.height)
    except UnidentifiedImageError:
        raise UnreadableImage(f"{_name(path)} {_what_it_is(path)}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{_name(path)} {_why_not(path, str(error))}.") from None


def find_images(
    folder: str | os.PathLike[str],
    recursive: bool = False,
    unopened: Callable[[str, str], None] | None = None,
    suffixes: Collection[str] = SUFFIXES,
) -> list[Path]:
    """The picture files of a folder, told by their suffix, sorted by their path.

    Hidden files are left out (``._x.jpg`` is macOS's shadow of ``x.jpg``, not a picture).

    Args:
        folder: where to look; must exist.
        recursive: look into subfolders too (links to folders are not followed).
        unopened: told the path of a folder below this one that cannot be opened, and a sentence; None raises.
        suffixes: what a picture's name may end in, in small letters.

    Raises:
        UserError: if the folder, or without ``unopened`` one below it, cannot be opened.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        sentence = f"The folder '{error.filename}' cannot be opened ({error.strerror})"
        if unopened is None or Path(error.filename) == Path(folder):
            raise UserError(sentence + ".")
        unopened(str(error.filename), sentence + " and is left out.")

    for place, subfolders, files in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if recursive else []
        found.extend(
            Path(place, name)
            for name in files
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        )
    return sorted(found, key=lambda path: path.as_posix())


class PhotoCache:
    """Decoded photographs kept in memory, the least recently used dropped first.

    Args:
        max_bytes: bound on what is kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._photos: OrderedDict[tuple[str, int | None], Photo] = OrderedDict()

    def read(self, path: str | os.PathLike[str], shorter: int | None = None) -> Photo:
        """:func:`read_rgb`, remembered. The array is shared: do not write to it.

        Raises:
            UnreadableImage: as :func:`read_rgb` does.
        """
        key = (os.fspath(path), shorter)
        photo = self._photos.get(key)
        if photo is not None:
            self._photos.move_to_end(key)
            return photo
        photo = read_rgb(path, shorter)
        if photo.nbytes <= self.max_bytes:
            photo.flags.writeable = False
            self._photos[key] = photo
            self.bytes += photo.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._photos.popitem(last=False)[1].nbytes
        return photo


def _deep_colour(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image | None:
    """A 16-bit colour picture rounded to 8 bits; Pillow would drop the low byte. None if it is not one."""
    if image.mode not in ("RGB", "RGBA") or not any(";16" in str(tile) for tile in getattr(image, "tile", [])):
        return None
    deep = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3:
        return None
    code = cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB
    shallow = Image.fromarray(_sixteen_to_eight(cv2.cvtColor(deep, code)))
    shallow.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
    return shallow


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data fails in many ways, and the picture is fine without it
        return image


def _eight_bit_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Photo:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts everything above 255 off. '<u2' or '>u2' is known to the array interface.
        grey = _sixteen_to_eight(np.asarray(image).astype(np.uint16))
        return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            f"{_name(path)} holds 32-bit values of unknown range: save it as a picture of 8 or 16 bits."
        )
    if image.has_transparency_data:
        seen = Image.new("RGBA", image.size, (*_BEHIND, 255))
        seen.alpha_composite(image.convert("RGBA"))
        image = seen
    return np.array(image.convert("RGB"))


def _sixteen_to_eight(values: npt.NDArray[Any]) -> Photo:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _name(path: str | os.PathLike[str]) -> str:
    return f"'{os.fspath(path)}'"


def _what_it_is(path: str | os.PathLike[str]) -> str:
    return "is empty (0 bytes)" if os.path.getsize(path) == 0 else "is not a picture that can be read"


def _why_not(path: str | os.PathLike[str], reason: str) -> str:
    """What is wrong with a file that the system or a decoder refused."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a link to '{os.readlink(path)}', which does not exist"
    if not os.path.exists(path):
        return "does not exist"
    if os.path.isdir(path):
        return "is a folder, not a picture"
    if not os.access(path, os.R_OK):
        return "may not be read (permission denied)"
    return f"is damaged or cut short ({reason.rstrip('.')})"
