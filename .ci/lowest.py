"""Write a constraint for the lowest version of each dependency of the package itself, as pyproject.toml allows it.

``2`` and ``2.1`` stand for any 2.0.x and 2.1.x, since the first of them may have been withdrawn.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    found = re.fullmatch(r"([\w.-]+)\s*(?:>=|==)\s*([\w.]+).*", requirement)
    if found is None:
        sys.exit(f"'{requirement}' has no lower bound.")
    parts = found[2].split(".")
    version = ".".join(parts) if len(parts) > 2 else ".".join([*parts, "0"][:2]) + ".*"
    sys.stdout.write(f"{found[1]}=={version}\n")
