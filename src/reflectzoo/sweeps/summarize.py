"""``reflectzoo summarize FOLDER``: tables and a plot of many training runs."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from reflectzoo.cli.tables import TextTable
from reflectzoo.errors import UserError
from reflectzoo.sweeps.page import SweepSummary, print_summary, text_table, write_pages
from reflectzoo.sweeps.plots import curves
from reflectzoo.sweeps.runs import TrainingRun, differing, find_runs

EPILOG = """examples:
  reflectzoo summarize outputs/multirun/2026-11-30_10-00-00
  reflectzoo summarize outputs/ytmt_ucs outputs/corrn --metric val/mean/ssim_gaussian11 -o comparison/

Runs that differ only in their seed are also listed together, with mean and standard deviation.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("folder", nargs="+", type=Path, help="folder of a sweep or of runs, searched recursively")
    parser.add_argument("--metric", default="val/mean/psnr", help="score to sort by and plot (default %(default)s)")
    parser.add_argument("--minimize", action="store_true", help="smaller is better")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the first folder")


def run(arguments: argparse.Namespace) -> int:
    """Summarise the runs in some folders: print tables and write pages.

    Returns:
        Exit status: 0; 1 if a run is not finished.

    Raises:
        UserError: if there is no run, or runs have logged values, but none of this metric.
    """
    runs = find_runs(arguments.folder)
    summary = summarize(runs, arguments.metric, not arguments.minimize)
    files = write_pages(summary, arguments.output or arguments.folder[0], "summary")
    print_summary(summary)
    from reflectzoo.sweeps.tune import say

    say(f"Tables and plot: {files[-1]}")
    return 0 if all(each.finished for each in runs) else 1


def summarize(runs: Sequence[TrainingRun], metric: str = "val/mean/psnr", maximize: bool = True) -> SweepSummary:
    """Summarise training runs in tables and a plot, the best first.

    Args:
        runs: at least one.
        metric: name of a logged value or test score.
        maximize: whether larger is better.

    Raises:
        UserError: if runs have logged values, but none of this metric.
    """
    values = {id(each): each.best(metric, maximize) for each in runs}
    if all(value is None for value in values.values()):
        logged = sorted({key for each in runs for key in (*each.curves, *each.scores) if not key.startswith("lr")})
        if logged:
            raise UserError(f"No training logged {metric}: --metric takes one of {', '.join(logged)}.")

    def rank(each: TrainingRun) -> tuple[bool, float]:
        value = values[id(each)]
        return value is None, 0.0 if value is None else -value if maximize else value

    ordered = sorted(runs, key=rank)
    keys = differing(runs)
    tests = [key for key in ("test/mean/psnr", "test/mean/ssim_gaussian11") if any(key in each.scores for each in runs)]
    rows = []
    for each in ordered:
        state = "finished" if each.finished else f"stopped after {each.epochs} of {each.planned or '?'} epochs"
        numbers = [_number(values[id(each)]), *(_number(each.scores.get(key)) for key in tests)]
        rows.append([each.name, state, str(each.epochs), *numbers, *(each.settings.get(key, "") for key in keys)])
    sheets = [text_table(f"{len(runs)} trainings", ["run", "state", "epochs", f"best {metric}", *tests, *keys], rows)]
    if "seed" in keys:
        others = [key for key in keys if key != "seed"]
        sheets.append(_over_seeds(ordered, others, {metric: values} | {key: _scores(runs, key) for key in tests}))
    lines = {
        f"{each.name} {' '.join(f'{key}={each.settings.get(key, str())}' for key in keys)}".strip(): [
            (float(epoch), value) for epoch, value in each.curves[metric]
        ]
        for each in ordered
        if each.curves.get(metric)
    }
    plots = [curves(lines, metric, "epoch")] if lines else []
    open_ends = [each.name for each in runs if not each.finished]
    notes = []
    if open_ends:
        some = ", ".join(open_ends[:8]) + (", …" if len(open_ends) > 8 else "")
        notes.append(f"{len(open_ends)} of {len(runs)} did not finish: {some}.")
    return SweepSummary("Trainings", sheets, plots, notes)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _scores(runs: Sequence[TrainingRun], key: str) -> dict[int, float | None]:
    return {id(each): each.scores.get(key) for each in runs}


def _over_seeds(
    runs: Sequence[TrainingRun], keys: Sequence[str], values: dict[str, dict[int, float | None]]
) -> TextTable:
    groups: dict[tuple[str, ...], list[TrainingRun]] = {}
    for each in runs:
        groups.setdefault(tuple(each.settings.get(key, "") for key in keys), []).append(each)
    rows = []
    for settings, members in groups.items():
        row = [*settings, ", ".join(each.settings.get("seed", "") for each in members)]
        for column in values.values():
            known = [value for each in members if (value := column[id(each)]) is not None]
            spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
            row.append(f"{statistics.fmean(known):.4f}{spread}" if known else "")
        rows.append(row)
    return text_table("Over seeds: mean ± standard deviation", [*keys, "seeds", *values], rows)
