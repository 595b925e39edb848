"""A search over settings: what is drawn, what is stopped early, and that stopping and sharing lose nothing."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from reflectzoo.__main__ import main
from reflectzoo.config import choices, compose_config
from reflectzoo.core.registry import model_names
from reflectzoo.errors import UserError
from tests.conftest import TINY

optuna = pytest.importorskip("optuna")

from reflectzoo.sweeps.space import as_overrides, packaged_space, read_space, split_space  # noqa: E402
from reflectzoo.sweeps.study import Search, StudyPlan, values_in_words  # noqa: E402

FAST = ("model=ytmt_pcs", "loss=pixel", *TINY, "trainer=fast", "trainer.max_epochs=2", "callbacks.panels=null")
SPACE = "optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\nmodel.init_gain: {choices: [null, 2.0]}\n"


@pytest.mark.parametrize("model", model_names())
def test_the_space_of_every_method_composes(model: str) -> None:
    space, _ = split_space(read_space(packaged_space(model)), compose_config([f"model={model}"]))
    assert "optimizer.lr" in space
    trial = optuna.create_study().ask(space)
    config = compose_config([f"model={model}", *as_overrides(trial.params)])
    assert config.optimizer.lr == trial.params["optimizer.lr"]


@pytest.mark.parametrize("name", choices("space"))
def test_no_entry_of_a_packaged_space_is_forgotten(name: str) -> None:
    """Each is a setting of at least one method that the file is for."""
    space = read_space(packaged_space(name))
    models = [model for model in model_names() if packaged_space(model).stem == name] or ["lite"]
    assert models != ["lite"] or name in ("lite", "default")
    known = {key for model in models[:2] for key in split_space(space, compose_config([f"model={model}"]))[0]}
    assert known == set(space)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a: [1", "not YAML"),
        ("a: 3", "must be {low"),
        ("a: {low: 1}", "needs low and high"),
        ("a: {low: 2, high: 1}", "low < high"),
        ("a: {low: 0.0, high: 1.0, log: true}", "above 0"),
        ("a: {low: 1e-4, high: 1.0}", "1.0e-4"),  # YAML 1.1 reads 1e-4 as a word
        ("a: {low: 1, high: 2, log: maybe}", "true or false"),
        ("a: {choices: []}", "at least one"),
        ("a: {choices: [[1, 2]]}", "at least one"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_space(file)


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("a: {low: 16, high: 64, step: 16}\nb: {low: 0.5, high: 1}\n")
    space = read_space(file)
    assert isinstance(space["a"], optuna.distributions.IntDistribution)
    assert isinstance(space["b"], optuna.distributions.FloatDistribution)


def test_a_study_trains_prunes_resumes_and_leaves_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["tune", *FAST, "--space", "space.yaml"]
    assert main([*words, "--trials", "1"]) == 0
    assert main([*words, "--trials", "2"]) == 0, "the second call does one more, not two"
    folder = tmp_path / "outputs/tune/ytmt_pcs"
    rows = list(csv.DictReader((folder / "study.csv").open()))
    assert [row["state"] for row in rows] == ["complete", "complete"]
    values = [float(row["val/mean/psnr"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row["epochs"] for row in rows} == {"2"}
    page = (folder / "study.html").read_text()
    assert page.count("<svg") == 3  # progress, curves, the learning rate
    assert "reflectzoo train model=ytmt_pcs" in page
    assert (folder / "trials/0/checkpoints/best.ckpt").is_file()
    assert not (folder / "trials/0/metrics.json").exists(), "the test set stays out of the choice"
    assert main([*words, "--trials", "2"]) == 0
    assert len(list((folder / "trials").iterdir())) == 2
    capsys.readouterr()
    assert main([*words[:-2], "trainer.max_epochs=3", "--trials", "3", "--space", "space.yaml"]) == 2
    assert "differs in overrides" in capsys.readouterr().err


def test_a_setting_may_join_the_space_of_a_study_that_has_trials(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE + "data.crop: {low: 32, high: 64}\n")
    space = read_space(tmp_path / "space.yaml")
    words = values_in_words({"optimizer.lr": 0.00123456, "model.init_gain": None}, space)
    assert words == {"optimizer.lr": "0.001235", "model.init_gain": "None", "data.crop": ""}


def test_a_bad_trial_is_stopped_early(tmp_path: Path) -> None:
    """The report's half: a trial worse than the median of the others stops the trainer at its epoch."""
    from types import SimpleNamespace
    from typing import Any

    from reflectzoo.sweeps.pruning import TrialReport

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=1))

    def epochs(values: list[float]) -> tuple[TrialReport, int]:
        report = TrialReport(study.ask(), "val/mean/psnr", True)
        trainer: Any = SimpleNamespace(sanity_checking=False, state=SimpleNamespace(fn="fit"), should_stop=False)
        for epoch, value in enumerate(values):
            trainer.callback_metrics, trainer.current_epoch = {"val/mean/psnr": value}, epoch
            report.on_validation_end(trainer, SimpleNamespace(phase=0))  # type: ignore[arg-type]
            if trainer.should_stop:
                return report, epoch + 1
        study.tell(report.trial, report.best)
        return report, len(values)

    good, seen = epochs([20.0, 22.0, 21.0])
    assert (good.pruned, good.best, seen) == (False, 22.0, 3)
    bad, seen = epochs([15.0, 16.0, 30.0])
    assert (bad.pruned, bad.best, seen) == (True, 15.0, 1)


def test_a_new_phase_starts_the_search_for_the_best_anew() -> None:
    from types import SimpleNamespace
    from typing import Any

    from reflectzoo.sweeps.pruning import TrialReport

    report = TrialReport(optuna.create_study(direction="maximize").ask(), "val/mean/psnr", True)
    for epoch, (phase, value) in enumerate([(0, 25.0), (1, 18.0), (1, 19.0)]):
        trainer: Any = SimpleNamespace(sanity_checking=False, state=SimpleNamespace(fn="fit"), current_epoch=epoch)
        trainer.callback_metrics = {"val/mean/psnr": value}
        report.on_validation_end(trainer, SimpleNamespace(phase=phase))  # type: ignore[arg-type]
    assert report.best == 19.0


def search(folder: Path, seed: int = 0) -> Search:
    space = {"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)}
    plan = StudyPlan(("model=ytmt_pcs", "loss=pixel"), space, "val/mean/psnr", True)
    return Search(folder, str(folder / "study.log"), plan, seed=seed)


def test_a_trial_whose_process_died_is_taken_up_again(tmp_path: Path) -> None:
    first = search(tmp_path)
    trial = first._next(3)
    assert trial is not None
    lock = first._claim(trial)
    second = search(tmp_path, seed=1)
    other = second._next(3)
    assert other is not None
    assert other.params != trial.params, "the other process lets it be while it lives"
    kept = second._claim(other)
    lock.release()  # as the system does when a process dies
    heir = second._next(3)
    assert heir is not None
    assert heir.params == trial.params
    assert heir.user_attrs["folder"] == str(trial.number)
    kept.release()


def test_processes_share_a_study_and_never_do_more_than_asked(tmp_path: Path) -> None:
    first, second = search(tmp_path), search(tmp_path, seed=1)
    done = {"first": 0, "second": 0}

    def train(name: str):  # type: ignore[no-untyped-def]
        def call(config: object, reports: list) -> dict[str, float]:  # type: ignore[type-arg]
            done[name] += 1
            reports[0].best = OmegaConf.select(config, "optimizer.lr")  # type: ignore[arg-type]
            if name == "first" and done["first"] == 1:
                second.run(4, None, train("second"), lambda trial: None)  # meanwhile, elsewhere
            return {}

        return call

    first.run(4, None, train("first"), lambda trial: None)
    assert done == {"first": 1, "second": 3}
    assert len({each.params["optimizer.lr"] for each in first.ended()}) == 4
    assert first.ended()[0].value == max(each.value for each in first.ended() if each.value)


def test_a_folder_or_another_file_is_no_study(tmp_path: Path) -> None:
    plan = search(tmp_path / "good").plan
    with pytest.raises(UserError, match="is a folder"):
        Search(tmp_path, str(tmp_path), plan)
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam\n")
    with pytest.raises(UserError, match="cannot be opened as a study"):
        Search(tmp_path, str(tmp_path / "letter.txt"), plan)


def test_several_devices_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "model=ytmt_pcs", "trainer=ddp"]) == 2
    assert "start the command once for each device" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    words = [*FAST, "trainer.max_epochs=40", "--trials", "1", "--space", "space.yaml"]
    command = [sys.executable, "-m", "reflectzoo", "tune", *words]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    last = tmp_path / "outputs/tune/ytmt_pcs/trials/0/checkpoints/last.ckpt"
    for _ in range(600):
        if last.is_file():
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130, err
    assert "the same command resumes" in err
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    rows = list(csv.DictReader((tmp_path / "outputs/tune/ytmt_pcs/study.csv").open()))
    assert [(row["trial"], row["state"], row["epochs"]) for row in rows] == [("0", "complete", "40")]
    assert len(list((tmp_path / "outputs/tune/ytmt_pcs/trials").iterdir())) == 1
