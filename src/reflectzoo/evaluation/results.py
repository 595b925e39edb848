"""The result of an evaluation as files: the format, the averages, and how half a result is kept and gone on from.

A run folder holds

``plan.json``
    What was to be scored, written first: entries with their hashes, protocol, and the list of pictures. A folder is
    gone on with only if all of that is the same (:func:`fingerprint`).
``images.rank<N>.jsonl``
    One line for each picture of each entry (:class:`Row`), appended as it is scored, by process N.
``results.json``
    Everything, written last; :func:`read_results` reads it. The format is below.
``results.csv``
    The rows of ``images`` as a table, one line for each picture of each entry: ``entry, set, image, height, width``,
    and ``<layer>_<metric>``; an empty cell is a score that does not exist.
``averages.csv``
    ``averages`` as a table: ``entry, set, layer, metric, value, images, missing``.
``pictures/``
    With ``save_pictures=true``: ``pictures/<entry>/<set>/<image>_transmission.png`` (and ``_reflection.png``), 8-bit,
    of the scored size; ``pictures/input/<set>/<image>_mixture.png``; the truth in ``pictures/truth/``.

**results.json**, format ``reflectzoo-results/1``. Paths are relative to the folder, with forward slashes. Numbers are
never NaN or infinite; null stands for a score that does not exist::

    format          "reflectzoo-results/1"
    complete        bool: false if an entry lacks pictures (see entries.missing) or the run was limited
    created         time of writing, ISO 8601, UTC
    version         reflectzoo's
    command         list of the overrides that were given
    configuration   the resolved configuration
    environment     {python, torch, device, precision, processes}
    fingerprint     sha256 over entries, protocol and pictures
    benchmark       {name, average: name of the average column in published_results.json or null,
                     left_out: [sentence], left_out_pictures: how many could not be scored (absent in older
                     results), limit: pictures of each set or null, masks: folder or null}
    sets            [{name, title, images, images_found, published: name in published_results.json or null,
                      published_images: pictures behind the published numbers or null, root}], in the order scored
    protocol        every attribute of evaluation.protocol.Protocol, and in_words: one line
    metrics         [{key, title, unit, digits, higher_is_better: null where neither is, blind: needs no truth}], in
                    the order of columns; results of older versions lack digits and blind
    entries         [{name, kind: "input" | "checkpoint" | "weights" | "predictions",
                      model, path, sha256, parameters, provenance: {...}      (networks)
                      folder, sha256, matched, missing: [{set, image, reason}], extra: [path]   (predictions)}]
    images          [Row], in the order of entries, sets and pictures
    averages        {entry: {set or "average": {images, missing,
                     transmission: {metric: mean or null}, reflection: {metric: ...} or null,
                     counted: {layer: {metric: pictures that have this score}}}}}

``average`` is there if there are two sets or more; ``protocol.overall`` says how it is weighted. ``entries[0]`` is
always the untouched input.
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

from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError
from reflectzoo.evaluation.protocol import LAYERS, Protocol
from reflectzoo.metrics.functional import decibels

FORMAT = "reflectzoo-results/1"
PLAN, RESULTS = "plan.json", "results.json"
AVERAGE = "average"

Scores = dict[str, float | None]


class Row(TypedDict):
    """One picture of one entry.

    Keys:
        entry: name of the entry.
        set: name of the data set.
        image: name of the picture, unique within the set.
        height: of the scored picture, in pixels.
        width: likewise.
        source_height: of the stored mixture; null if mixtures are made, not stored.
        source_width: likewise.
        tags: what else is known about the picture (scene, aperture, ...).
        transmission: score by metric; null if the truth is unknown.
        reflection: likewise; null too if the entry has no reflection.
        errors: layer -> mean squared error of the three channels, of values in [0, 1].
        pictures: what -> path, with ``save_pictures=true``: ``transmission`` and ``reflection``; of the entry ``input``
            instead ``mixture``, ``truth_transmission``, ``truth_reflection``.
        seconds: that the entry took to produce its layers (a network: one forward pass), not those of scoring.
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
    """Entry, set and image."""
    return row["entry"], row["set"], row["image"]


# -- while it runs -----------------------------------------------------------------------------------------------------


class RowLog:
    """Appends rows to a file of this process's own; what is in it survives whatever happens next.

    Args:
        folder: of the run.
        rank: of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / f"images.rank{rank}.jsonl"
        broken = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if broken:
            self._file.write("\n")

    def append(self, row: Row) -> None:
        """Write one row, out of this process's hands at once."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Force everything onto the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_rows(folder: Path) -> dict[Key, Row]:
    """All rows that any process has written; a line that was cut off by a crash is left out."""
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
    """sha256 over everything that the scores follow from."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def check_same_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder whose rows mean something else.

    Args:
        folder: with a ``plan.json``.
        plan: of this run.

    Raises:
        UserError: naming what differs.
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
    """Means of every entry over every set, and over all sets, as the protocol has them.

    Args:
        rows: of all pictures.
        entries: their names.
        sets: name -> number of pictures there should be.
        protocol: says over what means are taken.
        metrics: keys of the scores.

    Returns:
        As ``averages`` in the format above. Pictures without a score do not count for it, so no mean is NaN.
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


# -- when it is done ---------------------------------------------------------------------------------------------------


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json``, ``results.csv`` and ``averages.csv``; a reader never sees half a file."""
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
        UserError: if there is none, it cannot be read or is of another format.
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
