"""``python -m tests.faults --minutes 60``: inject random faults and count how many the zoo survives."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def main() -> int:
    """Run the command line; 1 if something did not hold."""
    from tests.faults.cases import FAULTS, TRAININGS, Place, Wrong
    from tests.faults.children import preload

    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="approximate duration (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="random seed (default: a new one)")
    parser.add_argument("--only", choices=FAULTS, action="append", help="only these faults (default: all)")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int(time.time())
    sys.stdout.write(f"seed {seed}\n")
    preload()
    until = time.monotonic() + 60 * arguments.minutes
    tried: dict[str, int] = dict.fromkeys(arguments.only or FAULTS, 0)
    wrong: dict[str, list[str]] = {name: [] for name in tried}
    number = 0
    while time.monotonic() < until:
        name = list(tried)[number % len(tried)]
        dice = random.Random(f"{seed} {number}")
        folder = Path(tempfile.mkdtemp(prefix="reflectzoo-faults-"))
        place = Place(folder, dice, dice.choice(sorted(TRAININGS)))
        tried[name] += 1
        try:
            FAULTS[name](place)
        except Wrong as error:
            wrong[name].append(f"{error} (number {number}, {place.training}; {folder})")
            (folder / "told.txt").write_text("\n".join(place.told))
            sys.stdout.write(f"{name}: {wrong[name][-1]}\n")
        else:
            shutil.rmtree(folder)
        sys.stdout.flush()
        number += 1
    wide = max(map(len, tried))
    sys.stdout.write(f"{'fault':<{wide}}  tried  held\n")
    for name, count in tried.items():
        sys.stdout.write(f"{name:<{wide}}  {count:>5}  {count - len(wrong[name]):>4}\n")
    total, failed = sum(tried.values()), sum(map(len, wrong.values()))
    sys.stdout.write(f"{'all':<{wide}}  {total:>5}  {total - failed:>4}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
