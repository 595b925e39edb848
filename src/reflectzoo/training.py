"""What ``python -m reflectzoo.train`` does: build the parts, fit, choose, score, and say where everything lies."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from reflectzoo.callbacks.interrupt import GracefulInterrupt
from reflectzoo.config import build, build_all, plain
from reflectzoo.core.checkpoints import read_checkpoint
from reflectzoo.core.module import ReflectionModule
from reflectzoo.errors import Interrupted, UserError


def train(config: DictConfig) -> dict[str, float]:
    """Train one model as configured.

    Args:
        config: composed from ``conf/train.yaml``.

    Returns:
        The metrics of the test (with ``test=false``, those of the last validation).

    Raises:
        UserError: for a configuration that cannot work.
        TrainingError: if a loss is not finite.
        Interrupted: after Ctrl-C, when everything is saved.
    """
    quieten()
    _check_devices(config)
    run_dir = Path(config.run_dir)
    resume_from = _resume_path(config, run_dir)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    datamodule: pl.LightningDataModule = build(config.data)
    model: ReflectionModule = build(config.model)
    model.config = plain(config.model)
    if resume_from is not None:
        _check_fits(model, resume_from)
    # Before the long work: a bad photograph folder, or one that cannot be written to, is told at once.
    datamodule.setup("fit")
    model.attach_vgg()
    _write_config(config, run_dir, model.vgg_used)

    callbacks: list[Callback] = build_all(config.callbacks)
    loggers: list[Logger] = build_all(_with_sweep_group(config))
    for logger in loggers:
        logger.log_hyperparams(plain(config) | {"vgg_used": model.vgg_used})
    trainer: pl.Trainer = build(config.trainer, callbacks=callbacks, logger=loggers or False, default_root_dir=run_dir)

    try:
        _fit(trainer, model, datamodule, resume_from)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        best = _best_checkpoint(callbacks)
        if config.test:
            if best is not None:
                # Not by ckpt_path=best: with averaged weights (callbacks=ema) Lightning would then test the last ones.
                checkpoint = read_checkpoint(Path(best))
                model.on_load_checkpoint(checkpoint)
                model.load_state_dict(checkpoint["state_dict"])
            trainer.test(model, datamodule, verbose=False)
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            _report(metrics, run_dir, best)
        return metrics
    finally:
        for logger in loggers:
            logger.finalize("success")
        _finish_wandb()


def _fit(
    trainer: pl.Trainer, model: ReflectionModule, datamodule: pl.LightningDataModule, resume_from: Path | None
) -> None:
    interrupt = next((call for call in _callbacks(trainer) if isinstance(call, GracefulInterrupt)), None)
    try:
        trainer.fit(model, datamodule, ckpt_path=resume_from, weights_only=True if resume_from else None)
    except MisconfigurationException as error:
        if "could not find the monitored key" not in str(error):
            raise
        raise UserError(
            "None of the validated pictures has a true transmission to compare with, so the best checkpoint cannot be "
            "chosen: train on a mixture with aligned pairs as well (for unaligned ones data=mixture_errnet_unaligned), "
            "or do without both with ~callbacks.best test=false."
        ) from error
    except SystemExit as stop:  # how Lightning leaves after KeyboardInterrupt
        if interrupt is not None and interrupt.path.is_file():
            raise Interrupted(
                f"Interrupted; everything so far is in {interrupt.path}, ckpt_path=last goes on from there."
            ) from stop
        raise Interrupted("Interrupted before anything was saved.") from stop


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return callbacks


def quieten() -> None:
    """Keep adverts and warnings about what we do on purpose out of the user's way."""
    torch.set_float32_matmul_precision("high")
    for text in (
        ".*does not have many workers.*",
        ".*dataloader is not resumable.*",  # ours is: reflectzoo.data.sampler
        ".*number of training batches.*smaller than the logging interval.*",
        ".*exists and is not empty.*",
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
        )
        return not text.lstrip().startswith(dull) and "litlogger" not in text and "litmodels" not in text


def _check_devices(config: DictConfig) -> None:
    devices = config.trainer.get("devices", 1)
    many = torch.cuda.device_count() if devices in ("auto", -1, "-1") else devices
    count = int(many) if isinstance(many, int | str) else len(many)
    strategy = str(config.trainer.get("strategy", "auto"))
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun and count > 1 and "spawn" not in strategy and "fork" not in strategy:
        raise UserError(
            f"A multirun with trainer.devices={count} and trainer.strategy={strategy} would start the whole sweep "
            "again in every process: add trainer.strategy=ddp_fork_find_unused_parameters_true (CPU) or "
            "ddp_spawn_find_unused_parameters_true (GPU), or run the jobs one by one."
        )


def _with_sweep_group(config: DictConfig) -> DictConfig | None:
    """Put every job of a multirun into one W&B group, named after the sweep's folder."""
    loggers: DictConfig | None = config.get("logger")
    if loggers and "wandb" in loggers and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        loggers = loggers.copy()
        with open_dict(loggers):
            loggers.wandb.group = loggers.wandb.group or Path(HydraConfig.get().sweep.dir).name
    return loggers


def _resume_path(config: DictConfig, run_dir: Path) -> Path | None:
    given = config.ckpt_path
    if given is None:
        return None
    if given == "last":
        path = run_dir / "checkpoints" / "last.ckpt"
        if not path.is_file():
            raise UserError(
                f"ckpt_path=last finds no earlier run of this model with a checkpoint in {config.paths.output_dir}: "
                "start one without ckpt_path, or give the path of a checkpoint."
            )
        rank_zero_info(f"Going on from {path}")
        return path
    path = Path(given)
    if path.is_dir():
        return next((file for file in (path / "checkpoints/last.ckpt", path / "last.ckpt") if file.is_file()), path)
    return path


def _check_fits(model: ReflectionModule, path: Path) -> None:
    """Say in one sentence that a checkpoint is of another model, before anything is built upon it."""
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
    if record.get("vgg"):
        model.expect_vgg(record["vgg"]["source"])


def _shape(state: dict[str, Any], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


@rank_zero_only
def _write_config(config: DictConfig, run_dir: Path, vgg_used: dict[str, str] | None) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    complete = OmegaConf.create({**plain(config), "vgg_used": vgg_used})
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(complete), encoding="utf-8")


def _best_checkpoint(callbacks: list[Callback]) -> str | None:
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback.best_model_path
    return None


@rank_zero_only
def _report(metrics: dict[str, float], run_dir: Path, best: str | None) -> None:
    """Write the scores, and say them and where everything lies."""
    scores = {key: value for key, value in metrics.items() if key.startswith("test/")}
    (run_dir / "metrics.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    lines = []
    if "test/mean/psnr" in scores:
        before, after = scores["test/mean/input_psnr"], scores["test/mean/psnr"]
        lines.append(
            f"Held-out photographs, transmission, input → output: PSNR {before:.2f} → {after:.2f} dB "
            f"({after - before:+.2f}), SSIM {scores['test/mean/input_ssim']:.3f} → {scores['test/mean/ssim']:.3f}"
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
    """Close W&B, or the next job of a multirun would write into this one's run."""
    client = sys.modules.get("wandb")
    if client is not None and client.run is not None:
        client.finish()
