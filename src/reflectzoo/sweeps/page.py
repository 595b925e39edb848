"""Summaries of many training runs: tables and plots for the terminal, and as CSV, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from reflectzoo.cli.tables import Column, TextTable
from reflectzoo.core.disk import write_text

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;
color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;
text-align:left;white-space:nowrap}tbody th{font-weight:400}
code,pre{background:#f4f4f4;padding:.1rem .3rem}pre{padding:.7rem;overflow-x:auto}
.plots{display:flex;flex-wrap:wrap;gap:1rem}.plot{width:100%;max-width:560px}.plot text{font-size:12px;fill:#333}
.plot .title{font-weight:600}.plot .grid{stroke:#e4e4e4}.plot .tick{fill:#666}"""


def text_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    """Create a table of texts.

    Args:
        title: table title.
        heads: headings of the columns.
        rows: texts, one per column.
    """
    return TextTable([Column(head) for head in heads], rows, title)


@dataclass(frozen=True)
class SweepSummary:
    """Summary of many training runs.

    Attributes:
        title: page title.
        sheets: tables, at least one; the first is written as CSV.
        plots: SVG elements.
        notes: sentences below the tables.
        command: command line to copy, "" for none.
    """

    title: str
    sheets: Sequence[TextTable]
    plots: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    command: str = ""


def write_pages(summary: SweepSummary, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.csv``, ``<name>.md`` and ``<name>.html``, each atomically.

    Returns:
        The paths of the three files.
    """
    texts = {".csv": summary.sheets[0].csv(), ".md": _markdown(summary), ".html": _html(summary)}
    files = []
    for suffix, text in texts.items():
        files.append(folder / f"{name}{suffix}")
        write_text(files[-1], text)
    return files


def print_summary(summary: SweepSummary, console: Console | None = None) -> None:
    """Print the tables, the notes and the command."""
    console = console or Console(soft_wrap=True, highlight=False)
    for table in summary.sheets:
        console.print(table.rich(boxed=False))
        console.print()
    for note in summary.notes:
        console.print(escape(note))
    if summary.command:
        console.print(f"  {escape(summary.command)}")


def _markdown(summary: SweepSummary) -> str:
    parts = [f"# {summary.title}"]
    for table in summary.sheets:
        parts += [f"## {table.title}", "\n".join(table.markdown())]
    parts += summary.notes
    if summary.command:
        parts.append(f"```\n{summary.command}\n```")
    return "\n\n".join(parts) + "\n"


def _html(summary: SweepSummary) -> str:
    parts = [f"<h1>{html.escape(summary.title)}</h1>"]
    for table in summary.sheets:
        parts.append(f"<h2>{html.escape(table.title)}</h2>{table.html()}")
    parts += [f"<p>{html.escape(note)}</p>" for note in summary.notes]
    if summary.command:
        parts.append(f"<pre>{html.escape(summary.command)}</pre>")
    # The plots escape their texts themselves.
    parts.append(f'<div class="plots">{"".join(summary.plots)}</div>')
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(summary.title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
