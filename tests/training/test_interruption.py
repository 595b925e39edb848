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

from reflectzoo.config import build, compose_config, plain
from reflectzoo.core import registry
from reflectzoo.core.batch import Outputs
from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.synthesis import CEILNetSynthesis
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.losses.weighted_sum import WeightedSum
from reflectzoo.nets.shared_vgg import needs_vgg
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
        WeightedSum({"transmission": PixelLoss(mse=1.0), "reflection": PixelLoss(layer="reflection", mse=0.5)}),
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
    return run(folder, model, data, averaged, known, resume, number, **settings)


def run(
    folder: Path, model: ReflectionModule, data: pl.LightningDataModule, averaged: bool, known: set[str], resume: bool,
    number: int = signal.SIGINT, **settings: Any,
) -> bool:  # fmt: skip
    """One run of two epochs; whether it came to its end."""
    checkpoints = folder / "checkpoints"
    interrupt = GracefulInterrupt(str(checkpoints / "last.ckpt"))
    best = ModelCheckpoint(checkpoints, "best", "val/mean/psnr", mode="max", enable_version_counter=False)
    last = ModelCheckpoint(checkpoints, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [best, last, interrupt, Events(known, number), *([ExponentialAverage(0.9)] if averaged else [])]
    settings = {"max_epochs": 2} | settings
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, num_sanity_val_steps=0, log_every_n_steps=1, callbacks=callbacks,
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
    "averaged, in double precision": {"averaged": True, "precision": "64-true"},
    "in double precision": {"precision": "64-true"},
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


# -- the methods themselves -------------------------------------------------------------------------------------------

_NARROW = "loss.terms.adversarial.discriminator.width=8"
METHODS: dict[str, tuple[str, ...]] = {
    "lite": (),
    "ytmt_uct": (_NARROW, "loss.terms.adversarial.start_epoch=0", "model.accumulate=2"),
    "corrn": (),
    "location_aware": (_NARROW, "model.detection_epochs=1"),
    "dynamics": (_NARROW, "data=sequences", "data.reflection_step=[2,4]", "model.net.student.blocks=1"),
    "errnet": (_NARROW, "loss.terms.adversarial.start_epoch=1"),
    "dsrnet_l": (),
    "ibcln": (_NARROW, "model.net.iterations=2"),  # with its dropout
    "bdn": (_NARROW,),
}
"""Small ones, in which something begins with the second epoch where anything does."""


def method_parts(name: str, photos: Path) -> tuple[ReflectionModule, pl.LightningDataModule]:
    """A method as it is configured, without what looks through a VGG, which has no state."""
    config = compose_config(
        [
            *(f"model={name}", "data=voc", *registry.method_of(name).tiny_of(name), *METHODS[name]),
            *(f"data.root={photos}", "data.crop=32", "data.eval_crop=32", "data.samples_per_epoch=4"),
            *("data.batch_size=2", "data.num_workers=0", "data.val_share=0.3"),
        ]
    )
    pl.seed_everything(3, verbose=False)
    model: ReflectionModule = build(config.model)
    model.config = plain(config.model)
    for term in [key for key, value in model.loss.terms.items() if needs_vgg(value)]:
        del model.loss.terms[term]
    data: pl.LightningDataModule = build(config.data)
    return model, data


def interrupted(name: str, photos: Path, tmp_path: Path, averaged: bool, known: set[str]) -> int:
    """Compare a method's training with one interrupted wherever it has not been yet; how often it was."""
    whole, often = tmp_path / "whole", tmp_path / "often"
    assert run(whole, *method_parts(name, photos), averaged, _Everything(), False)
    legs = 0
    while not run(often, *method_parts(name, photos), averaged, known, legs > 0):
        legs += 1
        assert legs < 60, known
    expected, found = state(whole), state(often)
    for key in expected:
        assert same(expected[key], found[key]), (key, expected[key], found[key])
    return legs


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "averaged"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_interrupted_at_everything(name: str, averaged: bool, photos: Path, tmp_path: Path) -> None:
    known: set[str] = set()
    assert interrupted(name, photos, tmp_path, averaged, known) >= 8, known


def test_in_double_precision_an_average_and_a_checkpoint_are_double(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": ReflectionModule, "averaged": True, "precision": "64-true"}
    assert fit(tmp_path / "whole", photos, known=_Everything(), resume=False, **settings)
    known = _AllBut("batch 1 of epoch 0", "validation batch 0 of epoch 1")
    legs = [fit(tmp_path / "often", photos, known=known, resume=each > 0, **settings) for each in range(3)]
    assert legs == [False, False, True]
    expected, found = state(tmp_path / "whole"), state(tmp_path / "often")
    assert expected["last state_dict"]["net.learns.weight"].dtype == torch.float64
    for key in expected:
        assert same(expected[key], found[key]), key


def test_a_method_in_phases_is_interrupted_in_each(photos: Path, tmp_path: Path) -> None:
    """In a validation of the first phase, and after a step of the second."""
    assert (
        interrupted("ytmt_uct", photos, tmp_path, True, _AllBut("validation batch 0 of epoch 0", "batch 0 of epoch 1"))
        == 2
    )


class _AllBut(set[str]):
    """As if everything had happened already, but for what begins with one of these."""

    def __init__(self, *beginnings: str) -> None:
        self.beginnings = beginnings

    def __contains__(self, each: object) -> bool:
        return super().__contains__(each) or not str(each).startswith(self.beginnings)


class _Everything(set[str]):
    def __contains__(self, each: object) -> bool:
        return True
