"""TIFF directories and the layout of values, taken from the tags alone, without guessing.

Libraries return pictures that are rotated twice, negative or striped for files that are oriented, WhiteIsZero or
planar, and each drops other depths. Here the tags define the values: bit depth and number format, polarity, palette,
planes, strips or tiles, predictor, byte and bit order, kinds of extra samples. libtiff (in Pillow) only decompresses
bytes (LZW, PackBits, Zstandard), and decodes whole 8-bit pictures whose compression includes colour (JPEG, fax, YCbCr).
tifffile writes.

TIFF 6.0 (Adobe 1992); Adobe Photoshop TIFF technical notes (2002) for predictors and Deflate; BigTIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reflectzoo.photo import ifd
from reflectzoo.photo.ifd import Directory, Entry

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICC, XMP, IPTC, PHOTOSHOP, SUB_IFDS, DNG_VERSION = 34675, 700, 33723, 34377, 330, 50706
TYPE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL = 254, 256, 257, 258, 259, 262, 266
OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR, COLOURS = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
INK, EXTRA, FORMAT, JPEG_TABLES = 332, 338, 339, 347
X, Y, UNIT = 282, 283, 296
_RAW_PHOTOMETRIC = (32803, 34892)
#: Tags that describe the layout, or are represented elsewhere; they are not copied but written anew.
STRUCTURE = frozenset(
    {TYPE, 255, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, 263, 264, 265, FILL, OFFSETS, ifd.ORIENTATION}
    | {SAMPLES, ROWS, COUNTS, 280, 281, X, Y, PLANAR, 288, 289, 290, 291, 292, 293, UNIT, PREDICTOR, COLOURS}
    | {321, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS, 326, 327, 328, SUB_IFDS, INK, 333, 334, 336, 337}
    | {EXTRA, FORMAT, 340, 341, 342, *range(512, 522), JPEG_TABLES, 529, 530, 531, 532, ICC, XMP, IPTC, PHOTOSHOP}
    | {ifd.EXIF_IFD, ifd.GPS_IFD, ifd.INTEROP_IFD, 301}
)
#: Descriptive tags that EXIF data also has; they are carried in the EXIF block.
DESCRIPTIVE = frozenset({269, 270, 271, 272, 305, 306, 315, 316, 33432, 18246, 18249})


class Page(NamedTuple):
    """One directory of a file.

    Attributes:
        offset: its position in the file.
        tags: its entries.
    """

    offset: int
    tags: Directory


@dataclass(frozen=True)
class PageLayout:
    """The layout of a page's values, from its tags.

    Attributes:
        width: columns.
        height: rows.
        bits: bits per sample.
        samples: samples per pixel, extra ones included.
        number: ``uint``, ``int`` or ``float``.
        photometric: TIFF number of the colour model.
        planar: whether each sample is stored in a separate plane.
        compression: TIFF number of the compression.
        predictor: 1 none, 2 horizontal differences, 3 floating point.
        reverse: whether the bits of each byte are in reverse order.
        tile: width and height of a piece (strip or tile).
        tiled: whether the pieces are tiles, which are padded at the borders.
        pieces: offset and length in bytes of each piece.
        extra: kinds of the extra samples: 0 unspecified, 1 alpha of premultiplied colours, 2 alpha.
        order: byte order, ``<`` or ``>``.
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
        pages: the linked list of directories.
        inner: the directories that tags point to (SubIFDs).
    """

    data: bytes
    order: str
    big: bool
    pages: tuple[Page, ...]
    inner: tuple[Page, ...]

    @classmethod
    def parse(cls, data: bytes) -> File:
        """Find the directories; stops at the first damaged one and skips damaged SubIFDs.

        Raises:
            ValueError: if there is no readable directory.
        """
        order = "<" if data[:2] == b"II" else ">"
        big = data[2:4] in (b"+\0", b"\0+")
        try:
            (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        except struct.error:
            raise ValueError("it is truncated") from None
        pages: list[Page] = []
        inner: list[Page] = []
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < 1000:
            seen.add(offset)
            try:
                found, following = ifd.read_directory(data, offset, order, big)
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
                    inside, _ = ifd.read_directory(data, below, order, big)
                except ValueError:
                    continue
                inner.append(Page(below, {tag: place.entry for tag, place in inside.items()}))
            offset = following
        if not pages:
            raise ValueError("it has no directory")
        return cls(data, order, big, tuple(pages), tuple(inner))

    def value(self, page: Page, tag: int, default: int = 0) -> int:
        """The first value of an integer tag; ``default`` if it is missing."""
        return ifd.integer(page.tags.get(tag), self.order, default)

    @property
    def raw(self) -> bool:
        """Whether it is a camera raw file, whose pictures are previews or undeveloped sensor data."""
        pages = (*self.pages, *self.inner)
        mosaic = any(self.value(page, PHOTOMETRIC, -1) in _RAW_PHOTOMETRIC for page in pages)
        return mosaic or DNG_VERSION in self.pages[0].tags or self.data[8:10] == b"CR"

    @property
    def main(self) -> Page:
        """The first page that is neither a reduced copy nor a mask; the first with a picture if all are.

        Raises:
            ValueError: if no page has a picture.
        """
        usable = [page for page in (*self.pages, *self.inner) if WIDTH in page.tags]
        if not usable:
            raise ValueError("it has no picture")
        whole = [page for page in usable if not self.value(page, TYPE) & 5 and self.value(page, 255) != 2]
        return (whole or usable)[0]

    @property
    def others(self) -> int:
        """Number of further pictures among the pages, without reduced copies."""
        return sum(not self.value(page, TYPE) & 1 and WIDTH in page.tags for page in self.pages) - 1


def numbers(entry: Entry | None, order: str) -> list[int]:
    """All values of an unsigned integer tag; empty if it is missing or of another type."""
    kinds = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
    if entry is None or entry.kind not in kinds:
        return []
    return [int(each) for each in np.frombuffer(entry.raw, order + kinds[entry.kind])]


def read_sheet(file: File, page: Page) -> PageLayout:
    """Read the layout of a page's values from its tags.

    Raises:
        ValueError: if the tags contradict each other or describe an unsupported kind of value.
    """
    order, tags = file.order, page.tags
    width, height = file.value(page, WIDTH), file.value(page, LENGTH)
    samples = file.value(page, SAMPLES, 1)
    bits = numbers(tags.get(BITS), order) or [1]
    if len(set(bits[:samples])) != 1:
        raise ValueError(f"its channels have different depths, {bits[:samples]} bits")
    kinds = numbers(tags.get(FORMAT), order) or [1]
    number = {1: "uint", 2: "int", 3: "float", 4: "uint"}.get(kinds[0], "other")
    photometric = file.value(page, PHOTOMETRIC, 1)
    # Some Lab files declare a and b as signed, which they always are.
    if (len(set(kinds[:samples])) != 1 and photometric != 8) or number == "other":
        raise ValueError("its values are of a kind that no picture has (complex or mixed)")
    tiled = TILE_WIDTH in tags
    if tiled:
        tile = file.value(page, TILE_WIDTH), file.value(page, TILE_LENGTH)
        offsets, counts = numbers(tags.get(TILE_OFFSETS), order), numbers(tags.get(TILE_COUNTS), order)
        # Some writers use the strip tags for tiles.
        offsets = offsets or numbers(tags.get(OFFSETS), order)
        counts = counts or numbers(tags.get(COUNTS), order)
    else:
        tile = width, min(file.value(page, ROWS, height) or height, height)
        offsets, counts = numbers(tags.get(OFFSETS), order), numbers(tags.get(COUNTS), order)
    if not counts and len(offsets) == 1:
        counts = [len(file.data) - offsets[0]]
    if width < 1 or height < 1 or samples < 1 or 0 in tile or not offsets or len(offsets) != len(counts):
        raise ValueError("its tags contradict each other")
    return PageLayout(
        width=width,
        height=height,
        bits=bits[0],
        samples=samples,
        number=number,
        photometric=photometric,
        planar=file.value(page, PLANAR, 1) == 2 and samples > 1,
        compression=file.value(page, COMPRESSION, 1),
        predictor=file.value(page, PREDICTOR, 1),
        reverse=file.value(page, FILL, 1) == 2,
        tile=tile,
        tiled=tiled,
        pieces=tuple(zip(offsets, counts, strict=True)),
        extra=_extra(photometric, samples, numbers(tags.get(EXTRA), order)),
        order=order,
    )


def _extra(photometric: int, samples: int, said: list[int]) -> tuple[int, ...]:
    colours = {2: 3, 5: 4, 6: 3, 8: 3, 9: 3}.get(photometric, 1)
    count = max(samples - colours, 0)
    if not said and count == 1 and photometric in (0, 1, 2):
        # OpenCV and others do not declare their last channel as alpha.
        return (2,)
    return tuple((said + [0] * count)[:count])


# -- metadata ----------------------------------------------------------------------------------------------------------


def resolution(file: File, page: Page) -> tuple[float, float] | None:
    """Dots per inch; None if the resolution is missing or has no unit."""
    unit = {2: 1.0, 3: 2.54}.get(file.value(page, UNIT, 2))
    found = []
    for tag in (X, Y):
        entry = page.tags.get(tag)
        if entry is None or entry.kind != 5:
            return None
        above, below = struct.unpack(file.order + "II", entry.raw[:8])
        found.append(above / below if below else 0.0)
    if unit is None or min(found) <= 0:
        return None
    return found[0] * unit, found[1] * unit


def exif(file: File, page: Page) -> bytes | None:
    """Exposure, place and description from the tags, as an EXIF block; None if there are none."""
    _, exposure, gps, interop = ifd.sub_directories(file.data, page.tags, file.order, file.big)
    described = {tag: entry for tag, entry in page.tags.items() if tag in DESCRIPTIVE}
    if (entry := described.get(270)) is not None and entry.raw.startswith(b'{"shape"'):
        # The array shape recorded by tifffile, which would no longer be true.
        del described[270]
    groups = []
    for group in (described, exposure, gps, interop):
        groups.append({tag: ifd.reordered(entry, file.order, "<") for tag, entry in group.items() if entry.kind < 13})
    found = ifd.Exif("<", *groups)
    return found.to_bytes() if found else None


def further(file: File, page: Page) -> tuple[Entry, ...]:
    """All other tags (neither layout nor description), converted to little-endian."""
    told = STRUCTURE | DESCRIPTIVE
    return tuple(ifd.reordered(entry, file.order, "<") for tag, entry in page.tags.items() if tag not in told)
