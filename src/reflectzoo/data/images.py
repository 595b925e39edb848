"""Photographs as training and evaluation see them, 8-bit RGB; which there are in a folder, and a memory of them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reflectzoo.errors import UserError
from reflectzoo.photo.model import SUFFIXES, UnreadableImage
from reflectzoo.photo.read import picture_size, read_picture

__all__ = [
    "SUFFIXES",
    "Photo",
    "PhotoCache",
    "UnreadableImage",
    "find_images",
    "picture_size",
    "read_rgb",
    "translucent",
]

Photo = npt.NDArray[np.uint8]


def read_rgb(path: str | os.PathLike[str], shorter: int | None = None) -> Photo:
    """Read a picture the way a viewer shows it; see :mod:`reflectzoo.photo.read`.

    The orientation is applied; grey, CMYK, palette and other colour models become RGB; deeper values are rounded, not
    cut off; a PNG's gAMA is heeded, embedded colour profiles are not; transparency is composited on white; of an
    animation the first frame is read.

    Args:
        path: the file.
        shorter: the shorter side that is needed. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never
            below this, which saves most of the time; other formats ignore it.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        UnreadableImage: if the file is missing, empty, truncated, too large for Pillow's guard against decompression
            bombs, or no picture.
    """
    return read_picture(path, shorter=shorter).rgb()


def translucent(path: str | os.PathLike[str]) -> bool:
    """Whether a picture is transparent anywhere, so that what :func:`read_rgb` shows depends on the white behind it.

    The picture is decoded, which shows whether it can be.

    Raises:
        UnreadableImage: as :func:`read_rgb` does.
    """
    alpha = read_picture(path, shorter=1).alpha
    if alpha is None:
        return False
    opaque = np.iinfo(alpha.dtype).max if np.issubdtype(alpha.dtype, np.integer) else 1.0
    return bool((alpha < opaque).any())


def find_images(
    folder: str | os.PathLike[str],
    recursive: bool = False,
    unopened: Callable[[str, str], None] | None = None,
    suffixes: Collection[str] = SUFFIXES,
) -> list[Path]:
    """The picture files of a folder, told by their suffix, sorted by their path.

    Hidden files are left out (``._x.jpg`` is macOS's shadow of ``x.jpg``, not a picture).

    Args:
        folder: where to look; must exist.
        recursive: look into subfolders too (links to folders are not followed).
        unopened: told the path of a folder below this one that cannot be opened, and a sentence; None raises.
        suffixes: what a picture's name may end in, in small letters.

    Raises:
        UserError: if the folder, or without ``unopened`` one below it, cannot be opened.
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        sentence = f"The folder '{error.filename}' cannot be opened ({error.strerror})"
        if unopened is None or Path(error.filename) == Path(folder):
            raise UserError(sentence + ".")
        unopened(str(error.filename), sentence + " and is skipped.")

    for place, subfolders, files in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".")) if recursive else []
        found.extend(
            Path(place, name)
            for name in files
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        )
    return sorted(found, key=lambda path: path.as_posix())


class PhotoCache:
    """Decoded photographs kept in memory, the least recently used dropped first.

    Args:
        max_bytes: bound on what is kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._photos: OrderedDict[tuple[str, int | None], Photo] = OrderedDict()

    def read(self, path: str | os.PathLike[str], shorter: int | None = None) -> Photo:
        """:func:`read_rgb`, remembered. The array is shared: do not write to it.

        Raises:
            UnreadableImage: as :func:`read_rgb` does.
        """
        key = (os.fspath(path), shorter)
        photo = self._photos.get(key)
        if photo is not None:
            self._photos.move_to_end(key)
            return photo
        photo = read_rgb(path, shorter)
        if photo.nbytes <= self.max_bytes:
            photo.flags.writeable = False
            self._photos[key] = photo
            self.bytes += photo.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._photos.popitem(last=False)[1].nbytes
        return photo
