"""Reading the folders of finished and unfinished training runs, without importing torch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reflectzoo.cli.jobs import RECORD
from reflectzoo.errors import UserError


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Attributes:
        folder: run folder.
        name: path of the folder, relative to the one that was searched.
        settings: overrides of the defaults, key -> value as written.
        finished: whether the run is complete.
        epochs: number of epochs logged.
        planned: number of epochs configured; None if unknown.
        curves: logged name -> (epoch, value) in order; if logged several times, the last value of an epoch.
        scores: content of ``metrics.json``; empty if it is missing.
    """

    folder: Path
    name: str
    settings: Mapping[str, str]
    finished: bool
    epochs: int
    planned: int | None
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    def best(self, metric: str, maximize: bool = True) -> float | None:
        """The value of a metric in ``metrics.json``, otherwise its best logged value; None if there is neither."""
        if metric in self.scores:
            return self.scores[metric]
        values = [value for _, value in self.curves.get(metric, ()) if not math.isnan(value)]
        return (max if maximize else min)(values, default=None)


def find_runs(folders: Sequence[Path]) -> list[TrainingRun]:
    """Find all training runs below some folders, sorted by path (numeric parts by value).

    Raises:
        UserError: if a folder does not exist, or none of them contains a run.
    """
    found: list[TrainingRun] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: give one of a sweep, e.g. outputs/multirun/DATE_TIME.")
        places = {file.parent for file in folder.rglob("config.yaml") if not file.parent.name.startswith(".")}
        for place in sorted(places, key=_by_number):
            run = read_run(place, _named(place, folder))
            if run is not None:
                found.append(run)
    if not found:
        raise UserError(f"There is no run in {', '.join(map(str, folders))}: no folder there has a config.yaml.")
    return found


def _named(place: Path, folder: Path) -> str:
    return place.name if place == folder else str(place.relative_to(folder))


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def read_run(folder: Path, name: str) -> TrainingRun | None:
    """Read the folder of a training run; None if it is not one."""
    config = _yaml(folder / "config.yaml")
    if not isinstance(config, dict) or "model" not in config or "trainer" not in config:
        return None
    curves = _curves(folder)
    scores = _scores(folder / "metrics.json")
    epochs = 1 + max((epoch for points in curves.values() for epoch, _ in points), default=-1)
    planned = (config.get("trainer") or {}).get("max_epochs")
    planned = planned if isinstance(planned, int) and planned > 0 else None
    job = _yaml(folder / RECORD)  # exists for jobs of a multirun; JSON is valid YAML
    if isinstance(job, dict):
        finished = job.get("state") == "done"
    else:
        finished = bool(scores) or (planned is not None and epochs >= planned)
    return TrainingRun(folder, name, _settings(folder, config), finished, epochs, planned, curves, scores)


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None


def _scores(file: Path) -> dict[str, float]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): float(value) for key, value in found.items() if isinstance(value, int | float)}


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All logged values. A resumed run has several files, of which later ones take precedence."""
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("logs/version_*/metrics.csv"), key=_by_number):
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                epoch = row.get("epoch")
                if not epoch:
                    continue
                for key, value in row.items():
                    if key and value and key not in ("epoch", "step"):
                        curves.setdefault(key, {})[int(float(epoch))] = float(value)
    return {key: sorted(points.items()) for key, points in curves.items()}


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The overrides recorded by Hydra, or for a trial of a study, its drawn values; otherwise only the model."""
    words = _yaml(folder / ".hydra" / "overrides.yaml")
    if not isinstance(words, list):
        words = _yaml(folder / "overrides.yaml")
    if not isinstance(words, list):
        return {"model": str((config.get("model") or {}).get("name", ""))}
    settings = {}
    for word in map(str, words):
        key, _, value = word.partition("=")
        settings[key.lstrip("+")] = value
    return settings


def differing(runs: Sequence[TrainingRun]) -> list[str]:
    """The settings in which the runs differ, in the order in which they were given."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]
