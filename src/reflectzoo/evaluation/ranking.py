"""``python -m reflectzoo.ranking``: page of scores measured in this repository, generated from committed JSON files.

Published numbers are deliberately excluded: they are in the reports and in each method's README.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflectzoo.cli import run_standalone
from reflectzoo.cli.tables import Cell, Column, Place, TextTable, escape
from reflectzoo.core.batch import LAYERS
from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import measures_of
from reflectzoo.evaluation.protocol import FORMERLY
from reflectzoo.evaluation.results import AVERAGE, read_results

FORMAT = "reflectzoo-measured/1"
FOLDER, PAGE = Path("docs/results"), Path("docs/ranking.md")

_HEAD = """# What we measured

Every number on this page was measured with this repository, under the protocol given above its table; nothing is copied
from a paper. For published numbers, see the reports of `python -m reflectzoo.evaluate` and each method's README. This
page is generated from the files in `{folder}/`; do not edit it:

```
python -m reflectzoo.evaluate benchmark=<name> data.root=FOLDER ckpt=FILE      # measure
python -m reflectzoo.ranking add outputs/evaluate/...                          # store the result in {folder}/
python -m reflectzoo.ranking                                                   # generate this page
```

[evaluation.md](evaluation.md) explains benchmarks, protocols and scores. *Untouched input* scores the photograph
itself. Rows are sorted by the first score.
"""


def measured(results: Mapping[str, Any], entry: str, title: str | None = None, note: str = "") -> dict[str, Any]:
    """Extract one entry of a result for committing: means and provenance, without scores per image and local paths.

    Args:
        results: evaluation results.
        entry: name of the entry.
        title: name on the page; defaults to ``entry``.
        note: remark for readers, e.g. how it was trained.

    Returns:
        A mapping in the format ``reflectzoo-measured/1``.

    Raises:
        UserError: if the entry does not exist, or was not scored on every picture.
    """
    names = [each["name"] for each in results["entries"]]
    if entry not in names:
        raise UserError(f"There is no entry {entry} in that result; choose from {', '.join(names)}.")
    means = results["averages"][entry]
    if results["benchmark"]["limit"] is not None or any(mean["missing"] for mean in means.values()):
        raise UserError(
            f"{entry} was not scored on every picture of {results['benchmark']['name']} and cannot be ranked: "
            "evaluate it without limit= and with all its predictions."
        )
    record = next(each for each in results["entries"] if each["name"] == entry)
    provenance = record.get("provenance") or {}
    kept = ("epoch", "global_step", "version", "reflectzoo_version", "commit", "created")
    return {
        "format": FORMAT,
        "title": title or entry,
        "note": note,
        "benchmark": results["benchmark"]["name"],
        "sets": [{key: each[key] for key in ("name", "title", "images", "images_found")} for each in results["sets"]],
        "protocol": {key: value for key, value in results["protocol"].items() if key != "source"},
        "metrics": results["metrics"],
        "entry": {
            **{key: record[key] for key in ("name", "kind", "model", "parameters", "sha256") if key in record},
            **({"file": Path(record["path"]).name} if record.get("path") else {}),
            "provenance": {key: provenance[key] for key in kept if key in provenance},
        },
        "averages": means,
        "measured": {key: results[key] for key in ("created", "version", "environment", "fingerprint")},
    }


def read_measured(folder: Path) -> list[dict[str, Any]]:
    """Read all committed results, in the order of file names.

    Raises:
        UserError: if the folder contains no result, or a file cannot be read or has another format.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"The result {path} cannot be read ({error}).") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{path} is not in the format {FORMAT}: create it with 'reflectzoo rank add RUN'.")
        found.append(content)
    if not found:
        raise UserError(f"There are no results in {folder}: add some with 'reflectzoo rank add RUN'.")
    return found


def make_page(found: Sequence[Mapping[str, Any]], folder: str = FOLDER.as_posix()) -> str:
    """Format the ranking as Markdown.

    Args:
        found: committed results.
        folder: folder of these results, as named on the page.

    Returns:
        Tables grouped by benchmark, protocol and layer, since only scores that agree in these can be compared. The best
        score is bold.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        protocol = {**FORMERLY, **{k: v for k, v in each["protocol"].items() if k != "metrics"}}
        same = [each["benchmark"], each["sets"], protocol]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(each)
    lines = [_HEAD.format(folder=folder)]
    for key in sorted(groups):
        lines += _group(groups[key])
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Store a result, or generate the page.

    Args:
        argv: arguments; None for those of the command line.

    Returns:
        Exit status: 0; 1 if ``--check`` finds the page out of date; 2 for invalid arguments.
    """
    return run_standalone("ranking", sys.modules[__name__], argv)


DESCRIPTION = "Generate docs/ranking.md from the results in docs/results/."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--folder", type=Path, default=FOLDER, help="committed results (default %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    commands = parser.add_subparsers(dest="action", metavar="add")
    add = commands.add_parser("add", help="store entries of a finished evaluation in the folder")
    add.add_argument("run", type=Path, help="folder of the evaluation")
    add.add_argument("--entry", metavar="NAME", help="only this entry")
    add.add_argument("--title", help="its name on the page")
    add.add_argument("--note", default="", help="a remark for readers, e.g. how it was trained")


def run(arguments: argparse.Namespace) -> int:
    """Store a result, or generate the page, and return the exit status."""
    return _add(arguments) if arguments.action == "add" else _write(arguments)


def _add(arguments: argparse.Namespace) -> int:
    results = read_results(arguments.run)
    names = [arguments.entry] if arguments.entry else [each["name"] for each in results["entries"]]
    if (arguments.title or arguments.note) and not arguments.entry:
        raise UserError("--title and --note apply to one entry: select it with --entry.")
    contents = {name: measured(results, name, arguments.title, arguments.note) for name in names}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for content in contents.values():
        words = [content["benchmark"], content["protocol"]["name"], content["title"]]
        if content["entry"].get("sha256"):
            words.append(content["entry"]["sha256"][:8])
        path = arguments.folder / ("-".join(re.sub(r"[^\w.]+", "_", word) for word in words) + ".json")
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
        sys.stdout.write(f"{path}\n")
    return 0


def _write(arguments: argparse.Namespace) -> int:
    page = make_page(read_measured(arguments.folder), arguments.folder.as_posix())
    if arguments.check:
        if arguments.page.is_file() and arguments.page.read_text(encoding="utf-8") == page:
            return 0
        sys.stderr.write(f"reflectzoo: {arguments.page} is out of date: run 'reflectzoo rank'.\n")
        return 1
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.page, page)
    sys.stdout.write(f"{arguments.page}\n")
    return 0


def _group(group: Sequence[Mapping[str, Any]]) -> list[str]:
    first = group[0]
    lines = [f"## {escape(first['benchmark'])}", ""]
    counts = ", ".join(f"{each['title']} ({_count(each)})" for each in first["sets"])
    lines += [f"{escape(counts)}. Protocol {escape(first['protocol']['in_words'])}.", ""]
    places = [each["name"] for each in first["sets"]]
    if len(places) > 1:
        places = [AVERAGE, *places]
    titles = {AVERAGE: "average", **{each["name"]: each["title"] for each in first["sets"]}}
    for layer in LAYERS:
        for place in places:
            having = [each for each in group if each["averages"][place][layer]]
            if having:
                lines += _table(having, layer, place, f"{titles[place]}, " if len(places) > 1 else "")
    lines += ["Weights:", ""]
    lines += [f"- {_weights(each)}" for each in group if each["entry"]["kind"] != INPUT]
    return [*lines, ""]


def _table(group: Sequence[Mapping[str, Any]], layer: str, place: str, prefix: str) -> list[str]:
    measures = [
        measure
        for measure in measures_of(group[0])
        if any(each["averages"][place][layer].get(measure.key) is not None for each in group)
    ]
    values = [[each["averages"][place][layer].get(measure.key) for measure in measures] for each in group]
    best = []
    for column, measure in enumerate(measures):
        known = [row[column] for row in values if row[column] is not None]
        best.append(measure.best(known) if len(known) > 1 else None)
    sign = 1 if measures[0].higher_is_better is False else -1
    order = sorted(
        range(len(group)), key=lambda k: (values[k][0] is None, sign * (values[k][0] or 0.0), group[k]["title"])
    )
    lines = [f"### {escape(prefix + layer)}", ""]
    rows: list[list[Place]] = []
    for k in order:
        row: list[Place] = [group[k]["title"]]
        for column, measure in enumerate(measures):
            value = values[k][column]
            text = "·" if value is None else measure.text(value)
            row.append(Cell(text, "best" if value is not None and value == best[column] else ""))
        sha = group[k]["entry"].get("sha256")
        row.append(Cell(sha[:8], "code") if sha else "none")
        rows.append([*row, group[k]["measured"]["created"][:10]])
    scores = [Column(measure.heading, right=True) for measure in measures]
    table = TextTable([Column(), *scores, Column("weights"), Column("measured")], rows)
    return [*lines, *table.markdown(), ""]


def _count(each: Mapping[str, Any]) -> str:
    if each["images"] == each["images_found"]:
        return f"{each['images']} pictures"
    return f"{each['images']} of {each['images_found']} pictures"


def _weights(each: Mapping[str, Any]) -> str:
    entry, about = each["entry"], each["measured"]["environment"]
    words = [f"{escape(each['title'])}: {escape(entry['kind'])}"]
    if entry.get("model"):
        words.append(f"{escape(entry['model'])}, {entry['parameters']:,} parameters")
    if entry.get("file"):
        words.append(f"`{entry['file']}`")
    if entry.get("sha256"):
        words.append(f"sha256 `{entry['sha256']}`")
    words += [f"{key.replace('_', ' ')} {escape(str(value))}" for key, value in entry["provenance"].items()]
    words.append(f"measured with reflectzoo {each['measured']['version']}, torch {about['torch']}, {about['device']}")
    return ", ".join(words) + (f". {each['note']}" if each["note"] else "")


if __name__ == "__main__":
    sys.exit(main())
