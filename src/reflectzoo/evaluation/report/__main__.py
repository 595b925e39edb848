"""``reflectzoo report RUN``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reflectzoo.cli import run_standalone

DESCRIPTION = "Write report.html, report.md, report.csv and report.json for a finished evaluation."


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of a finished evaluation.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0, or 2 for invalid arguments.
    """
    return run_standalone("report", sys.modules[__name__], argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the evaluation")
    parser.add_argument("-o", "--out", type=Path, help="output folder (default: RUN)")
    parser.add_argument("--no-published", action="store_true", help="omit published scores")


def run(arguments: argparse.Namespace) -> int:
    """Write the files, print their paths, and return the exit status 0."""
    from reflectzoo.evaluation.report import write_report

    paths = write_report(arguments.run_folder, arguments.out, not arguments.no_published)
    sys.stdout.write("".join(f"{path}\n" for path in paths.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
