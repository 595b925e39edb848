"""Netpbm formats (PBM, PGM, PPM, PAM, PFM) with any maximum value, most of which Pillow reduces or cannot read.

https://netpbm.sourceforge.net/doc/ (pbm, pgm, ppm, pam); PFM as written by Paul Debevec's HDRShop.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from reflectzoo.photo.model import Values, as_depth

MAGIC = re.compile(rb"P[1-7][\s#]|P[Ff]\s")
_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*([^\s#]+)")


class Header(NamedTuple):
    """The header of a file.

    Attributes:
        kind: ``P1`` to ``P7``, ``Pf`` or ``PF``.
        width: columns.
        height: rows.
        channels: 1 to 4.
        top: the maximum value, 1 to 65535; for PFM the scale, negative for little-endian.
        start: offset of the values.
        alpha: whether the last channel is transparency.
    """

    kind: str
    width: int
    height: int
    channels: int
    top: float
    start: int
    alpha: bool


def header(data: bytes) -> Header:
    """Read a header.

    Raises:
        ValueError: if it is damaged, or its channels are of an unsupported kind.
    """
    kind = data[:2].decode("latin-1")
    if kind == "P7":
        end = data.find(b"ENDHDR\n") + 7
        if end < 7:
            raise ValueError("the header has no end")
        rows = [line.split(None, 1) for line in data[3:end].decode("latin-1").splitlines() if line[:1] != "#"]
        said = {row[0]: row[1].strip() for row in rows if len(row) == 2}
        if not said.keys() >= {"WIDTH", "HEIGHT", "DEPTH", "MAXVAL"}:
            raise ValueError("the header lacks a size")
        depth = int(said["DEPTH"])
        alpha = said.get("TUPLTYPE", "").endswith("_ALPHA") or ("TUPLTYPE" not in said and depth in (2, 4))
        found = Header(kind, int(said["WIDTH"]), int(said["HEIGHT"]), depth, int(said["MAXVAL"]), end, alpha)
    else:
        words: list[bytes] = []
        place = 2
        for _ in range(2 if kind in ("P1", "P4") else 3):
            match = _TOKEN.match(data, place)
            if match is None:
                raise ValueError("the header is truncated")
            words.append(match[1])
            place = match.end()
        top = _number(words[2], float) if len(words) == 3 else 1
        channels = 3 if kind in ("P3", "P6", "PF") else 1
        # A single whitespace character ends the header.
        across, down = int(_number(words[0])), int(_number(words[1]))
        found = Header(kind, across, down, channels, top, place + 1, False)
        # On Windows it may have become two, in which case the file is exactly one byte longer.
        if data[place : place + 2] == b"\r\n" and len(data) == place + 2 + (raster(found) or -1):
            found = found._replace(start=place + 2)
    if found.width < 1 or found.height < 1:
        raise ValueError(f"{found.width}x{found.height} pixels")
    if found.channels not in ((2, 4) if found.alpha else (1, 3)):
        raise ValueError(f"its {found.channels} channels are of an unsupported kind: save it as PNG or TIFF")
    if (found.kind[1] not in "Ff" and found.top not in range(1, 65536)) or found.top == 0:
        raise ValueError(f"a maximum value of {found.top:g}")
    return found


def read(data: bytes) -> tuple[Values, Values | None]:
    """Decode a file.

    Returns:
        Values (H, W, 1 or 3) and alpha (H, W) or None: uint8 for a maximum value below 256, otherwise uint16, both
        scaled to the full range of the type; float32 for PFM, of any range.

    Raises:
        ValueError: if the file is damaged or truncated.
    """
    head = header(data)
    size = head.width * head.height * head.channels
    if head.kind == "P4":
        bits = np.unpackbits(_taken(data, head.start, raster(head) or 0, np.dtype(np.uint8)))
        numbers = 1 - bits.reshape(head.height, -1)[:, : head.width]
    elif head.kind == "P1":
        digits = np.frombuffer(re.sub(rb"\s|#[^\n]*\n", b"", data[head.start - 1 :]), np.uint8)
        digits = _enough(digits, size) - ord("0")
        _within(digits, 1)
        numbers = 1 - digits
    elif head.kind in ("P2", "P3"):
        words = re.sub(rb"#[^\n]*\n", b"\n", data[head.start - 1 :]).split()
        numbers = np.array(_enough_words(words, size), np.int64)
        _within(numbers, int(head.top))
    elif head.kind[1] in "Ff":
        order = "<f4" if head.top < 0 else ">f4"
        numbers = _taken(data, head.start, size, np.dtype(order)).astype(np.float32)
        layers = numbers.reshape(head.height, head.width, head.channels)[::-1] * np.float32(abs(head.top))
        return np.ascontiguousarray(layers), None
    else:
        numbers = _taken(data, head.start, size, np.dtype(np.uint8 if head.top < 256 else ">u2"))
        _within(numbers, int(head.top))
    layers = scaled(numbers.reshape(head.height, head.width, head.channels), int(head.top))
    if head.alpha:
        return np.ascontiguousarray(layers[..., :-1]), np.ascontiguousarray(layers[..., -1])
    return layers, None


def raster(head: Header) -> int | None:
    """Size of the values in bytes; None if they are stored as text."""
    if head.kind in ("P1", "P2", "P3"):
        return None
    if head.kind == "P4":
        return -(-head.width // 8) * head.height
    return head.width * head.height * head.channels * (4 if head.kind[1] in "Ff" else 1 if head.top < 256 else 2)


def scaled(numbers: Values, top: int) -> Values:
    """Scale integers in 0..``top`` to 0..255 (uint8), or to 0..65535 (uint16) if ``top`` exceeds 255, rounded."""
    kind, most = (np.uint8, 255) if top < 256 else (np.uint16, 65535)
    if top == most:
        return np.ascontiguousarray(numbers, kind)
    if top < 1 << 16:
        # A lookup table avoids temporary copies of a large picture.
        table = ((np.arange(top + 1, dtype=np.uint64) * most + top // 2) // top).astype(kind)
        return table[np.minimum(numbers, top)]
    return ((np.asarray(numbers, np.uint64) * most + top // 2) // top).astype(kind)


def encode_netpbm(values: Values, alpha: Values | None) -> bytes:
    """Encode values as PGM or PPM, with alpha as PAM; floating point as PFM, which drops alpha.

    Args:
        values: (H, W, 1 or 3), uint8, uint16 or float32.
        alpha: (H, W) or None.
    """
    height, width, channels = values.shape
    if values.dtype == np.float32:
        head = f"{'PF' if channels == 3 else 'Pf'}\n{width} {height}\n-1.0\n"
        return head.encode() + np.ascontiguousarray(values[::-1], "<f4").tobytes()
    top = 255 if values.dtype == np.uint8 else 65535
    if alpha is None:
        head = f"P{6 if channels == 3 else 5}\n{width} {height}\n{top}\n"
        layers = values
    else:
        kind = "RGB_ALPHA" if channels == 3 else "GRAYSCALE_ALPHA"
        head = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {channels + 1}\nMAXVAL {top}\nTUPLTYPE {kind}\nENDHDR\n"
        layers = np.concatenate((values, as_depth(alpha, values.itemsize * 8)[..., None]), axis=2)
    return head.encode() + layers.astype(">u2" if top > 255 else np.uint8).tobytes()


def _taken(data: bytes, start: int, count: int, kind: np.dtype[np.generic]) -> Values:
    if len(data) - start < count * kind.itemsize:
        raise ValueError("it is truncated")
    return np.frombuffer(data, kind, count, start)


def _enough(numbers: Values, size: int) -> Values:
    if len(numbers) < size:
        raise ValueError("it is truncated")
    return numbers[:size]


def _enough_words(words: list[bytes], size: int) -> list[int]:
    if len(words) < size:
        raise ValueError("it is truncated")
    return [int(_number(word)) for word in words[:size]]


def _number(word: bytes, kind: type[int] | type[float] = int) -> float:
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"{word[:20].decode('latin-1')!r} found where a number is expected") from None


def _within(numbers: Values, top: int) -> None:
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= top:
        raise ValueError(f"values above its maximum of {top}")
