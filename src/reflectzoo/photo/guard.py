"""Suspend Pillow's pixel limit where another limit has already been checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from PIL import Image

_turn = RLock()


@contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Suspend Pillow's pixel limit within a ``with`` block; a lock admits one thread at a time."""
    with _turn:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
