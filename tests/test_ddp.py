"""Two processes are one process with twice the batch."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import TINY, TINY_GAN, command


def curves(run: Path) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for row in csv.DictReader(next(run.glob("logs/version_*/metrics.csv")).open()):
        for key, value in row.items():
            if value and key not in ("epoch", "step"):
                values.setdefault(key, []).append(float(value))
    return values


def test_two_gloo_processes_give_the_curve_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """The adversarial recipe, across the stage switch, through the real command, from another directory."""
    overrides = (
        *("reflectzoo.train", "model=ytmt_uct", "model.stage1_epochs=1", *TINY, *TINY_GAN),
        *("data.samples_per_epoch=16", "model.net.hypercolumn=false"),
    )
    one = command(*overrides, "data.batch_size=4", "hydra.run.dir=one", cwd=tmp_path)
    two = command(*overrides, "data.batch_size=2", "trainer=ddp", "hydra.run.dir=two", cwd=tmp_path)
    assert one.status == 0, one.err
    assert two.status == 0, two.err
    single, double = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert len(single["train/total"]) == 8
    assert {"train/adversarial", "train/discriminator", "train/exclusion", "val/mean/psnr", "test/mean/psnr"} <= {*single}
    for key in single:
        assert double[key] == pytest.approx(single[key], rel=1e-5, abs=1e-5), key
    # Both processes share one folder and say things once.
    assert len(list(tmp_path.iterdir())) == 2
    assert two.out.count("Held-out photographs") == 1


def test_a_multirun_with_forked_processes_runs(tmp_path: Path) -> None:
    done = command(
        *("reflectzoo.train", "-m", "model=ytmt_pcs", "seed=1,2", "trainer=ddp", *TINY, "loss=pixel"),
        *("trainer.strategy=ddp_fork_find_unused_parameters_true", "trainer.max_epochs=1", "test=false"),
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    assert len(list(tmp_path.glob("outputs/multirun/*/*/checkpoints/last.ckpt"))) == 2
