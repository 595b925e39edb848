"""Write photographs with all the metadata that the format can store, and a note on the rest."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from reflectzoo.errors import UserError
from reflectzoo.photo import avif, ifd, jpeg, jpeg2000, metadata, netpbm, png, tiff_write
from reflectzoo.photo.files import quoted_path, write_atomically
from reflectzoo.photo.model import FileMetadata, Picture, as_depth, on_white

#: Format by suffix, under Pillow's name if it has one.
FORMATS = {
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
    ".pnm": "PPM",
    ".pam": "PAM",
    ".pfm": "PFM",
    ".jp2": "JPEG2000",
}
_SIXTEEN = ("PNG", "TIFF", "PPM", "PAM", "JPEG2000")
_WITH_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "PAM")
_WITH_METADATA = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000")
_WITH_IPTC = ("JPEG", "TIFF", "JPEG2000")
_NAMES = {"JPEG2000": "JPEG 2000", "WEBP": "WebP"}


def format_of(path: Path) -> str:
    """The format of a file name's suffix, a value of :data:`FORMATS`.

    Raises:
        UserError: if the suffix is not supported.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(
            f"{quoted_path(path)} cannot be written, '{path.suffix}' is not a supported format: use one of "
            f"{', '.join(FORMATS)}."
        )
    return kind


def suffix_for(path: Path, picture: Picture) -> str:
    """The suffix of a result: that of its source if the format can store the picture's depth and alpha.

    Otherwise ``.png``, or ``.tif`` for floating point and camera raw.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is not None and kind == picture.origin.format and _holds(picture, kind):
        return path.suffix
    return ".tif" if picture.depth == 32 or picture.origin.format == "RAW" else ".png"


def _holds(picture: Picture, kind: str) -> bool:
    """Whether a format can store the picture's depth and alpha."""
    return _depth(picture, kind) == picture.depth and (picture.alpha is None or kind in _WITH_ALPHA)


def _depth(picture: Picture, kind: str) -> int:
    """Bits per value (8, 16 or 32) with which a format stores a picture."""
    if kind == "PFM" or (kind == "TIFF" and picture.depth == 32):
        return 32
    if picture.depth == 8 or kind not in _SIXTEEN:
        return 8
    return 8 if kind == "JPEG2000" and not jpeg2000.writes_deep(picture.values, picture.alpha) else 16


def reduce_to_format(picture: Picture, kind: str) -> Picture:
    """Reduce a picture to what a format can store, with a note on each loss.

    Args:
        picture: the picture to write.
        kind: a value of :data:`FORMATS`.
    """
    name = _NAMES.get(kind, kind)
    notes: list[str] = []
    told = kind == "AVIF" and any(chunk.kind == b"cICP" for chunk in picture.origin.chunks)
    if picture.origin.gamma is not None and kind != "PNG" and not told:
        picture = picture.standard()
        notes.append(f"Its values now follow the sRGB curve, because {name} cannot record another one (gAMA).")
    depth = _depth(picture, kind)
    if depth < picture.depth:
        what = "floating-point" if picture.depth == 32 else "16-bit"
        notes.append(f"Its {what} values are rounded to {depth} bits, because {name} holds no more.")
    if depth != picture.depth:
        layers = (None if each is None else as_depth(each, depth) for each in (picture.alpha, picture.extra))
        alpha, extra = layers
        picture = replace(picture, values=as_depth(picture.values, depth), alpha=alpha, extra=extra)
    if picture.alpha is not None and kind not in _WITH_ALPHA:
        picture = replace(picture, values=on_white(picture.values, picture.alpha), alpha=None)
        notes.append(f"Its transparent parts are shown on white, because {name} has no transparency.")
    if picture.extra is not None and kind != "TIFF":
        notes.append(f"{picture.extra.shape[2]} further channels are dropped, because {name} supports none.")
        picture = replace(picture, extra=None)
    icc, channels = picture.origin.icc, picture.values.shape[2]
    # Pillow writes grey as three channels in these two formats.
    stored = 3 if kind in ("WEBP", "AVIF") else channels
    if icc is not None and not metadata.profile_fits(icc, stored, strictly=kind == "PNG"):
        picture = replace(picture, origin=replace(picture.origin, icc=None))
        notes.append(metadata.profile_note(icc, stored))
    origin, lost = _holdable(picture.origin, kind)
    if lost:
        notes.append(f"Dropped, because {name} cannot store it: {', '.join(lost)}.")
    return replace(picture, origin=origin).noted(*notes)


def _holdable(origin: FileMetadata, kind: str) -> tuple[FileMetadata, list[str]]:
    """The metadata that a format can store, and the names of the rest."""
    lost: list[str] = []

    def drop(name: str, what: str, empty: Any = None) -> None:
        nonlocal origin
        if getattr(origin, name):
            origin = replace(origin, **{name: empty})
            lost.append(what)

    if kind not in _WITH_METADATA:
        drop("icc", "colour profile")
        drop("exif", "EXIF data")
        drop("xmp", "XMP")
        if kind != "BMP":
            drop("dpi", "resolution")
    if kind == "JPEG":
        if not jpeg.holds(exif=origin.exif):
            origin = replace(origin, exif=_without_maker_note(origin.exif))
            lost.append("the maker's note of the EXIF data (too long)" if origin.exif else "EXIF data (too long)")
        if not jpeg.holds(xmp=origin.xmp):
            drop("xmp", "XMP (too long)")
    if kind not in _WITH_IPTC:
        drop("iptc", "IPTC")
    if kind not in ("JPEG", "TIFF"):
        drop("photoshop", "Photoshop's data")
    if kind not in ("JPEG", "PNG"):
        drop("comments", "comments", ())
    if kind != "PNG" and origin.chunks:
        held = tuple(chunk for chunk in origin.chunks if kind == "AVIF" and chunk.kind == b"cICP")
        kinds = {"text" if chunk.kind in png.TEXT else chunk.kind.decode("latin-1") for chunk in origin.chunks}
        kinds -= {chunk.kind.decode() for chunk in held}
        # No loss: sRGB is the default, and the values have been converted for gAMA.
        lost.extend(sorted(kinds - {"sRGB", "gAMA"}))
        origin = replace(origin, chunks=held)
    if kind != "TIFF" and origin.tags:
        lost.append(f"TIFF tags {', '.join(str(entry.tag) for entry in origin.tags)}")
        origin = replace(origin, tags=())
    if kind != "JPEG2000":
        drop("boxes", "boxes of JPEG 2000", ())
    return origin, lost


def _without_maker_note(exif: bytes | None) -> bytes | None:
    """An EXIF block without its maker note; None if it is still too long for a JPEG."""
    if exif is None:
        return None
    found = ifd.Exif.parse(exif)
    found.exif.pop(ifd.MAKER_NOTE, None)
    shorter = found.to_bytes()
    return shorter if jpeg.holds(exif=shorter) else None


def write_picture(picture: Picture, path: Path, overwrite: bool = False) -> Path:
    """Write a picture atomically, in the format of the suffix.

    Raises:
        UserError: if the suffix is not supported, the file exists without ``overwrite``, or it cannot be written.
    """
    write_atomically(path, encode(picture, format_of(path)), overwrite)
    return path


def encode(picture: Picture, kind: str) -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        picture: the picture; reduced by :func:`reduce_to_format` first.
        kind: a value of :data:`FORMATS`.

    Raises:
        UserError: if the encoder fails.
    """
    picture = reduce_to_format(picture, kind)
    try:
        match kind:
            case "PNG":
                return _png(picture)
            case "TIFF":
                return _tiff(picture)
            case "PPM" | "PAM" | "PFM":
                return netpbm.encode_netpbm(picture.values, picture.alpha)
            case "JPEG":
                return _jpeg(picture)
            case "JPEG2000":
                return _jpeg2000(picture)
            case _:
                return _pillow(picture, kind)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(
            f"The picture cannot be written as {_NAMES.get(kind, kind)} ({error}): choose another extension."
        ) from error


def _jpeg(picture: Picture) -> bytes:
    origin, image = picture.origin, picture.to_pil()
    options: dict[str, Any] = {"dpi": tuple(round(each) for each in origin.dpi)} if origin.dpi else {}
    best = {"quality": origin.quality or 95, "subsampling": 0}  # fallback: Pillow refuses 16-bit tables
    attempts: list[dict[str, Any]] = [best]
    if origin.jpeg and origin.quality is None and (image.mode == "RGB" or len(origin.jpeg.get("qtables", ())) == 1):
        attempts.insert(0, dict(origin.jpeg))
    for number, attempt in enumerate(attempts, start=1):
        buffer = BytesIO()
        try:
            image.save(buffer, "JPEG", **options, **attempt)
        except (OSError, ValueError, TypeError):
            if number == len(attempts):
                raise
            continue
        break
    return jpeg.with_segments(
        buffer.getvalue(),
        jpeg.SegmentContents(
            exif=origin.exif,
            xmp=origin.xmp,
            icc=origin.icc,
            iptc=origin.iptc,
            photoshop=origin.photoshop,
            comments=origin.comments,
        ),
    )


def _png(picture: Picture) -> bytes:
    origin = picture.origin
    body: Iterable[png.Chunk]
    if picture.depth == 16:
        layers = picture.values
        if picture.alpha is not None:
            layers = np.concatenate((layers, picture.alpha[..., None]), axis=2)
        header, body = png.encode_deep(layers)
    else:
        buffer = BytesIO()
        picture.to_pil().save(buffer, "PNG")
        found = png.chunks(buffer.getvalue())
        header, body = found[0], [chunk for chunk in found if chunk.kind == b"IDAT"]
    before = [chunk for chunk in origin.chunks if chunk.kind in png.COLOUR]
    if origin.icc:
        before.append(png.profile_chunk(origin.icc))
    if origin.dpi:
        density = [max(round(each / 0.0254), 1) for each in origin.dpi]
        before.append(png.Chunk(b"pHYs", struct.pack(">IIB", *density, 1)))
    if origin.exif:
        before.append(png.Chunk(b"eXIf", origin.exif))
    if origin.xmp:
        before.append(png.Chunk(b"iTXt", png.XMP_KEYWORD + b"\0\0\0\0\0" + origin.xmp))
    before += [png.text_chunk("Comment", each.decode("utf-8", "replace").rstrip("\0")) for each in origin.comments]
    before += [chunk for chunk in origin.chunks if chunk.kind not in png.COLOUR]
    return png.assembled(header, before, body)


def _tiff(picture: Picture) -> bytes:
    origin = picture.origin
    return tiff_write.encode_tiff(
        picture.values,
        picture.alpha,
        picture.extra,
        premultiplied=origin.premultiplied,
        half=origin.half and picture.depth == 32,
        beside=tiff_write.TiffMetadata(
            origin.icc, origin.exif, origin.xmp, origin.iptc, origin.photoshop, origin.dpi, origin.tags
        ),
    )


def _jpeg2000(picture: Picture) -> bytes:
    origin = picture.origin
    if picture.depth == 16:
        data = jpeg2000.write_deep(picture.values, picture.alpha)
    else:
        buffer = BytesIO()
        picture.to_pil().save(buffer, "JPEG2000")
        data = buffer.getvalue()
    beside = jpeg2000.BoxContents(8, 0, False, origin.icc, origin.exif, origin.xmp, origin.iptc, origin.boxes)
    return jpeg2000.with_boxes(data, beside)


def _pillow(picture: Picture, kind: str) -> bytes:
    origin = picture.origin
    options: dict[str, Any] = {"icc_profile": origin.icc, "exif": origin.exif, "xmp": origin.xmp}
    match kind:
        case "WEBP":
            options |= (
                {"lossless": True, "exact": True}
                if origin.lossless and origin.quality is None
                else {"quality": origin.quality or 92}
            )
        case "AVIF":
            options |= {"quality": origin.quality or 90, "subsampling": "4:4:4"}
        case "BMP":
            options = {"dpi": origin.dpi}
    buffer = BytesIO()
    picture.to_pil().save(buffer, kind, **{key: each for key, each in options.items() if each is not None})
    data = buffer.getvalue()
    return avif.with_colours(data, origin.chunks[0]) if kind == "AVIF" and origin.chunks else data
