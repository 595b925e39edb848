"""Many trainings in one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from reflectzoo.__main__ import main


def training(folder: Path, overrides: list[str], psnr: list[float], epochs: int = 3, test: float | None = None) -> None:
    """What a training leaves, by hand."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text("".join(f"- {word}\n" for word in overrides))
    (folder / ".hydra/config.yaml").write_text("model: {name: a}\ntrainer: {}\n")
    (folder / "config.yaml").write_text(f"model: {{name: a}}\ntrainer: {{max_epochs: {epochs}}}\n")
    logs = folder / "logs/version_0"
    logs.mkdir(parents=True)
    lines = "".join(f"{epoch},{epoch},{value}\n" for epoch, value in enumerate(psnr))
    (logs / "metrics.csv").write_text(f"epoch,step,val/mean/psnr\n{lines}")
    if test is not None:
        (folder / "metrics.json").write_text(json.dumps({"test/mean/psnr": test}))


def test_one_table_with_the_best_first_and_seeds_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training(tmp_path / "0", ["model=a", "seed=1"], [18.0, 20.0, 19.0], test=21.0)
    training(tmp_path / "1", ["model=a", "seed=2"], [18.0, 22.0, 21.0], test=23.0)
    training(tmp_path / "2", ["model=b", "seed=1"], [23.0, 23.5])
    assert main(["summarize", str(tmp_path)]) == 1, "one did not come to its end"
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["run"] for row in rows] == ["2", "1", "0"]
    assert [row["best val/mean/psnr"] for row in rows] == ["23.5000", "22.0000", "20.0000"]
    assert [row["test/mean/psnr"] for row in rows] == ["", "23.0000", "21.0000"]
    assert rows[0]["state"] == "stopped after 2 of 3 epochs"
    assert (rows[1]["model"], rows[1]["seed"]) == ("a", "2")
    out = capsys.readouterr().out
    assert "21.0000 ± 1.4142" in out
    assert "1 of 3 did not finish: 2." in out
    page = (tmp_path / "summary.html").read_text()
    assert page.count("<polyline") == 3


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    training(tmp_path / "<script>", ["model=<b>"], [20.0], epochs=1)
    training(tmp_path / "b", ["model=c|d"], [21.0], epochs=1)
    assert main(["summarize", str(tmp_path)]) == 0
    assert "<script>" not in (tmp_path / "summary.html").read_text()
    assert "c\\|d" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nowhere"], "is not a folder"), (["."], "no run in"), (["run", "--metric", "x"], "takes one")],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "run":
        training(tmp_path / "run", ["model=a"], [20.0])
    assert main(["summarize", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    from reflectzoo.sweeps.runs import find_runs

    training(tmp_path / "0", [], [18.0, 20.0])
    more = tmp_path / "0/logs/version_1"
    more.mkdir()
    (more / "metrics.csv").write_text("epoch,step,val/mean/psnr\n1,1,20.5\n2,2,21.0\n")
    (run,) = find_runs([tmp_path])
    assert list(run.curves["val/mean/psnr"]) == [(0, 18.0), (1, 20.5), (2, 21.0)]
    assert run.finished
