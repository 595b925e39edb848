"""``python -m reflectzoo.bench [SUBJECT ...]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from reflectzoo.bench.measure import MeasuredRow, has_bf16, machine, memory, peak_of, seconds
from reflectzoo.bench.registry import Options, SpeedComparison, find_subjects
from reflectzoo.cli import run_standalone
from reflectzoo.errors import UserError

DESCRIPTION = (
    "Compare exact shortcuts with the plain forms they replace, on this machine. Times are the best of several "
    "alternating runs; memory is the peak above the idle process, in fresh processes."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one table per subject.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0, whether or not the goals are reached; 2 for invalid arguments.
    """
    return run_standalone("bench", sys.modules[__name__], argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("subject", nargs="*", help="what to measure (default: everything)")
    parser.add_argument("--rounds", type=_positive, default=5, help="runs of each form (default %(default)s)")
    parser.add_argument("--threads", type=_positive, help="torch threads (default: torch's choice)")
    parser.add_argument("--bf16", action="store_true", help="measure bf16 even if the CPU has no matrix units for it")
    parser.add_argument("--shrink", type=_positive, default=1, help="divide picture sizes by this, for a quick try")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights and pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Measure the chosen subjects, or in a child process the memory of one form, and return the exit status 0."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = Options(arguments.shrink, arguments.seed)
    if arguments.child:
        subject, key, form = arguments.child
        return _child(subject, key, form, options)
    return _tables(arguments.subject, options, arguments.rounds, arguments.bf16, arguments.json)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _tables(names: Sequence[str], options: Options, rounds: int, bf16: bool, file: Path | None) -> int:
    subjects = find_subjects()
    unknown = [name for name in names if name not in subjects]
    if unknown:
        raise UserError(f"There is no benchmark {unknown[0]!r}: choose from {', '.join(subjects)}.")
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"There is no folder for {file}: make it first.")
    here = machine()
    _say(f"{here['cpu']}, {here['threads']} threads, torch {here['torch']}, load {here['load']} at the start")
    records = []
    for name in names or subjects:
        _say(f"\n{name}: {subjects[name].TITLE}")
        _say(f"  {'':60s} {'plain':>9s} {'fast':>9s} {'ratio':>7s} {'goal':>6s}")
        rows = subjects[name].comparisons(options)
        for row in rows:
            if row.bf16 and not (bf16 or has_bf16()):
                continue
            result = seconds(row, rounds) if row.measure == "seconds" else memory(name, row, options)
            _say(f"  {_line(row, result)}")
            records.append({"subject": name, **_record(row, result)})
        if any(row.bf16 for row in rows) and not (bf16 or has_bf16()):
            _say("  bf16: this CPU has no bf16 matrix units, so it was not measured (--bf16 measures it anyway)")
    load = round(os.getloadavg()[0], 2)
    _say(f"\nload {load} at the end; noise: how far the median of a row's runs lies above their best")
    if file is not None:
        report = {"machine": here, "load_after": load, "shrink": options.shrink, "rounds": rounds, "rows": records}
        file.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _line(row: SpeedComparison, result: MeasuredRow) -> str:
    if row.measure == "seconds":
        values = [f"{value:7.3f} s" for value in (result.plain, result.fast)]
        noise = f", noise {100 * (result.spread - 1):.0f} %"
    else:
        values = [f"{value / 2**20:6.0f} MB" for value in (result.plain, result.fast)]
        noise = ""
    verdict = "reached" if result.ratio >= row.goal else "MISSED"
    return f"{row.name:60s} {values[0]} {values[1]} {result.ratio:6.2f}x {row.goal:5.1f}x  {verdict}{noise}"


def _record(row: SpeedComparison, result: MeasuredRow) -> dict[str, object]:
    return {
        "key": row.key,
        "name": row.name,
        "unit": "s" if row.measure == "seconds" else "bytes",
        "plain": result.plain,
        "fast": result.fast,
        "ratio": result.ratio,
        "goal": row.goal,
        "spread": result.spread,
    }


def _child(subject: str, key: str, form: str, options: Options) -> int:
    """Run one form in this new process, and print its peak memory as JSON on the last line."""
    rows: Iterator[SpeedComparison] = iter(find_subjects()[subject].comparisons(options))
    row = next(row for row in rows if row.key == key)
    _say(json.dumps({"bytes": peak_of((row.plain if form == "plain" else row.fast)())}))
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
