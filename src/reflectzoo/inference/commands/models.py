"""``reflectzoo models``: list all models with their size, cost and weights."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.errors import UserError
from reflectzoo.inference.describe import describe

EPILOG = """\
Parameters and cost are counted at the paper's width. Cost is for one megapixel without tiles, counting multiplications
and additions separately. Weights without an address are the authors': get them from the authors' page and pass
--weights FILE.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("name", nargs="*", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fast", action="store_true", help="only list names and weights, without counting")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, as a table or as JSON; returns the exit status 0."""
    import reflectzoo

    names = reflectzoo.list_models()
    unknown = [name for name in arguments.name if name not in names]
    if unknown:
        raise UserError(f"There is no model '{unknown[0]}': choose from {', '.join(names)}.")
    entries = [describe(name, counted=not arguments.fast) for name in arguments.name or names]
    if arguments.json:
        sys.stdout.write(json.dumps([entry.as_dict() for entry in entries], indent=1) + "\n")
        return 0
    columns = [
        Column("model", whole=True),
        Column("parameters", right=True, whole=True),
        Column("GFLOP/MP", right=True, whole=True),
        Column("weights", whole=True),
        Column("licence"),
    ]
    rows: list[list[str]] = []
    for entry in entries:
        about = [
            entry.name,
            "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M",
            "" if entry.gflop_per_megapixel is None else f"{entry.gflop_per_megapixel:,.0f}",
        ]
        weights = [(f"{each.name}{' (default)' if each.default else ''}", each.licence) for each in entry.weights]
        for place, each in enumerate(weights or [("none yet", "")]):
            rows.append([*(about if place == 0 else [""] * len(about)), *each])
    console = Console()
    console.print(TextTable(columns, rows).rich(boxed=False))
    for record in [each for entry in entries for each in entry.weights]:
        where = f", from {record.source}" if record.source else ""
        console.print(
            f"{record.name}: by {record.trained_by}, on {record.trained_on}{where}. {record.note}".rstrip(),
            highlight=False,
            markup=False,
        )
    return 0
