"""``reflectzoo models``: what there is to choose from, counted here and now."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from reflectzoo.errors import UserError
from reflectzoo.inference.describe import describe

EPILOG = """\
Parameters and cost are counted at the paper's width. Cost is for one megapixel without tiles, counting multiplications
and additions separately. Weights without an address are the authors': get them from the authors' page and pass
--weights FILE.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", nargs="*", help="only these (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fast", action="store_true", help="only list names and weights, without counting")


def run(arguments: argparse.Namespace) -> int:
    """List."""
    import reflectzoo

    names = reflectzoo.list_models()
    unknown = [name for name in arguments.name if name not in names]
    if unknown:
        raise UserError(f"There is no model '{unknown[0]}': choose from {', '.join(names)}.")
    entries = [describe(name, counted=not arguments.fast) for name in arguments.name or names]
    if arguments.json:
        sys.stdout.write(json.dumps([entry.as_dict() for entry in entries], indent=1) + "\n")
        return 0
    table = Table("model", "parameters", "GFLOP/MP", "weights", "licence", box=None, pad_edge=False)
    for number, column in enumerate(table.columns):
        column.no_wrap = number != 4
        column.justify = "right" if number in (1, 2) else "left"
    for entry in entries:
        table.add_row(
            entry.name,
            "" if entry.parameters is None else f"{entry.parameters / 1e6:.1f} M",
            "" if entry.gflop_per_megapixel is None else f"{entry.gflop_per_megapixel:,.0f}",
            "\n".join(f"{each.name}{' (default)' if each.default else ''}" for each in entry.weights) or "none yet",
            "\n".join(each.licence for each in entry.weights),
        )
    console = Console()
    console.print(table)
    for record in [each for entry in entries for each in entry.weights]:
        where = f", from {record.source}" if record.source else ""
        console.print(
            f"{record.name}: by {record.trained_by}, on {record.trained_on}{where}. {record.note}".rstrip(),
            highlight=False,
            markup=False,
        )
    return 0
