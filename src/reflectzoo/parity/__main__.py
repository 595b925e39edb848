"""``python -m reflectzoo.parity FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reflectzoo.errors import UserError
from reflectzoo.parity.report import run_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run a folder of recorded cases and write one line for each.

    Args:
        argv: arguments; those of the command line when None.

    Returns:
        0 if nothing failed, 1 if something did, 2 if the folder or the arguments make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reflectzoo.parity",
        description="Compare this zoo with inputs and outputs recorded from the authors' programs. "
        "Columns: recording/case, largest difference, tolerance (relative for losses), verdict.",
    )
    parser.add_argument("folder", type=Path, help="with pairs of .json and .npz files")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="recordings or recording/case; wildcards")
    arguments = parser.parse_args(argv)
    try:
        lines = run_folder(arguments.folder, arguments.only, report=_say)
    except UserError as error:
        sys.stderr.write(f"reflectzoo: {error}\n")
        return 2
    return int(any(line.verdict == "FAIL" for line in lines))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
