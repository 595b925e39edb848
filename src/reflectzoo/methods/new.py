"""``reflectzoo new method NAME``: creates a working method that can be trained and used immediately."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path
from string import Template

from reflectzoo.config import config_dir
from reflectzoo.core.registry import model_names
from reflectzoo.errors import UserError

EPILOG = """examples:
  reflectzoo new method ghost                 inside the zoo: src/reflectzoo/methods/ghost and conf/model/ghost.yaml
  reflectzoo new method ghost --package       your own package, ./ghost, which is found by its entry point

The new method trains immediately: reflectzoo train model=ghost trainer=fast. Replace the network in net.py, its
settings in the YAML file, and the page in README.md.
"""

_INIT = '''\
"""$title. See README.md in this folder."""

from __future__ import annotations

from reflectzoo.core.method import Method, Model

METHOD = Method(
    name="$name",
    package=__name__,
    title="$title",
    models={"$name": Model("three convolutions, to begin with")},
    networks=(".net:${cls}Net",),
    tiny=("model.net.width=4",),  # what tests shrink it to
)
'''

_NET = '''\
"""The network of $title."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from reflectzoo.core.batch import Outputs


class ${cls}Net(nn.Module):
    """Three convolutions that correct the mixture.

    Args:
        width: channels of the hidden layers.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, mixture: Tensor) -> Outputs:
        """Separate a mixture.

        Args:
            mixture: (B, 3, H, W), RGB in [0, 1], any H and W.

        Returns:
            ``transmission`` and ``reflection``, of the same size, not clamped.
        """
        transmission = mixture + cast(Tensor, self.layers(mixture))
        return {"transmission": transmission, "reflection": mixture - transmission}
'''

_YAML = """\
# $title
defaults:
  - _base
  - override /loss@_global_.loss: pixel # any other loss in conf/loss, or your own
  - _self_
name: $name
net:
  _target_: $package.net.${cls}Net
  width: 32
"""

_PAGE = """\
# $title

What the method does, in ten lines; the paper; the authors' program and its licence.

```
reflectzoo train model=$name
```
"""

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "$title, a method for reflectzoo"
requires-python = ">=3.11"
dependencies = ["reflectzoo"]

[project.entry-points."reflectzoo.methods"]
$name = "$package:METHOD"

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``reflectzoo new``."""
    parser.add_argument("what", choices=["method"], help="what to create")
    parser.add_argument("name", help="name for model=: lower-case letters, digits and _")
    parser.add_argument("--package", action="store_true", help="create a package instead of a folder in the zoo")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="parent folder of the package (default: here)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and print their paths and the next command; returns exit status 0."""
    written = new_method(arguments.name, arguments.output if arguments.package else None)
    for file in written:
        sys.stdout.write(f"{file}\n")
    where = arguments.output / arguments.name
    shown = where if where.is_absolute() else f"./{where}"
    first = f"pip install -e {shown}, then " if arguments.package else ""
    sys.stdout.write(f"{first}reflectzoo train model={arguments.name} trainer=fast\n")
    return 0


def new_method(name: str, package_in: Path | None = None) -> list[Path]:
    """Write the files of a new method.

    Args:
        name: name of the method and its model.
        package_in: parent folder of a new package; None for a folder inside the zoo, which must then be a checkout.

    Returns:
        The written files.

    Raises:
        UserError: if the name is invalid or taken, the zoo is not a checkout, or one of the files exists already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"'{name}' is not a valid method name: use lower-case letters, digits and _, starting with a letter."
        )
    if name in model_names():
        raise UserError(f"A model '{name}' already exists: choose another name.")
    texts = {"__init__.py": _INIT, "net.py": _NET, "README.md": _PAGE}
    if package_in is None:
        here, conf = Path(__file__).resolve().parent, Path(config_dir())
        if conf.parent in here.parents[:2]:
            raise UserError(
                "This zoo was installed, not cloned, so a new method cannot go into its folder: add --package."
            )
        package, folder = f"reflectzoo.methods.{name}", here / name
        files = {conf / "model" / f"{name}.yaml": _YAML}
    else:
        package, top = name, package_in / name
        folder = top / "src" / name
        files = {folder / "conf" / "model" / f"{name}.yaml": _YAML, top / "pyproject.toml": _PYPROJECT}
    files |= {folder / file: text for file, text in texts.items()}
    there = next((file for file in files if file.exists()), None)
    if there is not None:
        raise UserError(f"{there} already exists: choose another name.")
    words = name.split("_")
    facts = {
        "name": name, "package": package, "cls": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
    }  # fmt: skip
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(facts), encoding="utf-8")
    return list(files)
