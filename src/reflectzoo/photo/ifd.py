"""Lossless reading and writing of TIFF directories, the structure of TIFF files and of EXIF data.

An EXIF block is a small TIFF file. Values are kept as raw bytes in the block's byte order, so that nothing is guessed,
rounded or renamed; only the few tags that a rotated picture would contradict are changed.

TIFF 6.0 (Adobe 1992), section 2; BigTIFF; EXIF 2.32 (CIPA DC-008), section 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
ORIENTATION, MAKER_NOTE = 0x0112, 0x927C
_WIDTH, _HEIGHT, _EXIF_WIDTH, _EXIF_HEIGHT = 0x0100, 0x0101, 0xA002, 0xA003
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x0201, 0x0202

#: Bytes per value, by TIFF type number.
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_ENTRIES = 4096


class Entry(NamedTuple):
    """One directory entry.

    Attributes:
        tag: the tag's number.
        kind: TIFF type number, a key of :data:`TYPE_SIZES`.
        number: how many values there are.
        raw: the values, in the byte order of their block.
    """

    tag: int
    kind: int
    number: int
    raw: bytes


class TagPlace(NamedTuple):
    """A directory entry and its position in the block.

    Attributes:
        entry: the entry.
        at: offset of its 12 bytes (20 in BigTIFF).
        value: offset of its values.
    """

    entry: Entry
    at: int
    value: int


Directory = dict[int, Entry]


def byte_order(block: bytes) -> str:
    """The byte order, ``<`` or ``>`` as in :mod:`struct`.

    Raises:
        ValueError: if this is not a TIFF structure.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        raise ValueError("no TIFF structure")
    return order


def read_directory(data: bytes, offset: int, order: str, big: bool = False) -> tuple[dict[int, TagPlace], int]:
    """The entries of a directory with their positions, and the offset of the next directory (0: none).

    Entries whose values lie outside the data are skipped: some cameras write them, and truncated files contain them.

    Args:
        data: the block or file.
        offset: offset of the directory.
        order: byte order.
        big: whether it is BigTIFF.

    Raises:
        ValueError: if the directory itself lies outside the data or is damaged.
    """
    head, size, inline = ("Q", 20, 8) if big else ("H", 12, 4)
    try:
        (number,) = struct.unpack_from(order + head, data, offset)
    except struct.error:
        raise ValueError("a directory lies outside") from None
    start = offset + struct.calcsize(head)
    if number > _MOST_ENTRIES or start + number * size > len(data):
        raise ValueError("a directory is damaged")
    found: dict[int, TagPlace] = {}
    for at in range(start, start + number * size, size):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        length = TYPE_SIZES.get(kind, 0) * count
        value = at + size - inline
        if length > inline:
            (value,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
        if length == 0 or value + length > len(data):
            continue
        found.setdefault(tag, TagPlace(Entry(tag, kind, count, data[value : value + length]), at, value))
    end = start + number * size
    after = data[end : end + inline]
    return found, int.from_bytes(after, "little" if order == "<" else "big")


def integer(entry: Entry | None, order: str, default: int = 0) -> int:
    """The first value of an integer tag; ``default`` if the tag is missing or of another type."""
    if entry is None or entry.kind not in (1, 3, 4, 13, 16, 18):
        return default
    size = TYPE_SIZES[entry.kind]
    return int.from_bytes(entry.raw[:size], "little" if order == "<" else "big")


def integer_entry(tag: int, value: int, order: str, kind: int = 3) -> Entry:
    """An entry with one integer; kind 3 has 16 bits, 4 has 32."""
    return Entry(tag, kind, 1, value.to_bytes(TYPE_SIZES[kind], "little" if order == "<" else "big"))


def reordered(entry: Entry, before: str, after: str) -> Entry:
    """The same values in another byte order; single-byte types (text, UNDEFINED) are unchanged."""
    width = {5: 4, 10: 4}.get(entry.kind, TYPE_SIZES[entry.kind])
    if before == after or width == 1:
        return entry
    raw = b"".join(entry.raw[place : place + width][::-1] for place in range(0, len(entry.raw), width))
    return entry._replace(raw=raw)


def directory_bytes(entries: Iterable[Entry], offset: int, order: str, big: bool = False) -> bytes:
    """Serialise a directory, followed by its values; its link to a next directory is 0.

    Args:
        entries: its entries.
        offset: where the directory will be written.
        order: byte order.
        big: whether the file is a BigTIFF.
    """
    number, each, word = ("Q", 20, "Q") if big else ("H", 12, "I")
    inline = struct.calcsize(word)
    rows = sorted(entries)
    behind = offset + struct.calcsize(number) + each * len(rows) + inline
    head, body = bytearray(struct.pack(order + number, len(rows))), bytearray()
    for tag, kind, count, raw in rows:
        head += struct.pack(order + "HH" + word, tag, kind, count)
        if len(raw) <= inline:
            head += raw.ljust(inline, b"\0")
        else:
            head += struct.pack(order + word, behind + len(body))
            body += raw + b"\0" * (len(raw) % 2)
    return bytes(head + struct.pack(order + word, 0) + body)


@dataclass
class Exif:
    """A parsed EXIF block.

    Attributes:
        order: byte order of all values.
        image: entries of the picture (IFD0), without the pointers to the other directories.
        exif: entries of the exposure (Exif IFD).
        gps: entries of the place (GPS IFD).
        interop: entries of the interoperability IFD.
    """

    order: str = "<"
    image: Directory = field(default_factory=dict)
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    interop: Directory = field(default_factory=dict)

    @classmethod
    def parse(cls, block: bytes) -> Exif:
        """Parse a block; entries and directories that lie outside it are skipped.

        Raises:
            ValueError: if it is not an EXIF block.
        """
        order = byte_order(block)
        image = _plain(block, struct.unpack_from(order + "I", block, 4)[0], order)
        return cls(order, *sub_directories(block, image, order))

    def __bool__(self) -> bool:
        """Whether it has any entry."""
        return bool(self.image or self.exif or self.gps or self.interop)

    def to_bytes(self) -> bytes:
        """Serialise the block."""
        order = self.order
        lead = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
        image, exif = dict(self.image), dict(self.exif)
        # Pointers have a fixed size, so that sizes can be computed before the offsets.
        pointers = {EXIF_IFD: self.exif or self.interop, GPS_IFD: self.gps}
        for tag, inside in pointers.items():
            if inside:
                image[tag] = integer_entry(tag, 0, order, 4)
        if self.interop:
            exif[INTEROP_IFD] = integer_entry(INTEROP_IFD, 0, order, 4)
        place = 8 + len(directory_bytes(image.values(), 0, order))
        tail = b""
        for tag, inside, below in ((EXIF_IFD, exif, self.interop), (GPS_IFD, self.gps, {})):
            if not inside:
                continue
            image[tag] = integer_entry(tag, place, order, 4)
            if below:
                further = place + len(directory_bytes(inside.values(), 0, order))
                inside[INTEROP_IFD] = integer_entry(INTEROP_IFD, further, order, 4)
            piece = directory_bytes(inside.values(), place, order)
            if below:
                piece += directory_bytes(below.values(), place + len(piece), order)
            tail += piece
            place += len(piece)
        return lead + directory_bytes(image.values(), 8, order) + tail


def sub_directories(data: bytes, image: Directory, order: str, big: bool = False) -> tuple[Directory, ...]:
    """``image`` without its pointers, and the directories they point to: EXIF, GPS, interoperability."""
    image = dict(image)
    exif = _pointed(data, image.pop(EXIF_IFD, None), order, big)
    gps = _pointed(data, image.pop(GPS_IFD, None), order, big)
    return image, exif, gps, _pointed(data, exif.pop(INTEROP_IFD, None), order, big)


def _pointed(data: bytes, pointer: Entry | None, order: str, big: bool) -> Directory:
    if pointer is None:
        return {}
    try:
        return _plain(data, integer(pointer, order), order, big)
    except ValueError:
        return {}


def _plain(data: bytes, offset: int, order: str, big: bool = False) -> Directory:
    return {tag: place.entry for tag, place in read_directory(data, offset, order, big)[0].items()}


# -- EXIF blocks edited in place ---------------------------------------------------------------------------------------


def exif_orientation(block: bytes) -> int | None:
    """The orientation in an EXIF block, 1 to 8; None if it has none.

    Raises:
        ValueError: if it is not an EXIF block.
    """
    order = byte_order(block)
    found, _ = read_directory(block, struct.unpack_from(order + "I", block, 4)[0], order)
    value = integer(found[ORIENTATION].entry, order) if ORIENTATION in found else 0
    return value if value in range(1, 9) else None


def upright(block: bytes) -> bytes:
    """The block for a picture that has been rotated upright: orientation 1, sizes swapped to match, no thumbnail.

    No value moves: offsets inside maker notes refer to the block and would otherwise become wrong.

    Raises:
        ValueError: if it is not an EXIF block.
    """
    order = byte_order(block)
    start = struct.unpack_from(order + "I", block, 4)[0]
    image, following = read_directory(block, start, order)
    data = bytearray(block)
    turned = (exif_orientation(block) or 1) >= 5
    if ORIENTATION in image:
        place = image[ORIENTATION]
        one = integer_entry(ORIENTATION, 1, order, place.entry.kind if place.entry.kind in (3, 4) else 3).raw
        data[place.value : place.value + len(one)] = one
    if turned:
        exif = {}
        if EXIF_IFD in image:
            exif = _or_nothing(block, integer(image[EXIF_IFD].entry, order), order)
        for found, across, down in ((image, _WIDTH, _HEIGHT), (exif, _EXIF_WIDTH, _EXIF_HEIGHT)):
            if across in found and down in found:
                # Swap type, count and value of the two entries.
                here, there = found[across].at + 2, found[down].at + 2
                data[here : here + 10], data[there : there + 10] = data[there : there + 10], data[here : here + 10]
    if following:
        thumbnail = _or_nothing(block, following, order)
        if _THUMBNAIL in thumbnail and _THUMBNAIL_LENGTH in thumbnail:
            first = integer(thumbnail[_THUMBNAIL].entry, order)
            last = min(first + integer(thumbnail[_THUMBNAIL_LENGTH].entry, order), len(data))
            data[first:last] = b"" if last == len(data) else bytes(max(last - first, 0))
        number = struct.unpack_from(order + "H", block, start)[0]
        link = start + 2 + 12 * number
        data[link : link + 4] = b"\0\0\0\0"
    return bytes(data)


def _or_nothing(block: bytes, offset: int, order: str) -> dict[int, TagPlace]:
    try:
        return read_directory(block, offset, order)[0]
    except ValueError:
        return {}
