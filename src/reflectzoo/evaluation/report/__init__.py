"""Reports of evaluations: a self-contained HTML file, and the same content as Markdown, CSV and JSON."""

from __future__ import annotations

from pathlib import Path

from reflectzoo.core.disk import write_text
from reflectzoo.evaluation.report.page import to_html
from reflectzoo.evaluation.report.pictures import draw_cases
from reflectzoo.evaluation.report.sheet import write_contact_sheet
from reflectzoo.evaluation.report.tables import make_tables
from reflectzoo.evaluation.report.text import to_csv, to_json, to_markdown
from reflectzoo.evaluation.results import read_results

__all__ = ["write_report"]


def write_report(run: str | Path, out: str | Path | None = None, published: bool = True) -> dict[str, Path]:
    """Write the report of an evaluation.

    Args:
        run: folder of a finished ``reflectzoo.evaluate``, or its ``results.json``.
        out: output folder; None for that of the run.
        published: include published numbers for the same data sets.

    Returns:
        ``html``, ``md``, ``csv`` and ``json`` -> path of ``report.<format>``; if there are saved pictures without
        ground truth, also ``sheet`` -> their contact sheet.

    Raises:
        UserError: if there is no result, or one of its saved pictures cannot be read.
    """
    results = read_results(run)
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    tables = make_tables(results, published)
    cases, remark = draw_cases(results, folder)
    texts = {
        "html": to_html(results, tables, cases, remark),
        "md": to_markdown(results, tables, cases),
        "csv": to_csv(tables),
        "json": to_json(results, tables, cases),
    }
    target = Path(out) if out is not None else folder
    target.mkdir(parents=True, exist_ok=True)
    paths = {kind: target / f"report.{kind}" for kind in texts}
    for kind, text in texts.items():
        write_text(paths[kind], text)
    sheet = write_contact_sheet(results, folder, target)
    if sheet is not None:
        paths["sheet"] = sheet
    return paths
