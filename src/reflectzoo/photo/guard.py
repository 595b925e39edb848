"""Pillow's bound on pixels, put aside where another one has been asked about already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from PIL import Image

_turn = RLock()


@contextmanager
def unguarded() -> Iterator[None]:
    """Without Pillow's bound, one thread at a time."""
    with _turn:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
