"""Read photographs: the one reader of training, evaluation, reports and ``reflectzoo remove``."""

from __future__ import annotations

import mmap
import os
import re
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
from PIL import Image, UnidentifiedImageError

from reflectzoo.core.content import describe_content
from reflectzoo.errors import UserError
from reflectzoo.photo import bmp, ifd, jpeg2000, metadata, netpbm, png, psd, raw, tiff
from reflectzoo.photo.files import open_regular, quoted_path, read_bytes
from reflectzoo.photo.formats import decoded, fitting, png_metadata, refusal
from reflectzoo.photo.model import FileMetadata, Picture, UnreadableImage
from reflectzoo.photo.pillow import Limit, from_pillow, pillow_formats

_OWN = ("JPEG", "PNG", "JPEG2000", "TIFF")
#: Formats that are not supported, by signature.
_NOT_READ = tuple(
    (re.compile(begin, re.DOTALL), name)
    for begin, name in (
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
        (rb"II\xbc[\x00\x01]", "a JPEG XR picture"),
        (rb"8BP[SB]", "a Photoshop document of more than 16 bits or of an unusual kind"),
        (rb"v/1\x01", "an OpenEXR picture"),
        (rb"#\?R(ADIANCE|GBE)", "a Radiance HDR picture"),
        (rb"SIMPLE  =", "a FITS picture"),
        (rb"gimp xcf ", "a GIMP document"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript drawing"),
        (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "a Windows metafile"),
        (rb".{128}DICM", "a DICOM picture"),
        (rb"P([Ff]4|[Hh]4?)\s", "a Netpbm picture of half precision, or of floating point with transparency"),
        (rb"\x8a[MJ]NG", "an MNG animation"),
        (rb"/\* XPM \*/|#define \w+_width \d", "an X bitmap or pixmap"),
        (rb"\x59\xa6\x6a\x95", "a Sun raster picture"),
    )
)
#: Formats that only some installations read: name, brands in the file's first box, and the advice otherwise.
_BRANDS = (
    (
        "HEIC",
        (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"),
        "which needs one more package: pip install pillow-heif, or save it as JPEG",
    ),
    ("AVIF", (b"avif", b"avis"), "which this Pillow was built without: save it as JPEG or PNG"),
)
#: Exceptions of decoders for damaged headers and chunks.
_DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, ArithmeticError)


def read_picture(path: str | os.PathLike[str], max_pixels: int | None = None, shorter: int | None = None) -> Picture:
    """Read a photograph with its metadata, upright; of an animation or a document, the first page.

    The file is read once and decoded from memory, so that it cannot change in between.

    Args:
        path: the file.
        max_pixels: pictures with more pixels are refused; None takes Pillow's limit, 179 million.
        shorter: the shorter side that is needed. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never
            below this, which saves most of the time, but damage is only detected if its end marker is missing; other
            formats ignore it.

    Raises:
        UnreadableImage: if the file is missing, not a picture, damaged, without pixels, too large, not supported, or
            changed while it was read, or if it needs a package that is not installed.
    """
    file = Path(path)
    return decode(read_bytes(file), quoted_path(file), max_pixels, shorter)


def decode(
    data: bytes, name: str = "The picture", max_pixels: int | None = None, shorter: int | None = None
) -> Picture:
    """Decode the bytes of a file; see :func:`read_picture`. ``name`` is the subject of error messages."""
    limit = Limit(name, max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn about what is handled or reported here
            picture, orientation = decoded(data, name, limit, shorter)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"{name} {_no_picture(data)}.") from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise UnreadableImage(limit.sentence(int(pixels[1]) if pixels else None)) from None
    except _DAMAGE as error:
        raise UnreadableImage(refusal(name, error)) from None
    # Raised for damaged headers that declare impossible sizes.
    except (MemoryError, struct.error, zlib.error, cv2.error) as error:
        raise UnreadableImage(f"{name} is damaged ({type(error).__name__}).") from None
    return fitting(picture).turned(orientation)


def parse_pixels(text: str) -> int:
    """Parse a number of pixels, as ``250M``, ``0.4G`` or ``200000000``.

    Raises:
        UserError: for anything else.

    Example:
        >>> parse_pixels("250M")
        250000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip().upper().removesuffix("P"))
    pixels = int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match else 0
    if pixels < 1:
        raise UserError(f"'{text}' is not a number of pixels: write 250M, or 250000000.")
    return pixels


def from_pil(image: Image.Image, upright: bool = True) -> Picture:
    """Convert a Pillow image to a picture.

    Args:
        image: image of any mode except the 32-bit ones; not modified.
        upright: apply the EXIF orientation; otherwise values stay in storage order.

    Raises:
        UnreadableImage: for a mode whose range is unknown, or a picture without pixels.
    """
    image.load()  # for a TIFF, this applies the orientation and removes the tag
    origin = FileMetadata(image.format or "", image.info.get("icc_profile") or None)
    picture = from_pillow(image, "The picture", replace(origin, exif=metadata.bare_exif(image.info.get("exif"))))
    return fitting(picture).turned(orientation_of(image) if upright else 1)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image that Pillow has loaded, 1 to 8; defaults to 1."""
    try:
        return int(image.getexif().get(ifd.ORIENTATION, 1))
    except Exception:  # damaged EXIF data raises many errors, and the picture is usable without it
        return 1


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the upright picture, from the file's header alone.

    Raises:
        UnreadableImage: as in :func:`read_picture`, as far as the header reveals it.
    """
    name = quoted_path(path)
    try:
        with open_regular(path) as file:
            lead = file.read(4096)
            if lead.startswith((*tiff.MAGICS, psd.MAGIC)) or raw.is_raw(lead):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    if not lead.startswith(psd.MAGIC):
                        return _tiff_size(data, name)  # type: ignore[arg-type]
                    if (found := psd.document(data)) is not None:  # type: ignore[arg-type]
                        turned = metadata.orientation(found.exif, found.xmp) >= 5
                        return (found.height, found.width) if turned else (found.width, found.height)
        if netpbm.MAGIC.match(lead):
            head = netpbm.header(lead)
            return head.width, head.height
        if (packed := bmp.packed(lead)) is not None:
            return packed.width, packed.height
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_regular(path) as file, Image.open(file, formats=(*_OWN, *pillow_formats())) as image:
                turned = metadata.orientation(*_told_before(image, Path(path))) >= 5
                return (image.height, image.width) if turned else (image.width, image.height)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"{name} {_no_picture(lead)}.") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(Limit(name, None).sentence(None)) from None
    except OSError:
        read_bytes(Path(path))  # raises a more precise error for missing or unreadable files
        raise UnreadableImage(f"{name} is damaged or truncated.") from None
    except (struct.error, *_DAMAGE) as error:
        raise UnreadableImage(refusal(name, error)) from None


def _told_before(image: Image.Image, path: Path) -> tuple[bytes | None, bytes | None]:
    """EXIF data and XMP of a picture that Pillow has opened but not decoded, the same as :func:`read_picture` finds."""
    if image.format == "PNG":  # may store them after the picture
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            exif, xmp, *_ = png_metadata(png.chunks(data, empty=b"IDAT"))  # type: ignore[arg-type]
    elif image.format == "JPEG2000":  # Pillow does not read its metadata boxes
        boxes = jpeg2000.read_boxes(read_bytes(path))
        exif, xmp = boxes.exif, boxes.xmp
    else:
        exif, xmp = image.info.get("exif"), image.info.get("xmp")
    return metadata.bare_exif(exif), xmp.encode() if isinstance(xmp, str) else xmp


def _tiff_size(data: bytes, name: str) -> tuple[int, int]:
    if raw.is_raw(data):
        if raw.can_develop():
            return raw.size(data[:])
        raise UnreadableImage(f"{name} is a camera's raw file: {raw.INSTALL} reads it.")
    file = tiff.File.parse(data)
    sheet = tiff.read_sheet(file, file.main)
    turned = file.value(file.main, ifd.ORIENTATION, 1) in (5, 6, 7, 8)
    return (sheet.height, sheet.width) if turned else (sheet.width, sheet.height)


def _no_picture(data: bytes) -> str:
    if not data:
        return "is empty (0 bytes): download or copy it again"
    if data[4:8] == b"ftyp":
        for kind, brands, missing in _BRANDS:
            if data[8:12] in brands:
                name = f"is {'an' if kind == 'AVIF' else 'a'} {kind} picture"
                known = {"HEIC": "HEIF"}.get(kind, kind) in pillow_formats()
                return f"{name} that is damaged or of an unsupported kind" if known else f"{name}, {missing}"
    for begin, name in _NOT_READ:
        if begin.match(data):
            return f"is {name}, which is not supported: save it as PNG or TIFF"
    found = describe_content(data)
    return "is not a picture that can be read" + (f", but {found}" if found else "")
