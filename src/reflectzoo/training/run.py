"""A training run: build the parts, fit, select the best checkpoint, test it, and report where the results are."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Le
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch.multiprocessing.spawn import ProcessException

from reflectzoo.cli import did_you_mean, nearest
from reflectzoo.config import build_part, build_parts, plain
from reflectzoo.core.annotations import Seed
from reflectzoo.core.disk import lock_folder, remove_parts, write_text
from reflectzoo.core.ranks import forget_lost, job_name, meet_anew, restarts
from reflectzoo.core.settings import check_entries, check_tree
from reflectzoo.errors import (
    Interrupted,
    LostPeer,
    LostProcess,
    NotFinite,
    Preempted,
    TrainingError,
    UserError,
    lost_process_error,
    memory_ran_out,
    no_compiler,
)
from reflectzoo.metrics.layers import SSIM_WINDOW
from reflectzoo.training.callbacks.averaging import ExponentialAverage
from reflectzoo.training.callbacks.broken import KeepBrokenBatch
from reflectzoo.training.callbacks.interrupt import GracefulInterrupt
from reflectzoo.training.devices import (
    check_devices,
    check_strategy,
    cluster_of,
    start_compiling,
    unify_trainer_settings,
)
from reflectzoo.training.loggers import group_choices, log_outcome, started_from, with_run_names
from reflectzoo.training.module import ReflectionModule
from reflectzoo.training.processes import requeue, supervise_processes, translate_spawn_error, why_not_met
from reflectzoo.training.profiling import profiler_of
from reflectzoo.training.saving import SafeCheckpointIO
from reflectzoo.training.start import give_first_weights
from reflectzoo.weights.read import LAST, PREVIOUS, find_damage, read_checkpoint, resumable

_Kind = TypeVar("_Kind")


def train(config: DictConfig, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
    """Train one model as configured.

    Args:
        config: composed from ``conf/train.yaml``.
        callbacks: additional to the configured ones.

    Returns:
        The metrics of the test (with ``test=false``, the last ones of training and validation).

    Raises:
        UserError: for an invalid configuration.
        TrainingError: if a loss is not finite, memory ran out, or a process died.
        Interrupted: after Ctrl-C; the message says what is saved.
    """
    quieten()
    check_settings(config)
    check_devices(config)
    run_dir = Path(config.run_dir)
    if restarts() and _of_this_job(run_dir):
        config.ckpt_path = "last"
    try:
        with _held(run_dir):
            return _train(config, run_dir, callbacks)
    except Preempted as stop:
        # After everything is closed: SLURM ends what is left of a job at once when it requeues it.
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            raise
        raise Interrupted(f"{stop} {requeue()}") from stop


_SETTINGS = {
    "seed": Seed,
    "test": bool,
    "compile": bool | str | None,
    "run_dir": str,
    **dict.fromkeys(("ckpt_path", "weights"), str | None),
    "data.eval_crop": Annotated[int, Ge(SSIM_WINDOW), Le(2**14)],
}


def check_settings(config: DictConfig) -> None:
    """Check the whole configuration before any of it is built.

    Raises:
        UserError: for the first invalid setting.
    """
    check_entries(config, _SETTINGS)
    for part in (config.data, config.model, config.callbacks, config.get("logger")):
        check_tree(part)
    for ours, instead in _OURS.items():
        if config.trainer is not None and ours in config.trainer:
            raise UserError(f"trainer.{ours} cannot be given: {instead}.")
    check_tree(config.trainer, tuple(_OURS))


_OURS = {
    "callbacks": "add one with +callbacks.NAME._target_=…",
    "logger": "choose with logger=…",
    "default_root_dir": "the run's folder is hydra.run.dir=…",
    "plugins": "the zoo has its own",
}
"""Trainer arguments that reflectzoo sets itself, and what to use instead of overriding them."""


@contextlib.contextmanager
def _held(run_dir: Path) -> Iterator[None]:
    """Lock the run's folder for this run; only rank 0 takes the lock."""
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield
        return
    with lock_folder(run_dir, "training"):
        remove_parts(run_dir / "checkpoints")
        forget_lost(run_dir)
        job = job_name()
        # A job may have been started again before it got here for the first time.
        if job is not None and (restarts() == 0 or _recorded_job(run_dir)[0] != job):
            write_text(run_dir / _JOB, f"{job} {_written(run_dir)}")
        yield


_JOB = ".job"
"""File in a run's folder: the job that trains there, and which checkpoint was there when it began."""


def _written(run_dir: Path) -> str:
    """Tells a run's last checkpoint from those before and after; empty if there is none."""
    files = (run_dir / "checkpoints" / name for name in (LAST, PREVIOUS))
    return ",".join(str(file.stat().st_mtime_ns) for file in files if file.is_file())


def _recorded_job(run_dir: Path) -> tuple[str | None, str]:
    """The job that trains in a run's folder, and what :func:`_written` was when it began; None if there is none."""
    try:
        job, _, before = (run_dir / _JOB).read_text(encoding="utf-8").partition(" ")
    except OSError:
        return None, ""
    return job, before


def _of_this_job(run_dir: Path) -> bool:
    """Whether the checkpoint in a run's folder was written by this job, before SLURM or torchrun started it again."""
    job, before = _recorded_job(run_dir)
    return job is not None and job == job_name() and _written(run_dir) not in ("", before)


def _train(config: DictConfig, run_dir: Path, further: Sequence[Callback]) -> dict[str, float]:
    resume_from = _resume_path(config, run_dir)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    unify_trainer_settings(config)
    datamodule = build_part(config.data, "data", pl.LightningDataModule)
    model = build_part(config.model, "model", ReflectionModule)
    model.config = plain(config.model)
    callbacks: list[Callback] = [*further, *build_parts(config.callbacks, "callbacks", Callback)]
    check_strategy(config, model, callbacks)
    if resume_from is not None:
        _check_fits(model, resume_from, any(isinstance(each, ExponentialAverage) for each in callbacks))
    else:
        give_first_weights(model, config.get("weights"))
    # Before the long work, so that a bad photograph folder or an unwritable run folder fails at once.
    datamodule.setup("fit")
    model.attach_vgg()
    start_compiling(model, config.get("compile", False))
    _write_config(config, run_dir, model.vgg_used)

    loggers = build_parts(with_run_names(config), "logger", Logger)  # type: ignore[type-abstract]
    for logger in loggers:
        logger.log_hyperparams(plain(config) | {"vgg_used": model.vgg_used, "choices": group_choices()})
    meet_anew()
    trainer = build_part(
        config.trainer,
        "trainer",
        pl.Trainer,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=run_dir,
        plugins=[SafeCheckpointIO(), *cluster_of()],
        **profiler_of(config.trainer, run_dir),
    )

    supervise_processes(trainer, lambda: _how_to_go_on(trainer))

    try:
        with _told_in_a_sentence(trainer):
            trainer.fit(model, datamodule, ckpt_path=resume_from, weights_only=True if resume_from else None)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        best = _best_checkpoint(callbacks)
        if config.test:
            if best is not None:
                # Not via ckpt_path=best: with averaged weights (callbacks=ema) Lightning would test the last ones.
                checkpoint = read_checkpoint(Path(best))
                model.on_load_checkpoint(checkpoint)
                model.load_state_dict(checkpoint["state_dict"])
            with _told_in_a_sentence(trainer):
                trainer.test(model, datamodule, verbose=False)
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            _report(metrics, run_dir, best)
        log_outcome(loggers, metrics, best, model.name, started_from(config))
        return metrics
    finally:
        for logger in loggers:
            logger.finalize("success")
        _finish_wandb()


@contextlib.contextmanager
def _told_in_a_sentence(trainer: pl.Trainer) -> Iterator[None]:
    """Translate what stops a fit or a test into one error: the cause, what is saved, and how to resume."""
    try:
        yield
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        given = trainer.val_check_batch
        raise UserError(
            f"trainer.val_check_interval={given} is more than one epoch has batches: give less, or count over epochs "
            "with trainer.check_val_every_n_epoch=null."
        ) from error
    except MisconfigurationException as error:
        if "could not find the monitored key" not in str(error):
            raise
        raise UserError(_without_key(trainer)) from error
    except NotFinite as error:
        broken = _callback(trainer, KeepBrokenBatch)
        batch = f"; the batch is in {broken.written}" if broken is not None and broken.written is not None else ""
        raise TrainingError(f"{error}{batch}. {_how_to_go_on(trainer)}.") from error
    except SystemExit as stop:  # how Lightning leaves after KeyboardInterrupt
        interrupt = _callback(trainer, GracefulInterrupt)
        if interrupt is not None and interrupt.saved:
            raise (Preempted if interrupt.preempted else Interrupted)(
                f"Interrupted; everything so far is in {interrupt.path}; ckpt_path=last resumes from there."
            ) from stop
        raise Interrupted(f"Interrupted at once. {_how_to_go_on(trainer)}.") from stop
    except ProcessException as error:
        cause = translate_spawn_error(error, trainer.world_size)
        if cause is None:
            raise
        if isinstance(cause, LostProcess):
            cause = type(cause)(f"{cause} {_how_to_go_on(trainer)}.")
        raise cause from error
    except (LostProcess, MemoryError, RuntimeError) as error:
        if memory_ran_out(error) and not isinstance(error, LostProcess):
            raise TrainingError(
                "Memory ran out: make data.crop, data.batch_size or the network smaller, or accumulate gradients "
                f"over several small batches with trainer.accumulate_grad_batches. {_how_to_go_on(trainer)}."
            ) from error
        if (uncompiled := no_compiler(error)) is not None:
            raise uncompiled from error
        if (missed := why_not_met(error, trainer.world_size)) is not None:
            raise missed from error
        lost = error if isinstance(error, LostProcess) else lost_process_error(str(error), trainer.world_size)
        if lost is None:
            raise
        told = type(lost)(f"{lost} {_how_to_go_on(trainer)}.")
        if isinstance(told, LostPeer):
            told.folder = Path(trainer.default_root_dir)
        raise told from error


def _how_to_go_on(trainer: pl.Trainer) -> str:
    interrupt = _callback(trainer, GracefulInterrupt)
    if interrupt is None or not interrupt.path.is_file():
        return "Nothing had been saved yet: start again"
    return f"What was saved is in {interrupt.path}: the same command with ckpt_path=last resumes from there"


def _without_key(trainer: pl.Trainer) -> str:
    """The reason why the best checkpoint cannot be selected."""
    monitored = [call for call in _callbacks(trainer) if isinstance(call, ModelCheckpoint) and call.monitor]
    known = sorted(key for key in trainer.callback_metrics if key.startswith("val/"))
    wrong = next((str(call.monitor) for call in monitored if call.monitor not in known), "")
    if wrong != "val/mean/psnr":
        return (
            f"callbacks.best.monitor={wrong} is not a logged score{did_you_mean(nearest(wrong, known))} There are: "
            f"{', '.join(known)}."
        )
    return (
        "No validation picture has a ground-truth transmission, so the best checkpoint cannot be selected: also "
        "train on a mixture with aligned pairs (for unaligned ones data=mixture_errnet_unaligned), or skip both with "
        "~callbacks.best test=false."
    )


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return callbacks


def _callback(trainer: pl.Trainer, kind: type[_Kind]) -> _Kind | None:
    return next((call for call in _callbacks(trainer) if isinstance(call, kind)), None)


def quieten() -> None:
    """Silence third-party tips and expected warnings."""
    if logging.getLogger().handlers:
        # If imported before Hydra sets up logging, Lightning logs to a handler of its own.
        lightning = logging.getLogger("pytorch_lightning")
        lightning.handlers.clear()
        lightning.propagate = True
    torch.set_float32_matmul_precision("high")
    for text in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",  # wrong: reflectzoo.data.sampler makes it resumable
        ".*number of training batches.*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*recommended to use .*sync_dist=True.*",  # such values are equal in all processes, or those of rank 0
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", text)
    chatter = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    if not any(isinstance(each, _NoChatter) for each in chatter.filters):
        chatter.addFilter(_NoChatter())


class _NoChatter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        dull = (
            "Tip:",
            "💡",
            "GPU available",
            "TPU available",
            "HPU available",
            "`Trainer.fit` stopped",
            "Restor",
            "Loaded",
            "Found current_model_state",
            "Detected KeyboardInterrupt",
        )
        return not text.lstrip().startswith(dull) and "litlogger" not in text and "litmodels" not in text


def _resume_path(config: DictConfig, run_dir: Path) -> Path | None:
    given = config.ckpt_path
    if given is None:
        return None
    if given != "last":
        return _inside(Path(given))
    folder = run_dir / "checkpoints"
    path, damage = resumable(folder)
    if path is None and damage:
        raise UserError(f"{folder / LAST} cannot be resumed: {damage}{_others(folder)}.")
    if path is None:
        raise UserError(
            f"ckpt_path=last finds no earlier run of this model with a checkpoint in {config.paths.output_dir}: "
            "start one without ckpt_path, or give the path of a checkpoint."
        )
    if damage:
        rank_zero_info(
            f"{folder / LAST} cannot be resumed: {damage}. Resuming from the previous one, {PREVIOUS}; the damaged "
            f"file is now last.damaged.ckpt{_others(folder)}."
        )
        path = _put_first(path)
    rank_zero_info(f"Resuming from {path}")
    return path


def _inside(path: Path) -> Path:
    """The checkpoint to resume in a folder; any other path is returned unchanged."""
    if not path.is_dir():
        return path
    for folder in (path / "checkpoints", path):
        found, damage = resumable(folder)
        if found is not None:
            if damage:
                rank_zero_info(f"{folder / LAST} cannot be resumed: {damage}. Resuming from {found}.")
            return found
        if damage:
            raise UserError(f"{folder / LAST} cannot be resumed: {damage}{_others(folder)}.")
    raise UserError(f"ckpt_path={path} is a folder without a {LAST}: give a run's folder, or a checkpoint.")


def _others(folder: Path) -> str:
    best = folder / "best.ckpt"
    return f"; {best} is intact, ckpt_path={best} resumes from it" if _whole(best) else ""


def _whole(path: Path) -> bool:
    return path.is_file() and find_damage(path) is None


def _put_first(previous: Path) -> Path:
    """Put the previous checkpoint in the place of a damaged ``last.ckpt``, lest the next save overwrite it."""
    last = previous.with_name(LAST)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        if last.exists():
            os.replace(last, last.with_name("last.damaged.ckpt"))
        os.replace(previous, last)
        return last
    return last if _whole(last) else previous


def _check_fits(model: ReflectionModule, path: Path, averaging: bool) -> None:
    """Reject a checkpoint of another model before anything is built on it."""
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint or "optimizer_states" not in checkpoint:
        raise UserError(
            f"ckpt_path={path} holds weights but no training state to resume: it was not written by reflectzoo.train."
        )
    record = checkpoint.get("reflectzoo") or {}
    recorded = record.get("model", model.name)
    if recorded != model.name:
        raise UserError(
            f"ckpt_path={path} was made by model={recorded}, not by model={model.name}: use model={recorded}."
        )
    state, wanted = checkpoint["state_dict"], model.state_dict()
    wrong = sorted(key for key in state.keys() | wanted.keys() if _shape(state, key) != _shape(wanted, key))
    if wrong:
        raise UserError(
            f"ckpt_path={path} does not fit model={model.name} as configured: {len(wrong)} weights differ, the first "
            f"is '{wrong[0]}' ({_shape(state, wrong[0])} in the file, {_shape(wanted, wrong[0])} here); use the "
            "overrides of the run that made it."
        )
    if "averaging_state" in checkpoint and not averaging:
        raise UserError(
            f"ckpt_path={path} was written with averaged weights: add callbacks=ema, or a different training would be "
            "resumed."
        )
    if record.get("vgg"):
        model.expect_vgg(record["vgg"]["source"])


def _shape(state: dict[str, Any], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


@rank_zero_only
def _write_config(config: DictConfig, run_dir: Path, vgg_used: dict[str, str] | None) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    complete = OmegaConf.create({**plain(config), "vgg_used": vgg_used})
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(complete))


def _best_checkpoint(callbacks: Sequence[Callback]) -> str | None:
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback.best_model_path
    return None


@rank_zero_only
def _report(metrics: dict[str, float], run_dir: Path, best: str | None) -> None:
    """Write ``metrics.json``, and print the scores and the locations of all results."""
    scores = {key: value for key, value in metrics.items() if key.startswith("test/")}
    write_text(run_dir / "metrics.json", json.dumps(scores, indent=1) + "\n")
    lines = []
    if "test/mean/psnr" in scores:
        before, after = scores["test/mean/input_psnr"], scores["test/mean/psnr"]
        ssim = " → ".join(f"{scores[f'test/mean/{key}ssim_gaussian11']:.3f}" for key in ("input_", ""))
        lines.append(
            f"Held-out photographs, transmission, input → output: PSNR {before:.2f} → {after:.2f} dB "
            f"({after - before:+.2f}), SSIM {ssim}"
        )
    lines.append(f"Everything is in {run_dir.resolve()}")
    for what, file in (
        ("pictures", run_dir / "pictures"),
        ("metrics", run_dir / "metrics.json"),
        ("config", run_dir / "config.yaml"),
        ("checkpoint", Path(best) if best else None),
    ):
        if file is not None and file.exists():
            shown = file.relative_to(run_dir) if file.is_relative_to(run_dir) else file
            names = ", ".join(sorted(each.name for each in file.iterdir())) if file.is_dir() else ""
            lines.append(f"  {what + ':':<12}{shown}" + (f"/ ({names})" if names else ""))
    rank_zero_info("\n".join(lines))


def _finish_wandb() -> None:
    """Close W&B; otherwise the next job of a multirun would write into this run."""
    client = sys.modules.get("wandb")
    if client is not None and client.run is not None:
        client.finish()
