"""What the tests of the evaluation share: the command, a folder of pairs of unequal sizes, a checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reflectzoo
from tests.conftest import Run

SIZES = {"a": (37, 52), "b c": (64, 41), "sub/d": (48, 48), "e": (33, 70), "f.1": (40, 35)}
"""Names and sizes (height, width) of the pairs."""


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise, so that SSIM has something to hold on to; (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def make_pairs(folder: Path, reflections: bool = True) -> Path:
    """``blended/``, ``transmission_layer/`` and ``reflection_layer/`` (of all but "e")."""
    for index, (name, (height, width)) in enumerate(SIZES.items()):
        behind, reflected = noise(height, width, 2 * index), noise(height, width, 2 * index + 1)
        mixture = np.clip(0.8 * behind.astype(float) + 0.35 * reflected, 0, 255).round().astype(np.uint8)
        save(folder / "blended" / f"{name}.png", mixture)
        save(folder / "transmission_layer" / f"{name}.png", behind)
        if reflections and name != "e":
            save(folder / "reflection_layer" / f"{name}.png", reflected)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return make_pairs(tmp_path / "pairs")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained, narrow YTMT, as training writes it."""
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt", seed=0)


def write_checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = reflectzoo.create_model("ytmt_ucs", "model.net.width=8", "model.net.hypercolumn=false", "loss=pixel")
    content: dict[str, Any] = {"state_dict": model.state_dict(), "epoch": 3, "global_step": 14}
    model.on_save_checkpoint(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class Evaluated(Run):
    """What ``reflectzoo.evaluate`` did."""

    @property
    def results(self) -> dict[str, Any]:
        """What it wrote, without anything that is not JSON."""

        def refuse(word: str) -> float:
            raise AssertionError(f"{word} in results.json")

        return json.loads((self.folder / "results.json").read_text(), parse_constant=refuse)

    def scores(self, entry: str) -> dict[str, dict[str, float]]:
        """Transmission scores of an entry by ``set/image``."""
        rows = [row for row in self.results["images"] if row["entry"] == entry]
        return {f"{row['set']}/{row['image']}": row["transmission"] for row in rows}


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    """Run ``reflectzoo.evaluate`` in this process, in an empty folder, into ``tmp_path/<folder>``."""

    def call(*overrides: str, folder: str | None = "run") -> Evaluated:
        from reflectzoo.evaluate import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        where = (f"hydra.run.dir={folder}",) if folder else ()
        monkeypatch.setattr(sys, "argv", ["reflectzoo.evaluate", *where, "trainer.accelerator=cpu", *overrides])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Evaluated(int(stop.value.code or 0), captured.out, captured.err, tmp_path / (folder or "outputs"))

    return call
