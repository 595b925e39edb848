"""JPEG 2000: more than 8 bits through OpenCV or FFmpeg, and metadata boxes that Pillow neither reads nor writes.

ITU-T T.800 (JPEG 2000), annex I.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import cv2
import numpy as np

from reflectzoo.photo.model import Values, as_depth
from reflectzoo.photo.netpbm import scaled

_SILENT = 0  # log level of OpenCV

MAGIC, CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_XMP = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_EXIF = b"JpgTiffExif->JP2"
_IPTC = bytes.fromhex("33C7A4D2B81D4723A0BAF1A3E097AD38")
#: Shortest side that OpenCV can encode, as it always applies five levels of wavelet decomposition.
_LEAST_SIDE = 32
#: Enumerated colour spaces YCbCr (four kinds), CMYK, Lab and e-sYCC (T.801, table M.25).
_CODED = (1, 3, 4, 12, 14, 18, 24)


class Box(NamedTuple):
    """One box.

    Attributes:
        kind: its four-letter type.
        body: its content.
    """

    kind: bytes
    body: bytes

    def to_bytes(self) -> bytes:
        """Serialise the box, length included."""
        return struct.pack(">I", 8 + len(self.body)) + self.kind + self.body


class BoxContents(NamedTuple):
    """The header and metadata of a file.

    Attributes:
        bits: bits of the deepest component.
        components: number of components.
        signed: whether any component is signed.
        icc: the colour profile.
        exif: the EXIF block.
        xmp: the XMP packet.
        iptc: IPTC records.
        others: serialised boxes of text and private data.
        alike: whether all components have the same depth and the file has no palette.
        halved: whether components differ in size (subsampling).
        coded: whether the colour model is neither grey nor RGB, but YCbCr or another one.
    """

    bits: int
    components: int
    signed: bool
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    others: tuple[bytes, ...] = ()
    alike: bool = True
    halved: bool = False
    coded: bool = False


def boxes(data: bytes) -> Iterator[Box]:
    """Iterate over the boxes of a file or inside a box; stops at a damaged length."""
    place = 0
    while place + 8 <= len(data):
        length, head = int.from_bytes(data[place : place + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        elif length == 0:
            length = len(data) - place
        if length < head:
            return
        yield Box(data[place + 4 : place + 8], data[place + head : place + length])
        place += length


def read_boxes(data: bytes) -> BoxContents:
    """Read header and metadata.

    Raises:
        ValueError: if the file has no codestream, or is truncated in its header.
    """
    stream = data.find(CODESTREAM)
    if stream < 0 or len(data) < stream + 42:
        raise ValueError("it holds no picture")
    (components,) = struct.unpack_from(">H", data, stream + 40)
    said = data[stream + 42 : stream + 42 + 3 * components]
    depths = said[::3]
    if not depths:
        raise ValueError("it is truncated")
    found: dict[str, bytes] = {}
    others: list[bytes] = []
    coded = False
    for box in boxes(data) if data.startswith(MAGIC) else ():
        if box.kind == b"jp2h":
            for inner in boxes(box.body):
                if inner.kind == b"colr" and inner.body[:1] == b"\2":
                    found["icc"] = inner.body[3:]
                elif inner.kind == b"colr" and inner.body[:1] == b"\1":
                    coded = int.from_bytes(inner.body[3:7], "big") in _CODED
        elif box.kind == b"uuid":
            name = {_XMP: "xmp", _EXIF: "exif", _IPTC: "iptc"}.get(box.body[:16])
            if name is None:
                others.append(box.to_bytes())
            else:
                found[name] = box.body[16:]
        elif box.kind in (b"xml ", b"uinf"):
            others.append(box.to_bytes())
    bits = max((each & 127) + 1 for each in depths)
    alike = len(set(depths)) == 1 and b"pclr" not in data[:stream]
    signed = any(each & 128 for each in depths)
    halved = len({said[place + 1 : place + 3] for place in range(0, len(said), 3)}) > 1
    return BoxContents(bits, components, signed, others=tuple(others), alike=alike, halved=halved, coded=coded, **found)


def rescale_to_8_bits(values: Values, found: BoxContents) -> Values:
    """Rescale values of fewer than 8 bits to 0..255; Pillow only shifts them, which leaves white below 255."""
    if found.bits >= 8 or found.signed or not found.alike:
        return values
    return scaled(values >> (8 - found.bits), 2**found.bits - 1)


def read_deep(data: bytes, found: BoxContents) -> tuple[Values, Values | None] | None:
    """Decode a picture of more than 8 bits.

    Returns:
        Values (H, W, 1 or 3) and alpha (H, W) or None, uint16, scaled from the file's depth to 0..65535. None if no
        installed library can decode this kind of file.
    """
    if found.bits > 16 or found.signed or found.halved or found.coded or not found.alike or found.components > 4:
        return None
    deep = _by_ffmpeg(data) if found.components == 2 else _by_opencv(data)
    if deep is None or deep.shape[2] != found.components:
        return None
    layers = scaled(deep, 2**found.bits - 1)
    alpha = np.ascontiguousarray(layers[..., -1]) if found.components in (2, 4) else None
    return np.ascontiguousarray(layers[..., : 1 if found.components < 3 else 3]), alpha


def _by_opencv(data: bytes) -> Values | None:
    """Decode grey, RGB or RGBA, unscaled; None if OpenCV cannot."""
    # At the top level in OpenCV 4, in a submodule in OpenCV 5.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before = set_level(_SILENT)  # OpenCV logs its assumptions about the file
    try:
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        set_level(before)
    if deep is None or deep.dtype != np.uint16:
        return None
    layers: Values = deep.reshape(*deep.shape[:2], -1)
    return layers if layers.shape[2] == 1 else layers[..., [2, 1, 0, 3][: layers.shape[2]]]


def _by_ffmpeg(data: bytes) -> Values | None:
    """Decode grey with alpha, unscaled; None without PyAV (extra ``video``) or if FFmpeg cannot."""
    if find_spec("av") is None:
        return None
    av = import_module("av")
    context = av.CodecContext.create("jpeg2000", "r")
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.FFmpegError:
        return None
    if len(frames) != 1 or frames[0].format.name != "ya16le":
        return None
    (plane,) = frames[0].planes
    rows: Values = np.frombuffer(plane, "<u2").reshape(frames[0].height, -1)
    return rows[:, : 2 * frames[0].width].reshape(frames[0].height, -1, 2)


def writes_deep(values: Values, alpha: Values | None) -> bool:
    """Whether 16-bit values of this size and with these channels can be written."""
    return min(values.shape[:2]) >= _LEAST_SIDE and (alpha is None or values.shape[2] == 3)


def write_deep(values: Values, alpha: Values | None) -> bytes:
    """Encode a lossless 16-bit file.

    Args:
        values: (H, W, 1 or 3) uint16.
        alpha: (H, W) or None; only with colour.

    Raises:
        ValueError: if OpenCV was built without JPEG 2000.
    """
    layers = values if values.shape[2] == 1 else values[..., ::-1]
    if alpha is not None:
        layers = np.concatenate((layers, as_depth(alpha, 16)[..., None]), axis=2)
    done, data = cv2.imencode(".jp2", np.ascontiguousarray(layers), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    if not done:
        raise ValueError("OpenCV has no JPEG 2000")
    return bytes(data)


def with_boxes(data: bytes, found: BoxContents) -> bytes:
    """Insert metadata boxes before the codestream; a colour profile replaces the enumerated colour space."""
    out: list[bytes] = []
    for box in boxes(data):
        if box.kind == b"jp2h" and found.icc:
            inner = [each for each in boxes(box.body) if each.kind != b"colr"]
            # After the image header and the bit depths of the components, as the standard requires.
            place = 1 + sum(each.kind == b"bpcc" for each in inner)
            inner.insert(place, Box(b"colr", b"\2\0\0" + found.icc))
            box = Box(b"jp2h", b"".join(each.to_bytes() for each in inner))
        if box.kind == b"jp2c":
            named = ((_XMP, found.xmp), (_EXIF, found.exif), (_IPTC, found.iptc))
            out += [Box(b"uuid", name + content).to_bytes() for name, content in named if content]
            out += found.others
        out.append(box.to_bytes())
    return b"".join(out)
