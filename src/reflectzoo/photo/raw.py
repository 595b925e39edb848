"""Camera raw files, developed by LibRaw (the wheel ``rawpy``, extra ``raw``)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np

from reflectzoo.photo import tiff
from reflectzoo.photo.model import Values

#: Signatures of raw files that are not TIFF.
_MAGICS = (b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"IIRO", b"IIRS", b"IIU\0", b"MMOR")
INSTALL = "pip install 'reflectzoo[raw]'"


def is_raw(data: bytes) -> bool:
    """Whether these bytes are a camera raw file, even if it contains previews that could be read as a picture."""
    lead = data[:16]
    if lead.startswith(_MAGICS) or lead[4:12] == b"ftypcrx ":
        return True
    if not lead.startswith(tiff.MAGICS):
        return False
    try:
        return tiff.File.parse(data).raw
    except ValueError:
        return False


def can_develop() -> bool:
    """Whether LibRaw is installed."""
    return find_spec("rawpy") is not None


def size(data: bytes) -> tuple[int, int]:
    """Width and height of the developed picture.

    Raises:
        ValueError: if LibRaw cannot read it.
    """
    with _opened(data) as raw:
        found = raw.sizes
        turned = found.flip in (5, 6)
        return (found.height, found.width) if turned else (found.width, found.height)


def develop(data: bytes) -> Values:
    """Develop the picture, upright, (H, W, 3) uint16 in sRGB, with the camera's white balance.

    Raises:
        ValueError: if LibRaw cannot read it.
    """
    rawpy = import_module("rawpy")
    with _opened(data) as raw:
        try:
            developed = raw.postprocess(
                use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB, gamma=(2.4, 12.92)
            )
        except (rawpy.LibRawError, MemoryError) as error:
            raise ValueError(_words(error)) from None
    return np.ascontiguousarray(developed, np.uint16)


def _opened(data: bytes) -> Any:
    rawpy = import_module("rawpy")
    try:
        return rawpy.imread(BytesIO(data))
    except (rawpy.LibRawError, OSError, MemoryError) as error:
        raise ValueError(_words(error)) from None


def _words(error: BaseException) -> str:
    words = error.args[0] if error.args else type(error).__name__
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
