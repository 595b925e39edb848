"""``reflectzoo bench WHAT``: dispatches to a benchmark, with the remaining arguments."""

from __future__ import annotations

import argparse
import importlib

from reflectzoo.errors import UserError

WHAT = {
    "train": ("reflectzoo.bench.train", "training speed of every method, and where its time goes"),
    "inference": ("reflectzoo.bench.inference", "time and memory per photograph, for every method"),
    "networks": ("reflectzoo.bench.__main__", "exact shortcuts compared with the plain forms they replace"),
}

EPILOG = "\n".join(f"  {name:<10} {line}" for name, (_, line) in WHAT.items()) + (
    "\n\nreflectzoo bench WHAT --help shows the options of each."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("what", help=f"one of {', '.join(WHAT)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return its exit status.

    Raises:
        UserError: if there is no benchmark of that name.
    """
    if arguments.what not in WHAT:
        raise UserError(f"There is no benchmark {arguments.what}: choose from {', '.join(WHAT)}.")
    module = importlib.import_module(WHAT[arguments.what][0])
    return int(module.main(arguments.rest))
