"""Decode the strips and tiles of a TIFF page to the layers of a picture."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from reflectzoo.photo import ifd, jpeg, tiff
from reflectzoo.photo.guard import without_pixel_limit
from reflectzoo.photo.ifd import Entry
from reflectzoo.photo.model import Values, as_depth
from reflectzoo.photo.netpbm import scaled
from reflectzoo.photo.tiff import File, Page, PageLayout, numbers

#: Compressions of plain bytes: decompression gives the values as stored.
_BYTES = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
#: Compressions whose pictures libtiff decodes as a whole, as it does YCbCr.
_WHOLE = {2: "fax", 3: "fax", 4: "fax", 6: "old JPEG", 7: "JPEG"}
_YCBCR, _LAB = 6, (8, 9)
_MODELS = {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 5: "CMYK", _YCBCR: "YCbCr", 8: "Lab", 9: "Lab"}
_NAMES = {50001: "WebP", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC"}
_NAMES |= {22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"}
_OTHERWISE = "save it as RGB, with LZW or Deflate"
_SAMPLING = 530
_AT_ONCE = 2**22
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class TiffLayers(NamedTuple):
    """Decoded values.

    Attributes:
        values: (H, W, 1, 3 or, for CMYK, 4), uint8, uint16 or float32.
        alpha: (H, W) or None.
        extra: further channels, (H, W, n) or None.
        premultiplied: whether the file's colours were multiplied by alpha; ``values`` have been divided by it.
        notes: sentences about what was lost.
    """

    values: Values
    alpha: Values | None
    extra: Values | None
    premultiplied: bool
    notes: tuple[str, ...]


def by_library(found: PageLayout) -> bool:
    """Whether the page must be decoded as a whole by libtiff (:func:`opened`) rather than by :func:`layers`.

    Raises:
        ValueError: if neither can decode it, with the unsupported feature.
    """
    if found.compression in _BYTES and found.photometric != _YCBCR:
        return False
    if found.compression not in _BYTES and found.compression not in _WHOLE:
        name = _NAMES.get(found.compression, f"number {found.compression}")
        raise ValueError(f"its compression ({name}) is not supported: save it uncompressed, or with LZW or Deflate")
    if found.bits not in (1, 8) or found.number != "uint":
        kind = _WHOLE.get(found.compression, "YCbCr")
        raise ValueError(f"its values ({kind} of {found.bits} bits) are not supported: {_OTHERWISE}")
    return True


def opened(file: File, page: Page, found: PageLayout) -> Image.Image:
    """Open a page with Pillow, after rewriting it as a classic TIFF without orientation.

    Pillow applies the orientation only in some cases, and reads only some BigTIFF files.

    Raises:
        ValueError: if the page is lossless JPEG, or Pillow has no mode for it.
    """
    order, data = file.order, bytearray(file.data)
    if found.compression == 7:
        offset, length = found.pieces[0]
        frame = jpeg.parse(file.data[offset : offset + length]).frame
        if frame is not None and not frame.known:
            raise ValueError(f"its values (lossless JPEG) are not supported: {_OTHERWISE}")
    laid = tiff.STRUCTURE - {ifd.ORIENTATION, tiff.ICC, tiff.SUB_IFDS, ifd.EXIF_IFD, ifd.GPS_IFD, ifd.INTEROP_IFD}
    tags = {tag: _short(entry, order) for tag, entry in page.tags.items() if tag in laid}
    if found.compression == 1 and found.photometric == _YCBCR:
        # Pillow would take uncompressed bytes for pixels. It leaves compressed ones to libtiff, which unpacks YCbCr.
        tags |= _packed(data, found, {**tags})
    data += b"\0" * (len(data) % 2)
    data[:8] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", len(data))
    data += ifd.directory_bytes(tags.values(), len(data), order)
    try:
        return TiffImagePlugin.TiffImageFile(BytesIO(data))
    except SyntaxError:
        model = _MODELS.get(found.photometric, f"colour model {found.photometric}")
        raise ValueError(
            f"its values ({found.samples} channels, {model}, {_WHOLE.get(found.compression, 'packed')}) are not "
            f"supported: {_OTHERWISE}"
        ) from None


def _short(entry: Entry, order: str) -> Entry:
    """Convert a BigTIFF entry to classic TIFF; offsets in files below 4 GiB fit into 32 bits."""
    if entry.kind not in (13, 16, 18):
        return entry
    values = numbers(entry, order)
    return Entry(entry.tag, 4, len(values), struct.pack(f"{order}{len(values)}I", *values))


def _packed(data: bytearray, found: PageLayout, tags: dict[int, Entry]) -> dict[int, Entry]:
    """Append Deflate-compressed copies of the pieces to the file, and return the tags that point to them."""
    offsets, lengths = [], []
    for offset, length in found.pieces:
        piece = zlib.compress(bytes(data[offset : offset + length]), 1)
        offsets.append(len(data))
        lengths.append(len(piece))
        data += piece
    new = [ifd.integer_entry(tiff.COMPRESSION, 8, found.order)]
    where = (tiff.TILE_OFFSETS, tiff.TILE_COUNTS) if found.tiled else (tiff.OFFSETS, tiff.COUNTS)
    for tag, values in zip(where, (offsets, lengths), strict=True):
        new.append(Entry(tag, 4, len(values), struct.pack(f"{found.order}{len(values)}I", *values)))
    rows = found.tile[1] if found.tiled else min(found.tile[1], found.height)
    if _SAMPLING not in tags and found.pieces[0][1] == 3 * found.tile[0] * rows:
        # By default chroma is subsampled 2x2, but here the size of the data implies full resolution.
        new.append(Entry(_SAMPLING, 3, 2, struct.pack(f"{found.order}2H", 1, 1)))
    return {entry.tag: entry for entry in new}


def layers(file: File, page: Page, found: PageLayout) -> TiffLayers:
    """Decode a page whose compression is one of plain bytes.

    Raises:
        ValueError: if it is damaged, truncated, or of an unsupported kind; the message ends a sentence about the file.
    """
    if found.number == "int":
        raise ValueError(f"it contains signed integers ({found.bits} bits), which no photograph has")
    if found.photometric not in (0, 1, 2, 3, 5, *_LAB):
        raise ValueError(f"its colour model (number {found.photometric}) is not supported: save it as RGB")
    if found.photometric == 5 and file.value(page, tiff.INK, 1) != 1:
        raise ValueError("its inks are not CMYK: save it as RGB")
    if found.photometric in _LAB and (found.bits not in (8, 16) or found.number != "uint"):
        raise ValueError(f"its values (Lab of {found.bits} bits) are not supported: {_OTHERWISE}")
    stored = _stored(found, file.data)
    count = {2: 3, 5: 4, 8: 3, 9: 3}.get(found.photometric, 1)
    if stored.shape[2] < count:
        raise ValueError("its tags contradict each other")
    values, rest = stored[..., :count], stored[..., count:]
    notes: tuple[str, ...] = ()
    if found.number == "float":
        if found.photometric in (3, 5):
            raise ValueError(
                f"its values (floating-point {_MODELS[found.photometric]}) are not supported: {_OTHERWISE}"
            )
        if found.bits == 64:
            notes = ("Its 64-bit values are kept as 32-bit ones.",)
        with np.errstate(over="ignore"):  # overflow gives infinity, which the caller refuses
            values, rest = values.astype(np.float32), rest.astype(np.float32)
        if found.photometric == 0:
            values = 1 - values
    elif found.photometric in _LAB:
        values = _from_lab(values, found.photometric == 8)
        notes = ("Its colours (Lab) were converted to sRGB.",)
    elif found.photometric == 3:
        values = _coloured(values[..., 0], numbers(page.tags.get(tiff.COLOURS), found.order), found.bits)
    else:
        if found.photometric == 0:
            values = np.subtract(2**found.bits - 1, values, dtype=values.dtype)
        values = _scaled(values, found.bits)
    if found.number != "float":
        rest = as_depth(_scaled(rest, found.bits), 8 * values.itemsize)
        if found.bits > 16:
            notes = (f"Its {found.bits}-bit values are kept as 16-bit ones.",)
    kinds = found.extra
    place = next((place for place, kind in enumerate(kinds) if kind in (1, 2)), None)
    alpha = None if place is None else np.ascontiguousarray(rest[..., place])
    others = [each for each in range(rest.shape[2]) if each != place]
    extra = np.ascontiguousarray(rest[..., others]) if others else None
    premultiplied = place is not None and kinds[place] == 1
    values = np.ascontiguousarray(values)
    if premultiplied and alpha is not None:
        values, beyond = divided(values, alpha)
        if beyond:
            notes += ("Colours brighter than its premultiplied alpha allows were clipped.",)
    return TiffLayers(values, alpha, extra, premultiplied, notes)


def divided(values: Values, alpha: Values) -> tuple[Values, bool]:
    """Divide premultiplied colours (H, W, C) by alpha (H, W), and tell whether some exceeded alpha and were clipped.

    For integers, the round-trip through :func:`multiplied` is exact unless colours were clipped.
    """
    if values.dtype == np.float32:
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.where(alpha[..., None] > 0, values / alpha[..., None], 0).astype(np.float32)
        return np.minimum(out, 1), bool((values > alpha[..., None] * (1 + 1e-6)).any())
    top = np.iinfo(values.dtype).max
    out = np.empty_like(values)
    beyond = False
    for rows in _bands(values):
        parts, share = values[rows].astype(np.uint64), alpha[rows, :, None].astype(np.uint64)
        beyond = beyond or bool((parts > share).any())
        out[rows] = np.minimum((parts * top + share // 2) // np.maximum(share, 1), top) * (share > 0)
    return out, beyond


def multiplied(values: Values, alpha: Values) -> Values:
    """Multiply colours (H, W, C) by alpha (H, W) of the same type, rounded; inverse of :func:`divided`."""
    if values.dtype == np.float32:
        return (values * alpha[..., None]).astype(np.float32)
    top = int(np.iinfo(values.dtype).max)
    out = np.empty_like(values)
    for rows in _bands(values):
        out[rows] = (values[rows].astype(np.uint64) * alpha[rows, :, None] + top // 2) // top
    return out


def _bands(values: Values) -> Iterator[slice]:
    step = max(_AT_ONCE // max(values[:1].size, 1), 1)
    for first in range(0, values.shape[0], step):
        yield slice(first, first + step)


def _scaled(values: Values, bits: int) -> Values:
    return values if bits in (8, 16) else scaled(values, 2**bits - 1)


def _coloured(indices: Values, colours: list[int], bits: int) -> Values:
    """Look up palette colours; uint8 if the palette has no more precision than that, otherwise uint16."""
    if bits > 16 or len(colours) != 3 * 2**bits:
        raise ValueError("its palette is damaged")
    table = np.array(colours, np.uint32).reshape(3, -1).T
    if table.max(initial=0) < 256:  # written by mistake as 8-bit values
        table = table * 257
    if not (table % 257).any():
        return (table // 257).astype(np.uint8)[indices]
    if not (table % 256).any():  # 8-bit values shifted
        return (table // 256).astype(np.uint8)[indices]
    return table.astype(np.uint16)[indices]


def _from_lab(stored: Values, signed: bool) -> Values:
    """Convert CIE L*a*b* with white point D50 to sRGB of the same depth, clipped to its gamut.

    TIFF 6.0, section 23, and Adobe's ICCLab; one matrix adapts from D50 to D65 (Bradford) and converts to linear sRGB.

    Args:
        stored: (H, W, 3), uint8 or uint16.
        signed: whether a and b are two's complement (CIELab) rather than offset by half the range (ICCLab).
    """
    deep = stored.dtype == np.uint16
    unit = 256 if deep else 1
    lightness = 65535 if deep and signed else 255 * unit
    to_linear = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    white = np.array([0.96422, 1.0, 0.82521])
    out = np.empty_like(stored)
    for rows in _bands(stored):
        level = stored[rows, :, 0] * (100 / lightness)
        colour: Values = stored[rows, :, 1:].astype(np.int32)
        colour = (colour - (colour >= 128 * unit) * 256 * unit if signed else colour - 128 * unit) / unit
        middle = (level + 16) / 116
        cubes = np.stack((middle + colour[..., 0] / 500, middle, middle - colour[..., 1] / 200), axis=-1)
        xyz = np.where(cubes > 6 / 29, cubes**3, (cubes - 16 / 116) * 3 * (6 / 29) ** 2) * white
        light = np.clip(xyz @ to_linear.T, 0, 1)
        curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
        out[rows] = np.rint(curve * np.iinfo(stored.dtype).max)
    return out


def _stored(found: PageLayout, data: bytes) -> Values:
    """Assemble the stored samples of all pieces, (H, W, samples)."""
    kind = _type(found)
    wide, tall = found.tile
    down, across = -(-found.height // tall), -(-found.width // wide)
    planes = found.samples if found.planar else 1
    per = 1 if found.planar else found.samples
    row = -(-wide * per * found.bits // 8)
    if len(found.pieces) < planes * down * across:
        raise ValueError("it is truncated")
    out = np.empty((found.height, found.width, found.samples), kind)
    for plane in range(planes):
        target = out[..., plane : plane + 1] if found.planar else out
        for place in range(down * across):
            top, left = place // across * tall, place % across * wide
            rows = tall if found.tiled else min(tall, found.height - top)
            offset, length = found.pieces[plane * down * across + place]
            raw = _unpacked(data[offset : offset + length], found, row, rows)
            if len(raw) < row * rows:
                raise ValueError("it is truncated")
            block = _samples(raw, found, rows, row, wide, per)
            high, long = min(rows, found.height - top), min(wide, found.width - left)
            target[top : top + high, left : left + long] = block[:high, :long]
    return out


def _type(found: PageLayout) -> np.dtype[Any]:
    if found.number == "float":
        if found.bits not in (16, 32, 64):
            raise ValueError(f"its floating-point values of {found.bits} bits are not supported")
        return np.dtype(f"f{found.bits // 8}")
    if found.bits > 16 and found.bits != 32:
        raise ValueError(f"its values of {found.bits} bits are not supported: save it with 16 bits")
    return np.dtype(np.uint8 if found.bits <= 8 else np.uint16 if found.bits <= 16 else np.uint32)


def _unpacked(raw: bytes, found: PageLayout, row: int, rows: int) -> bytes:
    name = _BYTES[found.compression]
    if name in ("none", "Deflate", "LZMA") and found.reverse:
        raw = raw.translate(_REVERSED)
    try:
        match name:
            case "none":
                return raw
            case "Deflate":
                packed = zlib.decompressobj()
                out = packed.decompress(raw, row * rows)
                if not packed.eof:  # also read the checksum at the end
                    packed.decompress(packed.unconsumed_tail, 64)
                return out
            case "LZMA":
                return lzma.LZMADecompressor().decompress(raw, row * rows)
            case _:
                return unpacked_by_libtiff(raw, found.compression, row, rows, found.order, found.reverse)
    except (zlib.error, lzma.LZMAError, OSError, SyntaxError):
        raise ValueError("it is damaged or truncated") from None


def unpacked_by_libtiff(
    raw: bytes, compression: int, row: int, rows: int, order: str = "<", reverse: bool = False
) -> bytes:
    """Decompress a strip or tile with libtiff, disguised as an 8-bit grey picture of the same bytes.

    Args:
        raw: the compressed bytes.
        compression: TIFF number of the compression.
        row: bytes per row.
        rows: number of rows.
        order: byte order, which matters to some old LZW files.
        reverse: whether the bits of each byte are in reverse order.
    """
    lead = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)

    def whole(tag: int, value: int) -> Entry:
        return ifd.integer_entry(tag, value, order, 4)

    tags = [whole(tiff.WIDTH, row), whole(tiff.LENGTH, rows), whole(tiff.ROWS, rows), whole(tiff.COUNTS, len(raw))]
    tags += [ifd.integer_entry(tiff.BITS, 8, order), ifd.integer_entry(tiff.COMPRESSION, compression, order)]
    tags += [ifd.integer_entry(tiff.PHOTOMETRIC, 1, order), ifd.integer_entry(tiff.SAMPLES, 1, order)]
    tags += [ifd.integer_entry(tiff.FILL, 2 if reverse else 1, order), whole(tiff.OFFSETS, 0)]
    place = 8 + len(ifd.directory_bytes(tags, 8, order))
    tags[-1] = whole(tiff.OFFSETS, place)
    # The bytes of a long strip could exceed Pillow's limit on pixels.
    with (
        without_pixel_limit(),
        TiffImagePlugin.TiffImageFile(BytesIO(lead + ifd.directory_bytes(tags, 8, order) + raw)) as image,
    ):
        return image.tobytes()


def _samples(raw: bytes, found: PageLayout, rows: int, row: int, wide: int, per: int) -> Values:
    """Convert the bytes of a strip or tile to samples, (rows, wide, per), undoing the predictor."""
    if found.predictor == 3 and found.number == "float":
        size = found.bits // 8
        data = np.frombuffer(raw, np.uint8, rows * row).reshape(rows, -1, per).cumsum(axis=1, dtype=np.uint8)
        planes = data.reshape(rows, size, -1)  # each row stores all most significant bytes first
        return np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{size}").reshape(rows, wide, per)
    if found.predictor not in (1, 2):
        raise ValueError(f"its predictor (number {found.predictor}) is not supported")
    if found.bits in (8, 16, 32, 64):
        form = "f" if found.number == "float" else "u"
        block = np.frombuffer(raw, f"{found.order}{form}{found.bits // 8}", rows * wide * per).reshape(rows, wide, per)
        if found.predictor == 2:
            whole = block.view(f"{found.order}u{found.bits // 8}")
            summed = whole.cumsum(axis=1, dtype=f"u{found.bits // 8}")
            return summed.view(f"f{found.bits // 8}") if form == "f" else summed
        return block
    if found.predictor == 2:
        raise ValueError(f"it stores differences of {found.bits} bits, which is not supported")
    return _bits(raw, rows, row, wide * per, found.bits).reshape(rows, wide, per)


def _bits(raw: bytes, rows: int, row: int, count: int, bits: int) -> Values:
    """Unpack integers of up to 16 bits, stored without gaps; rows begin at whole bytes."""
    packed = np.frombuffer(raw, np.uint8, rows * row).reshape(rows, row)
    out = np.empty((rows, count), np.uint8 if bits <= 8 else np.uint16)
    width = 8 * out.itemsize
    step = max(_AT_ONCE // (8 * row), 1)
    for first in range(0, rows, step):
        single = np.unpackbits(packed[first : first + step], axis=1)[:, : count * bits]
        padded = np.zeros((single.shape[0], count, width), np.uint8)
        padded[..., width - bits :] = single.reshape(-1, count, bits)
        block = np.packbits(padded, axis=2).view(np.uint8 if width == 8 else ">u2")
        out[first : first + step] = block.reshape(-1, count)
    return out
