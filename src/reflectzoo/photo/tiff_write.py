"""Encode TIFF: tifffile writes the values; a new directory after them adds the metadata."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from reflectzoo.photo import ifd
from reflectzoo.photo.ifd import Directory, Entry
from reflectzoo.photo.model import Values
from reflectzoo.photo.tiff import ICC, IPTC, PHOTOSHOP, STRUCTURE, XMP
from reflectzoo.photo.tiff_values import multiplied


@dataclass(frozen=True)
class TiffMetadata:
    """The metadata to write.

    Attributes:
        icc: colour profile.
        exif: EXIF block.
        xmp: XMP packet.
        iptc: IPTC records.
        photoshop: Photoshop resources.
        dpi: dots per inch.
        tags: further tags, little-endian.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    photoshop: bytes | None = None
    dpi: tuple[float, float] | None = None
    tags: tuple[Entry, ...] = ()


def encode_tiff(
    values: Values, alpha: Values | None, extra: Values | None, premultiplied: bool, half: bool, beside: TiffMetadata
) -> bytes:
    """Encode one picture, Deflate-compressed.

    Args:
        values: (H, W, 1 or 3), uint8, uint16 or float32.
        alpha: (H, W) of the same type, or None.
        extra: further channels, (H, W, n) of the same type, or None.
        premultiplied: multiply the colours by alpha.
        half: write floating-point values with 16 bits.
        beside: the metadata.
    """
    import tifffile

    parts, kinds = [values], []
    if alpha is not None:
        if premultiplied:
            parts = [multiplied(values, alpha)]
        parts.append(alpha[..., None])
        kinds.append(1 if premultiplied else 2)
    if extra is not None:
        parts.append(extra)
        kinds += [0] * extra.shape[2]
    stored = np.concatenate(parts, axis=2) if len(parts) > 1 else values
    if half:
        stored = stored.astype(np.float16)
    options: dict[str, Any] = {}
    if beside.dpi:
        options = {"resolution": beside.dpi, "resolutionunit": "INCH"}
    if kinds:
        options["extrasamples"] = kinds
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        stored if stored.shape[2] > 1 else stored[..., 0],
        byteorder="<",
        photometric="rgb" if values.shape[2] == 3 else "minisblack",
        planarconfig="contig" if stored.shape[2] > 1 else None,
        compression="zlib",
        compressionargs={"level": 6},
        predictor=2 if stored.dtype.kind == "u" else None,
        rowsperstrip=max(2**18 // stored[:1].nbytes, 1),
        software=False,
        metadata=None,
        **options,
    )
    return _described(buffer.getvalue(), beside)


def _described(data: bytes, beside: TiffMetadata) -> bytes:
    """Replace the directory of a file by one after its values that includes the metadata.

    tifffile writes neither the EXIF and GPS directories nor some tags of other programs.
    """
    block = ifd.Exif.parse(beside.exif) if beside.exif else ifd.Exif()
    image, exif, gps, interop = (
        {tag: ifd.reordered(entry, block.order, "<") for tag, entry in group.items()}
        for group in (block.image, block.exif, block.gps, block.interop)
    )
    told = {entry.tag: entry for entry in beside.tags}
    told |= {tag: entry for tag, entry in image.items() if tag not in STRUCTURE}
    contents = ((ICC, 7, beside.icc), (XMP, 1, beside.xmp), (IPTC, 7, beside.iptc), (PHOTOSHOP, 1, beside.photoshop))
    told |= {tag: Entry(tag, kind, len(content), content) for tag, kind, content in contents if content}
    if not (told or exif or gps or interop):
        return data
    big = data[2:4] == b"+\0"
    word, at = ("<Q", 8) if big else ("<I", 4)
    places, _ = ifd.read_directory(data, struct.unpack_from(word, data, at)[0], "<", big)
    main: Directory = {tag: place.entry for tag, place in places.items()} | told
    out = bytearray(data)

    def put(group: Directory) -> Entry:
        """Append a directory, and return an entry that points to it."""
        out.extend(b"\0" * (len(out) % 2))
        offset = len(out)
        out.extend(ifd.directory_bytes(group.values(), offset, "<", big))
        return ifd.integer_entry(0, offset, "<", 16 if big else 4)

    if interop:
        exif[ifd.INTEROP_IFD] = put(interop)._replace(tag=ifd.INTEROP_IFD)
    for tag, group in ((ifd.EXIF_IFD, exif), (ifd.GPS_IFD, gps)):
        if group:
            main[tag] = put(group)._replace(tag=tag)
    struct.pack_into(word, out, at, ifd.integer(put(main), "<"))
    return bytes(out)
