"""``reflectzoo COMMAND``: the entry point of all commands."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from reflectzoo.cli import debugging, sentence

#: Maps each command to its module and a one-line description. A module has ``add_arguments(parser)``, ``run(arguments)
#: -> status`` and optionally ``DESCRIPTION`` and ``EPILOG``; a module that uses Hydra has ``main()`` instead. Only the
#: module of the chosen command is imported.
COMMANDS: dict[str, tuple[str, str]] = {
    "remove": ("reflectzoo.inference.commands.remove", "remove reflections from photographs"),
    "demo": ("reflectzoo.inference.commands.demo", "serve a web page, on this machine only"),
    "train": ("reflectzoo.train", "train a method: model=<name> [overrides]"),
    "evaluate": ("reflectzoo.evaluate", "evaluate methods on a benchmark: benchmark=<name> [overrides]"),
    "report": ("reflectzoo.evaluation.report.__main__", "write the report of a finished evaluation"),
    "compare": ("reflectzoo.evaluation.compare", "compare two results: a real difference, or noise?"),
    "rank": ("reflectzoo.evaluation.ranking", "write a page of all measured results"),
    "tune": ("reflectzoo.sweeps.tune", "search for good hyperparameters, on one machine or several"),
    "summarize": ("reflectzoo.sweeps.summarize", "summarise the runs of a sweep in one table and plot"),
    "data": ("reflectzoo.data.__main__", "check and summarise a data set: data=<name> [overrides]"),
    "models": ("reflectzoo.inference.commands.models", "list the methods: size, cost, weights, licence"),
    "convert": ("reflectzoo.inference.commands.convert", "convert weights of any supported layout to safetensors"),
    "export": ("reflectzoo.inference.commands.export", "export a network to ONNX and compare it with PyTorch"),
    "parity": ("reflectzoo.parity.__main__", "compare the zoo with recordings of the authors' programs"),
    "bench": ("reflectzoo.bench.command", "run benchmarks: bench train, bench inference, bench networks"),
    "new": ("reflectzoo.methods.new", "create your own method, in the zoo or in a package"),
}

_EPILOG = """examples:
  reflectzoo remove photo.jpg                     writes photo.transmission.jpg beside it
  reflectzoo remove holiday/ -r -o clean/         processes a folder and its subfolders
  reflectzoo models                               lists the methods and their weights
  reflectzoo train model=lite                     trains on the sample photographs
  reflectzoo COMMAND --help                       shows all options of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its name and arguments; None takes those of the command line.

    Returns:
        0; 1 if it failed; 2 for invalid arguments; 130 after Ctrl-C.

    Raises:
        SystemExit: if argparse cannot parse the arguments (status 2), or after printing the help.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="reflectzoo",
        description="Remove reflections from photographs taken through glass.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module, line) in COMMANDS.items():
        command = choices.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if name == chosen:
            code = importlib.import_module(module)
            if not hasattr(code, "add_arguments"):
                return _hand_on(name, module, words[words.index(name) + 1 :])
            command.description = getattr(code, "DESCRIPTION", command.description)
            command.epilog = getattr(code, "EPILOG", None)
            code.add_arguments(command)
            command.set_defaults(handler=code.run)
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        return int(arguments.handler(arguments))
    except BaseException as error:
        told = None if debugging() else sentence(error, [])
        if told is None:
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        return told[1]


def _hand_on(name: str, module: str, words: Sequence[str]) -> int:
    """Run a Hydra command with the rest of the command line, which Hydra reads from ``sys.argv``."""
    code = importlib.import_module(module)
    program = sys.modules["__main__"]
    before = sys.argv, program.__spec__
    # Child processes (further ranks, data workers) are started as ``python -m <module>``.
    sys.argv, program.__spec__ = [f"reflectzoo {name}", *words], importlib.util.find_spec(module)
    try:
        code.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv, program.__spec__ = before
    return 0


def console() -> None:
    """Entry point of the console script ``reflectzoo``."""
    sys.exit(main())


if __name__ == "__main__":
    console()
