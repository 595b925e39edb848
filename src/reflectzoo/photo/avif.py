"""AVIF and HEIC as boxes: what Pillow tells of neither, depth, crop, and how colours are meant.

ISO/IEC 23008-12 (HEIF) and 14496-12; numbers of colours are those of ITU-T H.273, as in PNG's cICP.
"""

from __future__ import annotations

import struct

from reflectzoo.photo.png import Chunk

_HEAD = 65536
"""Properties stand within this many bytes."""
#: Primaries and transfer functions of sRGB, those that look like it, and those that say nothing.
_USUAL_PRIMARIES, _USUAL_TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)


def is_heif(data: bytes) -> bool:
    """Whether these are the bytes of such a file."""
    return data[4:8] == b"ftyp"


def bits(data: bytes) -> int:
    """Bits of an AVIF file's values, 8 where it is none."""
    place = data.find(b"av1C", 0, _HEAD) if is_heif(data) else -1
    if place < 0 or place + 7 > len(data):
        return 8
    flags = data[place + 6]
    return 12 if flags & 0x20 else 10 if flags & 0x40 else 8


def cropped(data: bytes) -> bool:
    """Whether only a part of the picture is to be shown (``clap``)."""
    return is_heif(data) and data.find(b"\0\0\0\x28clap", 0, _HEAD) >= 0


def colours(data: bytes) -> Chunk | None:
    """How values are meant, as a cICP of PNG, whose values are RGB of full range; None where that is as usual."""
    place = data.find(b"colrnclx", 0, _HEAD) if is_heif(data) else -1
    if place < 0 or place + 15 > len(data):
        return None
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    if primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS:
        return None
    return Chunk(b"cICP", bytes((primaries & 255, transfer & 255, 0, 1)))


def with_colours(data: bytes, meant: Chunk) -> bytes:
    """The file with these primaries and this transfer function; the matrix stays that of its own values."""
    place = data.find(b"colrnclx", 0, _HEAD)
    if place < 0:
        raise ValueError("its box of colours is missing")
    return data[: place + 8] + struct.pack(">HH", *meant.body[:2]) + data[place + 12 :]
