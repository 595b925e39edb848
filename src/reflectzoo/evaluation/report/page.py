"""A report as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reflectzoo.drawing.error_map import ERROR_SCALE
from reflectzoo.evaluation.measures import measures_of
from reflectzoo.evaluation.protocol import LAYERS
from reflectzoo.evaluation.report.pictures import Case
from reflectzoo.evaluation.report.plots import distribution
from reflectzoo.evaluation.report.tables import Tables
from reflectzoo.evaluation.report.text import warnings_of
from reflectzoo.evaluation.table import main_measures


def to_html(results: Mapping[str, Any], tables: Tables, cases: Sequence[Case], remark: str = "") -> str:
    """The page.

    Args:
        results: of an evaluation.
        tables: made of them.
        cases: pictures to show.
        remark: what to know about these pictures.

    Returns:
        HTML. Every name in it is escaped.
    """
    # Autoescape is what makes an image called <script> harmless; only what plots.py made is trusted, and it escapes.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        (files("reflectzoo.evaluation.report") / "template.html").read_text(encoding="utf-8"),
    )
    titles = {each["name"]: each["title"] for each in results["sets"]}
    return template.render(
        results=results,
        tables=tables,
        groups=_groups(cases, titles),
        remark=remark,
        error_scale=f"{ERROR_SCALE:g}",
        warnings=warnings_of(results),
        plots=_plots(results),
        columns=_image_columns(results),
        measures={measure.key: measure for measure in measures_of(results)},
        main=main_measures(results)[:2],
        several_sets=len(results["sets"]) > 1,
        configuration=json.dumps(results["configuration"], indent=2, ensure_ascii=False),
        protocol={
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in results["protocol"].items()
            if key != "in_words"
        },
        provenance={
            entry["name"]: json.dumps(entry["provenance"], indent=2, ensure_ascii=False)
            for entry in results["entries"]
            if entry.get("provenance")
        },
    )


def _groups(cases: Sequence[Case], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Cases of one entry, set and side together."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.row["entry"], case.row["set"], case.side), []).append(case)
    return [
        {"entry": entry, "set": titles[dataset], "side": side, "cases": found}
        for (entry, dataset, side), found in groups.items()
    ]


def _plots(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One plot for each main score of the transmission on each set."""
    plots = []
    for dataset in results["sets"]:
        for measure in main_measures(results):
            values: dict[str, list[float]] = {entry["name"]: [] for entry in results["entries"]}
            for row in results["images"]:
                value = (row["transmission"] or {}).get(measure.key)
                if row["set"] == dataset["name"] and value is not None:
                    values[row["entry"]].append(value)
            if any(values.values()):
                plots.append({"set": dataset["title"], "svg": Markup(distribution(values, measure.heading))})
    return plots


def _image_columns(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Layer, key and title of the scores that any picture has."""
    return [
        (layer, measure.key, f"{measure.heading}{' of R' if layer == 'reflection' else ''}")
        for layer in LAYERS
        for measure in measures_of(results)
        if any((row[layer] or {}).get(measure.key) is not None for row in results["images"])
    ]
