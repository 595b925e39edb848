"""Paired comparisons: exact sign test, interval, plain words, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from reflectzoo.evaluation.compare import Pair, Verdict, bootstrap, judge, main, sign_test, verdict_in_words
from reflectzoo.evaluation.measures import Measure
from reflectzoo.evaluation.results import RESULTS
from tests.evaluation.report.conftest import NASTY, make_run


def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    edit(content)
    (run / RESULTS).write_text(json.dumps(content), encoding="utf-8")
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """The second one is 3 dB better on the average, with a spread of 2.8 dB."""
    return make_run(tmp_path / "a", 0, 0, False), make_run(tmp_path / "b", 3, 1, False)


@pytest.mark.parametrize(("larger", "smaller"), [(9, 1), (1, 9), (5, 5), (0, 7), (60, 41), (900, 600)])
def test_the_sign_test_is_that_of_scipy(larger: int, smaller: int) -> None:
    assert sign_test(larger, smaller) == pytest.approx(binomtest(larger, larger + smaller).pvalue, rel=1e-9)


def test_the_interval_is_that_of_scipy_and_its_seed_repeats_it() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 60)
    low, high = bootstrap([values])
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    # Two bootstraps differ by chance: 0.02 is about six standard errors of a quantile of 10 000 resamples.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert bootstrap([values]) == (low, high)
    assert bootstrap([values], seed=1) != (low, high)
    assert bootstrap([np.array([2.0])]) == (2.0, 2.0)


def test_sets_keep_their_share_of_the_interval() -> None:
    """Two sets without any spread of their own leave nothing to chance."""
    low, high = bootstrap([np.full(10, 1.0), np.full(30, 5.0)])
    assert (low, high) == pytest.approx((4.0, 4.0))


def test_a_verdict_by_hand() -> None:
    pairs = [Pair("s", str(k), a, b) for k, (a, b) in enumerate([(1, 2), (1, 4), (3, 3), (5, 4)])]
    (verdict,) = judge(pairs, {"s": "Set"})
    assert (verdict.title, verdict.images, verdict.mean_a, verdict.mean_b) == ("Set", 4, 2.5, 3.25)
    assert (verdict.difference, verdict.b_higher, verdict.a_higher, verdict.ties) == (0.75, 2, 1, 1)
    assert verdict.p == 1.0
    assert -1 <= verdict.low <= 0.75 <= verdict.high <= 3


def verdict(low: float, high: float, p: float = 0.001, more_b: bool = True, images: int = 30) -> Verdict:
    counts = (20, 10) if more_b else (10, 20)
    return Verdict("Wild", images, 20, 20 + (low + high) / 2, (low + high) / 2, low, high, *counts, 0, p)


@pytest.mark.parametrize(
    ("given", "higher", "words"),
    [
        (verdict(0.02, 0.22), True, "Wild: new is better than old by 0.12 dB (95 % interval +0.02 to +0.22)."),
        (verdict(-0.22, -0.02, more_b=False), True, "new is worse than old by 0.12 dB"),
        (verdict(-0.22, -0.02, more_b=False), False, "new is better than old by 0.12 dB"),
        (verdict(-0.1, 0.2, p=0.5), True, "the difference of 0.05 dB cannot be distinguished from noise"),
        (verdict(-0.1, 0.2), True, "But new is better on clearly more pictures"),
        (verdict(-0.1, 0.2), False, "But old is better on clearly more pictures"),
        (verdict(0.1, 0.2, p=0.4), True, "the sign test shows no winner (p = 0.4)"),
        (verdict(0.1, 0.2, images=3), True, "3 pictures are too few"),
    ],
)
def test_plain_words(given: Verdict, higher: bool, words: str) -> None:
    assert words in verdict_in_words(given, "old", "new", Measure("psnr", "PSNR", "dB", 2, higher))


def test_two_runs_are_compared(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = runs
    table = tmp_path / "sub" / "pairs.csv"
    assert main([str(a), str(b), "--entry-a", "ours", "--entry-b", "ours", "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 28
    mean = np.mean([float(row["difference"]) for row in rows])
    assert f"all pictures: b is better than a by {mean:.2f} dB" in said
    assert "Own: 3 pictures are too few" in said
    most = max(rows, key=lambda row: float(row["difference"]))
    assert f"{most['set']}/{most['image']}" in said


def test_one_run_compares_its_entries(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, _ = runs
    assert main([str(a), str(a), "--entry-a", "input", "--entry-b", "ours", "--metric", "lmse", "--set", "real20"]) == 0
    assert "lower is better" in capsys.readouterr().out
    assert main([str(a), str(a), "--entry-a", "ours", "--entry-b", "ours"]) == 0
    said = capsys.readouterr().out
    assert "Both are the same evaluation" in said
    assert "cannot be distinguished from noise" in said


def test_pictures_of_one_alone_are_named(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    a, b = runs
    change(b, lambda r: r.update(images=[row for row in r["images"] if row["image"] != "7"]))
    assert main([str(a), str(b), "--entry-a", "ours", "--entry-b", "ours"]) == 0
    said = capsys.readouterr().out
    assert "Only in A, ignored: real20/7" in said
    assert "In B alone" not in said
    change(b, lambda r: r.update(images=[row for row in r["images"] if row["image"] == "none"]))
    assert main([str(a), str(b), "--entry-a", "ours", "--entry-b", "ours"]) == 2
    assert "No picture has a psnr of the transmission in both" in capsys.readouterr().err


def test_other_protocols_and_other_pictures_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = runs
    chosen = ["--entry-a", "ours", "--entry-b", "ours"]
    other = make_run(tmp_path / "c", 0, 0, False, ssim="gaussian11")
    assert main([str(a), str(other), *chosen]) == 2
    told = capsys.readouterr().err
    assert 'different protocols (plain and plain: ssim "uniform7" and "gaussian11")' in told
    assert "Traceback" not in told
    change(b, lambda r: r["images"][4]["transmission"].update(psnr=11.0))
    assert main([str(a), str(b), *chosen]) == 2
    assert "'real20/5' is another picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "several entries: choose with --entry-a"),
        (["--entry-a", "hours"], "Did you mean ours?"),
        (["--entry-a", "ours", "--entry-b", NASTY, "--metric", "fid"], "There is no --metric fid"),
        (["--entry-a", "ours", "--entry-b", "ours", "--set", "wild"], "There is no --set wild"),
    ],
)
def test_mistakes_are_told(
    words: list[str], told: str, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, runs), *words]) == 2
    assert told in capsys.readouterr().err
