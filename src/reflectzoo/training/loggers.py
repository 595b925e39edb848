"""TensorBoard, W&B and MLflow loggers, names of their runs, and the outcome that W&B gets."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from reflectzoo.core.disk import write_text
from reflectzoo.errors import UserError

_WANDB_URL = "https://api.wandb.ai"
WANDB_ID = "wandb_run_id"
"""File in a run's folder that holds its W&B run ID."""


def tensorboard(save_dir: str) -> TensorBoardLogger:
    """TensorBoard event files in ``<save_dir>/tensorboard``.

    Raises:
        UserError: if tensorboard is not installed.
    """
    try:
        return TensorBoardLogger(save_dir, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError("logger=tensorboard needs TensorBoard: pip install 'reflectzoo[loggers]'.") from error


def wandb(
    save_dir: str,
    project: str = "reflectzoo",
    name: str | None = None,
    group: str | None = None,
    mode: str = "auto",
    log_model: bool = True,
    resume: str | None = None,
) -> WandbLogger:
    """A W&B logger that never blocks: without an account or a network it writes to disk, to be synced later.

    Args:
        save_dir: the run's folder.
        project: W&B project.
        name: name of the run; W&B chooses one if None.
        group: shared by the runs of one sweep.
        mode: ``online``, ``offline``, ``disabled``, or ``auto``: ``WANDB_MODE`` if set, otherwise online if there is an
            API key and the server answers within five seconds, otherwise offline.
        log_model: whether to store the best checkpoint as an artefact (see :func:`log_outcome`).
        resume: the checkpoint that training resumes from; if given, the W&B run in ``save_dir`` is continued.

    Raises:
        UserError: for any other mode.
    """
    modes = ("auto", "online", "offline", "disabled")
    if mode not in modes:
        raise UserError(f"logger.wandb.mode={mode} is none of {', '.join(modes)}.")
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() and _answers(_WANDB_URL, 5.0) else "offline")
    if mode == "offline":
        # Even offline, W&B looks up its own host to report errors: ten seconds at exit on a dead network.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        rank_zero_info(f"W&B: no account or network, writing to {save_dir}/wandb (wandb sync uploads it later)")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    import wandb as client

    settings: dict[str, Any] = {"mode": mode, "settings": client.Settings(silent=mode == "offline")}
    known = Path(save_dir) / WANDB_ID
    run_id = known.read_text(encoding="utf-8").strip() if resume is not None and known.is_file() else None
    if run_id is None:
        run_id = secrets.token_hex(4)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            write_text(known, run_id)
    logger = _Wandb(name=name, save_dir=save_dir, project=project, group=group, id=run_id, job_type="train", **settings)
    logger.keeps_model = log_model
    return logger


class _Wandb(WandbLogger):
    keeps_model = False


def mlflow(
    save_dir: str, database: str, name: str | None = None, group: str | None = None, resume: str | None = None
) -> Logger:
    """An MLflow logger with a local database and no account.

    ``mlflow ui --backend-store-uri sqlite:///FILE`` shows its runs.

    Args:
        save_dir: the run's folder.
        database: the database file, shared by all runs.
        name: name of the run; MLflow chooses one if None.
        group: tag shared by the runs of one sweep.
        resume: the checkpoint that training resumes from; if given, the MLflow run in ``save_dir`` is continued.

    Raises:
        UserError: if MLflow is not installed.
    """
    known = Path(save_dir) / "mlflow_run_id"
    run_id = known.read_text(encoding="utf-8").strip() if resume is not None and known.is_file() else None
    file = Path(database).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        logger = MLFlowLogger(
            experiment_name="reflectzoo", run_name=name, run_id=run_id, tracking_uri=f"sqlite:///{file}",
            tags={"group": group} if group else None,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise UserError("logger=mlflow needs MLflow: pip install 'reflectzoo[mlflow]'.") from error
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        # Reading run_id starts the run; two runs starting at once would both create a new database's tables.
        with FileLock(f"{file}.lock"):
            write_text(known, str(logger.run_id))
    return logger


def with_run_names(config: DictConfig) -> DictConfig | None:
    """The loggers' configuration, with meaningful run names and groups filled in where they are missing.

    In a multirun, the name consists of the job's number and the overrides that not all jobs share, and the group is the
    sweep's folder. In a single run, the name consists of the model and the run's folder.
    """
    loggers: DictConfig | None = config.get("logger")
    if not loggers:
        return loggers
    run_dir = Path(config.run_dir)
    name, group = f"{config.model.name} {run_dir.name}", None
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        hydra = HydraConfig.get()
        sweep = Path(hydra.sweep.dir)
        own = _own_words(sweep, list(hydra.overrides.task))
        name, group = f"{hydra.job.num}: {' '.join(own)}" if own else f"{config.model.name} {run_dir.name}", sweep.name
    loggers = loggers.copy()
    for each in loggers.values():
        if each and "group" in each:
            with open_dict(each):
                each.name, each.group = each.name or name, each.group or group
    return loggers


def _own_words(sweep: Path, task: list[str]) -> list[str]:
    """The overrides of a job that its sweep's jobs do not all share."""
    try:
        asked = OmegaConf.load(sweep / "multirun.yaml").hydra.overrides.task
    except (OSError, AttributeError):
        return task
    return [word for word in task if word not in asked]


def group_choices() -> dict[str, str]:
    """The option chosen in each configuration group, to search runs by; empty outside a Hydra command."""
    if not HydraConfig.initialized():
        return {}
    return {key: str(value) for key, value in HydraConfig.get().runtime.choices.items() if "hydra/" not in key}


def started_from(config: DictConfig) -> dict[str, str]:
    """Paths of checkpoints from other runs that this run started from, by setting."""
    keys = ("ckpt_path", "model.stage1_ckpt", "model.teacher_ckpt")
    found = {key: OmegaConf.select(config, key, default=None) for key in keys}
    return {key: str(value) for key, value in found.items() if value not in (None, "last")}


def log_outcome(
    loggers: Sequence[Logger], metrics: Mapping[str, float], best: str | None, model: str, parents: Mapping[str, str]
) -> None:
    """Log a table of test scores, and the best checkpoint as an artefact, to W&B after training.

    The artefact is called ``<model>-<run id>`` and has the alias ``best``; its metadata holds the scores and the
    checkpoints that training started from. Online, those of other runs are linked as its ancestors in W&B's graph.

    Args:
        loggers: all loggers of the run; those other than W&B are skipped.
        metrics: final metrics, including ``test/<set>/<metric>``.
        best: path of the best checkpoint, if any.
        model: name of the model.
        parents: setting -> path of a checkpoint that the run started from.
    """
    for logger in loggers:
        if not isinstance(logger, _Wandb) or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            continue
        import wandb as client

        run: Any = logger.experiment
        rows = _by_set(metrics)
        if rows:
            columns = sorted({key for row in rows.values() for key in row})
            table = client.Table(columns=["set", *columns])
            for name, row in rows.items():
                table.add_data(name, *(row.get(key) for key in columns))
            run.log({"evaluation": table})
        if best is not None and logger.keeps_model:
            ancestors = {key: _artefact_of(Path(path)) or path for key, path in parents.items()}
            scores = {key: value for key, value in metrics.items() if key.startswith(("test/mean/", "val/mean/"))}
            artefact = client.Artifact(f"{model}-{run.id}", "model", metadata={**scores, "started_from": ancestors})
            # "immutable" avoids a copy: checkpoints are large, and this one is not moved.
            artefact.add_file(best, name="best.ckpt", policy="immutable")
            if not run.offline:
                for each in filter(None, map(_artefact_of, map(Path, parents.values()))):
                    with contextlib.suppress(client.errors.CommError, ValueError):  # another project's, or deleted
                        run.use_artifact(f"{each}:best")
            run.log_artifact(artefact, aliases=["best"])


def _by_set(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        stage, _, rest = key.partition("/")
        name, _, metric = rest.rpartition("/")
        if stage == "test" and name:
            rows.setdefault(name, {})[metric] = value
    return rows


def _artefact_of(checkpoint: Path) -> str | None:
    """The W&B artefact name of a run's best checkpoint, derived from the files in the run's folder; None if unknown."""
    folder = checkpoint.absolute().parent.parent
    try:
        run_id = (folder / WANDB_ID).read_text(encoding="utf-8").strip()
        model = OmegaConf.load(folder / "config.yaml").model.name
    except (OSError, AttributeError):
        return None
    return f"{model}-{run_id}"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb as client

    return bool(client.api.api_key)


def _answers(url: str, seconds: float) -> bool:
    """Whether a server answers in time; in a thread, since a DNS lookup may hang longer than any socket timeout."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except OSError:
            return

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)
