"""Tables of a report, independent of the format (HTML, Markdown, CSV, JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflectzoo.core.batch import LAYERS
from reflectzoo.evaluation.measures import Measure, measures_of
from reflectzoo.evaluation.published import Published, averaging_rules, published_for
from reflectzoo.evaluation.results import AVERAGE
from reflectzoo.evaluation.table import rule

NOTHING = "·"


@dataclass
class ScoreCell:
    """One value, or the values of several sources.

    Attributes:
        low: smallest value; None if there is none.
        high: largest value; equal to ``low`` if there is only one.
        text: as printed.
        rank: 1 for the best of its kind, 2 for the second best, otherwise 0.
        said: (value, index of its source, note) for each published value; empty for measured cells.
    """

    low: float | None = None
    high: float | None = None
    text: str = NOTHING
    rank: int = 0
    said: list[tuple[float, int, str]] = field(default_factory=list)

    @property
    def disagrees(self) -> bool:
        """Whether the sources disagree."""
        return self.low != self.high


@dataclass
class Line:
    """Row of one method.

    Attributes:
        name: name of the entry, or of the method in papers.
        kind: ``measured`` here or ``published``.
        cells: one per column.
        images: number of pictures behind the means; None for published lines.
        missing: number of missing pictures.
        sources: indices of the sources of a published line.
        pictures: number of pictures behind the means, and how they are averaged, in words.
        unconfirmed: whether a published value was not checked in its original source.
    """

    name: str
    kind: str
    cells: list[ScoreCell]
    images: int | None = None
    missing: int = 0
    sources: list[int] = field(default_factory=list)
    pictures: str = ""
    unconfirmed: bool = False


@dataclass
class Table:
    """All scores of one layer on one data set, or on the average of all sets.

    Attributes:
        layer: ``transmission`` or ``reflection``.
        dataset: name of the set, or ``average``.
        title: for display.
        images: number of pictures in the set.
        published_images: number of pictures behind published numbers; None if unknown.
        columns: the scores.
        lines: measured lines, then published ones.
    """

    layer: str
    dataset: str
    title: str
    images: int
    published_images: int | None
    columns: list[Measure]
    lines: list[Line]

    @property
    def conflicts(self) -> list[str]:
        """A sentence for each published cell whose sources disagree; [n] is the number of a source, from 1."""
        return [
            f"{line.name}, {column.title}: "
            + ", ".join(f"{column.text(value)} [{source + 1}]" for value, source, _ in cell.said)
            for line in self.lines
            for column, cell in zip(self.columns, line.cells, strict=True)
            if cell.disagrees
        ]


@dataclass
class Tables:
    """All tables of a report, and the sources that they cite; numbered from 1 in print, indexed from 0 here."""

    tables: list[Table]
    sources: list[str]


def make_tables(results: Mapping[str, Any], published: bool = True) -> Tables:
    """Create the tables of a result.

    Args:
        results: as returned by :func:`reflectzoo.evaluation.results.read_results`.
        published: include published numbers for the same data sets.

    Returns:
        A table per layer and set; with several sets, their average comes first. The best and second best are ranked
        separately among measured and among published lines, since their protocols differ. If sources disagree, the
        midpoint of the smallest and the largest value is ranked.
    """
    places = [(each["name"], each["title"], each["published"], each["published_images"]) for each in results["sets"]]
    if len(places) > 1:
        places.insert(0, (AVERAGE, f"Average of {len(places)} data sets", results["benchmark"]["average"], None))
    tables, sources = [], {}  # type: list[Table], dict[str, int]
    for layer in LAYERS:
        for name, title, public, public_images in places:
            columns = _columns(results, layer, name)
            if not columns:
                continue
            lines = _measured(results, layer, name, columns)
            facts = published_for([public], layer) if published and public else []
            told = _published(facts, columns, sources)
            _rank(lines, columns)
            _rank(told, columns)
            images = max(line.images + line.missing for line in lines if line.images is not None)
            tables.append(Table(layer, name, title, images, public_images, columns, [*lines, *told]))
    return Tables(tables, list(sources))


def _columns(results: Mapping[str, Any], layer: str, dataset: str) -> list[Measure]:
    """Scores of the layer and set that at least one entry has."""
    means = [of_sets[dataset][layer] for of_sets in results["averages"].values() if of_sets[dataset][layer]]
    return [each for each in measures_of(results) if any(mean.get(each.key) is not None for mean in means)]


def _measured(results: Mapping[str, Any], layer: str, dataset: str, columns: Sequence[Measure]) -> list[Line]:
    lines = []
    for entry, of_sets in results["averages"].items():
        mean = of_sets[dataset]
        if not mean[layer]:
            continue
        values = [mean[layer].get(column.key) for column in columns]
        cells = [
            ScoreCell() if value is None else ScoreCell(value, value, column.text(value))
            for column, value in zip(columns, values, strict=True)
        ]
        told = rule(results, dataset, mean)
        lines.append(Line(entry, "measured", cells, mean["images"], mean["missing"], pictures=told))
    return lines


def _published(facts: Sequence[Published], columns: Sequence[Measure], sources: dict[str, int]) -> list[Line]:
    """Lines of published methods; adds new sources to ``sources`` in place."""
    titles = {column.title for column in columns}
    by_method: dict[str, list[Published]] = {}
    for fact in facts:
        if fact.metric in titles:
            by_method.setdefault(fact.label, []).append(fact)
    lines = []
    for method, found in by_method.items():
        cells = []
        for column in columns:
            said = sorted((fact for fact in found if fact.metric == column.title), key=lambda fact: fact.value)
            if not said:
                cells.append(ScoreCell())
                continue
            texts = dict.fromkeys((column.text(said[0].value), column.text(said[-1].value)))
            cell = ScoreCell(said[0].value, said[-1].value, "–".join(texts))
            for fact in said:
                cell.said.append((fact.value, sources.setdefault(fact.source, len(sources)), fact.note))
            cells.append(cell)
        used = sorted({source for cell in cells for _, source, _ in cell.said})
        unconfirmed = not all(fact.confirmed for fact in found)
        told = averaging_rules(found)
        lines.append(Line(method, "published", cells, sources=used, pictures=told, unconfirmed=unconfirmed))
    return lines


def _rank(lines: Sequence[Line], columns: Sequence[Measure]) -> None:
    """Mark the best and second best of the lines without missing pictures; values that print alike are ties."""
    for place, column in enumerate(columns):
        cells = [line.cells[place] for line in lines if not line.missing and line.cells[place].low is not None]
        if len(cells) < 2 or column.higher_is_better is None:
            continue
        found = sorted({_middle(cell, column) for cell in cells}, reverse=column.higher_is_better)
        for cell in cells:
            place_of = found.index(_middle(cell, column)) + 1
            # With only two values, the worse one is not marked as second best.
            cell.rank = place_of if place_of == 1 or (place_of == 2 and len(cells) > 2) else 0


def _middle(cell: ScoreCell, column: Measure) -> float:
    assert cell.low is not None
    assert cell.high is not None
    return float(column.text((cell.low + cell.high) / 2))
