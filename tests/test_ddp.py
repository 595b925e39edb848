"""Two processes are one process with twice the batch."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, TINY_GAN, Run, command


def curves(run: Path) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for row in csv.DictReader(next(run.glob("logs/version_*/metrics.csv")).open()):
        for key, value in row.items():
            if value and key not in ("epoch", "step"):
                values.setdefault(key, []).append(float(value))
    return values


def both(
    train: Callable[..., Run], folder: Path, *overrides: str
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The curves of one process with batch 4 and of two with batch 2, adversarial, across the stage switch."""
    common = (
        *("model=ytmt_uct", "model.stage1_epochs=1", *TINY, *TINY_GAN),
        *("data.samples_per_epoch=8", "model.net.hypercolumn=false", *overrides),
    )
    one = train(*common, "data.batch_size=4", folder="one")
    two = command("reflectzoo.train", *common, "data.batch_size=2", "trainer=ddp", "hydra.run.dir=two", cwd=folder)
    assert one.status == 0, one.err
    assert two.status == 0, two.err
    # Both processes share one folder and say things once.
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
    assert two.out.count("Everything is in") == 1
    single, double = curves(folder / "one"), curves(folder / "two")
    assert len(single["train/total"]) == 4
    assert {"train/adversarial", "train/discriminator", "train/exclusion", "val/mean/psnr"} <= {*single}
    return single, double


def test_two_gloo_processes_give_the_curves_of_one_with_twice_the_batch(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    """In double precision, without rounding in the way: the two are the same computation in every term."""
    single, double = both(train, tmp_path, "trainer.precision=64-true")
    assert {"val/mean/psnr", "test/mean/psnr", "train/adversarial", "train/discriminator"} <= {*single}
    for key in (key for key in single if key.startswith(("train/", "val/", "test/"))):
        bound = 1e-6 if key.startswith("train/") else 1e-5
        assert double[key] == pytest.approx(single[key], rel=bound, abs=1e-7), key


def test_a_multirun_with_forked_processes_runs(tmp_path: Path) -> None:
    done = command(
        *("reflectzoo.train", "-m", "model=ytmt_pcs", "seed=1,2", "trainer=ddp", *TINY, "loss=pixel"),
        *("trainer.strategy=ddp_fork_find_unused_parameters_true", "trainer.max_epochs=1", "test=false"),
        "data.samples_per_epoch=8",
        cwd=tmp_path,
    )
    assert done.status == 0, done.err
    assert len(list(tmp_path.glob("outputs/multirun/*/*/checkpoints/last.ckpt"))) == 2
