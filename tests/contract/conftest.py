"""Every registered model in its tiny form, a plugin among them, built and trained once for all tests of this folder."""

from __future__ import annotations

import copy
import functools
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import reflectzoo
from reflectzoo.core import registry
from reflectzoo.core.batch import Batch, check_batch
from reflectzoo.core.method import Method
from reflectzoo.inference import load as loading
from reflectzoo.inference.load import LoadedModel
from reflectzoo.nets.shared_vgg import needs_vgg
from reflectzoo.nets.vgg import load_vgg19
from reflectzoo.training import module as training_module
from reflectzoo.training.module import ReflectionModule

PLUGIN = Path(__file__).parents[1] / "plugin"
MODELS = [*reflectzoo.list_models(), "veil"]
"""The zoo's, and the plugin's."""
MAINS = [*(method.main for method in registry.methods().values()), "veil"]
"""One of each method."""


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder / "site")]
    done = subprocess.run([*command, str(folder / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="package", autouse=True)
def plugin(plugin_site: Path) -> Iterator[Method]:
    """The plugin, found in this process."""

    def forget() -> None:
        importlib.invalidate_caches()
        registry.methods.cache_clear()

    sys.path.insert(0, str(plugin_site))
    forget()
    yield registry.methods()["veil"]
    sys.path.remove(str(plugin_site))
    forget()


@pytest.fixture(scope="package", autouse=True)
def one_vgg() -> Iterator[None]:
    """The random VGG is always the same: make it once."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (training_module, loading):
            patch.setattr(module, "load_vgg19", functools.cache(load_vgg19))
        yield


@functools.cache
def built(model: str) -> ReflectionModule:
    """A small model in evaluation mode, made once: look at it, but change only a copy."""
    torch.manual_seed(sum(model.encode()))
    return reflectzoo.create_model(model, *registry.method_of(model).tiny_of(model), "model.vgg=random")


def fresh(model: str) -> ReflectionModule:
    """A copy in training mode."""
    return copy.deepcopy(built(model)).train()


def make_batch(side: int = 32) -> Batch:
    """Two samples with everything that a loss may ask for: a still one, and one that is a sequence."""
    random = torch.Generator().manual_seed(0)

    def images(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, 3, side, side, generator=random)

    layers = {"transmission": images(2, 3), "reflection": 0.3 * images(2, 3)}
    yes, moves = torch.ones(2, dtype=torch.bool), torch.tensor([False, True])
    batch: Any = {key: value[:, 1] for key, value in layers.items()}
    batch |= {
        "mixture": batch["transmission"] + batch["reflection"],
        "has_transmission": yes, "has_reflection": yes, "name": ["a", "b"], "dataset": ["x", "x"],
        "frames": (layers["transmission"] + layers["reflection"]) * moves.view(2, 1, 1, 1, 1),
        "frame_transmissions": layers["transmission"], "frame_reflections": layers["reflection"],
        "has_frame_transmission": moves[:, None].expand(2, 3), "has_frame_reflection": moves[:, None].expand(2, 3),
        "has_frames": moves, "frame_motion": torch.zeros(2, 2, 3, 2), "draws": {"alpha": torch.full((2,), 0.8)},
        "unaligned_transmission": torch.zeros(2, 3, side, side), "has_unaligned": torch.zeros(2, dtype=torch.bool),
        "seed": torch.tensor([1, 2]),
    }  # fmt: skip
    check_batch(batch)
    return batch


@dataclass
class Trained:
    """A model after one step in each of two epochs, the second after a restart and in bfloat16.

    Attributes:
        module: as it came out.
        before: its weights at the start.
        first: after the first epoch.
        losses: the total after each epoch.
        path: the checkpoint at the end.
    """

    module: ReflectionModule
    before: dict[str, torch.Tensor]
    first: dict[str, torch.Tensor]
    losses: list[float]
    path: Path

    @functools.cached_property
    def loaded(self) -> LoadedModel:
        """Its checkpoint, read again."""
        return reflectzoo.load_model(self.path)


def fit(module: ReflectionModule, folder: Path, epochs: int, precision: Any, resume: Path | None = None) -> pl.Trainer:
    """Train on one batch an epoch."""
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, precision=precision, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    # A CPU without units for bfloat16 takes seconds for a VGG-19 in it, as a hypercolumn has one.
    side = 16 if needs_vgg(module.net) else 32
    loader: Any = DataLoader([make_batch(side)], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def without_vgg(module: ReflectionModule) -> ReflectionModule:
    """Without terms that look through a VGG: too small a picture for it, and minutes in bf16; tests/losses has them."""
    for name in [name for name, term in module.loss.terms.items() if needs_vgg(term)]:
        del module.loss.terms[name]
    return module


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory, plugin: Method, one_vgg: None) -> Callable[[str], Trained]:
    """Trains a model when it is asked for the first time."""

    @functools.cache
    def make(model: str) -> Trained:
        folder = tmp_path_factory.mktemp(model)
        module = without_vgg(fresh(model))
        before = copy_of(module)
        trainer = fit(module, folder, 1, "32-true")
        losses = [float(trainer.callback_metrics["train/total"])]
        trainer.save_checkpoint(folder / "first.ckpt")
        first = copy_of(module)
        module = without_vgg(fresh(model))
        trainer = fit(module, folder, 2, "bf16-mixed", folder / "first.ckpt")
        losses.append(float(trainer.callback_metrics["train/total"]))
        trainer.save_checkpoint(folder / "last.ckpt")
        return Trained(module.eval(), before, first, losses, folder / "last.ckpt")

    return make


def copy_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its weights as they are now."""
    return {key: value.clone() for key, value in module.state_dict().items()}
