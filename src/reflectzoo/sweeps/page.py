"""Tables and plots of many trainings: on the terminal, as CSV, Markdown and one HTML file."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from reflectzoo.core.disk import write_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;
text-align:left;white-space:nowrap}code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{padding:.7rem;overflow-x:auto}
.plots{display:flex;flex-wrap:wrap;gap:1rem}.plot{width:100%;max-width:560px}.plot text{font-size:12px;fill:#333}
.plot .title{font-weight:600}.plot .grid{stroke:#e4e4e4}.plot .tick{fill:#666}"""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: what it shows.
        columns: heads.
        rows: texts, one for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class SweepSummary:
    """What is written about many trainings.

    Attributes:
        title: of the page.
        sheets: tables, the first of which is the CSV.
        plots: SVG elements.
        notes: sentences below.
        command: words to copy, "" for none.
    """

    title: str
    sheets: Sequence[Sheet]
    plots: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    command: str = ""


def write(summary: SweepSummary, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.csv``, ``<name>.md`` and ``<name>.html``, replacing earlier ones whole.

    Returns:
        The three files.
    """
    texts = {".csv": _csv(summary.sheets[0]), ".md": _markdown(summary), ".html": _html(summary)}
    files = []
    for suffix, text in texts.items():
        files.append(folder / f"{name}{suffix}")
        write_text(files[-1], text)
    return files


def print_summary(summary: SweepSummary, console: Console | None = None) -> None:
    """Print the tables and notes."""
    console = console or Console(soft_wrap=True, highlight=False)
    for sheet in summary.sheets:
        table = RichTable(title=escape(sheet.title), title_justify="left", box=None, pad_edge=False)
        for column in sheet.columns:
            table.add_column(escape(column), overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print()
    for note in summary.notes:
        console.print(escape(note))
    if summary.command:
        console.print(f"  {escape(summary.command)}")


def _csv(sheet: Sheet) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([sheet.columns, *sheet.rows])
    return lines.getvalue()


def _markdown(summary: SweepSummary) -> str:
    parts = [f"# {summary.title}"]
    for sheet in summary.sheets:
        rows = [sheet.columns, ["---"] * len(sheet.columns), *sheet.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts += [f"## {sheet.title}", "\n".join(lines)]
    parts += summary.notes
    if summary.command:
        parts.append(f"```\n{summary.command}\n```")
    return "\n\n".join(parts) + "\n"


def _html(summary: SweepSummary) -> str:
    parts = [f"<h1>{html.escape(summary.title)}</h1>"]
    for sheet in summary.sheets:
        heads = "".join(f"<th>{html.escape(column)}</th>" for column in sheet.columns)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in sheet.rows)
        parts.append(f"<h2>{html.escape(sheet.title)}</h2><table><tr>{heads}</tr>{rows}</table>")
    parts += [f"<p>{html.escape(note)}</p>" for note in summary.notes]
    if summary.command:
        parts.append(f"<pre>{html.escape(summary.command)}</pre>")
    # The plots escape what they show themselves.
    parts.append(f'<div class="plots">{"".join(summary.plots)}</div>')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(summary.title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
