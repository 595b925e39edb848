"""Draw an example of every synthesis model: ``python -m reflectzoo.data.gallery``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor

from reflectzoo.config import build, compose_config, config_dir
from reflectzoo.data.datasets.base import to_tensor
from reflectzoo.data.images import read_rgb
from reflectzoo.data.modules.sample import find_in_package
from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.drawing.panels import PanelRow, draw_separations
from reflectzoo.errors import UserError

BEHIND = ("sklearn", "datasets", "images", "flower.jpg")
REFLECTED = ("skimage", "data", "coffee.png")

_SIZE = (224, 304)
_CELL = 216


def gallery(models: Mapping[str, Synthesis], transmission: Tensor, reflection: Tensor, seed: int = 0) -> list[PanelRow]:
    """Blend two photographs with each model: a row with both layers, the mixture and the draws.

    Args:
        models: synthesis models by name.
        transmission: (3, H, W) in [0, 1].
        reflection: likewise.
        seed: seed of the draws.

    Returns:
        A row with the two photographs, followed by one row per model.
    """
    rows = [PanelRow({"transmission": transmission, "reflection": reflection}, "the two photographs")]
    for name, model in models.items():
        blend = model(transmission[None], reflection[None], [seed])
        images = {"transmission": blend.transmission, "reflection": blend.reflection, "mixture": blend.mixture}
        drawn = ", ".join(
            f"{key} {_number(value[0])}"
            for key, value in blend.draws.items()
            if not (value.isnan().any() or key.endswith("seed"))
        )
        rows.append(PanelRow({title: image[0] for title, image in images.items()}, f"{name}: {drawn}"))
    return rows


def configured_models(names: Sequence[str] = ()) -> dict[str, Synthesis]:
    """The models of ``conf/synthesis`` by name; all of them if no names are given.

    Raises:
        UserError: if a name is unknown.
    """
    known = sorted(file.stem for file in (Path(config_dir()) / "synthesis").glob("*.yaml"))
    for name in names:
        if name not in known:
            raise UserError(f"There is no synthesis model '{name}': choose from {', '.join(known)}.")
    return {name: build(compose_config([f"synthesis={name}"]).synthesis) for name in names or known}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the gallery.

    Args:
        argv: arguments; None takes those of the command line.

    Returns:
        0; 2 after a user error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.data.gallery",
        description="Blend the same two photographs with every synthesis model and draw layers and mixtures.",
    )
    parser.add_argument("model", nargs="*", help="synthesis models (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/synthesis.jpg"), help="output file (default %(default)s)"
    )
    parser.add_argument("--behind", type=Path, help="photograph behind the glass")
    parser.add_argument("--reflected", type=Path, help="photograph reflected in it")
    parser.add_argument("--seed", type=int, default=7, help="random seed")
    arguments = parser.parse_args(argv)
    try:
        models = configured_models(arguments.model)
        behind, reflected = (
            _photograph(path or find_in_package(file))
            for path, file in ((arguments.behind, BEHIND), (arguments.reflected, REFLECTED))
        )
        if not arguments.out.absolute().parent.is_dir():
            raise UserError(f"There is no folder for {arguments.out}: make it first.")
    except UserError as error:
        sys.stderr.write(f"reflectzoo: {error}\n")
        return 2
    draw_separations(gallery(models, behind, reflected, arguments.seed), _CELL).save(arguments.out, quality=80)
    sys.stdout.write(f"{arguments.out}\n")
    return 0


def _photograph(path: Path) -> Tensor:
    """The centre of a photograph at the gallery's size, (3, H, W) in [0, 1]."""
    photo = read_rgb(path)
    height, width = _SIZE
    scale = max(height / photo.shape[0], width / photo.shape[1])
    whole = (math.ceil(photo.shape[1] * scale), math.ceil(photo.shape[0] * scale))
    photo = cv2.resize(photo, whole, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)  # type: ignore[assignment]
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return to_tensor(photo[top : top + height, left : left + width]).to(torch.float32) / 255


def _number(value: Tensor) -> str:
    return "/".join(f"{number:.3g}" for number in value.reshape(-1).tolist())


if __name__ == "__main__":
    sys.exit(main())
