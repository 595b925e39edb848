"""Training through the command line: what it leaves, that it repeats itself, and that stopping loses nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.conftest import TINY, TINY_GAN, Run

import reflectzoo
from reflectzoo.core.registry import method_of
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.training.callbacks.interrupt import GracefulInterrupt

Train = Callable[..., Run]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def column(run: Path, name: str) -> list[float]:
    """All logged values of one quantity, in order."""
    files = sorted(run.glob("logs/version_*/metrics.csv"))
    return [float(row[name]) for file in files for row in csv.DictReader(file.open()) if row.get(name)]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_a_run_leaves_what_a_person_looks_for(train: Train) -> None:
    run = train("model=ytmt_ucs", *TINY)
    assert run.status == 0, run.err
    left = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= left
    assert "vgg_used:\n  source: random" in (run.folder / "config.yaml").read_text()
    scores = json.loads((run.folder / "metrics.json").read_text())
    assert scores["test/mean/psnr"] > 0
    assert scores["test/mean/input_psnr"] > 0
    assert f"PSNR {scores['test/mean/input_psnr']:.2f} → {scores['test/mean/psnr']:.2f} dB" in run.out
    assert str(run.folder) in run.out
    pictures = sorted((run.folder / "pictures").glob("*.png"))
    assert [path.name.split("_")[0] for path in pictures] == ["test", "val"]
    with Image.open(pictures[0]) as picture:
        assert picture.width > 5 * 200
    # Every term of the loss that is switched on has a curve.
    for term in ("total", "transmission_pixel", "reflection_pixel", "reconstruction", "perceptual", "exclusion"):
        assert len(column(run.folder, f"train/{term}")) == 4, term
    assert not column(run.folder, "train/adversarial")  # the program starts it at epoch 20
    assert column(run.folder, "lr/phase1") == [1e-4, 1e-4]


def test_checkpoint_loads_as_data_and_gives_the_same_outputs(train: Train) -> None:
    run = train("model=ytmt_uct", "model.stage1_epochs=1", *TINY, "test=false")
    assert run.status == 0, run.err
    path = run.folder / "checkpoints" / "last.ckpt"
    record = torch.load(path, weights_only=True)["reflectzoo"]
    assert record["model"] == "ytmt_uct"
    assert record["vgg"]["source"] == "random"
    assert record["phase"] == 1
    model = reflectzoo.load_model(path)
    again = reflectzoo.load_model(path)
    mixture = torch.rand(1, 3, 37, 51)
    with torch.no_grad():
        outputs = model(mixture)
        assert outputs["stages"], "a two-stage checkpoint of the second stage runs both stages"
        assert torch.equal(outputs["transmission"], again(mixture)["transmission"])
    state = weights(path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_last_is_the_last_epoch_even_when_an_earlier_one_was_best(train: Train) -> None:
    # A learning rate that wrecks the network makes the first epoch the best.
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "trainer.max_epochs=3", "optimizer.lr=0.5", "test=false")
    assert run.status == 0, run.err
    files = {name: run.folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    epochs = {name: torch.load(file, weights_only=True)["epoch"] for name, file in files.items()}
    assert epochs["last"] == 2
    scores = column(run.folder, "val/mean/psnr")
    assert epochs["best"] == scores.index(max(scores))


def test_same_seed_same_weights_and_another_seed_others(train: Train) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = train("model=ytmt_pcs", "loss=pixel", *TINY, f"seed={seed}", "test=false", folder=folder)
        assert run.status == 0, run.err
    base = run.folder.parent
    assert_same_weights(base / "a/checkpoints/last.ckpt", base / "b/checkpoints/last.ckpt")
    first, third = weights(base / "a/checkpoints/last.ckpt"), weights(base / "c/checkpoints/last.ckpt")
    assert any(not torch.equal(first[key], third[key]) for key in first)


def test_second_stage_starts_as_a_copy_and_first_stays_frozen(train: Train) -> None:
    common = ("model=ytmt_uct", "model.net.hypercolumn=false", "loss=pixel", *TINY, "test=false")
    one = train(*common, "model.stage1_epochs=1", "trainer.max_epochs=1", folder="one")
    two = train(*common, "model.stage1_epochs=1", "trainer.max_epochs=2", folder="two")
    assert one.status == two.status == 0, one.err + two.err
    before, after = (weights(run.folder / "checkpoints/last.ckpt") for run in (one, two))
    trained = [key for key in before if key.startswith("net.icnn.")]
    assert trained
    for key in trained:
        assert torch.equal(before[key], after[key]), "stage 1 must not move once stage 2 trains"
    twins = [(key, key.replace("net.icnn.", "net.icnn2.")) for key in trained]
    assert any(not torch.equal(after[first], after[second]) for first, second in twins)
    # One small Adam step from a copy cannot get far: stage 2 started from stage 1's weights.
    assert all((after[first] - after[second]).abs().max() < 0.01 for first, second in twins)


def test_stage1_ckpt_starts_in_the_second_stage(train: Train) -> None:
    one = train("model=ytmt_ucs", "model.net.hypercolumn=false", "loss=pixel", *TINY, "test=false", folder="one")
    assert one.status == 0, one.err
    path = one.folder / "checkpoints/last.ckpt"
    two = train(
        *("model=ytmt_uct", "model.net.hypercolumn=false", "loss=pixel", f"model.stage1_ckpt={path}"),
        *(*TINY, "trainer.max_epochs=1", "test=false"),
        folder="two",
    )
    assert two.status == 0, two.err
    first, second = weights(path), weights(two.folder / "checkpoints/last.ckpt")
    assert all(torch.equal(value, second[key.replace("net.", "net.icnn.", 1)]) for key, value in first.items())
    assert any(not torch.equal(value, second[key.replace("net.", "net.icnn2.", 1)]) for key, value in first.items())


def test_ctrl_c_and_ckpt_path_last_give_the_uninterrupted_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the only epoch of either stage."""
    overrides = (
        *("model=ytmt_uat", "model.net.hypercolumn=false", "~loss.terms.perceptual", "model.stage1_epochs=1"),
        *(*TINY, *TINY_GAN, "test=false"),
    )
    whole = train(*overrides, folder="whole")
    assert whole.status == 0, whole.err
    finished = GracefulInterrupt.on_train_batch_end
    for steps in (1, 3):
        left = [steps]

        def stop(callback: GracefulInterrupt, *arguments: Any, left: list[int] = left, **more: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)
            finished(callback, *arguments, **more)

        place = tmp_path / f"stopped after {steps}"
        words = (*overrides, f"paths.output_dir='{place}'")
        with monkeypatch.context() as patch:
            patch.setattr(GracefulInterrupt, "on_train_batch_end", stop)
            stopped = train(*words, folder=None)
        assert stopped.status == 130, stopped.err
        assert "last.ckpt" in stopped.err
        assert "Traceback" not in stopped.err
        (half,) = place.glob("ytmt_uat/*/checkpoints/last.ckpt")
        assert len(column(half.parents[1], "train/total")) == steps
        resumed = train(*words, "ckpt_path=last", folder=None)
        assert resumed.status == 0, resumed.err
        (run,) = (place / "ytmt_uat").iterdir()  # ckpt_path=last goes on in the folder of the run that it resumes
        assert_same_weights(whole.folder / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt")
        assert column(run, "train/total") == column(whole.folder, "train/total")


def test_resume_from_a_finished_epoch_gives_the_uninterrupted_run(train: Train) -> None:
    overrides = ("model=ytmt_pas", "loss=pixel", *TINY, "test=false", "scheduler=cosine")
    whole = train(*overrides, folder="whole")
    half = train(*overrides, "trainer.max_epochs=1", "model.epochs=2", "scheduler.T_max=120", folder="half")
    path = half.folder / "checkpoints/last.ckpt"
    rest = train(*overrides, f"ckpt_path={path}", folder="rest")
    assert whole.status == half.status == rest.status == 0, rest.err
    assert_same_weights(whole.folder / "checkpoints/last.ckpt", rest.folder / "checkpoints/last.ckpt")


@pytest.mark.parametrize("model", ["ytmt_uct", "ytmt_pcs"])
def test_it_trains_with_its_discriminator_in_bf16(train: Train, model: str) -> None:
    # Without a hypercolumn: CPUs without bf16 units take minutes for VGG-19 in it. tests/nets covers that part, and
    # tests/contract all models without a discriminator. Not below 32 pixels: of a 3x3 convolution with stride 2 over a
    # single pixel, oneDNN's gradient in bf16 is uninitialised memory (torch 2.13 on CPUs with AVX-512 BF16).
    phases = method_of(model).models[model].phases
    stages = ("model.net.hypercolumn=false", "model.stage1_epochs=1", "trainer.max_epochs=2") if len(phases) > 1 else ()
    run = train(
        *(f"model={model}", *TINY, *TINY_GAN, "~loss.terms.perceptual", "data.crop=32", "data.eval_crop=32"),
        *("trainer=fast", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", *stages),
    )
    assert run.status == 0, run.err
    assert all(value == value for value in column(run.folder, "train/total"))


def test_accumulating_two_batches_equals_one_of_twice_the_size(train: Train) -> None:
    common = ("model=ytmt_pcs", "loss=pixel", *TINY, "data.samples_per_epoch=8", "trainer.max_epochs=1", "test=false")
    wide = train(*common, "data.batch_size=4", folder="wide")
    twice = train(*common, "data.batch_size=2", "model.accumulate=2", folder="twice")
    assert wide.status == twice.status == 0, wide.err + twice.err
    first, second = (weights(run.folder / "checkpoints/last.ckpt") for run in (wide, twice))
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=2e-6, msg=key)


def test_nan_stops_before_it_reaches_the_weights(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    good = train("model=ytmt_pcs", "loss=pixel", *TINY, "trainer.max_epochs=1", "test=false")
    path = good.folder / "checkpoints/last.ckpt"
    saved = path.read_bytes()
    plain = PixelLoss.forward

    def broken(self: PixelLoss, outputs: Any, batch: Any) -> torch.Tensor:
        value = plain(self, outputs, batch)
        return value * float("nan") if self.layer == "transmission" else value

    monkeypatch.setattr(PixelLoss, "forward", broken)
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "ckpt_path=run")
    assert run.status == 1
    assert "The loss is nan in epoch 1 (transmission)" in run.sentence
    assert "Traceback" not in run.err
    assert "ckpt_path=last" in run.sentence
    batch = torch.load(run.folder / "broken_batch.pt", weights_only=True)
    assert len(batch["name"]) == len(batch["mixture"]) == 2
    assert path.read_bytes() == saved
    assert all(value.isfinite().all() for value in weights(path).values())


def test_multirun_is_one_run_a_job_in_one_wandb_group(train: Train, tmp_path: Path) -> None:
    run = train(
        *("-m", "model=ytmt_pcs", "seed=1,2", "loss=pixel", *TINY, "trainer=fast", "logger=wandb"),
        folder=None,
    )
    assert run.status == 0, run.err
    files = sorted(tmp_path.glob("outputs/multirun/*/*/wandb/offline-run-*/run-*.wandb"))
    assert [file.parents[2].name for file in files] == ["0", "1"]
    group = files[0].parents[3].name
    assert all(group.encode() in file.read_bytes() for file in files)
    assert len({file.name for file in files}) == 2
    images = list(files[0].parent.glob("files/media/images/panels/**/*.png"))
    assert images, "the panels are part of the W&B run"


def test_several_devices_in_a_multirun_are_refused(train: Train) -> None:
    run = train("-m", "model=ytmt_pcs", "seed=1,2", "trainer=ddp", *TINY, folder=None)
    assert run.status == 1  # as any sweep of which a job failed
    assert "ddp_fork_find_unused_parameters_true" in run.sentence


def test_wandb_never_waits_for_a_dead_network(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    import reflectzoo.training.loggers as loggers

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    # A server that accepts and never answers.
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setattr(loggers, "_WANDB_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        start = time.monotonic()
        run = train("model=ytmt_pcs", "loss=pixel", *TINY, "trainer=fast", "logger=wandb", "test=false")
        assert run.status == 0, run.err
        assert time.monotonic() - start < 60
    assert list(run.folder.glob("wandb/offline-run-*"))


def test_tensorboard_holds_scalars_and_panels(train: Train) -> None:
    event_accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train("model=ytmt_pcs", "loss=pixel", *TINY, "logger=tensorboard", "test=false")
    assert run.status == 0, run.err
    events = event_accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "train/total" in tags["scalars"]
    assert any(tag.startswith("panels/val") for tag in tags["images"])
