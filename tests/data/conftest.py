"""Small photographs on disk, and a Trainer that only writes down what it was given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from reflectzoo.core.batch import Batch, check_batch


def write_photo(path: Path, size: tuple[int, int] = (60, 48), seed: int | None = None) -> Path:
    """A smooth random picture, (width, height) pixels, saved by its suffix; its content follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = int(hashlib.md5(path.name.encode()).hexdigest()[:8], 16) if seed is None else seed
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of ``count`` photographs."""

    def make(count: int, name: str = "photos", size: tuple[int, int] = (60, 48)) -> Path:
        for index in range(count):
            write_photo(tmp_path / name / f"photo_{index:03d}.jpg", size)
        return tmp_path / name

    return make


class Recorder(pl.LightningModule):
    """Learns nothing; remembers what each step was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, str, str]] = []
        self.validated: list[tuple[int, str, bool, str]] = []
        self.at_step: Callable[[int], None] = lambda step: None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        check_batch(batch)
        for index, name in enumerate(batch["name"]):
            self.seen.append((int(batch["seed"][index]), name, fingerprint(batch["mixture"][index])))
        self.at_step(len(self.seen))
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        check_batch(batch)
        for index, name in enumerate(batch["name"]):
            counted = bool(batch["has_transmission"][index])
            self.validated.append((dataloader_idx, name, counted, fingerprint(batch["mixture"][index])))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fingerprint(image: Tensor) -> str:
    """A hash of every byte."""
    return hashlib.md5(image.contiguous().numpy().tobytes()).hexdigest()


def trainer(folder: Path, **kwargs: Any) -> pl.Trainer:
    """A quiet Trainer on one CPU."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    settings = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, **quiet, **kwargs}
    return pl.Trainer(default_root_dir=folder, **settings)
