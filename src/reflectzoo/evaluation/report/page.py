"""Report as a self-contained HTML file, without references to other files or the network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from reflectzoo.cli.tables import Cell, Column, Place, TextTable
from reflectzoo.core.batch import LAYERS
from reflectzoo.drawing.error_map import ERROR_SCALE
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.measures import Measure, measures_of
from reflectzoo.evaluation.report.pictures import ReportPicture, deciding_measure, every_case
from reflectzoo.evaluation.report.plots import Point, distribution, scatter
from reflectzoo.evaluation.report.tables import NOTHING, Tables
from reflectzoo.evaluation.report.text import MadeWorse, made_worse, score_table, warnings_of
from reflectzoo.evaluation.results import Key
from reflectzoo.evaluation.table import main_measures


def to_html(results: Mapping[str, Any], tables: Tables, cases: Sequence[ReportPicture], remark: str = "") -> str:
    """Format the report as HTML.

    Args:
        results: evaluation results.
        tables: tables of these results.
        cases: pictures to show.
        remark: on these pictures.

    Returns:
        HTML in which all names are escaped.
    """
    titles = {each["name"]: each["title"] for each in results["sets"]}
    strengths, anchors = _strengths(results), _anchors(cases)
    return _template().render(
        results=results,
        tables=[(table, Markup(score_table(table).html())) for table in tables.tables],
        sources=tables.sources,
        groups=_groups(cases, titles),
        remark=remark,
        error_scale=f"{ERROR_SCALE:g}",
        warnings=warnings_of(results),
        plots=_plots(results),
        gains=_gains(results),
        gain_of=_gain_of(results),
        worse=[(each, Markup(_harmed(each, strengths, anchors).html())) for each in made_worse(results)],
        rows=_every_picture(results, strengths),
        anchors=anchors,
        label=_label,
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


@cache
def _template() -> Template:
    # Autoescaping makes an image named <script> harmless. Tables and plots are marked as safe: they escape their text.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(
        (files("reflectzoo.evaluation.report") / "template.html").read_text(encoding="utf-8"),
    )


def _groups(cases: Sequence[ReportPicture], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Group cases by entry, set and side."""
    groups: dict[tuple[str, str, str], list[ReportPicture]] = {}
    for case in cases:
        groups.setdefault((case.row["entry"], case.row["set"], case.side), []).append(case)
    return [
        {"entry": entry, "set": titles[dataset], "side": side, "cases": found}
        for (entry, dataset, side), found in groups.items()
    ]


def _plots(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One plot per set and main score of the transmission."""
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


def _gain_of(results: Mapping[str, Any]) -> dict[Key, float]:
    """Gain over the untouched input, by entry, set and image."""
    return {
        (case.row["entry"], case.row["set"], case.row["image"]): case.gain
        for case in every_case(results)
        if case.gain is not None and case.row["entry"] != INPUT
    }


def _strengths(results: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Strength of the reflection in each picture: root mean square of input - ground truth, in percent of white."""
    return {
        (row["set"], row["image"]): 100 * math.sqrt(math.fsum(errors) / len(errors))
        for row in results["images"]
        if row["entry"] == INPUT and (errors := row["errors"].get("transmission"))
    }


def _least_gained_first(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All rows sorted by ascending gain, followed by those without a gain, such as the input's."""
    gains = _gain_of(results)

    def order(row: Mapping[str, Any]) -> tuple[bool, float]:
        gain = gains.get((row["entry"], row["set"], row["image"]))
        return gain is None, gain or 0.0

    return sorted(results["images"], key=order)


def _harmed(worse: MadeWorse, strengths: Mapping[tuple[str, str], float], anchors: Mapping[Key, str]) -> TextTable:
    """Table of the pictures in a set that an entry made worse."""
    measure = worse.measure
    heads = [f"gain {measure.unit}".rstrip(), measure.heading, "of the input"]
    rows: list[list[Place]] = []
    for case in worse.cases:
        entry, dataset, image = case.row["entry"], case.row["set"], case.row["image"]
        anchor, shown = anchors.get((entry, dataset, image)), escape(image)
        linked = f'<a href="#{anchor}">{shown}</a>' if anchor else ""
        row = [Cell(image, markup=linked, hint=image), Cell(measure.signed(case.gain or 0.0), "warning")]
        row += [_score(case.value, measure), _score(case.before, measure)]
        rows.append([*row, _number(strengths.get((dataset, image)), 1)] if strengths else [*row])
    heads += ["reflection %"] if strengths else []
    return TextTable([Column("picture"), *(Column(head, right=True) for head in heads)], rows)


def _every_picture(results: Mapping[str, Any], strengths: Mapping[tuple[str, str], float]) -> Markup:
    """Table of all scores of all pictures, which the page's script can sort and filter."""
    several, gains, deciding = len(results["sets"]) > 1, _gain_of(results), deciding_measure(results)
    measures, scores = {measure.key: measure for measure in measures_of(results)}, _image_columns(results)
    words = ["picture", "method", *(["set"] if several else [])]
    heads = [f"gain {deciding.unit}".rstrip()] if gains and deciding is not None else []
    heads += ["reflection %"] if strengths else []
    heads += [*(title for _, _, title in scores), "width", "height"]
    rows: list[list[Place]] = []
    for row in _least_gained_first(results):
        entry, dataset, image = row["entry"], row["set"], row["image"]
        found: list[Place] = [Cell(image, hint=image), entry, *([dataset] if several else [])]
        if gains and deciding is not None:
            gain = gains.get((entry, dataset, image))
            found.append(_NOTHING if gain is None else Cell(deciding.signed(gain), order=gain))
        if strengths:
            found.append(_number(strengths.get((dataset, image)), 1))
        found += [_score((row[layer] or {}).get(key), measures[key]) for layer, key, _ in scores]
        rows.append([*found, _number(row["width"]), _number(row["height"])])
    table = TextTable([*map(Column, words), *(Column(head, right=True) for head in heads)], rows)
    return Markup(table.html("rows", sortable=True, sorted_by=len(words) if gains else None))


_NOTHING = Cell(NOTHING)


def _score(value: float | None, measure: Measure) -> Cell:
    return _NOTHING if value is None else Cell(measure.text(value), order=value)


def _number(value: float | None, digits: int = 0) -> Cell:
    return _NOTHING if value is None else Cell(f"{value:.{digits}f}", order=value)


def _label(what: str, case: ReportPicture) -> str:
    """Label of a picture on the page; the result is labelled with the entry's name."""
    return {
        "ours": str(case.row["entry"]),
        "truth": "ground truth",
        "true reflection": "ground truth of R",
        "reflection": "R",
    }.get(what, what)


def _anchors(cases: Sequence[ReportPicture]) -> dict[Key, str]:
    """HTML anchors of the pictures shown, by entry, set and image."""
    keys = [(case.row["entry"], case.row["set"], case.row["image"]) for case in cases]
    return {key: f"case-{place}" for place, key in enumerate(keys, start=1)}


def _gains(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One plot per set of the gain of each picture against the strength of its reflection."""
    measure, gains, strengths = deciding_measure(results), _gain_of(results), _strengths(results)
    if measure is None:
        return []
    plots = []
    for dataset in results["sets"]:
        points: dict[str, list[Point]] = {}
        for (entry, name, image), gain in gains.items():
            if name == dataset["name"] and (name, image) in strengths:
                points.setdefault(entry, []).append(Point(strengths[name, image], gain, image))
        if points:
            unit = f" ({measure.unit})" if measure.unit else ""
            svg = scatter(points, "strength of the reflection (% of white)", f"gain in {measure.title}{unit}")
            plots.append({"set": dataset["title"], "svg": Markup(svg)})
    return plots


def _image_columns(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Layer, key and title of all scores that at least one picture has."""
    return [
        (layer, measure.key, f"{measure.heading}{' of R' if layer == 'reflection' else ''}")
        for layer in LAYERS
        for measure in measures_of(results)
        if any((row[layer] or {}).get(measure.key) is not None for row in results["images"])
    ]
