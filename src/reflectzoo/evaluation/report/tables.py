"""What a report says in numbers: tables that every format (HTML, Markdown, CSV, JSON) writes in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflectzoo.evaluation.measures import Measure, measures_of
from reflectzoo.evaluation.protocol import LAYERS
from reflectzoo.evaluation.published import Published, published_for, rules_of
from reflectzoo.evaluation.results import AVERAGE
from reflectzoo.evaluation.table import rule

NOTHING = "·"


@dataclass
class ScoreCell:
    """One value, or what several sources that disagree say.

    Attributes:
        low: the least; None if there is none.
        high: the largest; the same where there is one value only.
        text: as printed.
        rank: 1 for the best of its kind, 2 for the second best, else 0.
        said: of a published cell, (value, number of its source, note).
    """

    low: float | None = None
    high: float | None = None
    text: str = NOTHING
    rank: int = 0
    said: list[tuple[float, int, str]] = field(default_factory=list)

    @property
    def disagrees(self) -> bool:
        """Whether sources do."""
        return self.low != self.high


@dataclass
class Line:
    """One method.

    Attributes:
        name: of the entry, or as papers call it.
        kind: ``measured`` here or ``published``.
        cells: one for each column.
        images: pictures that a measured line is the mean of.
        missing: pictures it lacks.
        sources: numbers of the sources of a published line.
        pictures: which ones it is the mean of, and how they are averaged, in words.
        unconfirmed: whether a published value was not read in its source itself.
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
    """All scores of one layer on one data set, or on their average.

    Attributes:
        layer: ``transmission`` or ``reflection``.
        dataset: name of the set, or ``average``.
        title: for people.
        images: pictures in the set.
        published_images: pictures behind published numbers, if known.
        columns: the scores.
        lines: measured ones first, then published ones.
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
        """A sentence for each published cell whose sources disagree; [n] is the number of a source."""
        return [
            f"{line.name}, {column.title}: "
            + ", ".join(f"{column.text(value)} [{source + 1}]" for value, source, _ in cell.said)
            for line in self.lines
            for column, cell in zip(self.columns, line.cells, strict=True)
            if cell.disagrees
        ]


@dataclass
class Tables:
    """All tables of a report and the sources that they name, counted through from 1 in print and from 0 here."""

    tables: list[Table]
    sources: list[str]


def make_tables(results: Mapping[str, Any], published: bool = True) -> Tables:
    """Tables of a result.

    Args:
        results: as :func:`reflectzoo.evaluation.results.read_results` gives them.
        published: with what papers report for the same data sets.

    Returns:
        A table for each layer of each set, the average first if there are several sets. Best and second best are
        marked among what was measured here and, apart from that, among what was published: the two are by different
        protocols. Where sources disagree, the middle of what they say counts.
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
    """Scores that any entry has there."""
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
    """Lines of published methods; new sources are added to ``sources``."""
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
        told = rules_of(found)
        lines.append(Line(method, "published", cells, sources=used, pictures=told, unconfirmed=unconfirmed))
    return lines


def _rank(lines: Sequence[Line], columns: Sequence[Measure]) -> None:
    """Mark best and second best among lines that are means of every picture; equal in print is equal."""
    for place, column in enumerate(columns):
        cells = [line.cells[place] for line in lines if not line.missing and line.cells[place].low is not None]
        if len(cells) < 2 or column.higher_is_better is None:
            continue
        found = sorted({_middle(cell, column) for cell in cells}, reverse=column.higher_is_better)
        for cell in cells:
            place_of = found.index(_middle(cell, column)) + 1
            # Of two, the worse one is no runner-up.
            cell.rank = place_of if place_of == 1 or (place_of == 2 and len(cells) > 2) else 0


def _middle(cell: ScoreCell, column: Measure) -> float:
    assert cell.low is not None
    assert cell.high is not None
    return float(column.text((cell.low + cell.high) / 2))
