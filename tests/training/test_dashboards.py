"""What a training tells dashboards, and that all of them hear the same."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.conftest import TINY, TINY_GAN, Run

from reflectzoo.training.loggers import _artefact_of, _by_set, _own_words

Train = Callable[..., Run]

VITALS = {
    "train/grad_norm/phase1",
    "train/grad_norm/discriminator",
    "speed/images_per_second",
    "speed/wait",
    "memory/process_gb",
}


def logged(run: Path) -> set[str]:
    """Names in the CSV files."""
    with next(run.glob("logs/version_*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return {key for row in rows for key, value in row.items() if value} - {"step", "epoch"}


def missing(run: Path, *words: str) -> list[str]:
    """What is not in W&B's files, which it goes on writing for a moment after the run has ended."""
    start = time.monotonic()
    while True:
        text = b"".join(file.read_bytes() for file in run.glob("wandb/offline-run-*/run-*.wandb"))
        absent = [word for word in words if word.encode() not in text]
        if not absent or time.monotonic() - start > 30:
            return absent
        time.sleep(0.2)


def test_wandb_has_names_fields_captions_table_and_model_and_is_gone_on_with(train: Train) -> None:
    common = ("model=ytmt_pcs", "~loss.terms.perceptual", *TINY, *TINY_GAN, "logger=[csv,wandb]")
    first = train(*common, "trainer.max_epochs=1", "model.epochs=2", folder="first")
    assert first.status == 0, first.err
    assert logged(first.folder) >= VITALS
    run_id = (first.folder / "wandb_run_id").read_text()
    wanted = ["ytmt_pcs first", "memory/process_gb", "train/grad_norm/discriminator", "evaluation", "choices"]
    assert not missing(first.folder, *wanted, f"ytmt_pcs-{run_id}", "best.ckpt")
    again = train(*common, f"ckpt_path={first.folder}/checkpoints/last.ckpt", "test=false", folder="first")
    assert again.status == 0, again.err
    assert (first.folder / "wandb_run_id").read_text() == run_id
    assert len(list(first.folder.glob(f"wandb/offline-run-*-{run_id}"))) == 2
    other = train(*common, f"ckpt_path={first.folder}/checkpoints/last.ckpt", "test=false", folder="other")
    assert other.status == 0, other.err
    assert (other.folder / "wandb_run_id").read_text() != run_id, "another folder is another run"
    assert not missing(other.folder, f"ytmt_pcs-{run_id}"), "its model says what it started from"


def test_names_of_a_sweep_are_what_its_jobs_differ_in(tmp_path: Path) -> None:
    OmegaConf.save(
        {"hydra": {"overrides": {"task": ["model=a", "seed=1,2", "test=false"]}}}, tmp_path / "multirun.yaml"
    )
    assert _own_words(tmp_path, ["model=a", "seed=2", "test=false"]) == ["seed=2"]


def test_rows_of_the_evaluation() -> None:
    metrics = {"test/mean/psnr": 20.0, "test/sample/psnr": 20.0, "test/sample/ssim": 0.8, "val/mean/psnr": 3.0}
    assert _by_set(metrics) == {"mean": {"psnr": 20.0}, "sample": {"psnr": 20.0, "ssim": 0.8}}


def test_a_checkpoint_of_nobody_has_no_artefact(tmp_path: Path) -> None:
    assert _artefact_of(tmp_path / "checkpoints/best.ckpt") is None
    (tmp_path / "wandb_run_id").write_text("abc")
    (tmp_path / "config.yaml").write_text("model: {name: lite}\n")
    assert _artefact_of(tmp_path / "checkpoints/best.ckpt") == "lite-abc"


@pytest.mark.slow
def test_every_dashboard_shows_the_same_scalars(train: Train, tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "logger=[csv,tensorboard,mlflow,wandb]")
    assert run.status == 0, run.err
    wanted = logged(run.folder)
    assert {"train/total", "val/mean/psnr", "test/mean/psnr", "lr/phase1", "speed/wait"} <= wanted
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert wanted <= set(events.Tags()["scalars"])
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.get_run((run.folder / "mlflow_run_id").read_text())
    assert wanted <= set(found.data.metrics)
    assert found.data.params["model/name"] == "ytmt_pcs"
    assert not missing(run.folder, *wanted)
