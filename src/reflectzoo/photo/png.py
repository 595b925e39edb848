"""PNG files as chunks, and a 16-bit encoder, which Pillow lacks for colour and OpenCV for grey with alpha.

PNG specification, third edition (W3C 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks that define the colours; they precede the picture.
COLOUR = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp"
#: Chunks that are rewritten, or represented by other attributes.
_OWN = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"iCCP", b"eXIf", b"pHYs", b"hIST", b"bKGD")
#: Exponents by cICP transfer function (ITU-T H.273); the others are close to the sRGB curve, or HDR.
_TRANSFERS = {5: 1 / 2.8, 8: 1.0}
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_ROWS_AT_ONCE = 64
_LEVEL = 4
_IDAT = 2**20


class Chunk(NamedTuple):
    """One chunk.

    Attributes:
        kind: its four-letter type.
        body: its data.
    """

    kind: bytes
    body: bytes

    def to_bytes(self) -> bytes:
        """Serialise the chunk, with length and checksum."""
        return (
            struct.pack(">I", len(self.body))
            + self.kind
            + self.body
            + struct.pack(">I", zlib.crc32(self.kind + self.body))
        )


def chunks(data: bytes, empty: bytes = b"") -> list[Chunk]:
    """All complete chunks of a file up to IEND; a truncated last chunk and any data after IEND are left out.

    Args:
        data: the file.
        empty: a type of chunk whose content is not needed and replaced by empty bytes.
    """
    found = []
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + length > len(data):
            break
        kind = data[place + 4 : place + 8]
        found.append(Chunk(kind, b"" if kind == empty else data[place + 8 : place + 8 + length]))
        place += 12 + length
        if found[-1].kind == b"IEND":
            break
    return found


def trailing_bytes(data: bytes, found: Iterable[Chunk]) -> int:
    """Number of bytes after the chunks of a file, without leading and trailing zeros, spaces and line ends."""
    return len(data[8 + sum(12 + len(chunk.body) for chunk in found) :].strip(b"\0\r\n "))


def keyword(chunk: Chunk) -> bytes:
    """The keyword of a text chunk."""
    return chunk.body.split(b"\0", 1)[0]


def text(chunk: Chunk) -> str | None:
    """The text of a text chunk; None if it is damaged."""
    rest = chunk.body.partition(b"\0")[2]
    try:
        if chunk.kind == b"tEXt":
            return rest.decode("latin-1")
        if chunk.kind == b"zTXt":
            return zlib.decompress(rest[1:]).decode("latin-1")
        words = rest[2:].split(b"\0", 2)[2]
        return (zlib.decompress(words) if rest[0] else words).decode("utf-8")
    except (zlib.error, ValueError, IndexError):
        return None


def text_chunk(key: str, words: str) -> Chunk:
    """Make a text chunk: Latin-1 (tEXt) if possible, otherwise UTF-8 (iTXt); long keywords are cut to 79 bytes."""
    name = key.encode("latin-1", "replace")[:79]
    try:
        return Chunk(b"tEXt", name + b"\0" + words.encode("latin-1"))
    except UnicodeEncodeError:
        return Chunk(b"iTXt", name + b"\0\0\0\0\0" + words.encode("utf-8"))


def copyable_chunks(found: Iterable[Chunk]) -> tuple[tuple[Chunk, ...], tuple[str, ...]]:
    """The chunks to copy unchanged into a processed picture, and the names of those that must be dropped.

    By the specification, chunks whose type ends in a lower-case letter are safe to copy. XMP, and the raw profiles that
    ImageMagick stores as text, are in neither list: they are parsed and written anew.
    """
    kept: list[Chunk] = []
    lost: list[str] = []
    for chunk in found:
        if chunk.kind in _OWN + _ANIMATION:
            continue
        if chunk.kind in TEXT and (keyword(chunk) == XMP_KEYWORD or keyword(chunk).startswith(b"Raw profile type")):
            continue
        if chunk.kind in COLOUR or chunk.kind[3:4].islower():
            kept.append(chunk)
        elif chunk.kind != b"tIME":
            lost.append("content credentials (C2PA)" if chunk.kind == b"caBX" else chunk.kind.decode("latin-1"))
    return tuple(kept), tuple(dict.fromkeys(lost))


def raw_profile(chunk: Chunk) -> tuple[str, bytes] | None:
    """Type and content of a profile that ImageMagick stores as text (name, length, hexadecimal digits); else None."""
    if chunk.kind not in TEXT or not keyword(chunk).startswith(b"Raw profile type "):
        return None
    try:
        _, _, _, digits = (text(chunk) or "").split("\n", 3)
        return keyword(chunk)[17:].decode("latin-1").lower(), bytes.fromhex(digits.replace("\n", ""))
    except ValueError:
        return None


def gamma(found: Iterable[Chunk], profile: bool) -> float | None:
    """The exponent that values were encoded with; None for the sRGB curve, or if another chunk takes precedence.

    By the specification (section 4.3) cICP takes precedence over iCCP, iCCP over sRGB, and sRGB over gAMA.

    Args:
        found: chunks of a file.
        profile: whether the file has a valid profile.
    """
    by_kind = {chunk.kind: chunk.body for chunk in found}
    if len(by_kind.get(b"cICP", b"")) == 4:
        return _TRANSFERS.get(by_kind[b"cICP"][1])
    body = by_kind.get(b"gAMA", b"")
    value = int.from_bytes(body, "big") / 100000
    if profile or b"sRGB" in by_kind or len(body) != 4 or not 0.01 < value < 10:
        return None
    # About 0.45455, which programs write for sRGB.
    return None if abs(value - 1 / 2.2) < 0.005 else value


def assembled(header: Chunk, before: Iterable[Chunk], body: Iterable[Chunk]) -> bytes:
    """Serialise a file from its header, the chunks before the picture, and those of and after it."""
    parts = (header, *before, *body, Chunk(b"IEND", b""))
    return SIGNATURE + b"".join(part.to_bytes() for part in parts)


def encode_deep(values: npt.NDArray[np.uint16]) -> tuple[Chunk, list[Chunk]]:
    """Encode 16-bit values as header and picture chunks.

    Args:
        values: (H, W, 1, 2, 3 or 4): grey, grey with alpha, RGB, or RGB with alpha.
    """
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = Chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    packer = zlib.compressobj(_LEVEL)
    packed: list[bytes] = []
    above = np.zeros((1, 2 * width * channels), np.uint8)
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = np.ascontiguousarray(values[top : top + _ROWS_AT_ONCE], ">u2").view(np.uint8).reshape(-1, above.shape[1])
        packed.append(packer.compress(_filtered(rows, above, 2 * channels)))
        above = rows[-1:]
    data = b"".join(packed) + packer.flush()
    return header, [Chunk(b"IDAT", data[place : place + _IDAT]) for place in range(0, len(data), _IDAT)]


def _filtered(rows: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8], step: int) -> bytes:
    """Filter each row by the filter with the smallest sum of absolute values, as advised in section 12.7."""
    above = np.concatenate((before, rows[:-1]))
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    corner = np.zeros_like(rows)
    corner[:, step:] = above[:, :-step]
    a, b, c = (each.astype(np.int16) for each in (left, above, corner))
    near, over, across = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((near <= over) & (near <= across), left, np.where(over <= across, above, corner))
    candidates = [(0, rows), (1, rows - left), (2, rows - above), (4, rows - paeth)]
    costs = [np.abs(found.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for _, found in candidates]
    best = np.argmin(costs, axis=0)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    for place, (number, found) in enumerate(candidates):
        chosen = best == place
        out[chosen, 0] = number
        out[chosen, 1:] = found[chosen]
    return out.tobytes()


def repaired_png(data: bytes) -> bytes | None:
    """Complete a file that is truncated after the last value of its picture; None if pixels are missing."""
    found = chunks(data)
    if not found or found[0].kind != b"IHDR" or len(found[0].body) != 13:
        return None
    parts = [chunk for chunk in found if chunk.kind == b"IDAT"]
    place = 8 + sum(len(chunk.body) + 12 for chunk in found)
    rest = data[place + 8 :] if data[place + 4 : place + 8] == b"IDAT" else b""
    unpacker = zlib.decompressobj()
    rows: Any = bytearray()
    try:
        for piece in (*(chunk.body for chunk in parts), rest):
            rows += unpacker.decompress(piece)
    except zlib.error:
        return None
    if len(rows) < _bytes_of(found[0].body):
        return None
    others = [chunk for chunk in found[1:] if chunk.kind not in (b"IDAT", b"IEND")]
    return assembled(found[0], others, [Chunk(b"IDAT", zlib.compress(bytes(rows), 1))])


def _bytes_of(header: bytes) -> int:
    """Size of the unpacked rows in bytes, filter types included."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    total = 0
    for left, top, across, down in passes:
        wide, tall = -(-(width - left) // across), -(-(height - top) // down)
        if wide > 0 and tall > 0:
            total += tall * (1 + -(-wide * bits // 8))
    return total


def profile_chunk(icc: bytes) -> Chunk:
    """Wrap a colour profile in a chunk (iCCP)."""
    return Chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc, 9))
