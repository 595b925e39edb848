"""Print the table of docs/comparison.md from evaluations: python tools/comparison.py RUN [RUN ...] [--csv FILE].

It has a row for each entry, including the untouched input, and for each run the mean PSNR and SSIM of the transmission,
and the mean gain in PSNR over the input with its 95 % interval, as in ``reflectzoo compare``. Runs of one benchmark
share a column; if several contain an entry, the last one counts. With ``--seeds``, the scores of NAME_1, NAME_2 and so
on are averaged picture by picture to those of NAME; with ``--against NAME``, gains are over this entry.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from reflectzoo.cli.tables import Cell, Column, Place, TextTable
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.compare import Pair, judge, match_pictures
from reflectzoo.evaluation.results import read_results

COLUMNS = ("set", "entry", "pictures", "psnr", "ssim", "gain", "low", "high", "better", "worse", "p")


def rows_of(results: dict[str, Any], seeds: bool, against: str) -> list[dict[str, Any]]:
    """Numbers of a run: one row per entry, with the keys :data:`COLUMNS`.

    Args:
        results: content of its ``results.json``.
        seeds: average over entries that differ in a final number only.
        against: entry over which gains are computed.
    """
    members: dict[str, list[str]] = {}
    for entry in (each["name"] for each in results["entries"]):
        members.setdefault(re.sub(r"_\d+$", "", entry) if seeds else entry, []).append(entry)
    rows = []
    for name, entries in members.items():
        psnr, ssim = (
            judge(mean_pairs(results, members[against], entries, metric), {})[-1] for metric in ("psnr", "ssim")
        )
        row = (results["benchmark"]["name"], name, psnr.images, psnr.mean_b, ssim.mean_b, psnr.difference)
        numbers = (*row, psnr.low, psnr.high, psnr.b_higher, psnr.a_higher, psnr.p)
        rows.append(dict(zip(COLUMNS, numbers, strict=True)))
    return rows


def mean_pairs(results: dict[str, Any], first: Sequence[str], second: Sequence[str], metric: str) -> list[Pair]:
    """The scores of each picture, averaged over the first and over the second entries."""

    def scores(entry: str) -> list[Pair]:
        return match_pictures(results, results, first[0], entry, "transmission", metric)[0]

    firsts, seconds = ([scores(entry) for entry in entries] for entries in (first, second))
    return [
        Pair(
            pairs[0].dataset,
            pairs[0].image,
            fmean(each.b for each in pairs[: len(first)]),
            fmean(each.b for each in pairs[len(first) :]),
        )
        for pairs in zip(*firsts, *seconds, strict=True)
    ]


def main() -> None:
    """Print the table, and write its numbers to the file of ``--csv``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="+", type=Path, help="folder of an evaluation")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--seeds", action="store_true", help="average over entries NAME_1, NAME_2, …")
    parser.add_argument("--against", default=INPUT, metavar="NAME", help="entry to compare with (default: the input)")
    arguments = parser.parse_args()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in arguments.run:
        for row in rows_of(read_results(run), arguments.seeds, arguments.against):
            found.setdefault(row["set"], {})[row["entry"]] = row
    tables = [sorted(each.values(), key=lambda row: -float(row["psnr"])) for each in found.values()]
    titles = [f"{table[0]['set']}, {table[0]['pictures']}" for table in tables]
    lines: list[list[Place]] = []
    for entry in (row["entry"] for row in tables[0]):
        rows = [next((row for row in table if row["entry"] == entry), None) for table in tables]
        lines.append(
            [Cell(entry, written=entry), *("" if row is None else _cell(row, arguments.against) for row in rows)]
        )
    page = TextTable([Column(head) for head in ("method", *titles)], lines)
    sys.stdout.write("\n".join(page.markdown()) + "\n")
    if arguments.csv is not None:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for table in tables:
                writer.writerows({key: _short(value) for key, value in row.items()} for row in table)


def _cell(row: dict[str, Any], against: str) -> Cell:
    scores = f"{row['psnr']:.2f} / {row['ssim']:.3f}"
    if row["entry"] == against:
        return Cell(scores)
    gain = f"{row['gain']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
    return Cell(f"{scores}, {gain}", written=f"{scores}<br>{gain}")


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
