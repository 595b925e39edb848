"""Pictures of one's own: truths that do not fit, photographs without any truth, scores of one's own, time left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reflectzoo.evaluation.progress import TimeLeft, duration
from tests.evaluation.conftest import Evaluate, noise, save


def test_truths_that_do_not_fit_are_named_and_counted(evaluate: Evaluate, tmp_path: Path) -> None:
    for index, name in enumerate(("good", "suffix", "larger", "alpha", "opaque")):
        save(tmp_path / "own" / "blended" / f"{name}.jpg", noise(40, 48, index))
    truth = tmp_path / "own" / "transmission_layer"
    save(truth / "good.png", noise(40, 48, 10))  # another suffix of the file is no hindrance
    save(truth / "suffix_gt.png", noise(40, 48, 11))
    save(truth / "larger.png", noise(41, 48, 12))
    for name, least in (("alpha", 200), ("opaque", 255)):
        layer = np.dstack((noise(40, 48, 13), np.full((40, 48), 255, np.uint8)))
        layer[0, 0, 3] = least
        Image.fromarray(layer).save(truth / f"{name}.png")
    run = evaluate("benchmark=folder", "data.root=own")
    assert run.status == 0, run.err
    assert list(run.scores("input")) == ["pairs/good", "pairs/opaque"]
    said = " ".join((run.out + run.err).split())
    assert "2 of 6 pictures were scored, 4 left out." in said
    assert "if 'suffix_gt.png' is its partner, rename that to 'suffix.png'" in said
    assert "is 48x41, but its mixture" in said
    assert "crop or resize one of them" in said
    assert "alpha.png' is partly transparent" in said
    report = json.loads((run.folder / "report.json").read_text())
    assert report["warnings"][0] == "2 of 6 pictures were scored, 4 left out."
    assert run.results["benchmark"]["left_out_pictures"] == 4


def test_photographs_without_truth(evaluate: Evaluate, tmp_path: Path) -> None:
    for index, name in enumerate(("a.png", "sub/b.png")):
        picture = noise(200, 220, index)
        save(tmp_path / "photos" / name, picture)
        darker = picture.copy()
        darker[:100] = (darker[:100] * 0.8).astype(np.uint8)
        save(tmp_path / "made" / name, darker)
    run = evaluate("benchmark=photos", "data.root=photos", "predictions={ours: made}")
    assert run.status == 0, run.err
    scores = run.scores("ours")
    assert set(scores) == {"photos/a", "photos/sub/b"}
    for values in scores.values():
        assert set(values) == {"nsd", "changed", "smooth"}
        assert 40 < values["changed"] <= 50
        assert values["smooth"] > 50
        assert values["nsd"] > 0
    assert run.scores("input")["photos/a"]["changed"] == 0
    assert run.scores("input")["photos/a"]["smooth"] is None
    assert (run.folder / "pictures" / "ours" / "photos" / "a_transmission.png").is_file()
    with Image.open(run.folder / "contact_sheet.jpg") as sheet:
        assert sheet.width > 3 * 200
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "changed %" in page
    assert "data:image/webp" in page
    # A folder without any truth is no benchmark with one.
    plain = evaluate("benchmark=folder", "data.root=photos", folder="plain")
    assert plain.status == 2


def test_a_score_of_ones_own_is_a_class_and_a_line(evaluate: Evaluate, pairs: Path) -> None:
    mine = "tests.metrics.test_more_scores.Brightness"
    run = evaluate("benchmark=folder", f"data.root={pairs}", f"protocol.metrics=[psnr,{mine}]")
    assert run.status == 0, run.err
    assert run.results["metrics"][1] == {
        "key": "brightness", "title": "Brightness", "unit": "", "digits": 5, "higher_is_better": False, "blind": False,
    }  # fmt: skip
    value = run.results["averages"]["input"]["pairs"]["transmission"]["brightness"]
    assert f"{value:.5f}" in run.out
    assert f"{value:.5f}" in (run.folder / "report.md").read_text(encoding="utf-8")
    wrong = evaluate("benchmark=folder", f"data.root={pairs}", "protocol.metrics=[psnr,no.such.Score]", folder="wrong")
    assert wrong.status == 2
    assert "cannot be imported" in wrong.err


def test_time_left_is_of_the_work_that_is_left() -> None:
    left = TimeLeft(4 * 100 + 2 * 1000.0)
    left.done(100, 30)  # loading and warming up
    assert left.seconds() is None
    left.done(100, 1)
    assert left.seconds() is None
    left.done(100, 1)
    # Large pictures are ahead: by pictures it would be 3 seconds.
    assert left.seconds() == pytest.approx(21)
    left.done(100, 1)
    left.done(1000, 10)
    assert left.seconds() == pytest.approx(10)
    left.done(1000, 10)
    assert left.seconds() == 0
    assert [duration(seconds) for seconds in (7.6, 125, 7384)] == ["8 s", "2 min 5 s", "2 h 3 min"]
