"""Photographs as 8-bit RGB for training and evaluation: reading, searching folders, and a cache."""

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
    """Read a picture as a viewer would show it; see :mod:`reflectzoo.photo.read`.

    The orientation is applied; grey, CMYK, palette and other colour models become RGB; higher depths are rounded; a
    PNG's gAMA is applied, embedded colour profiles are not; transparency is composited over white; of an animation, the
    first frame is read.

    Args:
        path: the file.
        shorter: the shorter side that is needed. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never
            below this, which saves most of the time; other formats ignore it.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        UnreadableImage: if the file is missing, empty, truncated, too large for Pillow's guard against decompression
            bombs, or not a picture.
    """
    return read_picture(path, shorter=shorter).rgb()


def translucent(path: str | os.PathLike[str]) -> bool:
    """Whether a picture has transparent pixels, so that :func:`read_rgb` depends on the white background.

    Decodes the picture, and thereby also checks that it is readable.

    Raises:
        UnreadableImage: as in :func:`read_rgb`.
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
    """Find the picture files of a folder by suffix, sorted by path.

    Hidden files are skipped (``._x.jpg`` holds macOS metadata of ``x.jpg``, not a picture).

    Args:
        folder: the folder; must exist.
        recursive: include subfolders (links to folders are not followed).
        unopened: called with the path of a subfolder that cannot be opened, and a sentence; None raises instead.
        suffixes: suffixes of pictures, in lower case.

    Raises:
        UserError: if the folder or, without ``unopened``, a subfolder cannot be opened.
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
    """An LRU cache of decoded photographs.

    Args:
        max_bytes: maximum size in bytes; 0 disables caching.
    """

    def __init__(self, max_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._photos: OrderedDict[tuple[str, int | None], Photo] = OrderedDict()

    def read(self, path: str | os.PathLike[str], shorter: int | None = None) -> Photo:
        """Cached :func:`read_rgb`. The array is shared: do not write to it.

        Raises:
            UnreadableImage: as in :func:`read_rgb`.
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
