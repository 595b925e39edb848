"""``data=sample``: photographs included in the scikit-image and scikit-learn wheels, without any download."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from reflectzoo.core.annotations import Count, Side
from reflectzoo.data.augment import PhotoAugment
from reflectzoo.data.datasets.photos import FixedPair, FixedPairs, OnError, PhotoPairs, Region
from reflectzoo.data.modules.base import ReflectionDataModule
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.errors import UserError

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets", "images")

# Training has the brightest (temple) and the darkest (flower) photograph. The stereo pair shows the same motorcycle, so
# that both of its pictures form one scene.
TRAIN = (
    ((*_SKIMAGE, "astronaut.png"),),
    ((*_SKLEARN, "china.jpg"),),
    ((*_SKIMAGE, "motorcycle_left.png"), (*_SKIMAGE, "motorcycle_right.png")),
    ((*_SKLEARN, "flower.jpg"),),
)
ROCKET = (*_SKIMAGE, "rocket.jpg")
CHELSEA = (*_SKIMAGE, "chelsea.png")
COFFEE = (*_SKIMAGE, "coffee.png")

_LEFT, _RIGHT, _WHOLE = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)
_LOW_LEFT, _LOW_RIGHT = (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)


class SamplePhotos(ReflectionDataModule):
    """Eight photographs, of which whole ones are held out for validation and test.

    Training: an astronaut, a temple, a motorcycle (two views), a flower. Validation: a rocket, whose left part is
    reflected in its right part and vice versa. Test: a cat reflected in a cup of coffee and vice versa. So few
    photographs are enough to watch a method learn and for a quick comparison, but not for publication.

    Args:
        synthesis: makes a mixture of two photographs.
        crop: side of the training crops in pixels.
        eval_crop: side of the evaluation images in pixels; their content does not depend on it.
        augment: ``hard`` or ``paper``, see :class:`~reflectzoo.data.augment.PhotoAugment`.
        samples_per_epoch: length of an epoch.
        patches: see :class:`~reflectzoo.data.datasets.photos.PhotoPairs`.
        on_error: ``skip`` or ``raise`` for an unreadable file.
        kwargs: see :class:`ReflectionDataModule`.
    """

    def __init__(
        self,
        synthesis: Synthesis,
        crop: Side = 224,
        eval_crop: Side = 224,
        augment: Literal["paper", "hard"] = "hard",
        samples_per_epoch: Count = 200,
        patches: Annotated[int, Ge(0), Le(100)] = 0,
        on_error: OnError = "raise",
        **kwargs: Any,
    ) -> None:
        super().__init__(synthesis, **kwargs)
        self.crop = crop
        self.eval_crop = eval_crop
        self.augment = augment
        self.samples_per_epoch = samples_per_epoch
        self.patches = patches
        self.on_error = on_error

    def train_set(self) -> PhotoPairs:
        """Random pairs of the training photographs."""
        return PhotoPairs(
            training_scenes(),
            PhotoAugment(self.crop, self.augment),
            seed=self.seed,
            samples_per_epoch=self.samples_per_epoch,
            joint=self.augment == "paper",
            patches=self.patches,
            on_error=self.on_error,
            dataset="sample",
        )

    def eval_sets(self) -> Mapping[str, FixedPairs]:
        """Parts of the rocket; those of a pair never overlap."""
        return {"sample": FixedPairs(validation_pairs(), self.eval_crop, "sample")}

    def test_sets(self) -> Mapping[str, FixedPairs]:
        """A cat and a cup of coffee, alternating as transmission and reflection."""
        return {"sample": FixedPairs(test_pairs(), self.eval_crop, "sample")}


def training_scenes() -> list[tuple[Path, ...]]:
    """The training photographs by scene; several views of one scene form one entry."""
    return [tuple(find_in_package(file) for file in scene) for scene in TRAIN]


def validation_pairs() -> list[FixedPair]:
    """Parts of the rocket; those of a pair never overlap."""
    rocket = find_in_package(ROCKET)
    halves = {"left": _LEFT, "right": _RIGHT, "low_left": _LOW_LEFT, "low_right": _LOW_RIGHT}
    across = {"left": "right", "right": "left", "low_left": "low_right", "low_right": "low_left"}
    return [_pair(f"rocket_{name}", rocket, halves[name], rocket, halves[other]) for name, other in across.items()]


def test_pairs() -> list[FixedPair]:
    """A cat and a cup of coffee, alternating as transmission and reflection."""
    chelsea, coffee = find_in_package(CHELSEA), find_in_package(COFFEE)
    pairs = []
    for first, second, name in ((coffee, chelsea, "coffee"), (chelsea, coffee, "cat")):
        for part, box, other in (("", _WHOLE, _WHOLE), ("_left", _LEFT, _RIGHT), ("_right", _RIGHT, _LEFT)):
            pairs.append(_pair(name + part, first, box, second, other))
    return pairs


def find_in_package(file: tuple[str, ...]) -> Path:
    """The path of a file inside scikit-image or scikit-learn, found without importing the package.

    Raises:
        UserError: if the package or the file is missing.
    """
    package, *parts = file
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, *parts)
        if path.is_file():
            return path
    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
    raise UserError(
        f"data=sample needs {'/'.join(file)}, which comes with {distribution}, but it is not installed: "
        f"pip install {distribution}."
    )


def _pair(
    name: str,
    first: Path,
    first_box: tuple[float, float, float, float],
    second: Path,
    second_box: tuple[float, float, float, float],
) -> FixedPair:
    return FixedPair(name, Region(first, first_box), Region(second, second_box))
