"""JPEG 2000 as boxes: depths beyond 8 bits through OpenCV or FFmpeg, and boxes that Pillow neither reads nor writes.

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

_SILENT = 0  # OpenCV's level of logging

MAGIC, CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_XMP = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_EXIF = b"JpgTiffExif->JP2"
_IPTC = bytes.fromhex("33C7A4D2B81D4723A0BAF1A3E097AD38")
#: OpenCV halves a picture five times, whatever its size.
_LEAST_SIDE = 32
#: Numbers of the colour spaces YCbCr (four kinds), CMYK, Lab and e-sYCC (T.801, table M.25).
_CODED = (1, 3, 4, 12, 14, 18, 24)


class Box(NamedTuple):
    """One box.

    Attributes:
        kind: its four letters.
        body: its content.
    """

    kind: bytes
    body: bytes

    def to_bytes(self) -> bytes:
        """With its length."""
        return struct.pack(">I", 8 + len(self.body)) + self.kind + self.body


class BoxContents(NamedTuple):
    """What boxes say beside the picture.

    Attributes:
        bits: of the deepest component.
        components: how many.
        signed: whether values have a sign.
        icc: profile.
        exif: EXIF block.
        xmp: packet.
        iptc: records.
        others: boxes of texts and private data.
        alike: whether all components have that many bits, and are no places in a palette.
        halved: whether some components have fewer pixels than the picture.
        coded: whether they are neither grey nor red, green and blue, but YCbCr or another model.
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
    """The boxes of a file, or within a box."""
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
    """Read the boxes.

    Raises:
        ValueError: if there is no picture.
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


def spread(values: Values, found: BoxContents) -> Values:
    """Values of less than 8 bits, which Pillow shifts, so that white is not white any more, from 0 to 255."""
    if found.bits >= 8 or found.signed or not found.alike:
        return values
    return scaled(values >> (8 - found.bits), 2**found.bits - 1)


def read_deep(data: bytes, found: BoxContents) -> tuple[Values, Values | None] | None:
    """Values and alpha of a picture of more than 8 bits, scaled by its own depth; None if nobody here can."""
    if found.bits > 16 or found.signed or found.halved or found.coded or not found.alike or found.components > 4:
        return None
    deep = _by_ffmpeg(data) if found.components == 2 else _by_opencv(data)
    if deep is None or deep.shape[2] != found.components:
        return None
    layers = scaled(deep, 2**found.bits - 1)
    alpha = np.ascontiguousarray(layers[..., -1]) if found.components in (2, 4) else None
    return np.ascontiguousarray(layers[..., : 1 if found.components < 3 else 3]), alpha


def _by_opencv(data: bytes) -> Values | None:
    """Grey, RGB, or RGB and alpha, as they are stored."""
    # OpenCV 4 has it at its top, OpenCV 5 among its utilities.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    before = set_level(_SILENT)  # it would say what it assumes
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
    """Grey and alpha, as they are stored; with PyAV (extra ``video``)."""
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
    """Whether 16 bits of this size and these channels can be written."""
    return min(values.shape[:2]) >= _LEAST_SIDE and (alpha is None or values.shape[2] == 3)


def write_deep(values: Values, alpha: Values | None) -> bytes:
    """A lossless file of 16 bits.

    Raises:
        ValueError: if OpenCV cannot.
    """
    layers = values if values.shape[2] == 1 else values[..., ::-1]
    if alpha is not None:
        layers = np.concatenate((layers, as_depth(alpha, 16)[..., None]), axis=2)
    done, data = cv2.imencode(".jp2", np.ascontiguousarray(layers), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    if not done:
        raise ValueError("OpenCV has no JPEG 2000")
    return bytes(data)


def with_boxes(data: bytes, found: BoxContents) -> bytes:
    """The file with these boxes before its picture; a profile takes the place of the named colour space."""
    out: list[bytes] = []
    for box in boxes(data):
        if box.kind == b"jp2h" and found.icc:
            inner = [each for each in boxes(box.body) if each.kind != b"colr"]
            # Behind the header and the depths of the components, as the standard wants it.
            place = 1 + sum(each.kind == b"bpcc" for each in inner)
            inner.insert(place, Box(b"colr", b"\2\0\0" + found.icc))
            box = Box(b"jp2h", b"".join(each.to_bytes() for each in inner))
        if box.kind == b"jp2c":
            named = ((_XMP, found.xmp), (_EXIF, found.exif), (_IPTC, found.iptc))
            out += [Box(b"uuid", name + content).to_bytes() for name, content in named if content]
            out += found.others
        out.append(box.to_bytes())
    return b"".join(out)
