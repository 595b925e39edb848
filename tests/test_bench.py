"""The benchmarks run and measure what they say; their numbers are for ``make bench``, not for here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from reflectzoo.bench import __main__ as command
from reflectzoo.bench import measure
from reflectzoo.bench.measure import MeasuredRow, has_bf16, peak_of, seconds
from reflectzoo.bench.registry import Options, SpeedComparison, find_subjects
from reflectzoo.nets import hypercolumn


def row(plain: float = 0.02, fast: float = 0.005, **more: object) -> SpeedComparison:
    def prepared(duration: float) -> object:
        return lambda: lambda: time.sleep(duration)

    return SpeedComparison("nap", "a nap", "seconds", 2.0, prepared(plain), prepared(fast), **more)  # type: ignore[arg-type]


class Naps:
    TITLE = "naps"
    rows: tuple[SpeedComparison, ...] = (row(),)

    def comparisons(self, options: Options) -> list[SpeedComparison]:
        return list(self.rows)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    subject = Naps()
    monkeypatch.setattr(command, "find_subjects", lambda: {"naps": subject})
    return subject


def test_ytmt_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "numbers.json"
    assert command.main(["ytmt", "--shrink", "32", "--rounds", "1", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    report = json.loads(file.read_text())
    keys = [record["key"] for record in report["rows"]]
    wanted = ["inference_fp32", "training_fp32", "inference_bf16", "training_bf16", "inference_memory"]
    assert keys == [key for key in wanted if has_bf16() or "bf16" not in key]
    assert ("no bf16 matrix units" in said) != has_bf16()
    for record in report["rows"]:
        assert record["plain"] > 0
        assert record["ratio"] == pytest.approx(record["plain"] / record["fast"])
        assert record["name"] in said
    assert report["machine"]["torch"] == torch.__version__


def test_every_subject_is_one() -> None:
    subjects = find_subjects()
    assert {"errnet", "ytmt"} <= set(subjects)
    for name, subject in subjects.items():
        assert isinstance(getattr(subject, "TITLE", None), str), f"{name} has no TITLE: is it machinery?"
        assert callable(subject.comparisons)


def test_forms_are_what_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    dense = hypercolumn.dense_hypercolumn
    monkeypatch.setattr(hypercolumn, "dense_hypercolumn", lambda x: built.append(1) or dense(x))
    rows = {row.key: row for row in find_subjects()["ytmt"].comparisons(Options(shrink=32))}
    for key in ("inference_fp32", "training_fp32"):
        rows[key].fast()()
        assert not built
        rows[key].plain()()
        assert built
        built.clear()


def test_seconds_and_verdicts(naps: Naps, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 < seconds(row(), rounds=5).ratio < 6
    naps.rows = (row(), row(plain=0.005))
    assert command.main(["--rounds", "5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "a nap" in line]
    assert "reached" in lines[0]
    assert "MISSED" in lines[1]


def test_forms_take_turns() -> None:
    turns: list[str] = []
    comparison = SpeedComparison(
        "k", "n", "seconds", 1.0, lambda: lambda: turns.append("plain"), lambda: lambda: turns.append("fast")
    )
    seconds(comparison, rounds=2)
    assert turns == ["plain", "fast"] * 3


@pytest.mark.parametrize("asked", [False, True])
def test_bf16_only_where_it_makes_sense(
    naps: Naps, asked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "has_bf16", lambda: False)
    naps.rows = (row(bf16=True),)
    command.main(["--rounds", "1", *(["--bf16"] if asked else [])])
    said = capsys.readouterr().out
    assert ("a nap" in said) == asked
    assert ("no bf16 matrix units" in said) != asked


def test_peak_is_that_of_the_run() -> None:
    big = np.ones(100 * 2**20, dtype=np.uint8)
    del big
    kept = []

    def run() -> None:
        kept.append(np.ones(16 * 2**20, dtype=np.uint8))
        np.ones(48 * 2**20, dtype=np.uint8)

    assert 60 * 2**20 < peak_of(run) < 80 * 2**20


def test_failing_child_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.sys, "executable", "false")
    with pytest.raises(RuntimeError, match=r"--child naps nap plain .* failed"):
        measure.memory("naps", row(), Options())


def test_ratio() -> None:
    assert MeasuredRow(plain=6.0, fast=2.0, spread=1.0).ratio == 3.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["ytmtt"], "no benchmark 'ytmtt': choose from"), (["--json", "/nowhere/at/all.json"], "no folder for")],
)
def test_mistakes(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--rounds", "0"])
    assert stop.value.code == 2
    assert "not at least 1" in capsys.readouterr().err
