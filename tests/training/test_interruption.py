"""Training that is interrupted wherever it may be, and goes on, is the training that never was."""

from __future__ import annotations

import csv
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from reflectzoo.core.batch import Outputs
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.losses.composite import CompositeLoss
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.training.adversarial import AdversarialModule
from reflectzoo.training.callbacks.averaging import ExponentialAverage
from reflectzoo.training.callbacks.interrupt import GracefulInterrupt
from reflectzoo.training.module import ReflectionModule
from reflectzoo.training.saving import SafeCheckpointIO


class Net(nn.Module):
    """Two layers by one convolution each, and a part that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.learns = nn.Conv2d(3, 6, 3, padding=1)
        self.frozen = nn.Conv2d(3, 6, 1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, mixture: Tensor) -> Outputs:
        layers = torch.sigmoid(self.norm(self.learns(mixture) + self.frozen(mixture)))
        return {"transmission": layers[:, :3], "reflection": layers[:, 3:]}


class Events(Callback):
    """Sends a signal whenever something happens that has not happened before."""

    def __init__(self, known: set[str], number: int = signal.SIGINT) -> None:
        self.known, self.number = known, number
        self.epoch_mean = ""

    def _happens(self, trainer: pl.Trainer, what: str) -> None:
        name = f"{what} of epoch {trainer.current_epoch} step {trainer.global_step}"
        if name not in self.known:
            self.known.add(name)
            os.kill(os.getpid(), self.number)
            self.number = 0  # once a run

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.number:
            self._happens(trainer, f"batch {_[-1]}")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.number:
            self._happens(trainer, "validation")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.number:
            self._happens(trainer, f"validation batch {_[3]}")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.number:
            self._happens(trainer, "end")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(12):
        coarse = np.random.default_rng(index).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC).save(folder / f"photo_{index}.png")
    return folder


def parts(photos: Path, kind: type[ReflectionModule], **settings: Any) -> tuple[ReflectionModule, VOCBlending]:
    pl.seed_everything(3, verbose=False)
    model = kind(
        Net(),
        CompositeLoss({"transmission": PixelLoss(mse=1.0), "reflection": PixelLoss(layer="reflection", mse=0.5)}),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        **settings,
    )
    data = VOCBlending(
        CEILNetSynthesis(), root=photos, crop=12, eval_crop=12, samples_per_epoch=9, batch_size=2, num_workers=0,
        seed=5, val_share=0.3,
    )  # fmt: skip
    return model, data


def fit(
    folder: Path, photos: Path, kind: type[ReflectionModule], averaged: bool, known: set[str], resume: bool,
    number: int = signal.SIGINT, **settings: Any,
) -> bool:  # fmt: skip
    """One run of two epochs of four batches; whether it came to its end."""
    accumulate = settings.pop("accumulate", 1)
    mine = {"accumulate": accumulate} if kind is AdversarialModule else {}
    settings |= {} if kind is AdversarialModule else {"accumulate_grad_batches": accumulate}
    model, data = parts(photos, kind, **mine)
    checkpoints = folder / "checkpoints"
    interrupt = GracefulInterrupt(str(checkpoints / "last.ckpt"))
    best = ModelCheckpoint(checkpoints, "best", "val/mean/psnr", mode="max", enable_version_counter=False)
    last = ModelCheckpoint(checkpoints, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [best, last, interrupt, Events(known), *([ExponentialAverage(0.9)] if averaged else [])]
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, num_sanity_val_steps=0, log_every_n_steps=1, callbacks=callbacks,
        logger=CSVLogger(folder, "logs"), plugins=[SafeCheckpointIO()], enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder, **settings,
    )  # fmt: skip
    path = checkpoints / "last.ckpt"
    try:
        trainer.fit(model, data, ckpt_path=path if resume else None, weights_only=True if resume else None)
    except SystemExit:
        assert interrupt.saved
        return False
    return True


def state(folder: Path) -> dict[str, Any]:
    """Everything that the training came to: both checkpoints, and what was logged."""
    kept = {}
    for name in ("last", "best"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            kept[f"{name} {key}"] = checkpoint.get(key)
        kept[f"{name} epoch"] = checkpoint["epoch"], checkpoint["global_step"]
        kept[f"{name} scores"] = [float(each.get("best_model_score") or 0) for each in checkpoint["callbacks"].values()
                                  if "best_model_score" in each]  # fmt: skip
    logged: dict[tuple[str, str], str] = {}
    for file in sorted(folder.glob("logs/version_*/metrics.csv")):
        for row in csv.DictReader(file.open()):
            logged |= {(row["step"], key): value for key, value in row.items() if value and key != "step"}
    kept["logged"] = logged
    return kept


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


QUICK: dict[str, dict[str, Any]] = {
    "two validations an epoch, averaged": {"averaged": True, "val_check_interval": 2},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "manual, accumulated by three, averaged": {"kind": AdversarialModule, "accumulate": 3, "averaged": True},
}
SLOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"averaged": True},
    "accumulated": {"accumulate": 2, "averaged": True},
    "manual": {"kind": AdversarialModule},
    "terminated": {"averaged": True, "number": signal.SIGTERM},
}
KINDS = QUICK | SLOW


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_interrupted_at_everything_that_happens(name: str, photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": ReflectionModule, "averaged": False} | KINDS[name]
    whole, often = tmp_path / "whole", tmp_path / "often"
    assert fit(whole, photos, known=_Everything(), resume=False, **settings)
    weights = state(whole)["last state_dict"]
    frozen = parts(photos, ReflectionModule)[0].state_dict()["net.frozen.weight"]
    assert torch.equal(weights["net.frozen.weight"], frozen), "what does not learn has an average of itself"
    known: set[str] = set()
    legs = 0
    while not fit(often, photos, known=known, resume=legs > 0, **settings):
        legs += 1
        assert legs < 60, known
    assert legs > 8, known
    expected, found = state(whole), state(often)
    for key in expected:
        assert same(expected[key], found[key]), (key, expected[key], found[key])


class _Everything(set[str]):
    def __contains__(self, each: object) -> bool:
        return True
