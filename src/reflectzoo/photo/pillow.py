"""Formats that Pillow decodes correctly: conversion of its modes to values, and the limit on pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from reflectzoo.photo.guard import without_pixel_limit
from reflectzoo.photo.model import FileMetadata, Picture, UnreadableImage, Values

_BANDS = 2**24
#: Formats that Pillow alone decodes, by its names.
_OTHERS = (
    *("WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TGA", "PSD", "ICO", "ICNS", "CUR", "QOI", "PCX", "DCX", "SGI"),
    "DDS",
)


class Limit:
    """The largest number of pixels that a picture may have.

    Args:
        name: the quoted file name, for error messages.
        pixels: the limit; None takes that of Pillow (twice ``Image.MAX_IMAGE_PIXELS``, 179 million).
    """

    def __init__(self, name: str, pixels: int | None) -> None:
        self.name = name
        usual = Image.MAX_IMAGE_PIXELS
        self.given = pixels is not None
        self.pixels: float = pixels if pixels is not None else float("inf") if usual is None else 2 * usual

    def check(self, width: int, height: int) -> None:
        """Check a picture's size.

        Raises:
            UnreadableImage: if the picture has no pixels, or more than the limit.
        """
        if width < 1 or height < 1:
            raise UnreadableImage(f"{self.name} has no pixels ({width}x{height}).")
        if width * height > self.pixels:
            raise UnreadableImage(self.sentence(width * height, f"{width}x{height}, "))

    def sentence(self, pixels: int | None, size: str = "") -> str:
        """The error message for a picture that is too large.

        Args:
            pixels: number of pixels of the picture; None if unknown.
            size: width and height, followed by a comma and a space.
        """
        counted = f" ({size}{pixels / 1e6:.4g} million pixels)" if pixels else ""
        most = f" {-(-pixels // 10**6)}M" if pixels else ""
        bound = f"{self.pixels / 1e6:.4g} million pixels"
        return (
            f"{self.name} is too large{counted}, as more than {bound} could exhaust the memory: shrink it or, if you "
            f"trust it, use `reflectzoo remove --max-pixels{most}` (max_pixels=)."
        )


@contextmanager
def unguarded_within(limit: Limit) -> Iterator[None]:
    """Suspend Pillow's own limit if the user has given one."""
    if not limit.given:
        yield
        return
    with without_pixel_limit():
        yield


def pillow_formats() -> tuple[str, ...]:
    """Names of the formats that are left to Pillow; includes HEIC if pillow-heif is installed.

    Further formats that Pillow opens are excluded, because it decodes a preview only (Photo CD), a negative (X bitmap)
    or wrong colours (X pixmap, Sun raster with alpha), guesses the range of values (FITS), or runs programs (EPS).
    """
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(kind for kind in _OTHERS if kind in Image.OPEN)


def from_pillow(image: Image.Image, name: str, origin: FileMetadata) -> Picture:
    """Convert a Pillow image to a picture, without applying its orientation.

    Args:
        image: image of any mode except the 32-bit ones.
        name: the quoted file name, for error messages.
        origin: format and metadata; its profile is applied to CMYK, Lab, YCbCr and HSV, which become sRGB, and dropped.

    Raises:
        UnreadableImage: if the picture has no pixels, or 32-bit values of unknown range.
    """
    if 0 in image.size:
        raise UnreadableImage(f"{name} has no pixels ({image.width}x{image.height}).")
    notes: tuple[str, ...] = ()
    image.load()
    if image.mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16)[..., None], None, origin)
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"{name} holds 32-bit values of unknown range: save it as a picture of 8 or 16 bits.")
    if image.mode in ("1", "L", "LA", "La"):
        wanted = "LA" if image.has_transparency_data else "L"
    else:
        wanted = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        image, seen = _to_srgb(image, origin.icc)
        origin = replace(origin, icc=None)
        notes = (f"Its colours ({seen}) were converted to sRGB.",)
    layers = _array(_converted(image, wanted))
    if wanted in ("LA", "RGBA"):
        values, alpha = np.ascontiguousarray(layers[..., :-1]), np.ascontiguousarray(layers[..., -1])
        return Picture(values, alpha, origin, notes)
    return Picture(layers, None, origin, notes)


def _array(image: Image.Image) -> Values:
    """Copy to (H, W, channels) uint8 in bands, so that a large picture is not in memory three times."""
    channels = len(image.getbands())
    out = np.empty((image.height, image.width, channels), np.uint8)
    step = max(_BANDS // (image.width * channels), 1)
    for top in range(0, image.height, step):
        band = image.crop((0, top, image.width, min(top + step, image.height)))
        out[top : top + step] = np.asarray(band).reshape(band.height, band.width, channels)
    return out


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode == "La":
        return image.convert("LA")
    if mode == "LA" and image.mode in ("L", "1"):  # one grey value marks transparent pixels
        return image.convert("RGBA").convert("LA") if image.mode == "1" else image.convert("LA")
    return image.convert(mode)


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted, f"{image.mode} with a profile"
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if converted is not None:
            return converted, "Lab"
    return image.convert("RGB"), image.mode
