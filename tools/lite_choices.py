"""Compare design choices of lite's architecture and data with equal time on one core; prints the table of its page.

    python tools/lite_choices.py ../shared/data outputs/choices --minutes 2

Each choice is trained by ``reflectzoo.methods.lite.sprint`` with the same seed, photographs, pairs and time, then
scored on the validation pairs (``real/scenes/val``) and on held-out mixtures, never on a test set. A choice with a log
of an earlier training is not trained again. NAFNet blocks cannot start from the weights of ``lite_1``, so that they and
the plain blocks that they are compared with are trained from scratch.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Choice(NamedTuple):
    """One row of the table.

    Attributes:
        name: in the table, as Markdown.
        net: settings of the network.
        real: share of real pairs.
        moved: share of the real pairs whose reflection is transferred to another scene.
        warm: start from the weights of lite_1.
    """

    name: str
    net: dict[str, str]
    real: float = 0.45
    moved: float = 0.0
    warm: bool = True


PLAIN = {"features": "none", "head": "residual"}
CHOICES = {
    "residual": Choice("`T = I + B`, no features (`lite_1`'s)", PLAIN),
    "gain": Choice("`T = S·I + B`, no features", {"features": "none"}),
    "features": Choice("`T = I + B`, features", {"head": "residual"}),
    "both": Choice("`T = S·I + B`, features (`lite`'s)", {}),
    "mixtures": Choice("`lite` without real pairs", {}, real=0),
    "moved": Choice("`lite`, half of the real reflections moved", {}, moved=0.5),
    "plain_blocks": Choice("`lite` from scratch, plain blocks", {}, warm=False),
    "naf_blocks": Choice("`lite` from scratch, NAFNet blocks", {"block": "naf"}, warm=False),
}
COLUMNS = {"crops": "crops", "real": "`scenes/val`", "ceilnet": "CEILNet's model", "glass": "windows", "clear": "clear"}


def main() -> int:
    """Train the missing choices, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="folder with photos/ and real/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=2, help="training time per choice")
    wanted = parser.parse_args()
    real, photos = wanted.data / "real", wanted.data / "photos"
    start = Path(__file__).parents[1] / "src/reflectzoo/weight_records/lite_1.safetensors"
    print(f"| {wanted.minutes:g} minutes of one core each | " + " | ".join(COLUMNS.values()) + " |")  # noqa: T201
    print("| --- " * (1 + len(COLUMNS)) + "|")  # noqa: T201
    for key, choice in CHOICES.items():
        folder = wanted.out / key
        lines = reports(folder)
        if not lines or int(lines[-1]["crops"]) == 0:
            command = [sys.executable, "-m", "reflectzoo.methods.lite.sprint", folder, "--photos", photos / "train"]
            command += ["--pairs", real / "zhang/train", real / "scenes/train", "--val-pairs", real / "scenes/val"]
            command += ["--val-photos", photos / "val", "--minutes", str(wanted.minutes), "--report", "1000"]
            command += [
                "--real",
                str(choice.real),
                "--moved",
                str(choice.moved),
                "--net",
                json.dumps(choice.net),
                "--batch",
                "4",
                "--lr",
                "5e-4",
            ]
            command += ["--start", start] if choice.warm else []
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            lines = reports(folder)
        last = lines[-1]
        print(f"| {choice.name} | " + " | ".join(shown(last[column]) for column in COLUMNS) + " |", flush=True)  # noqa: T201
    return 0


def reports(folder: Path) -> list[dict[str, str]]:
    """Rows of the log of a run; empty if there is none."""
    if not (folder / "log.csv").is_file():
        return []
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shown(value: str) -> str:
    """Format a count with thousands separators, or a PSNR with two decimal places."""
    return f"{float(value):.2f}" if "." in value else f"{int(value):,}"


if __name__ == "__main__":
    sys.exit(main())
