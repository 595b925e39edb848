"""Pictures of other programs are scored: how they are matched with pairs, and what is said of those that are not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reflectzoo.data.modules.pairs import PlainPairs
from reflectzoo.evaluation.benchmark import Benchmark
from reflectzoo.evaluation.predictions import PredictionsCandidate
from reflectzoo.evaluation.protocol import Protocol
from tests.data import layouts
from tests.evaluation.conftest import SIZES, Evaluate, noise, save
from tests.evaluation.test_runs import refused

# -- predictions made elsewhere ---------------------------------------------------------------------------------------


def predictions(folder: Path, pattern: str = "{}.png", leave_out: str | None = None) -> Path:
    for name, size in SIZES.items():
        if name != leave_out:
            save(folder / pattern.format(name), noise(*size, seed=5))
    return folder


@pytest.mark.parametrize(
    "pattern",
    ["{}.png", "{}_t.jpg", "{}-T.bmp", "{}_transmission.png", "pairs/{}.png", "Pairs/transmission/{}.png", "T/{}.png"],
)
def test_names_that_fit(pairs: Path, tmp_path: Path, pattern: str) -> None:
    record = matched(pairs, predictions(tmp_path / "mine", pattern))
    assert (record["name"], record["matched"], record["missing"], record["extra"]) == ("mine", 5, [], [])


@pytest.mark.parametrize("mark", ["_", "-", None])
def test_parts_of_a_name_may_be_joined_or_left_out(pairs: Path, tmp_path: Path, mark: str | None) -> None:
    predictions(tmp_path / "mine")
    (tmp_path / "mine/sub/d.png").rename(tmp_path / ("mine/d.png" if mark is None else f"mine/sub{mark}d.png"))
    assert matched(pairs, tmp_path / "mine")["matched"] == 5


def matched(pairs: Path, folder: Path) -> dict[str, Any]:
    """What a result would say about a folder of predictions."""
    sets = Benchmark("folder", {"pairs": PlainPairs(pairs, test_share=1.0)}).open(Protocol("plain"))
    return PredictionsCandidate("mine", folder, sets, Protocol("plain")).record()


def test_missing_and_extra_predictions_are_named(evaluate: Evaluate, pairs: Path, tmp_path: Path) -> None:
    predictions(tmp_path / "mine", leave_out="b c")
    save(tmp_path / "mine/e.png", noise(10, 10, 1))
    (tmp_path / "mine/a.png").write_bytes(b"not a picture")
    save(tmp_path / "mine/stranger.png", noise(30, 30, 1))
    save(tmp_path / "mine/f.1_t.png", noise(40, 35, 1))
    predictions(tmp_path / "whole")
    run = evaluate("benchmark=folder", f"data.root={pairs}", "predictions=[mine,whole]")
    refused(run, "Predictions are missing: 4 of mine", "results.json")
    entry = run.results["entries"][1]
    reasons = {miss["image"]: miss["reason"] for miss in entry["missing"]}
    assert set(reasons) == {"a", "b c", "e", "f.1"}
    assert reasons["b c"] == "no picture of that name"
    assert "not a picture" in reasons["a"]
    assert "is 10x10, but the mixture is 70x33" in reasons["e"]
    assert "2 pictures fit: f.1.png, f.1_t.png" in reasons["f.1"]
    assert "stranger.png" in entry["extra"]
    assert "MISSING: mine has no usable prediction for 'b c' of pairs" in run.out
    assert "EXTRA: mine has 'stranger.png'" in run.out
    assert "mine ! 1 of 5" in run.out
    assert run.results["complete"] is False
    # The others are measured all the same, and nothing counts for a missing one.
    assert len(run.scores("whole")) == 5
    assert len(run.scores("mine")) == 1
    assert run.results["averages"]["mine"]["pairs"]["missing"] == 4


def test_predictions_of_another_size(evaluate: Evaluate, pairs: Path, tmp_path: Path) -> None:
    """Of the stored size they are resized as the mixture is; of the scored one they are taken as they are."""
    for name, size in SIZES.items():
        picture = Image.fromarray(noise(*size, seed=5))
        save(tmp_path / "stored" / f"{name}.png", np.array(picture))
        scored = (size[1] // 16 * 16, size[0] // 16 * 16)
        save(tmp_path / "scored" / f"{name}.png", np.array(picture.resize(scored, Image.Resampling.BICUBIC)))
        save(tmp_path / "odd" / f"{name}.png", np.array(picture.resize((50, 50))))
    common = ("benchmark=folder", f"data.root={pairs}", "protocol=ytmt")
    run = evaluate(*common, "predictions=[stored,scored]")
    assert run.status == 0, run.err
    assert run.scores("stored") == run.scores("scored")
    refused(evaluate(*common, "predictions=odd", folder="odd1"), "None of the", "fit_predictions=true")
    assert evaluate(*common, "predictions=odd", "fit_predictions=true", folder="odd2").status == 0


def test_one_picture_for_two_data_sets_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    layouts.sir2(tmp_path / "sir2")
    shutil.rmtree(tmp_path / "sir2/SolidObjectDataset")
    for scene in ("1", "2", "10"):
        folder = tmp_path / "sir2/SolidObjectDataset/withgt" / scene
        shutil.copytree(tmp_path / "sir2/WildSceneDataset/withgt" / scene, folder)
        save(tmp_path / "mine" / f"withgt/{scene}.png", noise(28, 36, 1))
    run = evaluate("benchmark=sir2", "data.root=sir2", "predictions=mine")
    refused(run, "of objects", "of wild", "a separate folder")
