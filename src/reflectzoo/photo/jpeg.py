"""JPEG files as segments: metadata, and whether the picture is complete.

ITU-T T.81 (JPEG), T.871 (JFIF); CIPA DC-007 (multi-picture format); Adobe XMP part 3; Adobe Photoshop file formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
from PIL import JpegImagePlugin

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _COM, _APP0, _DRI = 0xDA, 0xFE, 0xE0, 0xDD
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_MPF = b"MPF\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC_RESOURCE, _THUMBNAILS = 0x0404, (0x0409, 0x040C)
_LARGEST = 65533
#: Substitutes for missing bytes; two kinds, so that pixels that differ between them are those without data.
_FILLERS = (b"\x55" * 64, b"\xaa\x2a" * 32)
_CORRUPT, _PREMATURE = "Corrupt JPEG data: ", "premature end of data segment"
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
#: A truncated file may lack this many blocks of 8 or 16 pixels, and at most this share of all blocks.
_MAY_LACK, _MAY_LACK_SHARE = 8, 0.1


class FrameHeader(NamedTuple):
    """A frame header.

    Attributes:
        precision: bits per value.
        height: rows; 0 if a later DNL segment gives the height.
        width: columns.
        components: identifier, horizontal and vertical sampling factor of each.
        progressive: whether the picture is stored in several scans of increasing quality.
        usual: whether the picture is DCT- and Huffman-coded, as nearly all are.
        known: whether libjpeg reads this kind of frame (DCT, not hierarchical). Lossless frames are excluded, because
            some make those versions of libjpeg that support them read out of bounds.
    """

    precision: int
    height: int
    width: int
    components: tuple[tuple[int, int, int], ...]
    progressive: bool
    usual: bool
    known: bool

    @property
    def block(self) -> tuple[int, int]:
        """Height and width in pixels of a block that is coded as one unit (MCU)."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(each[2] for each in self.components), 8 * max(each[1] for each in self.components)


@dataclass(frozen=True)
class JpegParts:
    """The parts of a file.

    Attributes:
        segments: marker and content of each segment before the first scan.
        frame: the first frame header; None if there is none.
        scans: headers of the scans.
        end: offset just after the end marker; None if the file is truncated.
    """

    segments: tuple[tuple[int, bytes], ...]
    frame: FrameHeader | None
    scans: tuple[bytes, ...]
    end: int | None

    @property
    def near_lossless(self) -> bool:
        """Whether the file is JPEG-LS (T.87), which shares JPEG's markers but not its coding."""
        return any(marker == 0xF7 for marker, _ in self.segments)


@dataclass(frozen=True)
class SegmentContents:
    """The metadata in a file's segments.

    Attributes:
        exif: the EXIF block.
        xmp: the main XMP packet.
        icc: the colour profile.
        iptc: IPTC records.
        photoshop: other Photoshop resources, without thumbnails.
        comments: all comments.
        pictures: number of pictures in the multi-picture index, this one included; 0 without an index.
        gain_map: whether a gain map is declared.
        extended_xmp: size of the extended XMP in bytes.
        others: names of segments that are not carried over.
        rgb: whether the components are stored as RGB rather than YCbCr.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    iptc: bytes | None = None
    photoshop: bytes | None = None
    comments: tuple[bytes, ...] = ()
    pictures: int = 0
    gain_map: bool = False
    extended_xmp: int = 0
    others: tuple[str, ...] = ()
    rgb: bool = False


def parse(data: bytes) -> JpegParts:
    """Find the parts of a file; parsing stops at the first damaged part."""
    segments: list[tuple[int, bytes]] = []
    scans: list[bytes] = []
    frame: FrameHeader | None = None
    place = 2
    while True:
        while data[place : place + 2] == b"\xff\xff":
            place += 1
        if place + 4 > len(data) and data[place : place + 2] != EOI:
            return JpegParts(tuple(segments), frame, tuple(scans), None)
        if data[place] != 0xFF:
            # Garbage between segments: skip to the next marker, as decoders do.
            found = _NEXT_MARKER.search(data, place)
            if found is None:
                return JpegParts(tuple(segments), frame, tuple(scans), None)
            place = found.start()
            continue
        marker = data[place + 1]
        if marker == EOI[1]:
            return JpegParts(tuple(segments), frame, tuple(scans), place + 2)
        if marker in _BARE:
            place += 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + length]
        if marker in _FRAMES and frame is None:
            frame = _frame(marker, body)
        place += 2 + max(length, 2)
        if marker == _SOS:
            scans.append(body)
            found = _NEXT_MARKER.search(data, place)
            if found is None:
                return JpegParts(tuple(segments), frame, tuple(scans), None)
            place = found.start()
        elif not scans:
            segments.append((marker, body))


def _frame(marker: int, body: bytes) -> FrameHeader | None:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        return None
    parts = [body[6 + 3 * each : 9 + 3 * each] for each in range(body[5])]
    components = tuple((part[0], part[1] >> 4, part[1] & 15) for part in parts)
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    progressive, usual = marker in (0xC2, 0xC6, 0xCA, 0xCE), marker in (0xC0, 0xC1, 0xC2)
    return FrameHeader(body[0], height, width, components, progressive, usual, usual or marker in (0xC9, 0xCA))


def read_segments(layout: JpegParts) -> SegmentContents:
    """Read the metadata from the segments."""
    exif = xmp = None
    profile: dict[int, bytes] = {}
    resources = b""
    comments: list[bytes] = []
    others: list[str] = []
    pictures = extended = 0
    gain_map = False
    adobe: int | None = None
    for marker, body in layout.segments:
        if marker == _COM:
            comments.append(body)
        elif body.startswith(_EXIF) and marker == 0xE1:
            exif = exif or body[len(_EXIF) :]
        elif body.startswith(_XMP) and marker == 0xE1:
            xmp = xmp or body[len(_XMP) :]
        elif body.startswith(_MORE_XMP):
            extended += len(body) - len(_MORE_XMP) - 40
        elif body.startswith(_ICC) and len(body) > 14:
            profile[body[12]] = body[14:]
        elif body.startswith(_MPF):
            pictures = max(pictures, _pictures(body[len(_MPF) :]), 1)
        elif body.startswith(_GAIN_MAP):
            gain_map = True
        elif body.startswith(_PHOTOSHOP) and marker == 0xED:
            resources += body[len(_PHOTOSHOP) :]
        elif marker == 0xEE and body.startswith(b"Adobe"):
            adobe = body[11] if len(body) > 11 else None
        elif marker == 0xEB and body[:2] == b"JP":
            others.append("content credentials (C2PA)")
        elif _APP0 <= marker <= 0xEF and not (marker == _APP0 and body[:4] in (b"JFIF", b"JFXX")):
            word = re.match(rb"[ -~]{2,24}", body)
            others.append(f"APP{marker - _APP0}" + (f" '{word[0].decode()}'" if word else ""))
    iptc, photoshop = split_resources(resources)
    identifiers = tuple(each[0] for each in layout.frame.components) if layout.frame else ()
    return SegmentContents(
        exif=exif or None,
        xmp=xmp or None,
        icc=b"".join(profile[number] for number in sorted(profile)) or None,
        iptc=iptc,
        photoshop=photoshop,
        comments=tuple(comments),
        pictures=pictures,
        gain_map=gain_map,
        extended_xmp=extended,
        others=tuple(dict.fromkeys(others)),
        rgb=len(identifiers) == 3 and (adobe == 0 or (adobe is None and identifiers == (82, 71, 66))),
    )


def _pictures(index: bytes) -> int:
    """Number of pictures in a multi-picture index (tag 0xB001); 0 if it is not stated."""
    order: Literal["little", "big"] = "little" if index[:2] == b"II" else "big"
    tag = (0xB001).to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order)
    place = index.find(tag)
    return int.from_bytes(index[place + 8 : place + 12], order) if place >= 0 else 0


# -- Photoshop resources -----------------------------------------------------------------------------------------------


def split_resources(resources: bytes) -> tuple[bytes | None, bytes | None]:
    """IPTC records, and all other resources except thumbnails, which would show the unprocessed picture."""
    iptc: bytes | None = None
    others = b""
    place = 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        number = int.from_bytes(resources[place + 4 : place + 6], "big")
        named = place + 6 + (resources[place + 6] // 2 + 1) * 2
        length = int.from_bytes(resources[named : named + 4], "big")
        stop = named + 4 + length + length % 2
        if number == _IPTC_RESOURCE:
            iptc = resources[named + 4 : named + 4 + length]
        elif number not in _THUMBNAILS:
            others += resources[place:stop].ljust(stop - place, b"\0")
        place = stop
    return iptc or None, others or None


def iptc_resource(iptc: bytes) -> bytes:
    """Wrap IPTC records in a Photoshop resource."""
    head = b"8BIM" + _IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big")
    return head + iptc + b"\0" * (len(iptc) % 2)


# -- writing -----------------------------------------------------------------------------------------------------------


def holds(exif: bytes | None = None, xmp: bytes | None = None) -> bool:
    """Whether this metadata fits into one JPEG segment each."""
    return len(exif or b"") + len(_EXIF) <= _LARGEST and len(xmp or b"") + len(_XMP) <= _LARGEST


def with_segments(data: bytes, found: SegmentContents) -> bytes:
    """Insert metadata segments at the beginning of a file, after its JFIF segment; existing ones are kept."""
    parts: list[bytes] = []

    def add(marker: int, body: bytes) -> None:
        parts.append(bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body)

    if found.exif:
        add(0xE1, _EXIF + found.exif)
    if found.xmp:
        add(0xE1, _XMP + found.xmp)
    if found.icc:
        room = _LARGEST - len(_ICC) - 2
        pieces = [found.icc[place : place + room] for place in range(0, len(found.icc), room)]
        for number, piece in enumerate(pieces, start=1):
            add(0xE2, _ICC + bytes((number, len(pieces))) + piece)
    resources = (iptc_resource(found.iptc) if found.iptc else b"") + (found.photoshop or b"")
    room = _LARGEST - len(_PHOTOSHOP)
    for place in range(0, len(resources), room):
        add(0xED, _PHOTOSHOP + resources[place : place + room])
    for comment in found.comments:
        add(_COM, comment)
    place = 2
    if data[2:4] == bytes((0xFF, _APP0)):
        place += 2 + int.from_bytes(data[4:6], "big")
    return data[:place] + b"".join(parts) + data[place:]


# -- truncated files ---------------------------------------------------------------------------------------------------


def repaired_jpeg(data: bytes, layout: JpegParts) -> tuple[bytes, int] | None:
    """Complete a file whose last bytes are missing, and count the pixels that had to be guessed.

    Libraries silently fill missing pixels with grey, or refuse a picture that lacks two bytes. So it is decoded with
    different bytes in place of the missing ones: pixels that differ have no data in the file.

    Args:
        data: the file's bytes, without an end marker.
        layout: its parts.

    Returns:
        The completed file, and the largest possible number of guessed pixels. None if a whole scan or more than a
        corner of a few blocks is missing.
    """
    frame = layout.frame
    if frame is None or not layout.scans or not _all_scans(layout):
        return None
    body = data[:-1] if data.endswith(b"\xff") else data
    rgb = read_segments(layout).rgb
    seen = []
    for filler in (b"", *_FILLERS):
        with opened(body + filler + EOI) as image:
            if not rgb:
                image.draft("YCbCr", None)
            seen.append(np.asarray(image).reshape(frame.height, frame.width, -1))
    found = (seen[0] != seen[1]) | (seen[0] != seen[2])
    # In luminance, if there is such a layer: upsampled chroma would spread into blocks that are complete.
    differs = found.any(axis=2) if rgb or len(frame.components) == 4 else found[..., 0]
    tall, wide = frame.block
    rows, columns = -(-frame.height // tall), -(-frame.width // wide)
    if not differs.any():
        lost = int(found.any())
    elif frame.progressive:
        spots = np.argwhere(differs) // (tall, wide)
        lost = len(np.unique(spots, axis=0))
    else:
        first = min(int(row) // tall * columns + int(column) // wide for row, column in np.argwhere(differs))
        lost = rows * columns - first
    if lost > max(min(_MAY_LACK, rows * columns * _MAY_LACK_SHARE), 1):
        return None
    return body + EOI, min(lost * tall * wide, frame.height * frame.width)


def is_truncated(data: bytes, layout: JpegParts, wrong: str | None) -> bool:
    """Whether data is missing before the end marker, which some programs append to truncated files.

    Compares decodings at an eighth of the size. This detects nothing in progressive or arithmetic-coded files, for
    which the answer is always False.

    Args:
        data: the file's bytes.
        layout: its parts.
        wrong: its :func:`decoder_warning`.
    """
    frame = layout.frame
    if wrong == "" or frame is None or not frame.usual or frame.progressive or layout.end is None:
        return False
    if wrong == _PREMATURE and not any(marker == _DRI and any(body) for marker, body in layout.segments):
        return True
    body = data[: layout.end - 2]
    return _eighth(body, _FILLERS[0]) != _eighth(body, _FILLERS[1])


def decoder_warning(data: bytes, layout: JpegParts) -> str | None:
    """The warning of libjpeg about the coded values of a file with an end marker.

    Most decoders, Pillow's included, ignore such errors. A wrong bit nearly always breaks the sequence of codes, so
    that a scan or an interval between restart markers ends with too few or too many bytes; a bit that only changes a
    value cannot be detected. Decodes at an eighth of the size, which still reads every code.

    Returns:
        "" if nothing is wrong; None if that is unknown: the file has no end marker, simplejpeg is not installed or
        does not support the file (rare subsampling).
    """
    if layout.frame is None or layout.end is None or find_spec("simplejpeg") is None:
        return None
    colours = "CMYK" if len(layout.frame.components) == 4 else "GRAY"
    try:
        import_module("simplejpeg").decode_jpeg(data[: layout.end], colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        words = str(error)
    else:
        return ""
    if not words.startswith((_CORRUPT, "Inconsistent progression")):
        return None
    words = words.removeprefix(_CORRUPT)
    body = data[: layout.end - 2]
    padding = body[len(body.rstrip(b"\0\xff")) :].count(0)
    extra = _EXTRANEOUS.fullmatch(words)
    return "" if extra and int(extra[1]) <= padding else words


def damage_note(layout: JpegParts, wrong: str | None) -> str | None:
    """The note on a file with an end marker that seems to be incomplete or damaged; None if it seems sound.

    Args:
        layout: the file's parts.
        wrong: its :func:`decoder_warning`.
    """
    if layout.frame is not None and layout.frame.progressive and not _all_scans(layout):
        return "Some of its scans are missing, as in a truncated file: fine detail may be lost."
    return f"A part of it is damaged ({wrong}): check it closely." if wrong else None


def opened(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Open a file with Pillow such that all bytes are passed in one block, as arithmetic decoding requires."""
    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    image.decodermaxblock = max(image.decodermaxblock, len(data))
    return image


def _eighth(body: bytes, filler: bytes) -> bytes:
    with opened(body + filler + EOI) as image:
        image.draft(None, (1, 1))
        return image.tobytes()


def _all_scans(layout: JpegParts) -> bool:
    """Whether the scans that are present cover all coefficients of each component, down to the lowest bit."""
    assert layout.frame is not None
    left = {each[0]: dict.fromkeys(range(64), 14) for each in layout.frame.components}
    for head in layout.scans:
        count = head[0] if head else 0
        if len(head) < 1 + 2 * count + 3:
            return False
        first, last, bits = head[1 + 2 * count], head[2 + 2 * count], head[3 + 2 * count] & 15
        for each in range(count):
            component = left.get(head[1 + 2 * each])
            if component is None:
                return False
            component.update(dict.fromkeys(range(first, min(last, 63) + 1), bits))
    return all(bits == 0 for component in left.values() for bits in component.values())
