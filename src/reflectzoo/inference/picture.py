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

import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from reflectzoo.data.images import SUFFIXES, UnreadableImage
from reflectzoo.errors import UserError
from reflectzoo.inference.files import read_bytes, shown, write_atomically

Values: TypeAlias = npt.NDArray[Any]
"""uint8 or uint16."""

#: What a folder is searched for.
PICTURE_SUFFIXES = SUFFIXES | {".jpe", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".tga"}
#: More pixels than this are taken for a decompression bomb, as Pillow does.
MAX_PIXELS = 2 * 89_478_485

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0xA002, 0xA003
_EXIF_IFD = 0x8769
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
_WITH_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF", "JPEG2000")
_TAGS_OF_TIFF = {270: "ImageDescription", 271: "Make", 272: "Model", 305: "Software", 306: "DateTime", 315: "Artist"}
_TAGS_OF_TIFF |= {33432: "Copyright"}


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
        layers = _eight_bit(self.values)
        if self.alpha is not None:
            layers = np.concatenate((layers, _eight_bit(self.alpha)[..., None]), axis=2)
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


# -- reading ----------------------------------------------------------------------------------------------------------


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
    origin, notes = _origin(image, b"")
    picture = _from_pillow(image, "The picture", replace(origin, exif=image.info.get("exif")), notes)
    orientation = orientation_of(image) if upright else 1
    return _turned(picture, orientation)


def _from_file(image: Image.Image, data: bytes, name: str) -> Picture:
    deep = _deep(image, data)  # first: reading EXIF data may decode the picture, and forget how deep it was
    origin, notes = _origin(image, data)
    orientation = orientation_of(image)
    if (pages := int(getattr(image, "n_frames", 1))) > 1 and image.format != "MPO":
        notes = (*notes, f"Of the {pages} pages or frames only the first is worked on.")
    if deep is None:
        image.load()
        picture = _from_pillow(image, name, origin, notes)
    else:
        picture = Picture(*deep, origin, notes)
    return _turned(picture, orientation)


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


def _origin(image: Image.Image, data: bytes) -> tuple[Origin, tuple[str, ...]]:
    info = image.info
    kind = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    notes: tuple[str, ...] = ()
    exif: bytes | None = None
    try:
        content = image.getexif()
        if len(content):
            exif = _upright_exif(content.tobytes())
    except Exception:  # damaged EXIF data fails in many ways, and the picture is fine without it
        notes = ("Its EXIF data is damaged and was left out.",)
    xmp = info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    dpi = info.get("dpi")
    jpeg: dict[str, Any] = {}
    tables = getattr(image, "quantization", None)
    if kind == "JPEG" and tables:
        jpeg = {"qtables": {key: list(table) for key, table in tables.items()}}
        sampling = JpegImagePlugin.get_sampling(image)
        if sampling in (0, 1, 2):
            jpeg["subsampling"] = sampling
        if info.get("progressive"):
            jpeg["progressive"] = True
        if info.get("comment"):
            jpeg["comment"] = info["comment"]
    text = {str(key): str(each) for key, each in getattr(image, "text", {}).items() if key != "XML:com.adobe.xmp"}
    return (
        Origin(
            format=kind,
            icc=info.get("icc_profile") or None,
            exif=exif,
            xmp=_upright_xmp(xmp) if xmp else None,
            dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
            text=text,
            jpeg=jpeg,
            lossless=kind == "WEBP" and b"VP8L" in data[:64],
        ),
        notes,
    )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if nothing (readable) is said."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as above
        return 1


def _turned(picture: Picture, orientation: int) -> Picture:
    if orientation not in range(2, 9):
        return picture
    turn = _turner(orientation)
    alpha = None if picture.alpha is None else turn(picture.alpha)
    return replace(picture, values=turn(picture.values), alpha=alpha)


def turned_back(picture: Picture, orientation: int) -> Picture:
    """From upright to how a file of this orientation stores it."""
    return _turned(picture, {6: 8, 8: 6}.get(orientation, orientation))


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


def _upright_exif(exif: bytes) -> bytes:
    content = Image.Exif()
    content.load(exif)
    turned = content.get(_ORIENTATION, 1) in (5, 6, 7, 8)
    if _ORIENTATION in content:
        content[_ORIENTATION] = 1
    inner = content.get_ifd(_EXIF_IFD)
    if turned and _WIDTH in inner and _HEIGHT in inner:
        inner[_WIDTH], inner[_HEIGHT] = inner[_HEIGHT], inner[_WIDTH]
    return content.tobytes()


def _upright_xmp(xmp: bytes) -> bytes:
    xmp = re.sub(rb'tiff:Orientation="[2-8]"', b'tiff:Orientation="1"', xmp)
    return re.sub(rb"<tiff:Orientation>[2-8]</tiff:Orientation>", b"<tiff:Orientation>1</tiff:Orientation>", xmp)


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


# -- writing ----------------------------------------------------------------------------------------------------------


def encode(picture: Picture, kind: str) -> bytes:
    """The bytes of a file.

    Args:
        picture: what to write.
        kind: Pillow's name of the format.

    Raises:
        UserError: if Pillow cannot write it.
    """
    if picture.depth == 16 and kind == "PNG":
        return _deep_png(picture)
    if picture.depth == 16 and kind == "TIFF":
        return _deep_tiff(picture)
    image = replace(picture, values=_eight_bit(picture.values), alpha=_shallow_alpha(picture)).to_pil()
    if picture.alpha is not None and kind not in _WITH_ALPHA:
        image = _on_white(image)
    origin = picture.origin
    options: dict[str, Any] = {"icc_profile": origin.icc, "dpi": origin.dpi}
    if kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        options["exif"] = origin.exif or None
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["xmp"] = origin.xmp
    attempts: list[dict[str, Any]] = [{}]
    match kind:
        case "JPEG":
            same = image.mode == "RGB" or len(origin.jpeg.get("qtables", ())) == 1
            attempts = [dict(origin.jpeg)] if origin.jpeg and same else []
            attempts.append({"quality": 95, "subsampling": 0})  # tables of more than 8 bits are not taken
        case "PNG":
            options["pnginfo"] = _png_text(origin)
        case "TIFF":
            options["compression"] = "tiff_adobe_deflate"
            options.pop("exif")
            options["tiffinfo"] = {}
            if origin.exif:
                options["exif"] = _tiff_exif(origin.exif)
        case "WEBP":
            options |= {"lossless": True, "exact": True} if origin.lossless else {"quality": 92}
        case "AVIF":
            options |= {"quality": 90, "subsampling": "4:4:4"}
    options = {key: each for key, each in options.items() if each is not None}
    for number, attempt in enumerate(attempts, start=1):
        buffer = BytesIO()
        try:
            image.save(buffer, kind, **options, **attempt)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if number == len(attempts):
                raise UserError(f"The picture cannot be written as {kind} ({error}): choose another suffix.") from error
            continue
        return buffer.getvalue()
    raise AssertionError("the last attempt returns or raises")


def _eight_bit(values: Values) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _shallow_alpha(picture: Picture) -> Values | None:
    return None if picture.alpha is None else _eight_bit(picture.alpha)


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("L" if image.mode == "LA" else "RGB")


def _png_text(origin: Origin) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    for key, each in origin.text.items():
        text.add_itxt(key, each)
    if origin.xmp:
        text.add_itxt("XML:com.adobe.xmp", origin.xmp.decode("utf-8", "replace"))
    return text


def _tiff_exif(exif: bytes) -> Image.Exif:
    """Only what describes the picture: tags that say how the strips lie would contradict the new ones."""
    content = Image.Exif()
    content.load(exif)
    kept = Image.Exif()
    for tag in (*_TAGS_OF_TIFF, _ORIENTATION):
        if tag in content:
            kept[tag] = content[tag]
    for group in (_EXIF_IFD, 0x8825):
        inner = content.get_ifd(group)
        if inner:
            kept.get_ifd(group).update(inner)
    return kept


def _deep_png(picture: Picture) -> bytes:
    """OpenCV compresses the values, Pillow's own header chunks are put before them."""
    layers = _joined(picture)
    if layers.shape[2] == 2:  # OpenCV knows no grey with transparency
        layers = np.concatenate((np.repeat(layers[..., :1], 3, axis=2), layers[..., 1:]), axis=2)
    elif layers.shape[2] >= 3:
        layers = layers[..., [2, 1, 0, 3][: layers.shape[2]]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(layers))
    if not done:
        raise UserError("The picture cannot be written as a PNG of 16 bits: choose another suffix.")
    data = encoded.tobytes()
    # A tiny 8-bit picture lends its chunks: profile, EXIF, text and resolution.
    options = {"icc_profile": picture.origin.icc, "exif": picture.origin.exif, "dpi": picture.origin.dpi}
    buffer = BytesIO()
    given = {key: each for key, each in options.items() if each}
    Image.new("RGB", (1, 1)).save(buffer, "PNG", pnginfo=_png_text(picture.origin), **given)
    wanted = (b"iCCP", b"sRGB", b"pHYs", b"iTXt", b"tEXt", b"zTXt", b"eXIf")
    borrowed = b"".join(raw for kind, raw in _chunks(buffer.getvalue()) if kind in wanted)
    parts = list(_chunks(data))
    kept = [raw for kind, raw in parts[1:] if kind not in wanted]
    return data[:8] + parts[0][1] + borrowed + b"".join(kept)


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    place = 8
    while place + 12 <= len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        found.append((png[place + 4 : place + 8], png[place : place + 12 + length]))
        place += 12 + length
    return found


def _deep_tiff(picture: Picture) -> bytes:
    import tifffile

    layers = _joined(picture)
    colour = picture.values.shape[2] == 3
    origin = picture.origin
    tags: list[tuple[int, str, int, str, bool]] = []
    if origin.exif:
        content = Image.Exif()
        content.load(origin.exif)
        for tag in _TAGS_OF_TIFF:
            if isinstance(content.get(tag), str) and tag not in (270, 305, 306):
                tags.append((tag, "s", 0, str(content[tag]), True))
        described = {name: content.get(tag) for tag, name in ((270, "description"), (305, "software"))}
    else:
        described = {}
    options: dict[str, Any] = {key: each for key, each in described.items() if isinstance(each, str)}
    if origin.dpi:
        options |= {"resolution": origin.dpi, "resolutionunit": "INCH"}
    if picture.alpha is not None:
        options["extrasamples"] = ["UNASSALPHA"]
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        layers if layers.shape[2] > 1 else layers[..., 0],
        photometric="rgb" if colour else "minisblack",
        planarconfig="contig" if layers.shape[2] > 1 else None,
        compression="zlib",
        iccprofile=origin.icc,
        extratags=tags,
        metadata=None,
        **options,
    )
    return buffer.getvalue()


def _joined(picture: Picture) -> Values:
    if picture.alpha is None:
        return picture.values
    return np.concatenate((picture.values, picture.alpha[..., None]), axis=2)
