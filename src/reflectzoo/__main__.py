"""``reflectzoo COMMAND``: for people with a photograph."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from reflectzoo.cli import debugging, sentence

#: Name of a command -> its module and one line about it. A module has ``add_arguments(parser)``, ``run(arguments) ->
#: status`` and, if it likes, ``EPILOG``; nothing is imported before it is chosen.
COMMANDS: dict[str, tuple[str, str]] = {
    "remove": ("reflectzoo.inference.commands.remove", "take the reflections out of photographs"),
    "models": ("reflectzoo.inference.commands.models", "list the methods: size, cost, weights, licence"),
    "convert": ("reflectzoo.inference.commands.convert", "turn weights of any known layout into a safetensors file"),
    "export": ("reflectzoo.inference.commands.export", "write a network as an ONNX file, compared with PyTorch"),
    "tune": ("reflectzoo.sweeps.tune", "search for good settings of a method, on one machine or many"),
    "summarize": ("reflectzoo.sweeps.summarize", "one table and plot over the trainings of a sweep"),
    "bench": ("reflectzoo.bench.command", "measure: bench train, bench inference, bench networks"),
    "new": ("reflectzoo.methods.new", "begin a method of your own: in the zoo, or in a package"),
    "demo": ("reflectzoo.inference.commands.demo", "a page in the browser, for this machine alone"),
}

_EPILOG = """examples:
  reflectzoo remove photo.jpg                     writes photo.transmission.jpg beside it
  reflectzoo remove holiday/ -r -o clean/         every picture of a folder and those below it
  reflectzoo models                               what there is to choose from
  reflectzoo COMMAND --help                       everything about a command

training, evaluation:
  python -m reflectzoo.train --help
  python -m reflectzoo.evaluate --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its words; those of the command line when None.

    Returns:
        0; 1 if something failed on the way; 2 for a mistake in what was given; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="reflectzoo",
        description="Take reflections out of photographs shot through glass.",
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
            command.epilog = getattr(code, "EPILOG", None)
            code.add_arguments(command)
            command.set_defaults(run=code.run)
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        return int(arguments.run(arguments))
    except BaseException as error:
        told = None if debugging() else sentence(error, [])
        if told is None:
            raise
        sys.stderr.write(f"reflectzoo: {told[0]}\n")
        return told[1]


def console() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
