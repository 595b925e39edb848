"""Logging of results: W&B tables with pictures, and plain numbers for all loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import Logger, WandbLogger

from reflectzoo.core.batch import LAYERS
from reflectzoo.evaluation.candidates import INPUT
from reflectzoo.evaluation.report.pictures import case_pictures, choose_cases
from reflectzoo.evaluation.report.tables import make_tables

_SIDE = 512
_PICTURES = ("input", "ours", "truth", "error")


def log_results(loggers: Sequence[Logger], results: Mapping[str, Any], folder: Path) -> None:
    """Log an evaluation and finish the run of each logger.

    W&B receives the table ``scores``, with the averages and published numbers of the report, and ``pictures``, with one
    row per picture and entry. To keep the upload small, only rows that the report shows have images (if pictures were
    saved). Every logger receives ``<entry>/<set>/<layer>_<metric>``.

    Args:
        loggers: Lightning loggers.
        results: evaluation results.
        folder: run folder, with the saved pictures.
    """
    averages = {
        f"{entry}/{name}/{layer}_{key}": value
        for entry, means in results["averages"].items()
        for name, mean in means.items()
        for layer in LAYERS
        for key, value in (mean[layer] or {}).items()
        if value is not None
    }
    for logger in loggers:
        try:
            logger.log_hyperparams(
                {key: results[key] for key in ("configuration", "protocol", "entries", "fingerprint")}
            )
            logger.log_metrics(averages, step=0)
            if isinstance(logger, WandbLogger):
                logger.experiment.log({"scores": _scores(results), "pictures": _pictures(results, folder)})
        finally:
            logger.finalize("success")
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()


def _scores(results: Mapping[str, Any]) -> Any:
    import wandb

    tables = make_tables(results)
    table = wandb.Table(columns=["method", "kind", "layer", "set", "metric", "low", "high", "images", "sources"])
    for each in tables.tables:
        for line in each.lines:
            for column, cell in zip(each.columns, line.cells, strict=True):
                if cell.low is not None:
                    said = " | ".join(dict.fromkeys(tables.sources[source] for _, source, _ in cell.said))
                    place = (line.name, line.kind, each.layer, each.dataset, column.key)
                    table.add_data(*place, cell.low, cell.high, line.images, said)
    return table


def _pictures(results: Mapping[str, Any], folder: Path) -> Any:
    import wandb

    columns = [(layer, metric["key"]) for layer in LAYERS for metric in results["metrics"]]
    table = wandb.Table(columns=["entry", "set", "image", *_PICTURES, *(f"{layer}_{key}" for layer, key in columns)])
    shown = {(case.row["entry"], case.row["set"], case.row["image"]) for case in choose_cases(results)}
    stored = {(row["set"], row["image"]): row["pictures"] for row in results["images"] if row["entry"] == INPUT}
    for row in results["images"]:
        place = (row["entry"], row["set"], row["image"])
        images = _images(row, stored.get(place[1:], {}), folder) if place in shown else {}
        scores = [(row[layer] or {}).get(key) for layer, key in columns]
        table.add_data(*place, *(images.get(what) for what in _PICTURES), *scores)
    return table


def _images(row: Mapping[str, Any], stored: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """W&B images of one picture; empty if pictures were not saved."""
    import wandb

    found = case_pictures(row, {INPUT: stored}, folder)
    pictures = {what: picture for what, picture in found.items() if what in _PICTURES}
    images = {}
    for what, picture in pictures.items():
        small = Image.fromarray(picture)
        small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        images[what] = wandb.Image(small)
    return images
