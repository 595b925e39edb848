"""Writing photographs as the kind of file they came from."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from reflectzoo.errors import UserError
from reflectzoo.photo.metadata import TAGS_OF_TIFF, png_text, tiff_exif
from reflectzoo.photo.model import Picture, Values, eight_bit

_WITH_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF", "JPEG2000")


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
    image = replace(picture, values=eight_bit(picture.values), alpha=_shallow_alpha(picture)).to_pil()
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
            options["pnginfo"] = png_text(origin)
        case "TIFF":
            options["compression"] = "tiff_adobe_deflate"
            options.pop("exif")
            options["tiffinfo"] = {}
            if origin.exif:
                options["exif"] = tiff_exif(origin.exif)
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


def _shallow_alpha(picture: Picture) -> Values | None:
    return None if picture.alpha is None else eight_bit(picture.alpha)


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("L" if image.mode == "LA" else "RGB")


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
    Image.new("RGB", (1, 1)).save(buffer, "PNG", pnginfo=png_text(picture.origin), **given)
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
        for tag in TAGS_OF_TIFF:
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
