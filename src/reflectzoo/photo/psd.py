"""Photoshop documents: the merged picture of all layers, which Photoshop stores after them.

If the layers leave parts transparent, the merged picture is composited over white and its first extra channel is alpha;
otherwise an extra channel is a saved selection. Adobe, "Photoshop File Formats Specification" (2019).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from reflectzoo.photo.model import Values
from reflectzoo.photo.tiff_values import unpacked_by_libtiff

MAGIC = b"8BPS\0\1"
_CHANNELS = {1: 1, 3: 3}
"""Number of colour channels by colour mode, for grey and RGB; Pillow reads the other modes."""
_RAW, _PACKBITS = 0, 1
_ICC, _EXIF, _XMP, _IPTC, _DPI, _VERSION = 1039, 1058, 1060, 1028, 1005, 1057
_LAYERS, _TRANSPARENT = (b"8BIMLr16", b"8BIMLayr"), (b"8BIMMt16", b"8BIMMtrn")


class Document(NamedTuple):
    """Header and resources of a document.

    Attributes:
        width: columns.
        height: rows.
        channels: number of all channels.
        colours: number of colour channels, 1 or 3.
        bits: bits per value, 8 or 16.
        transparent: whether the first extra channel is transparency.
        merged: whether the file contains the merged picture.
        start: offset of the merged picture.
        resources: image resources by number.
    """

    width: int
    height: int
    channels: int
    colours: int
    bits: int
    transparent: bool
    merged: bool
    start: int
    resources: dict[int, bytes]

    @property
    def icc(self) -> bytes | None:
        """The colour profile."""
        return self.resources.get(_ICC)

    @property
    def exif(self) -> bytes | None:
        """EXIF data."""
        return self.resources.get(_EXIF)

    @property
    def xmp(self) -> bytes | None:
        """The XMP packet."""
        return self.resources.get(_XMP)

    @property
    def iptc(self) -> bytes | None:
        """IPTC records."""
        return self.resources.get(_IPTC)

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Dots per inch."""
        body = self.resources.get(_DPI, b"")
        if len(body) < 16:
            return None
        across, _, _, down = struct.unpack(">IHHI", body[:12])
        return across / 65536, down / 65536


def document(data: bytes) -> Document | None:
    """Parse everything before the merged picture; None if the colour mode or depth is not supported here.

    Raises:
        ValueError: if the file is truncated.
    """
    try:
        channels, height, width, bits, mode = struct.unpack_from(">HIIHH", data, 12)
        colours = _CHANNELS.get(mode)
        if colours is None or bits not in (8, 16) or channels < colours:
            return None
        place = 26
        parts = []
        for _ in range(3):  # palette, resources, layers
            (length,) = struct.unpack_from(">I", data, place)
            parts.append(data[place + 4 : place + 4 + length])
            place += 4 + length
    except struct.error:
        raise ValueError("it is truncated") from None
    resources = _resources(parts[1])
    merged = resources.get(_VERSION, b"\0\0\0\1\1")[4:5] != b"\0"
    return Document(width, height, channels, colours, bits, _transparent(parts[2]), merged, place, resources)


def _resources(block: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    place = 0
    while block[place : place + 4] == b"8BIM" and place + 12 <= len(block):
        named = place + 6 + (block[place + 6] // 2 + 1) * 2
        length = int.from_bytes(block[named : named + 4], "big")
        found.setdefault(int.from_bytes(block[place + 4 : place + 6], "big"), block[named + 4 : named + 4 + length])
        place = named + 4 + length + length % 2
    return found


def _transparent(layers: bytes) -> bool:
    """Whether the merged picture has alpha, marked by a negative number of layers (in its own block for 16 bits)."""
    length = int.from_bytes(layers[:4], "big")
    if length:
        return bool(layers[4] & 128)
    if any(key in layers for key in _TRANSPARENT):
        return True
    place = max(layers.find(key) for key in _LAYERS)
    return place >= 0 and len(layers) > place + 12 and bool(layers[place + 12] & 128)


def read(data: bytes, found: Document) -> tuple[Values, Values | None, Values | None]:
    """Decode the merged picture.

    Returns:
        Values (H, W, 1 or 3), alpha (H, W) or None, and extra channels (H, W, n) or None; uint8 or uint16.

    Raises:
        ValueError: if the file is truncated or its compression is not supported.
    """
    size = found.bits // 8
    row, rows = found.width * size, found.height * found.channels
    (packing,) = struct.unpack_from(">H", data.ljust(found.start + 2, b"\0"), found.start)
    if packing == _RAW:
        raw = data[found.start + 2 : found.start + 2 + row * rows]
    elif packing == _PACKBITS:
        raw = unpacked_by_libtiff(data[found.start + 2 + 2 * rows :], 32773, row, rows)
    else:
        raise ValueError(f"its compression (number {packing}) is not supported")
    if len(raw) < row * rows:
        raise ValueError("it is truncated")
    planes = np.frombuffer(raw, f">u{size}").reshape(found.channels, found.height, found.width)
    layers = np.ascontiguousarray(planes.transpose(1, 2, 0), f"u{size}")
    values, rest = np.ascontiguousarray(layers[..., : found.colours]), layers[..., found.colours :]
    if not found.transparent or not rest.shape[2]:
        return values, None, np.ascontiguousarray(rest) if rest.shape[2] else None
    alpha = np.ascontiguousarray(rest[..., 0])
    extra = np.ascontiguousarray(rest[..., 1:]) if rest.shape[2] > 1 else None
    return _off_white(values, alpha), alpha, extra


def _off_white(values: Values, alpha: Values) -> Values:
    """Undo the compositing over white."""
    top = np.iinfo(values.dtype).max
    out = np.empty_like(values)
    step = max(2**22 // max(values[:1].size, 1), 1)
    for first in range(0, values.shape[0], step):
        rows = slice(first, first + step)
        share = alpha[rows, :, None].astype(np.int64)
        over = (values[rows].astype(np.int64) - (top - share)) * top
        out[rows] = np.clip((over + share // 2) // np.maximum(share, 1), 0, top) * (share > 0)
    return out
