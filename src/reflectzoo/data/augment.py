"""Random crops and colours of one photograph. The only module that knows albumentations, whose project is archived."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np

from reflectzoo.data.images import Photo

if TYPE_CHECKING:
    import albumentations as A

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network for a newer version otherwise

Kind = Literal["paper", "hard", "square", "whole"]
KINDS: tuple[str, ...] = get_args(Kind)

# A picture more elongated than this is cut to it first: enlarging 12000x200 whole would only make a 36 MB strip of
# which one square is used.
_LONGEST = 4


class PhotoAugment:
    """A random ``crop`` x ``crop`` view of a photograph, the same for the same seed.

    ``paper`` is what the programs of YTMT and ERRNet do: the shorter side resized (bicubic) to an even number between
    ``crop`` and ``2 * crop``, a horizontal flip with probability 0.5, a random crop. (Where the photograph shrinks,
    pixels are averaged over their area, as Pillow's bicubic filter does there; OpenCV's would alias.)

    ``hard`` makes few photographs go further: views from a twelfth of the picture to all of it, all eight turns and
    mirror images, brightness, contrast, saturation, hue and gamma, and every other time the colour channels
    exchanged.

    ``square`` and ``whole`` are what IBCLN's program does with real pairs and with the photographs it blends: a square
    of 0.7 of the shorter side, anywhere, resized; and the whole picture, squeezed into a square. Neither is mirrored.

    Photographs smaller than the crop are enlarged just enough.

    Args:
        crop: side of the view in pixels.
        kind: ``paper``, ``hard``, ``square`` or ``whole``.
        colours: whether ``hard`` changes colours. Not where several layers must still add up afterwards.
        rotate: probability of a turn by 90, 180 or 270 degrees on top (0.5 in DSRNet's program).
    """

    def __init__(self, crop: int, kind: Kind = "paper", colours: bool = True, rotate: float = 0.0) -> None:
        if kind not in KINDS:
            raise ValueError(f"augment must be one of {', '.join(KINDS)}, got {kind!r}")
        self.crop = crop
        self.kind = kind
        self.rotate = rotate
        steps = {"paper": _paper(crop), "hard": _hard(crop, colours)}
        import albumentations as A  # takes a second, and evaluation does without

        self._compose = A.Compose(steps.get(kind, [_squeezed(crop)]))

    @property
    def shorter(self) -> int:
        """The shorter side a photograph needs so that no view of it is enlarged more than the whole picture asks."""
        return 4 * self.crop if self.kind == "hard" else 2 * self.crop

    def __call__(self, photo: Photo, seed: int) -> Photo:
        """Cut one view.

        Args:
            photo: (H, W, 3) uint8, any size.
            seed: what all choices follow from, >= 0.

        Returns:
            (crop, crop, 3) uint8, contiguous.
        """
        # One generator for the whole chain: set_random_seed would give every step the same seed, and with it the same
        # random numbers, so that (say) both flips always came together.
        rng = np.random.default_rng(seed)
        self._compose.set_random_state(rng, random.Random(seed))
        photo = _shortened(photo, rng)
        if self.kind == "square":
            photo = _random_square(photo, rng)
        view: Photo = self._compose(image=photo)["image"]
        if self.rotate > 0 and rng.random() < self.rotate:
            view = np.rot90(view, int(rng.integers(1, 4)))
        return np.ascontiguousarray(view)

    def together(self, photos: Sequence[Photo], seed: int) -> list[Photo]:
        """Cut the same view, turned the same way, from several layers or frames.

        Args:
            photos: all of one size. (No step's choices depend on what a picture shows, so the same seed gives each
                the same view.)
            seed: as above.

        Raises:
            ValueError: if the sizes differ.
        """
        if len({photo.shape for photo in photos}) > 1:
            raise ValueError(f"layers must be of one size, got {[photo.shape[:2] for photo in photos]}")
        return [self(photo, seed) for photo in photos]


def _random_square(photo: Photo, rng: np.random.Generator) -> Photo:
    height, width = photo.shape[:2]
    side = max(1, round(0.7 * min(height, width)))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return photo[top : top + side, left : left + side]


def _squeezed(crop: int) -> A.BasicTransform:
    import albumentations as A

    return A.Resize(crop, crop, interpolation=cv2.INTER_CUBIC, area_for_downscale="image")


def _paper(crop: int) -> list[A.BasicTransform]:
    import albumentations as A

    sizes = [size // 2 * 2 for size in range(crop, 2 * crop + 1)]
    sizes = [max(size, crop) for size in sizes]  # an odd crop cannot be cut from an even size just below it
    return [
        A.SmallestMaxSize(max_size=sizes, interpolation=cv2.INTER_CUBIC, area_for_downscale="image"),
        A.HorizontalFlip(p=0.5),
        A.RandomCrop(crop, crop),
    ]


def _hard(crop: int, colours: bool) -> list[A.BasicTransform]:
    import albumentations as A

    shape = [
        A.RandomResizedCrop(
            (crop, crop),
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            interpolation=cv2.INTER_CUBIC,
            area_for_downscale="image",
        ),
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.Transpose(p=0.5),
    ]
    if not colours:
        return shape
    return [
        *shape,
        A.ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.6, 1.4), hue=(-0.05, 0.05), p=0.8),
        A.RandomGamma(gamma_limit=(70, 140), p=0.5),
        A.ChannelShuffle(p=0.5),
    ]


def _shortened(photo: Photo, rng: np.random.Generator) -> Photo:
    """Cut a very elongated picture to a random stretch of it."""
    height, width = photo.shape[:2]
    longest = _LONGEST * min(height, width)
    if height > longest:
        top = int(rng.integers(height - longest + 1))
        return photo[top : top + longest]
    if width > longest:
        left = int(rng.integers(width - longest + 1))
        return photo[:, left : left + longest]
    return photo
