"""What a file says beside its values: orientation, EXIF, XMP, profile, resolution, JPEG tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from reflectzoo.photo.model import Origin, Picture, Values

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0xA002, 0xA003
_EXIF_IFD = 0x8769
TAGS_OF_TIFF = {270: "ImageDescription", 271: "Make", 272: "Model", 305: "Software", 306: "DateTime", 315: "Artist"}
TAGS_OF_TIFF |= {33432: "Copyright"}


def origin_of(image: Image.Image, data: bytes) -> tuple[Origin, tuple[str, ...]]:
    """What writing the picture back needs, and sentences about what is lost."""
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


def turn_upright(picture: Picture, orientation: int) -> Picture:
    """From how a file of this orientation stores it to upright."""
    if orientation not in range(2, 9):
        return picture
    turn = _turner(orientation)
    alpha = None if picture.alpha is None else turn(picture.alpha)
    return replace(picture, values=turn(picture.values), alpha=alpha)


def turned_back(picture: Picture, orientation: int) -> Picture:
    """From upright to how a file of this orientation stores it."""
    return turn_upright(picture, {6: 8, 8: 6}.get(orientation, orientation))


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


def png_text(origin: Origin) -> PngImagePlugin.PngInfo:
    """Comments and XMP data as chunks of a PNG."""
    text = PngImagePlugin.PngInfo()
    for key, each in origin.text.items():
        text.add_itxt(key, each)
    if origin.xmp:
        text.add_itxt("XML:com.adobe.xmp", origin.xmp.decode("utf-8", "replace"))
    return text


def tiff_exif(exif: bytes) -> Image.Exif:
    """Only what describes the picture: tags that say how the strips lie would contradict the new ones."""
    content = Image.Exif()
    content.load(exif)
    kept = Image.Exif()
    for tag in (*TAGS_OF_TIFF, _ORIENTATION):
        if tag in content:
            kept[tag] = content[tag]
    for group in (_EXIF_IFD, 0x8825):
        inner = content.get_ifd(group)
        if inner:
            kept.get_ifd(group).update(inner)
    return kept
