"""The ranking: only whole measurements, apart where they cannot be compared, no paths of anybody's disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflectzoo.evaluation.ranking import main, make_page, read_measured
from reflectzoo.evaluation.results import RESULTS
from tests.evaluation.report.conftest import NASTY, make_run

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_that_of_the_results_in_docs() -> None:
    found = read_measured(ROOT / "docs/results")
    assert make_page(found) == (ROOT / "docs/ranking.md").read_text(encoding="utf-8")
    assert {"input", "checkpoint"} <= {each["entry"]["kind"] for each in found}


def test_results_are_kept_and_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures=False)
    other = make_run(tmp_path / "other", 2, 1, False, ssim="gaussian11")
    folder, page = tmp_path / "results", tmp_path / "ranking.md"
    places = ["--folder", str(folder), "--page", str(page)]
    assert main([*places, "add", str(run)]) == 0
    assert main([*places, "add", str(other), "--entry", "ours", "--title", "theirs", "--note", "a note"]) == 0
    assert len(list(folder.glob("*.json"))) == 4
    assert not any("/x/" in file.read_text() or "/data" in file.read_text() for file in folder.glob("*.json"))
    assert main([*places, "--check"]) == 1
    assert main(places) == 0
    assert main([*places, "--check"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("## sirs\n") == 2, "two protocols are two tables"
    assert NASTY not in text
    assert ". a note" in text
    table = text.split("average, transmission\n")[1].strip().split("\n\n")[0].splitlines()[2:]
    values = [float(line.split("|")[2].strip(" *")) for line in table]
    assert values == sorted(values, reverse=True)
    assert len(values) in (1, 3)
    means = json.loads((run / RESULTS).read_text())["averages"]
    assert f"{means['ours']['average']['transmission']['psnr']:.2f}" in text
    capsys.readouterr()


def test_what_has_no_place_in_a_ranking_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", pictures=False)
    content = json.loads((run / RESULTS).read_text())
    content["averages"]["ours"]["real20"]["missing"] = 2
    (run / RESULTS).write_text(json.dumps(content))
    folder = ["--folder", str(tmp_path / "results")]
    assert main([*folder, "add", str(run), "--entry", "ours"]) == 2
    assert "not scored on every picture" in capsys.readouterr().err
    assert main([*folder, "add", str(run), "--entry", "nobody"]) == 2
    assert main([*folder, "add", str(run), "--note", "x"]) == 2
    assert main(folder) == 2
    assert "There are no results" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    (tmp_path / "results/x.json").write_text("{}")
    assert main(folder) == 2
    assert "is not in the format reflectzoo-measured/1" in capsys.readouterr().err
