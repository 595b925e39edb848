"""Result files of an evaluation: their format, averages, and the partial results from which a run resumes.

A run folder contains

``plan.json``
    What is to be scored, written first: entries with their hashes, protocol, list of pictures, masks, precision. An
    evaluation can be resumed only if all of it is unchanged (:func:`check_same_plan`).
``images.rank<N>.jsonl``
    One line per picture and entry (:class:`Row`), appended by process N as soon as it is scored.
``results.json``
    Everything, written last; :func:`read_results` reads it. The format is described below.
``results.csv``
    The rows of ``images`` as a table, one line per picture and entry: ``entry, set, image, height, width``, and
    ``<layer>_<metric>``; an empty cell is a score that does not exist.
``averages.csv``
    ``averages`` as a table: ``entry, set, layer, metric, value, images, missing``.
``pictures/``
    With ``save_pictures=true``: ``pictures/<entry>/<set>/<image>_transmission.png`` (and ``_reflection.png``), 8-bit,
    at the scored size; ``pictures/input/<set>/<image>_mixture.png``; the ground truth in ``pictures/truth/``.

**results.json**, format ``reflectzoo-results/1``. Paths are relative to the folder, with forward slashes. Numbers are
never NaN or infinite; null stands for a score that does not exist::

    format          "reflectzoo-results/1"
    complete        bool: false if an entry lacks pictures (see entries.missing) or the run was limited
    created         time of writing, ISO 8601, UTC
    version         of reflectzoo
    command         list of the overrides given
    configuration   the resolved configuration
    environment     {python, torch, device, precision, processes}
    fingerprint     sha256 over plan.json: entries, protocol, pictures, masks, precision
    benchmark       {name, average: name of the average column in published_results.json or null,
                     left_out: [sentence], left_out_pictures: number that could not be scored (absent in older
                     results), limit: pictures per set or null, masks: folder or null}
    sets            [{name, title, images, images_found, published: name in published_results.json or null,
                      published_images: pictures behind the published numbers or null, root}], in the order scored
    protocol        every attribute of evaluation.protocol.Protocol, and in_words: one line
    metrics         [{key, title, unit, digits, higher_is_better: null if it has no direction, blind: needs no ground
                      truth}], in the order of the columns; results of older versions lack digits and blind
    entries         [{name, kind: "input" | "checkpoint" | "weights" | "predictions",
                      model, path, sha256, parameters, vgg, provenance: {...}      (networks)
                      folder, sha256, fit, matched, missing: [{set, image, reason}], extra: [path]   (predictions)}]
    images          [Row], in the order of entries, sets and pictures
    averages        {entry: {set or "average": {images, missing,
                     transmission: {metric: mean or null}, reflection: {metric: ...} or null,
                     counted: {layer: {metric: number of pictures with this score}}}}}

``average`` is present if there are two or more sets; ``protocol.overall`` defines its weights. ``entries[0]`` is always
the untouched input.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from reflectzoo.core.batch import LAYERS
from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError
from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.metrics.functional import decibels

FORMAT = "reflectzoo-results/1"
PLAN, RESULTS = "plan.json", "results.json"
AVERAGE = "average"

Scores = dict[str, float | None]


class Row(TypedDict):
    """Scores of one entry on one picture.

    Keys:
        entry: name of the entry.
        set: name of the data set.
        image: name of the picture, unique within the set.
        height: height of the scored picture, in pixels.
        width: width of the scored picture, in pixels.
        source_height: height of the stored mixture; null for synthetic mixtures.
        source_width: width of the stored mixture; null for synthetic mixtures.
        tags: further properties of the picture (scene, aperture, ...).
        transmission: metric -> score; null if the layer is not scored: the protocol excludes it, or the ground truth is
            unknown and no blind score is requested.
        reflection: metric -> score; null if the protocol excludes it, the ground truth is unknown, or the entry has no
            reflection.
        errors: layer -> mean squared error of the three channels, of values in [0, 1]; only for known ground truth.
        pictures: kind -> path, with ``save_pictures=true``: ``transmission`` and ``reflection``; for the entry
            ``input`` instead ``mixture``, ``truth_transmission``, ``truth_reflection``.
        seconds: time in which the entry produced its layers (one forward pass of a network), without scoring.
    """

    entry: str
    set: str
    image: str
    height: int
    width: int
    source_height: int | None
    source_width: int | None
    tags: dict[str, str]
    transmission: Scores | None
    reflection: Scores | None
    errors: dict[str, list[float]]
    pictures: dict[str, str]
    seconds: float


Key = tuple[str, str, str]


def key_of(row: Row) -> Key:
    """The key of a row: entry, set and image."""
    return row["entry"], row["set"], row["image"]


# -- during the run ----------------------------------------------------------------------------------------------------


class RowLog:
    """Appends rows to this process's log file, so that they survive a later failure.

    If the file ends in an incomplete line, new rows start on a line of their own.

    Args:
        folder: run folder.
        rank: rank of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / f"images.rank{rank}.jsonl"
        broken = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if broken:
            self._file.write("\n")

    def append(self, row: Row) -> None:
        """Write one row and flush it, so that it survives the death of this process."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Sync all rows to disk and close the file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_rows(folder: Path) -> dict[Key, Row]:
    """Read the rows written by all processes; lines cut off by a crash are skipped."""
    rows: dict[Key, Row] = {}
    for path in sorted(folder.glob("images.rank*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows[key_of(row)] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
    return rows


def fingerprint(plan: Mapping[str, Any]) -> str:
    """SHA-256 of a plan, hence over everything that determines the scores."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def check_same_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Check that an interrupted evaluation had the same plan, so that its rows can be kept.

    Args:
        folder: with a ``plan.json``.
        plan: plan of this run.

    Raises:
        UserError: naming the parts that differ, or if ``plan.json`` cannot be read.
    """
    path = folder / PLAN
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}), so this evaluation cannot be resumed: start a new one."
        ) from error
    now = json.loads(json.dumps(plan))
    differing = [str(part) for part in dict.fromkeys([*now, *earlier]) if now.get(part) != earlier.get(part)]
    if not differing:
        return
    details = []
    for part in differing:
        a, b = earlier.get(part), now.get(part)
        if isinstance(a, dict) and isinstance(b, dict):
            keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
            details.append(f"{part} ({', '.join(map(str, keys[:4]))})")
        else:
            details.append(part)
    raise UserError(
        f"'{folder}' contains an evaluation with different {' and '.join(details)}: repeat the original command, or "
        "start a new evaluation without resume."
    )


# -- averages ----------------------------------------------------------------------------------------------------------


def averages(
    rows: Sequence[Row],
    entries: Sequence[str],
    sets: Mapping[str, int],
    protocol: Protocol,
    metrics: Sequence[str],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute the means of every entry over every set, and over all sets, as defined by the protocol.

    Args:
        rows: rows of all pictures.
        entries: names of the entries.
        sets: name -> expected number of pictures.
        protocol: defines the averages.
        metrics: keys of the scores.

    Returns:
        ``averages`` in the format above. A mean covers only the pictures that have the score, so that none is NaN.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["entry"], row["set"]), []).append(row)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        of_sets = {name: _over_set(found.get((entry, name), []), protocol, metrics) for name in sets}
        for name, wanted in sets.items():
            of_sets[name]["missing"] = wanted - of_sets[name]["images"]
        table[entry] = of_sets
        if len(sets) > 1:
            table[entry] = {**of_sets, AVERAGE: _over_sets(of_sets, protocol, metrics)}
    return table


def _over_set(rows: Sequence[Row], protocol: Protocol, metrics: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"images": len(rows), "missing": 0, "counted": {}}
    for layer in LAYERS:
        scored = [row for row in rows if row[layer] is not None]  # type: ignore[literal-required]
        if not scored:
            result[layer] = None
            continue
        result[layer], result["counted"][layer] = {}, {}
        for key in metrics:
            having = [row for row in scored if _score(row, layer, key) is not None]
            result["counted"][layer][key] = len(having)
            result[layer][key] = _mean(having, layer, key, protocol) if having else None
    return result


def _mean(rows: Sequence[Row], layer: str, key: str, protocol: Protocol) -> float:
    if protocol.average == "images":
        return math.fsum(cast(float, _score(row, layer, key)) for row in rows) / len(rows)
    sizes = [row["height"] * row["width"] for row in rows]
    if key == "psnr":
        channels = [
            math.fsum(size * row["errors"][layer][c] for size, row in zip(sizes, rows, strict=True)) / sum(sizes)
            for c in range(3)
        ]
        errors = torch.tensor(channels, dtype=torch.float64)
        if protocol.psnr == "pooled":
            errors = errors.mean()
        return float(decibels(errors).mean())
    return math.fsum(size * cast(float, _score(row, layer, key)) for size, row in zip(sizes, rows, strict=True)) / sum(
        sizes
    )


def _over_sets(of_sets: Mapping[str, Mapping[str, Any]], protocol: Protocol, metrics: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "images": sum(each["images"] for each in of_sets.values()),
        "missing": sum(each["missing"] for each in of_sets.values()),
        "counted": {},
    }
    for layer in LAYERS:
        scored = {name: each for name, each in of_sets.items() if each[layer] is not None}
        if not scored:
            result[layer] = None
            continue
        result[layer], result["counted"][layer] = {}, {}
        for key in metrics:
            having = {name: each for name, each in scored.items() if each[layer][key] is not None}
            counts = {name: each["counted"][layer][key] for name, each in having.items()}
            weights = {name: _weight(name, counts[name], protocol) for name in having}
            total = math.fsum(weights.values())
            result["counted"][layer][key] = sum(counts.values())
            result[layer][key] = (
                math.fsum(weights[name] * each[layer][key] for name, each in having.items()) / total if total else None
            )
    return result


def _weight(name: str, images: int, protocol: Protocol) -> float:
    if isinstance(protocol.overall, Mapping):
        return float(protocol.overall.get(name, 0.0))
    return float(images) if protocol.overall == "images" else 1.0


def _score(row: Row, layer: str, key: str) -> float | None:
    scores = cast(Scores, row[layer])  # type: ignore[literal-required]
    return scores.get(key)


# -- after the run -----------------------------------------------------------------------------------------------------


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json``, ``results.csv`` and ``averages.csv``, each atomically."""
    stamped = {"format": FORMAT, "created": datetime.now(UTC).isoformat(timespec="seconds"), **results}
    write_text(folder / RESULTS, json.dumps(stamped, indent=1, allow_nan=False) + "\n")
    keys = [metric["key"] for metric in results["metrics"]]
    columns = [(layer, key) for layer in LAYERS for key in keys]
    head = ["entry", "set", "image", "height", "width"]
    _write_csv(
        folder / "results.csv",
        [*head, *(f"{layer}_{key}" for layer, key in columns)],
        (
            [*(row[name] for name in head), *((row[layer] or {}).get(key) for layer, key in columns)]
            for row in results["images"]
        ),
    )
    _write_csv(
        folder / "averages.csv",
        ["entry", "set", "layer", "metric", "value", "images", "missing"],
        (
            [entry, name, layer, key, mean[layer][key], mean["counted"][layer][key], mean["missing"]]
            for entry, means in results["averages"].items()
            for name, mean in means.items()
            for layer, key in columns
            if mean[layer] is not None
        ),
    )


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a result.

    Args:
        path: a run folder, or its ``results.json``.

    Raises:
        UserError: if there is no result, or it cannot be read or has another format.
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        hint = f"; its evaluation is not finished, so resume it with resume={path}" if (path / PLAN).is_file() else ""
        raise UserError(f"There is no result {file}: give the folder of a finished reflectzoo.evaluate{hint}.")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"The result {file} cannot be read ({error}).") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        found = results.get("format") if isinstance(results, dict) else None
        raise UserError(f"{file} is not a result in the format {FORMAT} (it says {found!r}).")
    return results


def _write_csv(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows(lines)
    write_text(path, text.getvalue())
