"""AVIF and HEIC boxes that Pillow does not expose: bit depth, crop, colour primaries and transfer function.

ISO/IEC 23008-12 (HEIF) and 14496-12; colours are code points of ITU-T H.273, as in PNG's cICP.
"""

from __future__ import annotations

import struct

from reflectzoo.photo.png import Chunk

_HEAD = 65536
"""Number of leading bytes in which property boxes are searched for."""
#: Primaries and transfer functions of sRGB, those that look like it, and "unspecified".
_USUAL_PRIMARIES, _USUAL_TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)


def is_heif(data: bytes) -> bool:
    """Whether these bytes are a HEIF file (AVIF or HEIC)."""
    return data[4:8] == b"ftyp"


def bits(data: bytes) -> int:
    """Bit depth of an AVIF file: 8, 10 or 12; 8 for any other file."""
    place = data.find(b"av1C", 0, _HEAD) if is_heif(data) else -1
    if place < 0 or place + 7 > len(data):
        return 8
    flags = data[place + 6]
    return 12 if flags & 0x20 else 10 if flags & 0x40 else 8


def cropped(data: bytes) -> bool:
    """Whether the file asks viewers to crop the picture (``clap``)."""
    return is_heif(data) and data.find(b"\0\0\0\x28clap", 0, _HEAD) >= 0


def colours(data: bytes) -> Chunk | None:
    """Colour primaries and transfer function as a PNG cICP chunk (full-range RGB).

    Returns:
        None if the file has no such box, or if the colours are those of sRGB or look like it.
    """
    place = data.find(b"colrnclx", 0, _HEAD) if is_heif(data) else -1
    if place < 0 or place + 15 > len(data):
        return None
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    if primaries in _USUAL_PRIMARIES and transfer in _USUAL_TRANSFERS:
        return None
    return Chunk(b"cICP", bytes((primaries & 255, transfer & 255, 0, 1)))


def with_colours(data: bytes, meant: Chunk) -> bytes:
    """The file with the primaries and transfer function of a cICP chunk; its matrix coefficients stay as they are.

    Raises:
        ValueError: if the file has no ``nclx`` box.
    """
    place = data.find(b"colrnclx", 0, _HEAD)
    if place < 0:
        raise ValueError("its box of colours is missing")
    return data[: place + 8] + struct.pack(">HH", *meant.body[:2]) + data[place + 12 :]
