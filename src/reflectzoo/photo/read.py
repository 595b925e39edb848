"""Reading photographs: whatever the file holds, or one sentence about why not."""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError

from reflectzoo.data.images import UnreadableImage
from reflectzoo.errors import UserError
from reflectzoo.photo.files import read_bytes, shown
from reflectzoo.photo.metadata import orientation_of, origin_of, turn_upright
from reflectzoo.photo.model import Origin, Picture, Values

#: More pixels than this are taken for a decompression bomb, as Pillow does.
MAX_PIXELS = 2 * 89_478_485


def read_picture(path: str | Path) -> Picture:
    """Read a photograph with all that belongs to it; of an animation or a document the first page.

    The file is read once and decoded from memory, so that nobody can change it in between.

    Raises:
        UnreadableImage: if it is missing, no picture, damaged, empty of pixels, too large (:data:`MAX_PIXELS`), changed
            while it was read, or of a kind that needs a package that is not installed.
    """
    file = Path(path)
    return decode(read_bytes(file), shown(file))


def decode(data: bytes, name: str = "The picture") -> Picture:
    """Decode the bytes of a file; see :func:`read_picture`."""
    _learn_heif()
    try:
        with warnings.catch_warnings():
            # Between Pillow's warning and its error lie cameras that exist.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImage(_too_large(name, image.width, image.height))
                return _from_file(image, data, name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"{name} {_what_it_is(data)}.") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(_too_large(name)) from None
    except (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, ArithmeticError) as error:
        raise UnreadableImage(f"{name} is damaged or cut short ({str(error).rstrip('.')}).") from None
    # Decoders raise these for damaged headers, too, which ask for impossible sizes.
    except (MemoryError, struct.error, zlib.error, cv2.error) as error:
        raise UnreadableImage(f"{name} is damaged ({type(error).__name__}).") from None


def from_pil(image: Image.Image, upright: bool = True) -> Picture:
    """A picture that Pillow has opened or made.

    Args:
        image: any mode but the 32-bit ones; not changed.
        upright: apply the EXIF orientation; otherwise values stay as they are stored.

    Raises:
        UnreadableImage: for a mode whose range is unknown, or a picture without pixels.
    """
    origin, notes = origin_of(image, b"")
    picture = _from_pillow(image, "The picture", replace(origin, exif=image.info.get("exif")), notes)
    orientation = orientation_of(image) if upright else 1
    return turn_upright(picture, orientation)


def _from_file(image: Image.Image, data: bytes, name: str) -> Picture:
    deep = _deep(image, data)  # first: reading EXIF data may decode the picture, and forget how deep it was
    origin, notes = origin_of(image, data)
    orientation = orientation_of(image)
    if (pages := int(getattr(image, "n_frames", 1))) > 1 and image.format != "MPO":
        notes = (*notes, f"Of the {pages} pages or frames only the first is worked on.")
    if deep is None:
        image.load()
        picture = _from_pillow(image, name, origin, notes)
    else:
        picture = Picture(*deep, origin, notes)
    return turn_upright(picture, orientation)


def _from_pillow(image: Image.Image, name: str, origin: Origin, notes: tuple[str, ...]) -> Picture:
    if 0 in image.size:
        raise UnreadableImage(f"{name} has no pixels ({image.width}x{image.height}).")
    if image.mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16)[..., None], None, origin, notes)
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"{name} holds 32-bit values of unknown range: save it as a picture of 8 or 16 bits.")
    if image.mode in ("1", "L", "LA", "La"):
        wanted = "LA" if image.has_transparency_data else "L"
    else:
        wanted = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        image, seen = _to_srgb(image, origin.icc)
        origin = replace(origin, icc=None)
        notes = (*notes, f"Its colours ({seen}) were converted to sRGB.")
    array: npt.NDArray[np.uint8] = np.array(_converted(image, wanted))
    if array.ndim == 2:
        array = array[..., None]
    if wanted in ("LA", "RGBA"):
        return Picture(np.ascontiguousarray(array[..., :-1]), np.ascontiguousarray(array[..., -1]), origin, notes)
    return Picture(array, None, origin, notes)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "La":
        return image.convert("LA")
    if mode == "LA" and image.mode in ("L", "1"):  # one grey value stands for transparent
        return image.convert("RGBA").convert("LA") if image.mode == "1" else image.convert("LA")
    return image.convert(mode)


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted, f"{image.mode} with a profile"
    return image.convert("RGB"), image.mode


def _deep(image: Image.Image, data: bytes) -> tuple[Values, Values | None] | None:
    """Values and alpha of a colour picture of 16 bits, of which Pillow would drop the low bytes; None of any other."""
    if image.mode not in ("RGB", "RGBA", "LA") or not any(";16" in str(tile) for tile in getattr(image, "tile", [])):
        return None
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3 or deep.shape[2] not in (3, 4):
        return None
    alpha = np.ascontiguousarray(deep[..., 3]) if deep.shape[2] == 4 else None
    values = deep[..., :1] if image.mode == "LA" else deep[..., 2::-1]
    return np.ascontiguousarray(values), alpha


def _learn_heif() -> None:
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()


def _what_it_is(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes)"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "is a HEIC picture, which needs one more package: pip install pillow-heif, or save it as JPEG"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "is an AVIF picture, which this Pillow was built without: save it as JPEG or PNG"
    return "is not a picture that can be read"


def _too_large(name: str, width: int | None = None, height: int | None = None) -> str:
    size = f" ({width}x{height})" if width else ""
    return f"{name} claims more than {MAX_PIXELS / 1e6:.0f} million pixels{size} and is not opened: shrink it first."
