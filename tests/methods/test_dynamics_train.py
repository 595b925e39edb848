"""Reflection Dynamics through the command line: recipes, phases, ablations, resuming, checkpoints."""

from __future__ import annotations

import csv
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.conftest import Run, command

import reflectzoo
from reflectzoo.config import build, compose_config
from reflectzoo.methods.dynamics.__main__ import main
from reflectzoo.methods.dynamics.module import Dynamics, split_batch
from reflectzoo.training.callbacks.interrupt import GracefulInterrupt

Train = Callable[..., Run]

SMALL = (
    "model.net.width=8",
    "model.vgg=random",
    "~loss.terms.perceptual",  # a VGG-19 is most of the work
    "data.crop=24",
    "data.eval_crop=24",
    "data.batch_size=2",
    "data.samples_per_epoch=4",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "test=false",
)
BOTH = (
    "model=dynamics",
    *SMALL,
    "trainer.max_epochs=2",
    "model.teacher_epochs=1",
    "model.student_batch=null",
    "model.net.student.blocks=1",
)


def column(run: Path, name: str) -> list[float]:
    file = next(run.glob("logs/version_*/metrics.csv"))
    return [float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)]


def checkpoint(run: Run, name: str = "last") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run.folder / f"checkpoints/{name}.ckpt", weights_only=True)
    return content


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished teacher, which has learnt nothing."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    model = reflectzoo.create_model("dynamics_teacher", "model.net.width=8", "~loss.terms.perceptual")
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return path


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_weights_of_the_paper() -> None:
    def weights(name: str) -> dict[str, Any]:
        config = compose_config([f"model={name}"])
        return {term: settings.weight for term, settings in config.loss.terms.items()}

    assert weights("dynamics_teacher") == {
        "reconstruction": 1,
        "perceptual": 1,
        "decoupling": 1,
        "view_synthesis": 0.1,
    }
    assert weights("dynamics_student") == {"reconstruction": 1, "perceptual": 1, "adversarial": 1, "transfer": 1}
    assert weights("dynamics") == {
        "reconstruction": 1,
        "perceptual": 1,
        "decoupling": [1, 0],
        "view_synthesis": [0.1, 0],
        "adversarial": [0, 1],
        "transfer": [0, 1],
    }


def test_rates_of_the_paper() -> None:
    config = compose_config(["model=dynamics"])
    assert (config.trainer.max_epochs, config.model.teacher_epochs) == (160, 80)
    assert compose_config(["model=dynamics_teacher"]).trainer.max_epochs == 80
    for _ in ("teacher", "student"):
        optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        schedule, rates = build(config.scheduler)(optimizer), []
        for _ in range(80):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx([2e-4] * 40 + [2e-5] * 40)


def test_data_of_the_paper() -> None:
    data = compose_config(["model=dynamics", "data=mixture_dynamics"]).data
    assert data.batch_size == 10
    assert compose_config(["model=dynamics"]).model.student_batch == 1
    assert {name for name, ratio in data.ratios.items() if ratio} == {"sequences", "seq1k"}
    assert all(ratio > 0 for ratio in data.later[80].values())
    assert set(data.later[80]) == {"sequences", "seq1k", "zhang", "nature"}


# -- the teacher alone -----------------------------------------------------------------------------------------------


def test_a_teacher_s_run(train: Train) -> None:
    run = train("model=dynamics_teacher", *SMALL, "test=true")
    assert run.status == 0, run.err
    parts = {
        term: column(run.folder, f"train/{term}")[0] for term in ("reconstruction", "decoupling", "view_synthesis")
    }
    total = parts["reconstruction"] + parts["decoupling"] + 0.1 * parts["view_synthesis"]
    assert column(run.folder, "train/total")[0] == pytest.approx(total, rel=1e-4)
    for layer in ("transmission", "reflection"):
        assert column(run.folder, f"val/sequences/motion_error_{layer}")
        assert column(run.folder, f"test/sequences/decoupled_{layer}_psnr")
    with Image.open(run.folder / "pictures/val_sequences.png") as panel:
        assert panel.width > 9 * 200, "other frames and motions stand beside the layers"


def test_teacher_of_still_photographs(train: Train) -> None:
    run = train(
        *("model=dynamics_teacher", *SMALL, "data=sample", "trainer=fast"),
        "trainer.accelerator=cpu",
    )
    assert run.status == 0, run.err
    assert column(run.folder, "train/view_synthesis") == [0, 0]
    assert min(column(run.folder, "train/decoupling")) > 0, "the centre frame's layers are known"


def test_wrong_number_of_frames(train: Train) -> None:
    run = train("model=dynamics_teacher", *SMALL, "data.frames=5")
    assert run.status == 2
    assert "takes 3 frames (model.net.frames), but got 5 frames: set data.frames" in run.sentence


# -- the student alone -----------------------------------------------------------------------------------------------


def test_a_student_s_run(train: Train, teacher: Path, tmp_path: Path) -> None:
    copy = tmp_path / "teacher.ckpt"
    copy.write_bytes(teacher.read_bytes())
    run = train("model=dynamics_student", *SMALL, f"model.teacher_ckpt={copy}")
    assert run.status == 0, run.err
    parts = {
        term: column(run.folder, f"train/{term}")[0]
        for term in ("reconstruction", "adversarial", "transfer", "discriminator")
    }
    assert all(value > 0 for value in parts.values())
    # 4 samples, one by one, with a step of the discriminator before each.
    assert checkpoint(run)["global_step"] == 8
    names = checkpoint(run)["state_dict"]
    assert names
    assert not [name for name in names if "encoder" in name and "net.encoder" not in name], "no teacher in it"
    own = {name for name, _ in reflectzoo.create_model("dynamics_student", "model.net.width=8").named_parameters()}
    assert set(names) == own
    copy.unlink()  # the checkpoint needs no teacher
    model = reflectzoo.load_model(run.folder / "checkpoints/last.ckpt")
    with torch.no_grad():
        assert model(torch.rand(1, 3, 21, 34))["transmission"].shape == (1, 3, 21, 34)


def test_a_student_needs_a_teacher(train: Train) -> None:
    run = train("model=dynamics_student", *SMALL)
    assert run.status == 2
    assert "give model.teacher_ckpt=FILE" in run.sentence
    assert "~loss.terms.adversarial ~loss.terms.transfer" in run.sentence


def test_teachers_that_are_none(train: Train, teacher: Path) -> None:
    alone = train("model=dynamics_student", *SMALL, "~loss.terms.transfer", "~loss.terms.adversarial", folder="alone")
    assert alone.status == 0, alone.err
    for path, words in (
        (alone.folder / "checkpoints/last.ckpt", "holds no teacher"),
        (alone.folder / "nothing.ckpt", "does not exist"),
    ):
        run = train("model=dynamics_student", *SMALL, f"model.teacher_ckpt={path}")
        assert run.status == 2
        assert words in run.sentence
    run = train("model=dynamics_student", *SMALL, "model.net.width=12", f"model.teacher_ckpt={teacher}")
    assert run.status == 2
    assert "representation has 4 channels" in run.sentence
    run = train("model=dynamics_teacher", *SMALL, f"+model.teacher_ckpt={teacher}")
    assert run.status == 2
    assert "model=dynamics_teacher is the teacher" in run.sentence


@pytest.mark.parametrize(("still", "taught"), [("skip", False), ("repeat", True)])
def test_still_photographs_and_the_teacher(train: Train, teacher: Path, still: str, taught: bool) -> None:
    run = train(
        *("model=dynamics_student", *SMALL, "data=sample"),
        *(f"model.teacher_ckpt={teacher}", f"model.still={still}"),
    )
    assert run.status == 0, run.err
    assert all((value > 0) == taught for value in column(run.folder, "train/transfer"))
    assert min(column(run.folder, "train/reconstruction")) > 0


def test_only_sequences_are_taught_in_a_mixed_batch(teacher: Path) -> None:
    model = reflectzoo.create_model("dynamics_student", "model.net.width=8", "~loss.terms.perceptual")
    assert isinstance(model, Dynamics)
    model._bring_in(teacher)
    model.trainer = _Trainer()  # type: ignore[assignment]
    frames = torch.rand(2, 3, 3, 16, 16)
    frames[1] = 0
    mixture = torch.stack([frames[0, 1], torch.rand(3, 16, 16)])
    batch: Any = {"mixture": mixture, "frames": frames, "has_frames": torch.tensor([True, False]), "name": ["a", "b"]}
    aux = model.train().predict_batch(batch)["aux"]
    assert aux["has_taught"].tolist() == [True, False]
    assert not aux["taught"].requires_grad
    assert model.teacher is not None
    with torch.no_grad():
        assert torch.allclose(aux["taught"][:1], model.teacher(frames[:1])["aux"]["representation"], atol=1e-6)
    assert "taught" not in model.eval().predict_batch(batch)["aux"], "nobody teaches in validation"
    model.still = "repeat"
    assert model.train().predict_batch(batch)["aux"]["has_taught"].all()


class _Trainer:
    current_epoch = 0


def test_batches_in_pieces() -> None:
    batch: Any = {"name": ["a", "b", "c"], "mixture": torch.arange(3), "draws": {"sigma": torch.arange(3)}}
    parts = list(split_batch(batch, 2))
    assert [part["name"] for part in parts] == [["a", "b"], ["c"]]
    assert parts[1]["draws"]["sigma"].tolist() == [2]


# -- both in one command ---------------------------------------------------------------------------------------------


def test_both_phases_in_one_command(train: Train, kept: dict[str, Any]) -> None:
    run = train(*BOTH, "test=true")
    assert run.status == 0, run.err
    # Two batches each; the student's brings a step of the discriminator.
    assert len(column(run.folder, "train/decoupling")) == len(column(run.folder, "train/transfer")) == 2
    assert len(column(run.folder, "train/discriminator")) == 2
    assert len(column(run.folder, "val/sequences/motion_error_reflection")) == 1
    assert checkpoint(run, "best")["reflectzoo"]["phase"] == 1, "a teacher's score is no student's"
    assert checkpoint(run)["global_step"] == 2 + 2 * 2
    kept.update(checkpoint(run))
    kept["path"] = run.folder / "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The last checkpoint of a run of both phases, once one has been made."""
    return {}


@pytest.fixture
def whole(kept: dict[str, Any], train: Train) -> dict[str, Any]:
    """The last checkpoint of an uninterrupted run of both phases."""
    if not kept:
        test_both_phases_in_one_command(train, kept)
    return kept


def test_the_teacher_stands_still_while_the_student_learns(train: Train, whole: dict[str, Any]) -> None:
    run = train(*BOTH, "trainer.max_epochs=1", folder="one")
    assert run.status == 0, run.err
    before, after = checkpoint(run)["state_dict"], whole["state_dict"]
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert not [name for name in moved if name.startswith("net.teacher.")]
    assert {name.split(".")[2] for name in moved if name.startswith("net.student.")} == {
        *("hallucination", "encoder", "context", "decoder")
    }
    assert [name for name in moved if "discriminator" in name]


@pytest.mark.parametrize("batches", [1, 3])
def test_ctrl_c_in_either_phase_loses_nothing(
    train: Train, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], batches: int
) -> None:
    """Stopped in the middle of the teacher's or of the student's epoch."""
    finished = GracefulInterrupt.on_train_batch_end
    seen: list[int] = []

    def interrupted(callback: GracefulInterrupt, *arguments: Any, **more: Any) -> None:
        seen.append(1)
        if len(seen) == batches:
            signal.raise_signal(signal.SIGINT)
        finished(callback, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(GracefulInterrupt, "on_train_batch_end", interrupted)
        half = train(*BOTH, "callbacks.best.monitor=null", folder="half")
    assert half.status == 130, half.err
    assert checkpoint(half)["reflectzoo"]["phase"] == int(batches > 2)
    rest = train(*BOTH, "callbacks.best.monitor=null", f"ckpt_path={half.folder}/checkpoints/last.ckpt", folder="rest")
    assert rest.status == 0, rest.err
    found = checkpoint(rest)
    assert found["reflectzoo"]["phase"] == 1
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, found["state_dict"][name]), name


def test_both_with_a_finished_teacher(train: Train, teacher: Path) -> None:
    run = train(*BOTH, f"model.teacher_ckpt={teacher}", "trainer.max_epochs=1")
    assert run.status == 0, run.err
    assert column(run.folder, "train/transfer")
    assert checkpoint(run)["reflectzoo"]["phase"] == 1
    first, now = torch.load(teacher, weights_only=True)["state_dict"], checkpoint(run)["state_dict"]
    for name, value in first.items():
        assert torch.equal(value, now[name.replace("net.", "net.teacher.", 1)]), name
    run = train(*BOTH, f"model.teacher_ckpt={teacher}", "model.net.width=16")
    assert run.status == 2
    assert "is a different teacher" in run.sentence or "representation has" in run.sentence


def test_the_student_alone_from_a_training_of_both(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def take_out(source: Path, target: Path) -> int:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["dynamics", str(source), str(target)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    file, mixture = tmp_path / "student.ckpt", torch.rand(1, 3, 21, 34)
    assert take_out(whole["path"], file) == 0
    student, both = reflectzoo.load_model(file), reflectzoo.load_model(whole["path"])
    assert student.name == "dynamics_student"
    assert not [name for name in torch.load(file, weights_only=True)["state_dict"] if "teacher" in name]
    with torch.no_grad():
        assert torch.equal(student(mixture)["transmission"], both(mixture)["transmission"])
    assert take_out(file, tmp_path / "x") == 2
    assert "not a checkpoint of model=dynamics" in capfd.readouterr().err


def test_settings_that_do_not_go_together(train: Train) -> None:
    run = train("model=dynamics_student", *SMALL, "model.accumulate=2")
    assert run.status == 2
    assert "set only one of them" in run.sentence


# -- ablations of table 2 --------------------------------------------------------------------------------------------

ABLATIONS = {
    "mkl": ("model.net.teacher.mkl=false", "~loss.terms.decoupling", "~loss.terms.view_synthesis"),
    "decouple_net": ("model.net.teacher.decouple=false", "~loss.terms.decoupling"),
    "flow_net": ("model.net.teacher.flow=false", "~loss.terms.view_synthesis"),
    "fusion_net": ("model.net.teacher.fusion=false",),
    "transfer": ("~loss.terms.transfer", "~loss.terms.adversarial"),
    "hallucination": ("model.net.student.hallucination=false",),
    "encoder": ("model.net.student.encoder=false",),
}


@functools.cache
def signature(overrides: tuple[str, ...]) -> tuple[Any, ...]:
    """What a configuration builds: terms, and all weights by name and shape."""
    model = build(compose_config([*overrides, "model.net.width=8"]).model)
    shapes = tuple((name, tuple(value.shape)) for name, value in model.state_dict().items())
    return tuple(model.loss.terms), shapes


@pytest.mark.parametrize("without", ABLATIONS)
def test_ablations_by_hand_are_the_experiments(without: str) -> None:
    by_hand = signature(("model=dynamics", *ABLATIONS[without]))
    assert signature((f"experiment=dynamics_without_{without}",)) == by_hand
    assert signature(("model=dynamics",)) != by_hand


@pytest.mark.slow
@pytest.mark.parametrize("without", [each for each in ABLATIONS if each != "mkl"])
def test_the_other_ablations_train_both(train: Train, without: str) -> None:
    test_ablations_train_both(train, without)


@pytest.mark.parametrize("without", ["mkl"])
def test_ablations_train_both(train: Train, without: str) -> None:
    run = train(f"experiment=dynamics_without_{without}", *BOTH[1:])
    assert run.status == 0, run.err
    assert len(column(run.folder, "train/total")) == 4
    assert bool(column_or_none(run.folder, "train/transfer")) == (without != "transfer")


def column_or_none(run: Path, name: str) -> list[float]:
    try:
        return column(run, name)
    except StopIteration:
        return []


# -- machines --------------------------------------------------------------------------------------------------------


def test_bf16(train: Train) -> None:
    run = train(*BOTH, "trainer=fast", "trainer.accelerator=cpu", "trainer.precision=bf16-mixed", "data.crop=16")
    assert run.status == 0, run.err
    assert all(value == value for value in column(run.folder, "train/total"))


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    run = command(
        "reflectzoo.train", *BOTH, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=run", cwd=tmp_path
    )
    assert run.status == 0, run.err
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["reflectzoo"]["phase"] == 1
