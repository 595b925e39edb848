"""The size at which a paper's protocol scores a photograph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import numpy as np
from PIL import Image

from reflectzoo.core.annotations import Count, HeightWidth
from reflectzoo.core.settings import check_value
from reflectzoo.data.images import Photo
from reflectzoo.errors import UserError

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True)
class EvalSize:
    """How stored pictures are resized before they are scored: by Pillow, antialiased, in 8 bits.

    At most one of the first three may be given; without any, pictures keep their size.

    Attributes:
        shorter: length of the shorter side in pixels, keeping the aspect ratio (Real20 at 420).
        longer: length of the longer side in pixels, keeping the aspect ratio.
        size: height and width of landscape pictures, swapped for portrait ones (SIR2 at 224x288 for CoRRN).
        multiple: both sides are then rounded down to multiples of this (16 for YTMT with ``--if_align``, 32 for DSRNet,
            8 for Location-aware SIRR, 4 for IBCLN); pictures are resized only once.
        filter: Pillow's filter: ``bicubic``, its default since version 7, ``nearest``, the default before, ``box``,
            ``bilinear``, ``hamming`` or ``lanczos``.

    Example:
        >>> EvalSize(shorter=420, multiple=16).of(1152, 930)
        (512, 416)
        >>> str(EvalSize(size=(224, 288))), EvalSize(size=(224, 288)).of(540, 400)
        ('224x288, portrait turned', (288, 224))
    """

    shorter: Count | None = None
    longer: Count | None = None
    size: HeightWidth | None = None
    multiple: Count = 1
    filter: Filter = "bicubic"

    @classmethod
    def read(cls, value: EvalSize | Mapping[str, Any] | None, key: str = "data.eval_size") -> EvalSize:
        """Parse the configuration.

        Args:
            value: a mapping of the attributes; None keeps the stored size.
            key: the setting, for error messages.

        Raises:
            UserError: if a name is unknown, a value invalid, or more than one of the first three is given.
        """
        if isinstance(value, EvalSize):
            return value
        given = {str(name): each for name, each in (value or {}).items() if each is not None}
        known = get_type_hints(cls, include_extras=True)
        for name, each in given.items():
            if name not in known:
                raise UserError(f"{key} has no '{name}'; choose from: {', '.join(known)}.")
            check_value(f"{key}.{name}", each, known[name])
        if len({"shorter", "longer", "size"} & set(given)) > 1:
            raise UserError(f"{key} takes only one of shorter, longer and size.")
        if "size" in given:
            given["size"] = tuple(given["size"])
        return cls(**given)

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which a picture of a given size is scored, each at least ``multiple``."""
        if self.size is not None:
            height, width = self.size if width >= height else (self.size[1], self.size[0])
        side = self.shorter or self.longer
        if side is not None:
            scale = side / (min(height, width) if self.shorter else max(height, width))
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
        return tuple(max(length // self.multiple, 1) * self.multiple for length in (height, width))  # type: ignore[return-value]

    def apply(self, photo: Photo) -> Photo:
        """Resize one picture, (H, W, 3) uint8."""
        height, width = self.of(*photo.shape[:2])
        if (height, width) == photo.shape[:2]:
            return photo
        return np.array(Image.fromarray(photo).resize((width, height), Image.Resampling[self.filter.upper()]))

    def __str__(self) -> str:
        """The protocol in words, as recorded in results."""
        words = []
        if self.size is not None:
            words.append(f"{self.size[0]}x{self.size[1]}, portrait turned")
        if self.shorter or self.longer:
            words.append(f"shorter side {self.shorter}" if self.shorter else f"longer side {self.longer}")
        if self.multiple > 1:
            words.append(f"multiples of {self.multiple}")
        if words and self.filter != "bicubic":
            words.append(self.filter)
        return ", ".join(words) or "as stored"
