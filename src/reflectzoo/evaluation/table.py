"""Results as tables for the terminal, with published numbers for the same data sets below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from reflectzoo.cli.tables import Cell, Column, Place, TextTable
from reflectzoo.evaluation.measures import Measure, measures_of
from reflectzoo.evaluation.published import Published, averaging_rules, published_for
from reflectzoo.evaluation.results import AVERAGE

_MAIN = ("psnr", "ssim")
_NARROWEST = 100
_NOTHING = "·"


def print_results(results: Mapping[str, Any], published: bool = True, console: Console | None = None) -> None:
    """Print a result.

    Args:
        results: as :func:`reflectzoo.evaluation.runner.run_benchmark` returns it.
        published: include published numbers for the same data sets.
        console: output; None for standard output. Unless it is a terminal, its width is set to that of the tables.
    """
    console = console or Console()
    found = tables(results, published)
    if not console.is_terminal:
        # Long lines in a file are easier to read than tables with wrapped cells.
        wanted = [console.measure(table, options=console.options.update(width=1000)).maximum for table in found[:-1]]
        console.width = max([_NARROWEST, *wanted])
    for renderable in found:
        console.print(renderable)


def tables(results: Mapping[str, Any], published: bool = True) -> list[RenderableType]:
    """Tables of each layer that was scored, and a text with the protocol and warnings, for :func:`print_results`."""
    found: list[RenderableType] = []
    for layer in ("transmission", "reflection"):
        if not any(mean[layer] for means in results["averages"].values() for mean in means.values()):
            continue
        if len(results["sets"]) == 1:
            found.append(_one_set(results, layer, published))
        else:
            found.append(_many_sets(results, layer, published))
            found.append(_other_scores(results, layer))
    if not found:
        found.append(Text("Nothing was scored: no picture has ground truth."))
    lines = [f"Protocol {results['protocol']['in_words']}"]
    for entry in results["entries"]:
        if entry.get("missing"):
            lines.append(
                f"! {entry['name']}: {len(entry['missing'])} predictions are missing; its means cover fewer pictures "
                "than the other rows"
            )
        if entry.get("extra"):
            lines.append(f"! {entry['name']}: {len(entry['extra'])} pictures match nothing and were ignored")
    lines += [f"! {sentence}" for sentence in left_out(results)]
    if results["benchmark"]["limit"] is not None:
        lines.append(f"! Only the first {results['benchmark']['limit']} pictures of each set were scored")
    return [*found, Text("\n".join(lines))]


def left_out(results: Mapping[str, Any]) -> list[str]:
    """Sentences on pictures that could not be scored: their number, and the reason for each."""
    sentences = list(results["benchmark"]["left_out"])
    count = results["benchmark"].get("left_out_pictures", 0)
    if not count:
        return sentences
    scored = sum(each["images"] for each in results["sets"])
    return [f"{scored} of {scored + count} pictures were scored, {count} left out.", *sentences]


def rule(results: Mapping[str, Any], dataset: str, mean: Mapping[str, Any]) -> str:
    """Number of pictures behind a measured mean, and how they are averaged, in the words of :attr:`Published.rule`."""
    pictures = f"{mean['images']} pictures"
    if results["protocol"].get("average") == "pixels":
        pictures += ", weighted by size"
    if dataset != AVERAGE:
        return pictures
    overall = results["protocol"]["overall"]
    how = {"images": "weighted equally", "sets": "all sets weighted equally"}
    return f"{pictures}, {how.get(overall, 'sets weighted') if isinstance(overall, str) else 'sets weighted'}"


def main_measures(results: Mapping[str, Any]) -> list[Measure]:
    """PSNR and SSIM, or the first two scores of a result that has neither."""
    measures = measures_of(results)
    return [each for each in measures if each.key in _MAIN] or measures[:2]


def _rows(results: Mapping[str, Any], layer: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Entries with scores of the layer, and their means."""
    return [
        (entry, means) for entry, means in results["averages"].items() if any(mean[layer] for mean in means.values())
    ]


def _one_set(results: Mapping[str, Any], layer: str, published: bool) -> RenderableType:
    (dataset,) = results["sets"]
    measures = measures_of(results)
    best = {each.key: _best(results, dataset["name"], layer, each) for each in measures}
    columns = [Column(), *(Column(each.heading, right=True) for each in measures), Column("of")]
    rows: list[list[Place]] = []
    for entry, means in _rows(results, layer):
        mean = means[dataset["name"]]
        values = mean[layer] or {}
        cells = [_cell(values.get(each.key), each, best[each.key]) for each in measures]
        rows.append([_label(entry, mean), *cells, rule(results, dataset["name"], mean)])
    table = TextTable(columns, rows, f"{dataset['title']}, {layer}, {dataset['images']} pictures")
    facts = published_for([dataset["published"]], layer) if published and dataset["published"] else []
    wanted = {each.title: each for each in measures}
    grid = _grid([fact for fact in facts if fact.metric in wanted], lambda fact: fact.metric)
    return _with_published(table, grid, [[title] for title in wanted], wanted, facts, list(wanted))


def _many_sets(results: Mapping[str, Any], layer: str, published: bool) -> RenderableType:
    measures = main_measures(results)
    titles = [each.title for each in measures]
    columns = [(each["name"], f"{each['title']} ({each['images']})", each["published"]) for each in results["sets"]]
    columns.append((AVERAGE, "average", results["benchmark"]["average"]))
    best = {(name, each.key): _best(results, name, layer, each) for name, _, _ in columns for each in measures}
    rows: list[list[Place]] = []
    for entry, means in _rows(results, layer):
        cells: list[Place] = []
        for name, _, _ in columns:
            values = means[name][layer] or {}
            cells.append([_cell(values.get(each.key), each, best[name, each.key]) for each in measures])
        rows.append([_label(entry, means[AVERAGE]), *cells, rule(results, AVERAGE, means[AVERAGE])])
    heads = [Column(), *(Column(title, right=True) for _, title, _ in columns), Column("average of")]
    table = TextTable(heads, rows, f"{' / '.join(titles)} of the {layer}")
    known = {public: public for _, _, public in columns if public}
    facts = published_for(known, layer) if published else []
    wanted = dict(zip(titles, measures, strict=True))
    facts = [fact for fact in facts if fact.metric in wanted]
    grid = _grid(facts, lambda fact: f"{fact.dataset}/{fact.metric}")
    places = [[f"{public}/{title}" for title in titles] for _, _, public in columns]
    by_place = {f"{d}/{title}": each for d in known for title, each in wanted.items()}
    return _with_published(table, grid, places, by_place, facts, places[-1])


def _other_scores(results: Mapping[str, Any], layer: str) -> RenderableType:
    measures = measures_of(results)
    best = {each.key: _best(results, AVERAGE, layer, each) for each in measures}
    rows: list[list[Place]] = []
    for entry, means in _rows(results, layer):
        values = means[AVERAGE][layer] or {}
        cells = [_cell(values.get(each.key), each, best[each.key]) for each in measures]
        rows.append([_label(entry, means[AVERAGE]), *cells])
    title = f"All scores of the {layer}, {AVERAGE} of {len(results['sets'])} data sets"
    return TextTable([Column(), *(Column(each.heading, right=True) for each in measures)], rows, title).rich()


def _with_published(
    table: TextTable,
    grid: Mapping[str, Mapping[str, list[Published]]],
    places: Sequence[Sequence[str]],
    measures: Mapping[str, Measure],
    facts: Sequence[Published],
    ruled: Sequence[str],
) -> RenderableType:
    """Add a row per published method, and the sources below.

    Args:
        table: table of the measured scores.
        grid: method -> place -> published numbers.
        places: for each column of the table, keys of ``grid`` whose values share a cell.
        measures: place -> its score.
        facts: all published numbers, in the order of their sources.
        ruled: places whose rule is given in the last column.
    """
    rows = {
        method: cells for method, cells in grid.items() if any(place in cells for group in places for place in group)
    }
    if not rows:
        return table.rich()
    used = {fact.source for cells in rows.values() for found in cells.values() for fact in found}
    sources = {
        source: chr(ord("a") + number)
        for number, source in enumerate(dict.fromkeys(f.source for f in facts if f.source in used))
    }
    below: list[list[Place]] = []
    for method, cells in rows.items():
        marks = "".join(sorted({sources[fact.source] for found in cells.values() for fact in found}))
        known = all(fact.confirmed for found in cells.values() for fact in found)
        words = [f"{method} [{marks}]{'' if known else ' †'}"]
        words += [_group([_range(cells.get(place, []), measures.get(place)) for place in group]) for group in places]
        words.append(averaging_rules(fact for place in ruled for fact in cells.get(place, ())))
        below.append([Cell(word, "dim") for word in words])
    lines = [f"[{mark}] {source}" for source, mark in sources.items()]
    if not all(fact.confirmed for cells in rows.values() for found in cells.values() for fact in found):
        lines.append("† from a secondary source, not checked in the original")
    return Group(
        replace(table, below=below).rich(),
        Text("As published, under the papers' own protocols:\n" + "\n".join(lines), style="dim"),
    )


def _group(values: Sequence[str]) -> str:
    return " / ".join(values) if any(value != _NOTHING for value in values) else _NOTHING


def _grid(facts: Sequence[Published], place: Any) -> dict[str, dict[str, list[Published]]]:
    grid: dict[str, dict[str, list[Published]]] = {}
    for fact in facts:
        grid.setdefault(fact.label, {}).setdefault(place(fact), []).append(fact)
    return grid


def _range(facts: Sequence[Published], measure: Measure | None) -> str:
    """Format one value, or the smallest and the largest if the sources disagree."""
    if measure is None:
        return _NOTHING
    shown = list(dict.fromkeys(measure.text(value) for value in sorted(fact.value for fact in facts)))
    return "–".join(dict.fromkeys((shown[0], shown[-1]))) if shown else _NOTHING


def _best(results: Mapping[str, Any], dataset: str, layer: str, measure: Measure) -> float | None:
    """The best value among entries that were scored on all pictures; None if there are fewer than two."""
    values = [
        means[dataset][layer][measure.key]
        for means in results["averages"].values()
        if means[dataset][layer] and means[dataset]["missing"] == 0 and means[dataset][layer][measure.key] is not None
    ]
    return measure.best(values) if len(values) > 1 else None


def _cell(value: float | None, measure: Measure, best: float | None) -> Cell:
    if value is None:
        return Cell(_NOTHING)
    return Cell(measure.text(value), "best" if value == best else "")


def _label(entry: str, mean: Mapping[str, Any]) -> Cell:
    if not mean["missing"]:
        return Cell(entry)
    return Cell(f"{entry} ! {mean['images']} of {mean['images'] + mean['missing']}", "warning")
