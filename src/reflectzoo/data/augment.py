"""Random crops and colour changes of a photograph; the only module that uses albumentations, which is archived."""

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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise importing it checks for updates online

Kind = Literal["paper", "hard", "square", "whole"]
KINDS: tuple[str, ...] = get_args(Kind)

# Pictures with a larger aspect ratio are cut to it first: enlarging a whole picture of 12000x200 would give a strip of
# 36 MB, of which one square is used.
_LONGEST = 4


class PhotoAugment:
    """Cuts a random ``crop`` x ``crop`` view from a photograph, determined by a seed.

    ``paper`` follows the programs of YTMT and ERRNet: the shorter side is resized (bicubic) to an even number between
    ``crop`` and ``2 * crop``, followed by a horizontal flip with probability 0.5 and a random crop. (Downscaling
    averages pixels over their area, similar to Pillow's bicubic filter; OpenCV's would alias.)

    ``hard`` suits small sets of photographs: views of 8 to 100 % of the picture's area, all eight rotations and
    reflections, changes of brightness, contrast, saturation, hue and gamma, and colour channels shuffled with
    probability 0.5.

    ``square`` and ``whole`` follow IBCLN's program for real pairs and for blended photographs, respectively: a random
    square of 0.7 of the shorter side, resized; and the whole picture, squeezed into a square. Neither is mirrored.

    Photographs smaller than the crop are enlarged just enough.

    Args:
        crop: side of the view in pixels.
        kind: ``paper``, ``hard``, ``square`` or ``whole``.
        colours: whether ``hard`` changes colours; must be False if several layers have to add up afterwards.
        rotate: probability of an additional rotation by 90, 180 or 270 degrees (0.5 in DSRNet's program).

    Raises:
        ValueError: if the kind is unknown.
    """

    def __init__(self, crop: int, kind: Kind = "paper", colours: bool = True, rotate: float = 0.0) -> None:
        if kind not in KINDS:
            raise ValueError(f"augment must be one of {', '.join(KINDS)}, got {kind!r}")
        self.crop = crop
        self.kind = kind
        self.rotate = rotate
        steps = {"paper": _paper(crop), "hard": _hard(crop, colours)}
        import albumentations as A  # takes a second, and evaluation does not need it

        self._compose = A.Compose(steps.get(kind, [_squeezed(crop)]))

    @property
    def shorter(self) -> int:
        """Shorter side in pixels to which decoding may reduce a photograph without enlarging any view further."""
        return 4 * self.crop if self.kind == "hard" else 2 * self.crop

    def __call__(self, photo: Photo, seed: int) -> Photo:
        """Cut one view.

        Args:
            photo: (H, W, 3) uint8, any size.
            seed: determines all random choices, >= 0.

        Returns:
            (crop, crop, 3) uint8, contiguous.
        """
        # One generator for the whole chain: set_random_seed would give every step the same seed and therefore the same
        # random numbers, so that, for example, both flips would always coincide.
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
        """Cut the same view from several layers or frames.

        Args:
            photos: (H, W, 3) uint8, all of the same size. (No random choice depends on the content, so that the same
                seed gives the same view.)
            seed: determines all random choices, >= 0.

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
    """Cut a very elongated picture to a random part with an aspect ratio of :data:`_LONGEST`."""
    height, width = photo.shape[:2]
    longest = _LONGEST * min(height, width)
    if height > longest:
        top = int(rng.integers(height - longest + 1))
        return photo[top : top + longest]
    if width > longest:
        left = int(rng.integers(width - longest + 1))
        return photo[:, left : left + longest]
    return photo
