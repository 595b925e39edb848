"""``reflectzoo parity FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reflectzoo.cli import run_standalone

DESCRIPTION = (
    "Compare this zoo with inputs and outputs recorded from the authors' programs. Columns: recording/case, largest "
    "difference, tolerance (relative for losses), verdict."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a folder of recorded cases, and print one line per case.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0 if no case failed, 1 if one did, 2 for an invalid folder or invalid arguments.
    """
    return run_standalone("parity", sys.modules[__name__], argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("folder", type=Path, help="folder with pairs of .json and .npz files")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="recordings or recording/case; wildcards allowed"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the cases, and return the exit status: 1 if one of them fails, otherwise 0."""
    from reflectzoo.parity.report import run_folder

    lines = run_folder(arguments.folder, arguments.only, report=_say)
    return int(any(line.verdict == "FAIL" for line in lines))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
