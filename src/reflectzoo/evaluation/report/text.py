"""A report as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reflectzoo.cli.tables import Cell, Column, Mark, Place, TextTable, escape
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import Measure
from reflectzoo.evaluation.report.pictures import ReportPicture, every_case
from reflectzoo.evaluation.report.tables import Line, ScoreCell, Table, Tables
from reflectzoo.evaluation.table import left_out

FORMAT = "reflectzoo-report/1"


def warnings_of(results: Mapping[str, Any]) -> list[str]:
    """Warnings for readers of the scores, one sentence each."""
    found = left_out(results)
    if results["benchmark"]["limit"] is not None:
        found.append(f"Only the first {results['benchmark']['limit']} pictures of each set were scored.")
    for entry in results["entries"]:
        missing = entry.get("missing") or []
        if missing:
            named = ", ".join(f"{miss['set']}/{miss['image']}" for miss in missing[:5])
            more = " ..." if len(missing) > 5 else ""
            found.append(
                f"{entry['name']} lacks {len(missing)} predictions ({named}{more}): its means cover fewer pictures "
                "than the other rows and are not ranked."
            )
        if entry.get("extra"):
            found.append(f"{len(entry['extra'])} pictures of {entry['name']} match nothing and were ignored.")
    for each in results["sets"]:
        wanted = each["published_images"]
        if wanted is not None and wanted != each["images"]:
            found.append(
                f"{each['title']} has {each['images']} pictures here, published numbers use {wanted}: they cannot be "
                "compared directly."
            )
    return found


@dataclass(frozen=True)
class MadeWorse:
    """Pictures of a set that an entry made worse than the untouched input.

    Attributes:
        entry: name of the entry.
        dataset: title of the set.
        cases: these pictures, the largest loss first.
        total: number of pictures with a score.
        measure: score that was compared.
    """

    entry: str
    dataset: str
    cases: Sequence[ReportPicture]
    total: int
    measure: Measure

    @property
    def sentence(self) -> str:
        """Summary in one line."""
        which = f"{len(self.cases)} of {self.total} pictures of {self.dataset}"
        words = f"{self.entry}: {which} are worse than the untouched input, by {self.measure.title}"
        if not self.cases:
            return words
        first = self.cases[0]
        unit = f" {self.measure.unit}" if self.measure.unit else ""
        return f"{words}; the most harmed is {first.row['image']} ({self.measure.signed(first.gain or 0.0)}{unit})"


def made_worse(results: Mapping[str, Any]) -> list[MadeWorse]:
    """The pictures made worse by each entry except the input, for each set."""
    titles = {each["name"]: each["title"] for each in results["sets"]}
    groups: dict[tuple[str, str], list[ReportPicture]] = {}
    for case in every_case(results):
        if case.row["entry"] != INPUT and case.gain is not None:
            groups.setdefault((case.row["entry"], case.row["set"]), []).append(case)
    return [
        MadeWorse(entry, titles[name], [case for case in found if case.made_worse], len(found), found[0].measure)
        for (entry, name), found in groups.items()
    ]


def to_markdown(results: Mapping[str, Any], tables: Tables, cases: Sequence[ReportPicture]) -> str:
    """Format the report as Markdown, without pictures, for instance for a pull request."""
    lines = [
        f"# {escape(results['benchmark']['name'])}",
        "",
        f"Protocol {escape(results['protocol']['in_words'])}.",
        "",
    ]
    for sentence in warnings_of(results):
        lines += [f"> {escape(sentence)}", ""]
    lines += ["**Best** and *second best* of each group; published rows are under the papers' own protocols.", ""]
    for table in tables.tables:
        lines += [f"## {escape(table.title)}, {table.layer}, {table.images} pictures", ""]
        lines += [*score_table(table).markdown(), ""]
        if any(line.unconfirmed for line in table.lines):
            lines += ["† A number from a secondary source, not checked in the original.", ""]
        for sentence in table.conflicts:
            lines += [f"Sources disagree: {escape(sentence)}", ""]
    if tables.sources:
        lines += ["## Sources of published numbers", ""]
        lines += [f"{place}. {escape(source)}" for place, source in enumerate(tables.sources, start=1)]
        lines.append("")
    worse = made_worse(results)
    if worse:
        lines += ["## Made worse", "", *(f"- {escape(each.sentence)}" for each in worse), ""]
    if cases:
        lines += ["## Smallest and largest gains over the untouched input", ""]
        words = [Column(), Column("set"), Column(), Column("picture")]
        numbers = [Column(each, right=True) for each in ("gain", cases[0].measure.title, "of the input")]
        found = []
        for case in cases:
            value = case.measure.text(case.value)
            before = "" if case.before is None else case.measure.text(case.before)
            gain = "" if case.gain is None else case.measure.signed(case.gain)
            place = f"{case.side} {case.place}"
            found.append([case.row["entry"], case.row["set"], place, case.row["image"], gain, value, before])
        lines += [*TextTable([*words, *numbers], found).markdown(), ""]
    lines += ["## What was measured", ""]
    for entry in results["entries"]:
        lines.append(f"- {escape(describe_entry(entry))}")
    about = results["environment"]
    lines += [
        f"- reflectzoo {results['version']}, torch {about['torch']}, {escape(about['device'])}, {results['created']}",
        f"- pictures, protocol and entries: sha256 {results['fingerprint']}",
        "",
    ]
    return "\n".join(lines)


def score_table(table: Table) -> TextTable:
    """All scores of one layer on one data set: a row per method, published rows below measured ones."""
    columns = [Column("method"), *(Column(each.heading, right=True) for each in table.columns), Column("of")]
    rows: dict[str, list[list[Place]]] = {"measured": [], "published": []}
    for line in table.lines:
        rows[line.kind].append([_name(line), *map(_marked, line.cells), line.pictures])
    return TextTable(columns, rows["measured"], below=rows["published"], apart="as published")


def describe_entry(entry: Mapping[str, Any]) -> str:
    """Describe an entry in one line: model, number of parameters, file and hash."""
    words = [entry["name"]]
    if entry["kind"] == "input":
        words.append("the untouched mixture")
    if entry.get("model"):
        words.append(f"{entry['model']}, {entry['parameters']:,} parameters")
    for key in ("path", "folder"):
        if entry.get(key):
            words.append(f"{entry['kind']} {entry[key]}")
    if entry.get("sha256"):
        words.append(f"sha256 {entry['sha256']}")
    return ": ".join([words[0], ", ".join(words[1:])])


def _name(line: Line) -> Cell:
    if line.missing:
        rest = f" ({line.images} of {(line.images or 0) + line.missing})"
        markup = f" <small>{rest.strip()}</small>"
    else:
        dagger, numbers = " †" if line.unconfirmed else "", [source + 1 for source in line.sources]
        rest = "".join([dagger, *(f" [{number}]" for number in numbers)])
        links = " ".join(f'<a href="#source-{number}">{number}</a>' for number in numbers)
        markup = f"{dagger} <sup>{links}</sup>" if links else dagger
    written, shown = escape(line.name) + rest, html.escape(line.name) + markup
    return Cell(line.name + rest, written=written, markup=shown, hint=line.name)


def _marked(cell: ScoreCell) -> Cell:
    mark: Mark = "best" if cell.rank == 1 else "second" if cell.rank == 2 else ""
    return Cell(cell.text, mark, hint="sources disagree" if cell.disagrees else "")


def to_csv(tables: Tables) -> str:
    """Format the tables as CSV, one line per value.

    The columns are ``layer, set, method, kind, metric, low, high, rank, images, missing, sources, of``. ``low`` and
    ``high``, in full precision, differ if sources disagree. ``of`` gives the number of pictures and how they are
    averaged.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    head = ["layer", "set", "method", "kind", "metric", "low", "high", "rank", "images", "missing", "sources", "of"]
    writer.writerow(head)
    for table in tables.tables:
        for line in table.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell.low is not None:
                    said = " | ".join(dict.fromkeys(tables.sources[source] for _, source, _ in cell.said))
                    writer.writerow(
                        [
                            *(table.layer, table.dataset, line.name, line.kind, column.key, cell.low, cell.high),
                            *(cell.rank or "", line.images, line.missing, said, line.pictures),
                        ]
                    )
    return file.getvalue()


def to_json(results: Mapping[str, Any], tables: Tables, cases: Sequence[ReportPicture]) -> str:
    """Format as JSON: tables, chosen pictures, metadata of the run; scores per image are only in ``results.json``."""
    kept = ("created", "version", "command", "environment", "fingerprint", "benchmark", "sets", "protocol", "entries")
    content = {
        "format": FORMAT,
        **{key: results[key] for key in kept},
        "warnings": warnings_of(results),
        "sources": tables.sources,
        "tables": [_table(table) for table in tables.tables],
        "cases": [
            {
                "entry": case.row["entry"],
                "set": case.row["set"],
                "image": case.row["image"],
                "side": case.side,
                "place": case.place,
                "metric": case.measure.key,
                "value": case.value,
                "input": case.before,
                "gain": case.gain,
            }
            for case in cases
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    return {**asdict(table), "conflicts": table.conflicts}
