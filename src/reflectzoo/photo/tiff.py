"""TIFF: every layout of values read as it is written down, none of it guessed.

Libraries answer with pictures that are turned twice, negative, or striped where a file is planar, WhiteIsZero or
oriented, and each drops other depths. Here the tags say what the values are: bit depth and number format, polarity,
palette, planes, strips or tiles, predictor, byte and bit order, kinds of extra samples. libtiff (in Pillow) only
unpacks bytes (LZW, PackBits, Zstandard), and whole pictures of 8 bits where colour is part of the compression (JPEG,
fax, YCbCr, Lab). tifffile writes.

TIFF 6.0 (Adobe 1992); Adobe Photoshop TIFF technical notes (2002) for predictors and Deflate; BigTIFF.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reflectzoo.photo import ifd
from reflectzoo.photo.ifd import Directory, Entry
from reflectzoo.photo.model import Values, as_depth
from reflectzoo.photo.netpbm import scaled

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICC, XMP, IPTC, PHOTOSHOP, SUB_IFDS, DNG_VERSION = 34675, 700, 33723, 34377, 330, 50706
_TYPE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL = 254, 256, 257, 258, 259, 262, 266
_OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _PREDICTOR, _COLOURS = 273, 277, 278, 279, 284, 317, 320
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_INK, _EXTRA, _FORMAT, _JPEG_TABLES = 332, 338, 339, 347
_X, _Y, _UNIT = 282, 283, 296
_RAW_PHOTOMETRIC = (32803, 34892)
#: Bytes alone: what comes out are the values as they are.
_BYTES = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
#: Compressions and colour models that libtiff decodes as a whole.
_WHOLE = {2: "fax", 3: "fax", 4: "fax", 6: "old JPEG", 7: "JPEG", 50001: "WebP"}
_WHOLE_PHOTOMETRIC = {6: "YCbCr", 8: "Lab"}
_NAMES = {33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC"}
_NAMES |= {22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG"}
#: Tags that say how values lie, or are told by other means; they are made anew.
STRUCTURE = frozenset(
    {_TYPE, 255, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, 263, 264, 265, _FILL, _OFFSETS, ifd.ORIENTATION}
    | {_SAMPLES, _ROWS, _COUNTS, 280, 281, _X, _Y, _PLANAR, 288, 289, 290, 291, 292, 293, _UNIT, _PREDICTOR, _COLOURS}
    | {321, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_COUNTS, 326, 327, 328, SUB_IFDS, _INK, 333, 334, 336, 337}
    | {_EXTRA, _FORMAT, 340, 341, 342, *range(512, 522), _JPEG_TABLES, 529, 530, 531, 532, ICC, XMP, IPTC, PHOTOSHOP}
    | {ifd.EXIF_IFD, ifd.GPS_IFD, ifd.INTEROP_IFD, 301}
)
#: Tags of a directory that say what EXIF data says, too.
DESCRIPTIVE = frozenset({269, 270, 271, 272, 305, 306, 315, 316, 33432, 18246, 18249})
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_AT_ONCE = 2**22


class Page(NamedTuple):
    """One directory of a file.

    Attributes:
        offset: where it stands.
        tags: its entries.
    """

    offset: int
    tags: Directory


@dataclass(frozen=True)
class Sheet:
    """What the tags of a page say about its values.

    Attributes:
        width: columns.
        height: rows.
        bits: of a sample.
        samples: of a pixel, extra ones included.
        number: ``uint``, ``int`` or ``float``.
        photometric: TIFF's number of the colour model.
        planar: whether each sample has a plane of its own.
        compression: TIFF's number.
        predictor: 1 none, 2 differences, 3 floating point.
        reverse: whether bits of a byte run backwards.
        tile: width and height of the pieces.
        tiled: whether pieces are whole at the borders.
        pieces: offset and length of each.
        extra: kinds of the extra samples: 0 unspecified, 1 alpha of premultiplied colours, 2 alpha.
        order: byte order.
    """

    width: int
    height: int
    bits: int
    samples: int
    number: str
    photometric: int
    planar: bool
    compression: int
    predictor: int
    reverse: bool
    tile: tuple[int, int]
    tiled: bool
    pieces: tuple[tuple[int, int], ...]
    extra: tuple[int, ...]
    order: str


@dataclass(frozen=True)
class File:
    """The directories of a file.

    Attributes:
        data: its bytes.
        order: byte order.
        big: whether it is BigTIFF.
        pages: those that follow each other.
        inner: those that tags point at (SubIFDs).
    """

    data: bytes
    order: str
    big: bool
    pages: tuple[Page, ...]
    inner: tuple[Page, ...]

    @classmethod
    def parse(cls, data: bytes) -> File:
        """Find the directories.

        Raises:
            ValueError: if there is none.
        """
        order = "<" if data[:2] == b"II" else ">"
        big = data[2:4] in (b"+\0", b"\0+")
        try:
            (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        except struct.error:
            raise ValueError("it is cut short") from None
        pages: list[Page] = []
        inner: list[Page] = []
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < 1000:
            seen.add(offset)
            try:
                found, following = ifd.places(data, offset, order, big)
            except ValueError:
                if not pages:
                    raise
                break
            tags = {tag: place.entry for tag, place in found.items()}
            pages.append(Page(offset, tags))
            for below in numbers(tags.get(SUB_IFDS), order)[:64]:
                if below in seen:
                    continue
                seen.add(below)
                try:
                    inside, _ = ifd.places(data, below, order, big)
                except ValueError:
                    continue
                inner.append(Page(below, {tag: place.entry for tag, place in inside.items()}))
            offset = following
        if not pages:
            raise ValueError("it has no directory")
        return cls(data, order, big, tuple(pages), tuple(inner))

    def value(self, page: Page, tag: int, default: int = 0) -> int:
        """The first number of a tag."""
        return ifd.integer(page.tags.get(tag), self.order, default)

    @property
    def raw(self) -> bool:
        """Whether it is a camera's raw file: its pictures are previews, or no pictures yet."""
        pages = (*self.pages, *self.inner)
        mosaic = any(self.value(page, _PHOTOMETRIC, -1) in _RAW_PHOTOMETRIC for page in pages)
        return mosaic or DNG_VERSION in self.pages[0].tags or self.data[8:10] == b"CR"

    @property
    def main(self) -> Page:
        """The first page that is no reduced copy of another, nor a mask."""
        usable = [page for page in (*self.pages, *self.inner) if _WIDTH in page.tags]
        if not usable:
            raise ValueError("it has no picture")
        whole = [page for page in usable if not self.value(page, _TYPE) & 5 and self.value(page, 255) != 2]
        return (whole or usable)[0]

    @property
    def others(self) -> int:
        """How many further pictures there are, reduced copies not counted."""
        return sum(not self.value(page, _TYPE) & 1 and _WIDTH in page.tags for page in self.pages) - 1


def numbers(entry: Entry | None, order: str) -> list[int]:
    """All values of a whole-number tag."""
    kinds = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
    if entry is None or entry.kind not in kinds:
        return []
    return [int(each) for each in np.frombuffer(entry.raw, order + kinds[entry.kind])]


def sheet(file: File, page: Page) -> Sheet:
    """Read what the tags say.

    Raises:
        ValueError: if they contradict each other, or say what nobody knows.
    """
    order, tags = file.order, page.tags
    width, height = file.value(page, _WIDTH), file.value(page, _LENGTH)
    samples = file.value(page, _SAMPLES, 1)
    bits = numbers(tags.get(_BITS), order) or [1]
    if len(set(bits[:samples])) != 1:
        raise ValueError(f"its channels have different depths, {bits[:samples]} bits")
    kinds = numbers(tags.get(_FORMAT), order) or [1]
    number = {1: "uint", 2: "int", 3: "float", 4: "uint"}.get(kinds[0], "other")
    if len(set(kinds[:samples])) != 1 or number == "other":
        raise ValueError("its values are of a kind that no picture has (complex or mixed)")
    tiled = _TILE_WIDTH in tags
    if tiled:
        tile = file.value(page, _TILE_WIDTH), file.value(page, _TILE_LENGTH)
        offsets, counts = numbers(tags.get(_TILE_OFFSETS), order), numbers(tags.get(_TILE_COUNTS), order)
        # Some writers use the tags of strips.
        offsets = offsets or numbers(tags.get(_OFFSETS), order)
        counts = counts or numbers(tags.get(_COUNTS), order)
    else:
        tile = width, min(file.value(page, _ROWS, height) or height, height)
        offsets, counts = numbers(tags.get(_OFFSETS), order), numbers(tags.get(_COUNTS), order)
    if not counts and len(offsets) == 1:
        counts = [len(file.data) - offsets[0]]
    if width < 1 or height < 1 or samples < 1 or 0 in tile or not offsets or len(offsets) != len(counts):
        raise ValueError("its tags contradict each other")
    photometric = file.value(page, _PHOTOMETRIC, 1)
    return Sheet(
        width=width,
        height=height,
        bits=bits[0],
        samples=samples,
        number=number,
        photometric=photometric,
        planar=file.value(page, _PLANAR, 1) == 2 and samples > 1,
        compression=file.value(page, _COMPRESSION, 1),
        predictor=file.value(page, _PREDICTOR, 1),
        reverse=file.value(page, _FILL, 1) == 2,
        tile=tile,
        tiled=tiled,
        pieces=tuple(zip(offsets, counts, strict=True)),
        extra=_extra(photometric, samples, numbers(tags.get(_EXTRA), order)),
        order=order,
    )


def _extra(photometric: int, samples: int, said: list[int]) -> tuple[int, ...]:
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
    count = max(samples - colours, 0)
    if not said and count == 1 and photometric in (0, 1, 2):
        # OpenCV and others do not say that their fourth channel is alpha.
        return (2,)
    return tuple((said + [0] * count)[:count])


# -- values ------------------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """Decoded values.

    Attributes:
        values: (H, W, 1, 3 or, for CMYK, 4), uint8, uint16 or floating point.
        alpha: (H, W) or None.
        extra: (H, W, n) or None.
        premultiplied: whether the file's colours were multiplied by alpha; they are not any more.
        notes: what was lost.
    """

    values: Values
    alpha: Values | None
    extra: Values | None
    premultiplied: bool
    notes: tuple[str, ...]


def by_library(found: Sheet) -> bool:
    """Whether a whole picture is decoded by libtiff.

    Raises:
        ValueError: if nobody can decode it; what is missing is named.
    """
    if found.compression in _BYTES and found.photometric not in _WHOLE_PHOTOMETRIC:
        return False
    if found.compression not in _BYTES and found.compression not in _WHOLE:
        name = _NAMES.get(found.compression, f"number {found.compression}")
        raise ValueError(f"its compression ({name}) is not known here: save it uncompressed, or with LZW or Deflate")
    if found.bits not in (1, 8) or found.number != "uint":
        model = _WHOLE_PHOTOMETRIC.get(found.photometric) or _WHOLE[found.compression]
        raise ValueError(f"{model} of {found.bits} bits is not known here: save it as RGB, with LZW or Deflate")
    return True


def opened(file: File, page: Page) -> Image.Image:
    """A page for Pillow, which turns pictures only in some cases: here in none."""
    data = bytearray(file.data)
    places, _ = ifd.places(file.data, page.offset, file.order, file.big)
    if ifd.ORIENTATION in places:
        place = places[ifd.ORIENTATION]
        data[place.value : place.value + 2] = struct.pack(file.order + "H", 1)
    struct.pack_into(file.order + ("Q" if file.big else "I"), data, 8 if file.big else 4, page.offset)
    return Image.open(BytesIO(data), formats=("TIFF",))


def layers(file: File, page: Page, found: Sheet) -> Layers:
    """Decode a page whose compression packs bytes alone.

    Raises:
        ValueError: if it is damaged, cut short, or holds what is no picture; the sentence's end.
    """
    if found.number == "int":
        raise ValueError(f"it holds whole numbers with a sign ({found.bits} bits), which no photograph has")
    if found.photometric not in (0, 1, 2, 3, 5):
        raise ValueError(f"its colour model (number {found.photometric}) is not known here: save it as RGB")
    if found.photometric == 5 and file.value(page, _INK, 1) != 1:
        raise ValueError("its inks are others than CMYK: save it as RGB")
    stored = _stored(found, file.data)
    count = {2: 3, 5: 4}.get(found.photometric, 1)
    if stored.shape[2] < count:
        raise ValueError("its tags contradict each other")
    values, rest = stored[..., :count], stored[..., count:]
    notes: tuple[str, ...] = ()
    if found.number == "float":
        if found.photometric in (3, 5):
            raise ValueError("its tags contradict each other")
        if found.bits == 64:
            notes = ("Its 64-bit values are kept as 32-bit ones.",)
        if found.photometric == 0:
            values = 1 - values
    elif found.photometric == 3:
        values = _coloured(values[..., 0], numbers(page.tags.get(_COLOURS), found.order), found.bits)
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
            notes += ("Colours that were brighter than its premultiplied alpha allows were cut off.",)
    return Layers(values, alpha, extra, premultiplied, notes)


def divided(values: Values, alpha: Values) -> tuple[Values, bool]:
    """Colours that were multiplied by alpha, as they are without it, and whether some were greater than alpha.

    Rounding loses nothing: multiplied and rounded again they are the same numbers.
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
    """What :func:`divided` undoes."""
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
    """Look colours up; in 8 bits where the palette says no more than that."""
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


def _stored(found: Sheet, data: bytes) -> Values:
    """All samples as they are stored, (H, W, samples)."""
    kind = _type(found)
    wide, tall = found.tile
    down, across = -(-found.height // tall), -(-found.width // wide)
    planes = found.samples if found.planar else 1
    per = 1 if found.planar else found.samples
    row = -(-wide * per * found.bits // 8)
    if len(found.pieces) < planes * down * across:
        raise ValueError("it is cut short")
    out = np.empty((found.height, found.width, found.samples), kind)
    for plane in range(planes):
        target = out[..., plane : plane + 1] if found.planar else out
        for place in range(down * across):
            top, left = place // across * tall, place % across * wide
            rows = tall if found.tiled else min(tall, found.height - top)
            offset, length = found.pieces[plane * down * across + place]
            raw = _unpacked(data[offset : offset + length], found, row, rows)
            if len(raw) < row * rows:
                raise ValueError("it is cut short")
            block = _samples(raw, found, rows, row, wide, per)
            high, long = min(rows, found.height - top), min(wide, found.width - left)
            target[top : top + high, left : left + long] = block[:high, :long]
    return out


def _type(found: Sheet) -> np.dtype[Any]:
    if found.number == "float":
        if found.bits not in (16, 32, 64):
            raise ValueError(f"its floating-point values of {found.bits} bits are not known here")
        return np.dtype(f"f{found.bits // 8}")
    if found.bits > 16 and found.bits != 32:
        raise ValueError(f"its values of {found.bits} bits are not known here: save it with 16 bits")
    return np.dtype(np.uint8 if found.bits <= 8 else np.uint16 if found.bits <= 16 else np.uint32)


def _unpacked(raw: bytes, found: Sheet, row: int, rows: int) -> bytes:
    name = _BYTES[found.compression]
    if name in ("none", "Deflate", "LZMA") and found.reverse:
        raw = raw.translate(_REVERSED)
    try:
        match name:
            case "none":
                return raw
            case "Deflate":
                return zlib.decompressobj().decompress(raw, row * rows)
            case "LZMA":
                return lzma.LZMADecompressor().decompress(raw, row * rows)
            case _:
                return _by_libtiff(raw, found, row, rows)
    except (zlib.error, lzma.LZMAError, OSError, SyntaxError):
        raise ValueError("it is damaged or cut short") from None


def _by_libtiff(raw: bytes, found: Sheet, row: int, rows: int) -> bytes:
    """Let libtiff unpack a strip or tile, told to it as a grey picture whose pixels are the bytes."""
    order = found.order
    lead = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)

    def whole(tag: int, value: int) -> Entry:
        return ifd.whole(tag, value, order, 4)

    tags = [whole(_WIDTH, row), whole(_LENGTH, rows), whole(_ROWS, rows), whole(_COUNTS, len(raw))]
    tags += [ifd.whole(_BITS, 8, order), ifd.whole(_COMPRESSION, found.compression, order)]
    tags += [ifd.whole(_PHOTOMETRIC, 1, order), ifd.whole(_SAMPLES, 1, order)]
    tags += [ifd.whole(_FILL, 2 if found.reverse else 1, order), whole(_OFFSETS, 0)]
    place = 8 + len(ifd.directory_bytes(tags, 8, order))
    tags[-1] = whole(_OFFSETS, place)
    with Image.open(BytesIO(lead + ifd.directory_bytes(tags, 8, order) + raw), formats=("TIFF",)) as image:
        return image.tobytes()


def _samples(raw: bytes, found: Sheet, rows: int, row: int, wide: int, per: int) -> Values:
    """Bytes of a strip or tile as samples (rows, wide, per)."""
    if found.predictor == 3 and found.number == "float":
        size = found.bits // 8
        data = np.frombuffer(raw, np.uint8, rows * row).reshape(rows, -1, per).cumsum(axis=1, dtype=np.uint8)
        planes = data.reshape(rows, size, -1)  # of each value first all highest bytes
        return np.ascontiguousarray(planes.swapaxes(1, 2)).view(f">f{size}").reshape(rows, wide, per)
    if found.predictor not in (1, 2):
        raise ValueError(f"its predictor (number {found.predictor}) is not known here")
    if found.bits in (8, 16, 32, 64):
        form = "f" if found.number == "float" else "u"
        block = np.frombuffer(raw, f"{found.order}{form}{found.bits // 8}", rows * wide * per).reshape(rows, wide, per)
        if found.predictor == 2:
            whole = block.view(f"{found.order}u{found.bits // 8}")
            summed = whole.cumsum(axis=1, dtype=f"u{found.bits // 8}")
            return summed.view(f"f{found.bits // 8}") if form == "f" else summed
        return block
    if found.predictor == 2:
        raise ValueError(f"it stores differences of {found.bits} bits, which nobody does")
    return _bits(raw, rows, row, wide * per, found.bits).reshape(rows, wide, per)


def _bits(raw: bytes, rows: int, row: int, count: int, bits: int) -> Values:
    """Numbers of any few bits, packed without gaps; rows begin at whole bytes."""
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


# -- what stands beside ------------------------------------------------------------------------------------------------


def resolution(file: File, page: Page) -> tuple[float, float] | None:
    """Dots per inch; None if it says none, or in no unit."""
    unit = {2: 1.0, 3: 2.54}.get(file.value(page, _UNIT, 2))
    found = []
    for tag in (_X, _Y):
        entry = page.tags.get(tag)
        if entry is None or entry.kind != 5:
            return None
        above, below = struct.unpack(file.order + "II", entry.raw[:8])
        found.append(above / below if below else 0.0)
    if unit is None or min(found) <= 0:
        return None
    return found[0] * unit, found[1] * unit


def exif(file: File, page: Page) -> bytes | None:
    """What the tags say of exposure, place and description, as an EXIF block."""
    _, exposure, gps, interop = ifd.inner(file.data, page.tags, file.order, file.big)
    described = {tag: entry for tag, entry in page.tags.items() if tag in DESCRIPTIVE}
    if (entry := described.get(270)) is not None and entry.raw.startswith(b'{"shape"'):
        # tifffile's note on its arrays, which a changed picture contradicts.
        del described[270]
    groups = []
    for group in (described, exposure, gps, interop):
        groups.append({tag: ifd.reordered(entry, file.order, "<") for tag, entry in group.items() if entry.kind < 13})
    found = ifd.Exif("<", *groups)
    return found.to_bytes() if found else None


def further(file: File, page: Page) -> tuple[Entry, ...]:
    """All other tags that do not say how the values lie, little-endian."""
    told = STRUCTURE | DESCRIPTIVE
    return tuple(ifd.reordered(entry, file.order, "<") for tag, entry in page.tags.items() if tag not in told)
