"""The same samples whatever happens: workers, batch sizes, processes, interruptions."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from reflectzoo.data.modules.voc import VOCBlending
from reflectzoo.data.synthesis import CEILNetSynthesis
from tests.data.conftest import Recorder, trainer

EPOCHS = 3
SAMPLES = 9
BATCH = 2  # four batches an epoch, one sample left out


def module(root: Path, **kwargs: Any) -> VOCBlending:
    settings = {
        "crop": 16,
        "eval_crop": 16,
        "samples_per_epoch": SAMPLES,
        "batch_size": BATCH,
        "num_workers": 0,
        "seed": 5,
    }
    return VOCBlending(CEILNetSynthesis(), root=root, **{**settings, **kwargs})


def fit(data: VOCBlending, where: Path, resume: Path | None = None, **kwargs: Any) -> Recorder:
    recorder = Recorder()
    trainer(where, max_epochs=EPOCHS, **kwargs).fit(recorder, data, ckpt_path=resume, weights_only=bool(resume) or None)
    return recorder


class _StopError(Exception):
    pass


class SaveAndStop(Callback):
    """Write a checkpoint in one hook, in one epoch and batch, and leave."""

    def __init__(self, hook: str, epoch: int, batch: int, path: Path) -> None:
        self.path = path

        def act(trainer: pl.Trainer, *_: Any, **__: Any) -> None:
            if trainer.current_epoch == epoch and trainer.fit_loop.epoch_loop.batch_idx == batch:
                trainer.save_checkpoint(path)
                raise _StopError

        setattr(self, hook, act)


@pytest.fixture
def root(folder: Callable[..., Path]) -> Path:
    return folder(12)


@pytest.fixture
def whole(root: Path, tmp_path: Path) -> Recorder:
    return fit(module(root), tmp_path)


@pytest.mark.parametrize(
    ("hook", "epoch", "batch", "done"),
    [
        ("on_train_batch_end", 0, 0, 2),
        ("on_train_batch_end", 1, 2, 14),
        ("on_train_batch_end", 0, 3, 8),
        ("on_train_batch_end", 1, 3, 16),
        ("on_validation_end", 0, 3, 8),
        ("on_validation_end", 1, 3, 16),
        ("on_train_epoch_end", 0, 3, 8),
        ("on_train_epoch_end", 1, 3, 16),
    ],
)
def test_an_interrupted_run_sees_exactly_the_samples_it_had_not_seen(
    hook: str, epoch: int, batch: int, done: int, root: Path, tmp_path: Path, whole: Recorder
) -> None:
    assert len(whole.seen) == EPOCHS * 4 * BATCH
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(module(root), tmp_path, callbacks=[SaveAndStop(hook, epoch, batch, path)])
    # Workers read ahead, and long before Lightning has put its counters right: they must not be fooled.
    for workers in (0, 1):
        resumed = fit(module(root, num_workers=workers), tmp_path, resume=path)
        assert resumed.seen == whole.seen[done:]


def test_what_workers_had_read_ahead_is_not_lost(root: Path, tmp_path: Path, whole: Recorder) -> None:
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(module(root, num_workers=1), tmp_path, callbacks=[SaveAndStop("on_train_batch_end", 1, 1, path)])
    assert fit(module(root, num_workers=1), tmp_path, resume=path).seen == whole.seen[12:]


def test_validation_within_an_epoch_does_not_disturb_the_order(root: Path, tmp_path: Path, whole: Recorder) -> None:
    interval = 2
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(
            module(root),
            tmp_path,
            val_check_interval=interval,
            callbacks=[SaveAndStop("on_validation_end", 1, 1, path)],
        )
    resumed = fit(module(root), tmp_path, resume=path, val_check_interval=interval)
    assert resumed.seen == whole.seen[12:]


def test_a_run_stopped_inside_a_step_repeats_that_step(root: Path, tmp_path: Path, whole: Recorder) -> None:
    path = tmp_path / "crashed.ckpt"
    recorder, running = Recorder(), trainer(tmp_path, max_epochs=EPOCHS)

    def crash(samples: int) -> None:
        if samples == 12:  # the second batch of the second epoch
            running.save_checkpoint(path)
            raise _StopError

    recorder.at_step = crash
    with pytest.raises(_StopError):
        running.fit(recorder, module(root))
    resumed = fit(module(root), tmp_path, resume=path)
    assert resumed.seen == whole.seen[10:]


def test_limited_epochs_resume_after_their_last_batch(root: Path, tmp_path: Path) -> None:
    full = fit(module(root), tmp_path, limit_train_batches=3)
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(module(root), tmp_path, limit_train_batches=3, callbacks=[SaveAndStop("on_train_batch_end", 0, 2, path)])
    resumed = fit(module(root), tmp_path, resume=path, limit_train_batches=3)
    assert resumed.seen == full.seen[6:]


def test_resuming_in_mid_epoch_with_another_batch_size_is_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(_StopError):
        fit(module(root), tmp_path, callbacks=[SaveAndStop("on_train_batch_end", 0, 1, path)])
    with caplog.at_level(logging.WARNING):
        fit(module(root, batch_size=1), tmp_path, resume=path)
    assert "global_batch_size from 2 to 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fit(module(root), tmp_path, resume=path)
    assert "data changed" not in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, root: Path, tmp_path: Path, whole: Recorder) -> None:
    assert fit(module(root, num_workers=workers), tmp_path).seen == whole.seen


def test_the_size_of_the_batch_changes_no_sample(root: Path, tmp_path: Path) -> None:
    one = fit(module(root, batch_size=1, samples_per_epoch=8), tmp_path).seen
    assert fit(module(root, batch_size=4, samples_per_epoch=8), tmp_path).seen == one
    assert len(set(one)) == len(one), "no sample may come twice, in one epoch or in two"


def test_another_seed_gives_other_samples_but_the_same_evaluation(root: Path, tmp_path: Path, whole: Recorder) -> None:
    other = fit(module(root, seed=6), tmp_path)
    assert not set(other.seen) & set(whole.seen)
    assert other.validated == whole.validated
    assert whole.validated
    assert whole.validated[: len(whole.validated) // EPOCHS] * EPOCHS == whole.validated


def test_two_processes_make_the_same_bytes(root: Path, tmp_path: Path, whole: Recorder) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.data.test_resume import fit, module\n"
        "print(hash_of(fit(module(Path(sys.argv[1])), Path(sys.argv[2])).seen))"
    ).replace("hash_of", "repr")
    done = subprocess.run(
        [sys.executable, "-c", script, root, tmp_path],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == repr(whole.seen)


def test_two_ranks_share_each_global_batch(root: Path, tmp_path: Path) -> None:
    one = module(root, batch_size=4)
    alone = [set(batch.name) for batch in one.train_dataloader()]
    shares = []
    for rank in range(2):
        share = module(root, batch_size=2)
        share._rank, share._world_size = (lambda rank=rank: rank), (lambda: 2)  # type: ignore[method-assign]
        loader = share.train_dataloader()
        assert len(loader) == 2
        shares.append([set(batch.name) for batch in loader])
    assert [first | second for first, second in zip(*shares, strict=True)] == alone
    assert all(not first & second for first, second in zip(*shares, strict=True))


def test_two_ranks_evaluate_each_sample_once(root: Path) -> None:
    counted: list[str] = []
    lengths = set()
    data = module(root, val_share=0.5, test_share=0.1, max_eval_pairs=3)
    for rank in range(2):
        data._rank, data._world_size = (lambda rank=rank: rank), (lambda: 2)  # type: ignore[method-assign]
        (loader,) = data.val_dataloader()
        lengths.add(len(loader))
        for raw in loader:
            batch = data.complete_batch(raw)
            for name, known, layer in zip(batch["name"], batch["has_transmission"], batch["transmission"], strict=True):
                if known:
                    counted.append(name)
                else:
                    assert not layer.any()
    assert lengths == {2}
    assert len(counted) == len(set(counted)) == 3
