"""One decoder per file format; Pillow is used only where it decodes correctly.

Depth, polarity, alpha and orientation are never inferred from a Pillow mode: formats with more variants than Pillow has
modes are read by modules of this package.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from reflectzoo.photo import avif, bmp, ifd, jpeg, jpeg2000, metadata, netpbm, png, psd, raw, tiff, tiff_values
from reflectzoo.photo.guard import without_pixel_limit
from reflectzoo.photo.model import FileMetadata, Picture, UnreadableImage, Values, as_depth
from reflectzoo.photo.pillow import Limit, from_pillow, pillow_formats, unguarded_within

#: Floating-point values may exceed [0, 1] by this much, from rounding.
_SLACK = 1e-5
_AGAIN, _SAVE = "download or copy it again", "save it as PNG or TIFF"


def decoded(data: bytes, name: str, limit: Limit, shorter: int | None) -> tuple[Picture, int]:
    """Decode a file of any supported format.

    Args:
        data: the file's bytes.
        name: the quoted file name, for error messages.
        limit: the largest size accepted.
        shorter: the shorter side that is needed; lets a JPEG be decoded at reduced size, and only detects truncation of
            one without end marker, not other damage.

    Returns:
        The picture as stored (not yet rotated), and its EXIF orientation, 1 to 8.

    Raises:
        UnreadableImage: if the file is too large or not supported.
        ValueError: (and other errors of the decoders) if it is damaged.
    """
    if raw.is_raw(data):
        return _raw(data, name, limit), 1
    if data.startswith(jpeg.SOI + b"\xff"):
        return _jpeg(data, name, limit, shorter)
    if data.startswith(png.SIGNATURE):
        return _png(data, name, limit)
    if data.startswith(tiff.MAGICS):
        return _tiff(data, name, limit)
    if netpbm.MAGIC.match(data):
        return _netpbm(data, name, limit), 1
    if data.startswith((jpeg2000.MAGIC, jpeg2000.CODESTREAM)):
        return _jpeg2000(data, name, limit)
    if (packed := bmp.packed(data)) is not None:
        limit.check(packed.width, packed.height)
        return Picture(*bmp.read(data, packed), FileMetadata("BMP", bmp.profile(data), dpi=packed.dpi)), 1
    if data.startswith(psd.MAGIC) and (found := psd.document(data)) is not None:
        return _psd(data, name, limit, found)
    return _other(data, name, limit)


# -- formats -----------------------------------------------------------------------------------------------------------


def _jpeg(data: bytes, name: str, limit: Limit, shorter: int | None) -> tuple[Picture, int]:
    layout = jpeg.parse(data)
    if layout.near_lossless:
        raise UnreadableImage(f"{name} is a JPEG-LS picture, which is not supported: {_SAVE}.")
    if layout.frame is not None:
        if layout.frame.height == 0:
            raise UnreadableImage(f"{name} is a JPEG whose header does not say its height (DNL): save it again.")
        limit.check(layout.frame.width, layout.frame.height)
        if not layout.frame.known:
            raise UnreadableImage(f"{name} is a lossless or hierarchical JPEG, which is not supported: {_SAVE}.")
        if layout.frame.precision != 8:
            raise UnreadableImage(
                f"{name} is a JPEG of {layout.frame.precision} bits, which is not supported: {_SAVE}."
            )
    notes: list[str] = []
    end = layout.end
    whole = shorter is None  # training accepts damaged pictures
    wrong = jpeg.decoder_warning(data, layout) if whole else ""
    if end is None or jpeg.is_truncated(data, layout, wrong):
        mended = jpeg.repaired_jpeg(data if end is None else data[: end - 2], layout)
        if mended is None:
            raise UnreadableImage(f"{name} is damaged or truncated (its end is missing): {_AGAIN}.")
        data, lost = mended
        end = len(data)
        what = f"; at most {lost} pixels in its last corner are guessed" if lost else ", but the picture is complete"
        notes.append(f"The last bytes of its file are missing{what}.")
    elif whole and (words := jpeg.damage_note(layout, wrong)):
        notes.append(words)
    found = jpeg.read_segments(layout)
    with jpeg.opened(data) as image:
        if shorter is not None:
            image.draft(None, (shorter, shorter))
        kept: dict[str, Any] = {}
        if tables := getattr(image, "quantization", None):
            kept["qtables"] = {key: list(table) for key, table in tables.items()}
            sampling = JpegImagePlugin.get_sampling(image)
            if sampling in (0, 1, 2):
                kept["subsampling"] = sampling
            if image.info.get("progressive"):
                kept["progressive"] = True
            if found.rgb:
                kept["keep_rgb"] = True
        dpi = image.info.get("dpi") if b"JFIF" in data[:32] else None
        origin = FileMetadata(
            "JPEG", found.icc, photoshop=found.photoshop, iptc=found.iptc, comments=found.comments, jpeg=kept
        )
        origin, orientation, said = _told(origin, found.exif, found.xmp, dpi)
        picture = from_pillow(image, name, origin)
    parts = _parts(found, data[end:], found.xmp)
    if parts:
        notes.append(f"Dropped, together with the metadata about them: {', '.join(parts)}.")
    return picture.noted(*said, *notes), orientation


def _parts(found: jpeg.SegmentContents, behind: bytes, xmp: bytes | None) -> list[str]:
    """The parts of a JPEG file that are dropped, in words."""
    behind = behind.strip(b"\0\r\n ")
    parts = []
    pictures = max(found.pictures - 1, int(behind.startswith(jpeg.SOI)), 0)
    if found.gain_map or metadata.announces_gain_map(xmp):
        parts.append("a gain map (HDR)")
        pictures -= bool(pictures)
    video = re.search(rb"ftyp(mp4|iso|qt |M4V|avc|hev|3gp)", behind) is not None
    if video or metadata.announces_video(xmp):
        parts.append("a short video (motion photo)")
    if pictures > 0:
        parts.append(f"{pictures} further picture{'s' * (pictures > 1)}")
    if found.extended_xmp:
        parts.append(f"{found.extended_xmp} bytes of extended XMP")
    parts.extend(found.others)
    if behind and not parts:
        parts.append(f"{len(behind)} bytes after the picture")
    return parts


def _png(data: bytes, name: str, limit: Limit) -> tuple[Picture, int]:
    found = png.chunks(data)
    if found and found[0].kind == b"CgBI":
        raise UnreadableImage(f"{name} is a PNG as Xcode packs it for iPhones (CgBI): save it as a usual PNG.")
    if not found or found[0].kind != b"IHDR" or len(found[0].body) != 13:
        raise ValueError("it has no header")
    width, height, bits, colour = struct.unpack(">IIBB", found[0].body[:10])
    limit.check(width, height)
    notes: list[str] = []
    if found[-1].kind != b"IEND":
        mended = png.repaired_png(data)
        if mended is None:
            raise UnreadableImage(f"{name} is damaged or truncated (its end is missing): {_AGAIN}.")
        data, found = mended, png.chunks(mended)
        notes.append("The last bytes of its file are missing, but the picture is complete.")
    elif count := png.trailing_bytes(data, found):
        notes.append(f"Dropped: {count} bytes after the picture.")
    chunks, lost = png.copyable_chunks(found)
    if lost:
        notes.append(f"Dropped, because they belong to the original picture: {', '.join(lost)}.")
    by_kind = {chunk.kind: chunk.body for chunk in reversed(found)}
    frames = int.from_bytes(by_kind.get(b"acTL", b"")[:4], "big")
    if frames > 1:
        notes.append(f"Of the {frames} pages or frames only the first is processed.")
    notes += _hdr(by_kind.get(b"cICP", b""))
    icc = _inflated(by_kind[b"iCCP"]) if b"iCCP" in by_kind else None
    exif, xmp, iptc, photoshop = png_metadata(found)
    dpi = None
    if len(density := by_kind.get(b"pHYs", b"")) == 9 and density[8] == 1:
        across, down = struct.unpack(">II", density[:8])
        dpi = (across * 0.0254, down * 0.0254) if across and down else None
    origin = FileMetadata("PNG", icc, chunks=chunks, iptc=iptc, photoshop=photoshop)
    origin, orientation, said = _told(origin, exif, xmp, dpi)
    single = by_kind.get(b"tRNS") if colour in (0, 2) else None
    if bits == 16:
        # The picture alone: libpng prints warnings about other chunks.
        body = [chunk for chunk in found if chunk.kind == b"IDAT"]
        deep = cv2.imdecode(np.frombuffer(png.assembled(found[0], (), body), np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None or deep.dtype != np.uint16:
            raise ValueError("the values cannot be unpacked")
        deep = deep.reshape(height, width, -1)
        values = np.ascontiguousarray(deep[..., 2::-1] if colour in (2, 6) else deep[..., :1])
        alpha = np.ascontiguousarray(deep[..., 3]) if colour in (4, 6) else None
        picture = Picture(values, alpha, origin)
    else:
        with PngImagePlugin.PngImageFile(BytesIO(data)) as image:
            image.load()
            if single is not None:
                # Pillow compares values that it has scaled to 8 bits with an unscaled one.
                image.info.pop("transparency", None)
            picture = from_pillow(image, name, origin)
    if single is not None:
        picture = replace(picture, alpha=_unlike(picture.values, single, bits))
    picture = fitting(picture)
    origin = replace(picture.origin, gamma=png.gamma(found, picture.origin.icc is not None))
    return replace(picture, origin=origin).noted(*said, *notes), orientation


def png_metadata(found: Sequence[png.Chunk]) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None]:
    """EXIF data, XMP, IPTC records and Photoshop resources of a PNG's chunks; None for each that is missing."""
    exif = next((chunk.body for chunk in found if chunk.kind == b"eXIf"), None)
    iptc, photoshop, xmp = None, None, None
    for chunk in found:
        profile = png.raw_profile(chunk)
        if chunk.kind in png.TEXT and png.keyword(chunk) == png.XMP_KEYWORD:
            xmp = (png.text(chunk) or "").encode() or None
        elif profile and profile[0] in ("exif", "app1") and profile[1].startswith(b"Exif\0\0"):
            exif = exif or profile[1]
        elif profile and profile[0] == "iptc":
            iptc, photoshop = jpeg.split_resources(profile[1])
        elif profile and profile[0] == "xmp":
            xmp = xmp or profile[1]
    return exif, xmp, iptc, photoshop


def _hdr(meant: bytes) -> list[str]:
    """The notes on the body of a cICP chunk: one sentence if it declares HDR, else none."""
    transfer = png.HDR_TRANSFERS.get(meant[1]) if len(meant) == 4 else None
    if transfer is None:
        return []
    return [f"Its values are HDR ({transfer}), which no network here was trained on; they were processed unchanged."]


def _unlike(values: Values, single: bytes, bits: int) -> Values:
    """Alpha of a picture in which one colour (the body of tRNS) marks transparent pixels."""
    count = values.shape[2]
    colour = np.frombuffer(single[: 2 * count].ljust(2 * count, b"\0"), ">u2").astype(np.uint32)
    within: Values = colour & (2**bits - 1)
    if bits < 8:
        within = within * 255 // (2**bits - 1)
    clear = (values == within.astype(values.dtype)).all(axis=2)
    return np.where(clear, 0, np.iinfo(values.dtype).max).astype(values.dtype)


def _inflated(body: bytes) -> bytes | None:
    try:
        return zlib.decompress(body.partition(b"\0")[2][1:]) or None
    except zlib.error:
        return None


def _tiff(data: bytes, name: str, limit: Limit) -> tuple[Picture, int]:
    file = tiff.File.parse(data)
    page = file.main
    sheet = tiff.read_sheet(file, page)
    limit.check(sheet.width, sheet.height)
    tags = page.tags
    packet, iptc = tags.get(tiff.XMP), tags.get(tiff.IPTC)
    _, photoshop = jpeg.split_resources(tags[tiff.PHOTOSHOP].raw) if tiff.PHOTOSHOP in tags else (None, None)
    origin = FileMetadata(
        "TIFF",
        tags[tiff.ICC].raw if tiff.ICC in tags else None,
        # Many files declare it as LONG by mistake, and pad it with zeros; no record begins with 0.
        iptc=iptc.raw.rstrip(b"\0") or None if iptc else None,
        photoshop=photoshop,
        tags=tiff.further(file, page),
    )
    origin, _, said = _told(origin, tiff.exif(file, page), packet.raw if packet else None, tiff.resolution(file, page))
    orientation = file.value(page, ifd.ORIENTATION, 1)
    notes = []
    if file.others > 0:
        notes.append(f"Of the {file.others + 1} pages or frames only the first is processed.")
    if tiff_values.by_library(sheet):
        with without_pixel_limit(), tiff_values.opened(file, page, sheet) as image:
            picture = from_pillow(image, name, origin)
    else:
        found = tiff_values.layers(file, page, sheet)
        notes += found.notes
        half = sheet.number == "float" and sheet.bits == 16
        # The profile of Lab values no longer applies after conversion.
        icc = None if sheet.photometric in (8, 9) else origin.icc
        origin = replace(origin, premultiplied=found.premultiplied, half=half, icc=icc)
        if sheet.photometric == 5:
            picture = _from_inks(found, name, origin)
        else:
            picture = Picture(found.values, found.alpha, origin, (), found.extra)
    if picture.values.dtype.kind == "f":
        picture = _checked_floats(picture, name)
    return picture.noted(*said, *notes), orientation


def _from_inks(found: tiff_values.TiffLayers, name: str, origin: FileMetadata) -> Picture:
    """Convert CMYK to 8-bit sRGB."""
    image = Image.frombytes("CMYK", found.values.shape[1::-1], as_depth(found.values, 8).tobytes())
    picture = from_pillow(image, name, origin)
    alpha = None if found.alpha is None else as_depth(found.alpha, 8)
    picture = replace(picture, alpha=alpha)
    if found.values.itemsize > 1:
        picture = picture.noted("Its values are reduced to 8 bits, because CMYK is only converted in 8 bits.")
    return picture


def _checked_floats(picture: Picture, name: str) -> Picture:
    """Check that floating-point values lie in [0, 1] and return them as float32.

    Raises:
        UnreadableImage: if values are not finite or out of range.
    """
    low, high = float("inf"), float("-inf")
    for layer in (picture.values, picture.alpha):
        if layer is None:
            continue
        least, most = float(layer.min()), float(layer.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            raise UnreadableImage(f"{name} contains non-finite values (NaN or infinity): repair it first.")
        low, high = min(low, least), max(high, most)
    if low < -_SLACK or high > 1 + _SLACK:
        raise UnreadableImage(
            f"{name} contains floating-point values from {low:.4g} to {high:.4g}, but a picture's must lie between 0 "
            "and 1: scale them, or save it with 16 bits."
        )

    def single(layer: Values | None) -> Values | None:
        return None if layer is None else np.clip(layer, 0, 1).astype(np.float32)

    values = np.clip(picture.values, 0, 1).astype(np.float32)
    return replace(picture, values=values, alpha=single(picture.alpha), extra=single(picture.extra))


def _netpbm(data: bytes, name: str, limit: Limit) -> Picture:
    head = netpbm.header(data)
    limit.check(head.width, head.height)
    values, alpha = netpbm.read(data)
    kind = {"P7": "PAM", "PF": "PFM", "Pf": "PFM"}.get(head.kind, "PPM")
    picture = Picture(values, alpha, FileMetadata(kind))
    if (count := netpbm.raster(head)) is not None and netpbm.MAGIC.match(data, head.start + count):
        picture = picture.noted("Of its pictures only the first is processed.")
    return _checked_floats(picture, name) if kind == "PFM" else picture


def _jpeg2000(data: bytes, name: str, limit: Limit) -> tuple[Picture, int]:
    found = jpeg2000.read_boxes(data)
    with unguarded_within(limit), Image.open(BytesIO(data), formats=("JPEG2000",)) as image:
        limit.check(*image.size)
        if found.halved and (image.width % 2 or image.height % 2):
            # Pillow misplaces the subsampled colours of pictures with odd sides.
            raise ValueError("its colours are stored at another size than its brightness: save it as PNG or TIFF")
        origin = FileMetadata("JPEG2000", found.icc, iptc=found.iptc, boxes=found.others)
        origin, orientation, said = _told(origin, found.exif, found.xmp, image.info.get("dpi"))
        deep = jpeg2000.read_deep(data, found) if found.bits > 8 else None
        if deep is not None:
            return Picture(*deep, origin).noted(*said), orientation
        picture = from_pillow(image, name, origin)
        if found.bits > 8 and picture.depth == 8:
            picture = picture.noted(f"Its {found.bits}-bit values were reduced to 8 bits.")
        alpha = None if picture.alpha is None else jpeg2000.rescale_to_8_bits(picture.alpha, found)
        picture = replace(picture, values=jpeg2000.rescale_to_8_bits(picture.values, found), alpha=alpha)
    return picture.noted(*said), orientation


def _psd(data: bytes, name: str, limit: Limit, found: psd.Document) -> tuple[Picture, int]:
    limit.check(found.width, found.height)
    if not found.merged:
        raise ValueError("its picture of all layers is missing: save it with maximum compatibility, or as TIFF")
    origin, orientation, said = _told(FileMetadata("PSD", found.icc, iptc=found.iptc), found.exif, found.xmp, found.dpi)
    values, alpha, extra = psd.read(data, found)
    return Picture(values, alpha, origin, said, extra), orientation


def _raw(data: bytes, name: str, limit: Limit) -> Picture:
    if not raw.can_develop():
        raise UnreadableImage(
            f"{name} is a camera's raw file, which has to be developed first: {raw.INSTALL}, or save it as TIFF or JPEG"
            " with the camera's program."
        )
    try:
        limit.check(*raw.size(data))
        values = raw.develop(data)
    except ValueError as error:
        raise UnreadableImage(
            f"{name} is a camera's raw file that LibRaw cannot develop ({error_in_words(error)}): save it as TIFF or "
            "JPEG with the camera's program."
        ) from None
    exif, xmp, notes = None, None, ["Developed by LibRaw, with the camera's white balance, as sRGB of 16 bits."]
    if data.startswith(tiff.MAGICS):
        file = tiff.File.parse(data)
        exif = tiff.exif(file, file.pages[0])
        packet = file.pages[0].tags.get(tiff.XMP)
        xmp = packet.raw if packet else None
    else:
        notes.append("The EXIF data of this kind of raw file is not copied.")
    origin, _, said = _told(FileMetadata("RAW"), exif, xmp, None)
    return Picture(values, None, origin).noted(*notes, *said)


def _other(data: bytes, name: str, limit: Limit) -> tuple[Picture, int]:
    with unguarded_within(limit), Image.open(BytesIO(data), formats=pillow_formats()) as image:
        limit.check(*image.size)
        kind = image.format or ""
        notes = []
        if (pages := int(getattr(image, "n_frames", 1))) > 1:
            notes.append(f"Of the {pages} pages or frames only the first is processed.")
        origin = FileMetadata(kind, bmp.profile(data) if kind == "BMP" else image.info.get("icc_profile") or None)
        if kind == "WEBP":
            origin = replace(origin, lossless=b"VP8L" in data[:64])
        if meant := avif.colours(data):
            origin = replace(origin, chunks=(meant,))
            notes += _hdr(meant.body)
        if kind == "AVIF" and avif.cropped(data):
            notes.append("It says that only a part of it is to be shown (clap), which is not heeded here.")
        xmp = image.info.get("xmp")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        image.load()  # some formats provide their EXIF data only after decoding
        exif = metadata.bare_exif(image.info.get("exif"))
        origin, orientation, said = _told(origin, exif, xmp, image.info.get("dpi"))
        picture = from_pillow(image, name, origin)
        bits = image.info.get("bit_depth") or (8 * data[3] if kind == "SGI" else avif.bits(data))
        if bits > 8 and picture.depth == 8:
            notes.append(f"Its {bits}-bit values were reduced to 8 bits.")
        extras = {"depth_images": "a depth map", "aux": "further pictures (gain map, mattes)"}
        parts = [words for key, words in extras.items() if image.info.get(key)]
        if parts:
            notes.append(f"Dropped: {', '.join(parts)}.")
    return picture.noted(*said, *notes), orientation


# -- shared by all formats ---------------------------------------------------------------------------------------------


def _told(
    origin: FileMetadata, exif: bytes | None, xmp: bytes | None, dpi: Any
) -> tuple[FileMetadata, int, tuple[str, ...]]:
    """The origin with metadata of an upright picture, the EXIF orientation (1 to 8), and notes."""
    notes: tuple[str, ...] = ()
    exif = metadata.bare_exif(exif)
    orientation = metadata.orientation(exif, xmp)
    if exif:
        try:
            exif = ifd.upright(exif)
        except (ValueError, struct.error):
            exif, notes = None, ("Its EXIF data is damaged and was dropped.",)
    if xmp:
        xmp = metadata.without_parts(metadata.upright_xmp(xmp))
    density = (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None
    return replace(origin, exif=exif, xmp=xmp, dpi=density), orientation, notes


def fitting(picture: Picture) -> Picture:
    """Drop a damaged profile or one for another colour model, which would make written files invalid."""
    icc, channels = picture.origin.icc, picture.values.shape[2]
    if icc is None or metadata.profile_fits(icc, channels):
        return picture
    origin = replace(picture.origin, icc=None)
    return replace(picture, origin=origin).noted(metadata.profile_note(icc, channels))


def error_in_words(error: BaseException) -> str:
    """An error's message on one line, or the name of its class if it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def refusal(name: str, error: BaseException) -> str:
    """The sentence for a file that cannot be read.

    An error whose message begins with "its" or the like describes an unsupported kind of file; any other, damage.
    """
    words = error_in_words(error)
    if words.startswith(("its ", "it contains ", "it holds ", "it stores ")):
        return f"{name} cannot be read: {words}."
    more = "" if words.startswith("it is ") else f" ({words})"
    return f"{name} is damaged or truncated{more}."
