"""BMP files whose 16 or 32 bits per pixel are split by bit masks: Pillow supports only some masks, and no 1-bit alpha.

Windows bitmap headers, versions 3 to 5 (Microsoft, "Bitmap Storage").
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from reflectzoo.photo.model import Values
from reflectzoo.photo.netpbm import scaled

_HEADER = 14
_PLAIN, _FIELDS, _ALPHA_FIELDS = 0, 3, 6
_EMBEDDED = b"DEBM"
_555 = (0x7C00, 0x3E0, 0x1F, 0)


class Header(NamedTuple):
    """The header of a bit-mask BMP.

    Attributes:
        width: columns.
        height: rows.
        upwards: whether the bottom row is stored first.
        bits: bits per pixel, 16 or 32.
        start: offset of the pixels.
        masks: bit masks of red, green, blue and alpha; 0 for a missing channel.
        dpi: dots per inch; None if unspecified.
    """

    width: int
    height: int
    upwards: bool
    bits: int
    start: int
    masks: tuple[int, ...]
    dpi: tuple[float, float] | None


def packed(data: bytes) -> Header | None:
    """Parse the header of a bit-mask BMP; None for any other file (Pillow reads the other kinds of BMP)."""
    if len(data) < _HEADER + 56 or data[:2] != b"BM":
        return None
    start, size = struct.unpack_from("<II", data, 10)
    if size < 40:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, _HEADER + 4)
    if compression == _PLAIN and bits == 16:
        masks: tuple[int, ...] = _555
    elif compression in (_FIELDS, _ALPHA_FIELDS) and bits in (16, 32):
        masks = struct.unpack_from("<4I", data, _HEADER + 40)
        if size < 56 and compression == _FIELDS:
            masks = (*masks[:3], 0)
    else:
        return None
    across, down = struct.unpack_from("<ii", data, _HEADER + 24)
    dpi = (across * 0.0254, down * 0.0254) if across > 0 and down > 0 else None
    return Header(width, abs(height), height > 0, bits, start, masks, dpi)


def read(data: bytes, head: Header) -> tuple[Values, Values | None]:
    """Decode the pixels.

    Returns:
        Values (H, W, 3) and alpha (H, W) or None, upright; uint8, or uint16 if any channel has more than 8 bits.

    Raises:
        ValueError: if the masks are damaged or the file is truncated.
    """
    masks = head.masks if head.masks[3] else head.masks[:3]
    places = [(mask & -mask).bit_length() - 1 for mask in masks]
    tops = [mask >> place if place >= 0 else 0 for mask, place in zip(masks, places, strict=True)]
    if any(top & (top + 1) or not 0 < top < 1 << 16 for top in tops) or head.width < 1:
        raise ValueError("its masks are damaged")
    count = -(-head.width * head.bits // 32) * 32 // head.bits
    if len(data) - head.start < head.height * count * head.bits // 8:
        raise ValueError("it is truncated")
    pixels: Values = np.frombuffer(data, f"<u{head.bits // 8}", head.height * count, head.start)
    pixels = pixels.reshape(head.height, count)[:: -1 if head.upwards else 1, : head.width]
    deep = max(tops) > 255
    layers = []
    for place, top in zip(places, tops, strict=True):
        layer = pixels >> np.uint32(place) & np.uint32(top)
        most = 65535 if deep else 255
        layers.append(scaled((layer.astype(np.uint64) * most + top // 2) // top, most))
    values = np.ascontiguousarray(np.stack(layers[:3], axis=-1))
    return values, layers[3] if len(layers) == 4 else None


def profile(data: bytes) -> bytes | None:
    """The embedded ICC profile, which only version 5 headers can have; None if there is none."""
    if len(data) < _HEADER + 124 or data[:2] != b"BM" or struct.unpack_from("<I", data, _HEADER)[0] < 124:
        return None
    if data[_HEADER + 56 : _HEADER + 60] != _EMBEDDED:
        return None
    place, length = struct.unpack_from("<II", data, _HEADER + 112)
    return data[_HEADER + place : _HEADER + place + length] or None
