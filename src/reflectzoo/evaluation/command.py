"""The command ``python -m reflectzoo.evaluate``: builds entries and a benchmark from the configuration, and scores."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from reflectzoo.config import build, build_parts, plain
from reflectzoo.core.annotations import Count, NotNegative
from reflectzoo.core.disk import lock_folder
from reflectzoo.core.settings import check_entries
from reflectzoo.errors import UserError
from reflectzoo.evaluation.benchmark import Benchmark, EvaluationSet
from reflectzoo.evaluation.candidates import Candidate, from_checkpoint, from_weights
from reflectzoo.evaluation.predictions import PredictionsCandidate
from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.evaluation.results import PLAN
from reflectzoo.evaluation.runner import CandidateFactory
from reflectzoo.evaluation.runner import run_benchmark as run
from reflectzoo.evaluation.table import print_results
from reflectzoo.inference.load import find_source
from reflectzoo.training.run import quieten

_SETTINGS = {
    **dict.fromkeys(("fit_predictions", "published", "report"), bool),
    "save_pictures": bool | None,
    **dict.fromkeys(("masks", "resume"), str | None),
    "limit": Count | None,
    "data.num_workers": NotNegative | Literal["auto"],
}


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run the configured evaluation, print a table, and write the result to ``config.run_dir``.

    Args:
        config: composed from ``conf/evaluate.yaml``.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: for an invalid configuration; or, after everything else is measured and written, for missing
            predictions.
        TrainingError: if a network cannot be run.
        Interrupted: after Ctrl-C.
    """
    quieten()
    warnings.filterwarnings("ignore", ".*it is recommended to use .Trainer\\(devices=1.*")
    check_entries(config, _SETTINGS)
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return _evaluate(config)
    with lock_folder(Path(config.run_dir), "evaluation"):
        return _evaluate(config)


def _evaluate(config: DictConfig) -> dict[str, Any]:
    if config.resume is not None and not (Path(config.resume) / PLAN).is_file():
        raise UserError(f"resume={config.resume} contains no evaluation: give the folder of an interrupted one.")
    protocol: Protocol = build(config.protocol)
    # Before any network is loaded, so that missing data sets are reported at once.
    parts = {str(name): build(part) for name, part in config.benchmark.parts.items()}
    benchmark = Benchmark(config.benchmark.name, parts, config.limit, config.benchmark.get("blind", False))
    save_pictures = config.save_pictures
    if save_pictures is None:
        save_pictures = config.benchmark.get("save_pictures", False)
    entries = _entries(config)
    loggers = build_parts(config.logger, "logger", Logger)  # type: ignore[type-abstract]
    folder = Path(config.run_dir)
    results = run(
        benchmark,
        protocol,
        entries,
        folder,
        partial(build, config.trainer, default_root_dir=folder),
        masks=config.masks,
        save_pictures=save_pictures,
        num_workers=config.data.num_workers,
        configuration=plain(config),
        command=list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else (),
        say=rank_zero_info,
    )
    _tell(results, folder, config.published, config.report)
    _log(loggers, results, folder)
    missing = {entry["name"]: len(entry["missing"]) for entry in results["entries"] if entry.get("missing")}
    if missing:
        told = " and ".join(f"{count} of {name}" for name, count in missing.items())
        raise UserError(
            f"Predictions are missing: {told} (named above and in {folder / 'results.json'}); everything else is "
            "measured and written."
        )
    return results


@rank_zero_only
def _tell(results: Mapping[str, Any], folder: Path, published: bool, report: bool) -> None:
    print_results(results, published)
    files = "results.json, results.csv, averages.csv"
    if report:
        from reflectzoo.evaluation.report import write_report

        written = write_report(folder, published=published)
        files += ", report.html (open it in a browser), report.md, report.csv, report.json"
        files += f", {written['sheet'].name}" if "sheet" in written else ""
    rank_zero_info(f"Everything is in {folder.resolve()}: {files}")


@rank_zero_only
def _log(loggers: Sequence[Logger], results: Mapping[str, Any], folder: Path) -> None:
    if loggers:
        from reflectzoo.evaluation.report.logged import log_results

        log_results(loggers, results, folder)


def _entries(config: DictConfig) -> list[Candidate | CandidateFactory]:
    model = config.get("model")
    entries: list[Candidate | CandidateFactory] = []
    for name, path in _named(config.ckpt, "ckpt"):
        entries.append(from_checkpoint(path, model.name if model is not None else None, name))
    weights = _named(config.weights, "weights")
    if weights and model is None:
        raise UserError("weights=FILE needs model=<name>, the network that they belong to.")
    if model is not None and not weights and config.ckpt is None:
        packaged = find_source(model.name, None)
        if packaged is None:
            raise UserError(
                f"model={model.name} alone is not trained: give weights=FILE, or ckpt=FILE from a training run."
            )
        weights = [(None, str(packaged.path))]
    for name, path in weights:
        entries.append(from_weights(path, plain(model), name))
    for name, path in _named(config.predictions, "predictions"):
        entries.append(_predictions(name or Path(path).expanduser().resolve().name, path, config.fit_predictions))
    return entries


def _predictions(name: str, path: str, fit: bool) -> CandidateFactory:
    def make(sets: Sequence[EvaluationSet], protocol: Protocol) -> Candidate:
        return PredictionsCandidate(name, Path(path).expanduser(), sets, protocol, fit)

    return make


def _named(value: Any, key: str) -> list[tuple[str | None, str]]:
    """Read a setting that is one path, a list of paths, or a mapping from names to paths."""
    content = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if content is None:
        return []
    if isinstance(content, Mapping):
        pairs: list[tuple[str | None, Any]] = [(str(name), path) for name, path in content.items()]
    elif isinstance(content, Sequence) and not isinstance(content, str):
        pairs = [(None, path) for path in content]
    else:
        pairs = [(None, content)]
    if not pairs or not all(isinstance(path, str | int | float) and str(path) for _, path in pairs):
        raise UserError(f"{key} must be a path, [several, paths] or {{name: path, ...}}, got {content!r}.")
    return [(name, str(path)) for name, path in pairs]
