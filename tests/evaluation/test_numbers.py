"""The numbers: against computations by hand from the files, with numpy, Pillow and scikit-image alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from reflectzoo.errors import UserError
from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.evaluation.published import published_for, published_results
from reflectzoo.evaluation.results import averages
from tests.conftest import SHARED
from tests.evaluation.conftest import SIZES, Evaluate, make_pairs, noise, save


def by_hand(found: np.ndarray, truth: np.ndarray, pooled: bool = False) -> dict[str, float]:
    """Scores of float images of 0..255, (H, W, 3), each from its definition."""
    errors = ((found - truth) ** 2).mean(axis=(0, 1))
    psnr = 10 * np.log10(255**2 / (errors.mean() if pooled else errors)).mean()
    error = total = 0.0
    for top in range(0, truth.shape[0] - 19, 10):
        for left in range(0, truth.shape[1] - 19, 10):
            x, y = (image[top : top + 20, left : left + 20] for image in (found, truth))
            power = (x * x).sum(axis=(0, 1))
            factor = np.where(power > 1e-5, (x * y).sum(axis=(0, 1)) / np.maximum(power, 1e-5), 0)
            error += ((y - factor * x) ** 2).sum()
            total += (y * y).sum()
    return {
        "psnr": float(psnr),
        "ssim": float(structural_similarity(found, truth, channel_axis=2, data_range=255)),
        "lmse": error / total,
        "ncc": float(np.corrcoef(found.ravel(), truth.ravel())[0, 1]),
    }


def read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    picture = Image.open(path).convert("RGB")
    if size is not None and picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(float)


def multiple(size: tuple[int, int], of: int) -> tuple[int, int]:
    return size[0] // of * of, size[1] // of * of


@pytest.mark.parametrize(
    ("protocol", "of", "pooled"),
    [("plain", 1, False), ("errnet", 1, False), ("ytmt", 16, False), ("location_aware", 8, True), ("ibcln", 4, False)],
)
def test_the_input_on_pictures_of_unequal_sizes(
    evaluate: Evaluate, pairs: Path, protocol: str, of: int, pooled: bool
) -> None:
    run = evaluate("benchmark=folder", f"data.root={pairs}", f"protocol={protocol}")
    assert run.status == 0, run.err
    found = run.scores("input")
    assert list(found) == [f"pairs/{name}" for name in sorted(SIZES)]
    wanted = {}
    for name, size in SIZES.items():
        images = [
            read(pairs / layer / f"{name}.png", multiple(size, of)) for layer in ("blended", "transmission_layer")
        ]
        wanted[f"pairs/{name}"] = by_hand(images[0], images[1], pooled)
    for name, scores in wanted.items():
        for key, value in scores.items():
            assert found[name][key] == pytest.approx(value, abs=2e-6), (name, key)
    means = run.results["averages"]["input"]["pairs"]
    assert means["images"] == 5
    assert means["missing"] == 0
    for key in ("psnr", "ssim", "lmse", "ncc"):
        assert means["transmission"][key] == pytest.approx(np.mean([w[key] for w in wanted.values()]), abs=2e-6)


def test_the_input_on_ceilnets_triplets(evaluate: Evaluate) -> None:
    root = SHARED / "data" / "ceilnet_synthetic"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    run = evaluate("benchmark=ceilnet", f"data.root={root}", "limit=10")
    assert run.status == 0, run.err
    found = run.scores("input")
    assert len(found) == 10
    for name, scores in found.items():
        stem = root / name.removeprefix("ceilnet/")
        images = [next(read(p) for p in root.glob(f"{stem.name}-{role}.*")) for role in ("input", "label1")]
        assert {key: scores[key] for key in ("psnr", "ssim", "lmse", "ncc")} == pytest.approx(
            by_hand(*images), abs=2e-6
        )
    assert run.results["complete"] is False
    assert "Only 10 of" in run.out


def test_evaluating_the_truth_gives_no_nan(evaluate: Evaluate, pairs: Path, tmp_path: Path) -> None:
    # A black truth and one of a single grey among them, where quotients end.
    save(pairs / "blended/black.png", noise(40, 40, 50))
    save(pairs / "transmission_layer/black.png", np.zeros((40, 40, 3), np.uint8))
    save(pairs / "blended/grey.png", noise(25, 25, 51))
    save(pairs / "transmission_layer/grey.png", np.full((25, 25, 3), 77, np.uint8))
    save(pairs / "blended/low.png", noise(15, 60, 52))  # too low for a window of LMSE
    save(pairs / "transmission_layer/low.png", noise(15, 60, 53))
    run = evaluate("benchmark=folder", f"data.root={pairs}", f"predictions={{truth_t: '{pairs}/transmission_layer'}}")
    assert run.status == 0, run.err
    for name, scores in run.scores("truth_t").items():
        best = {"psnr": 100.0, "ssim": 1.0, "lmse": None if name.endswith("low") else 0.0, "ncc": 1.0, "si": 1.0}
        assert scores == pytest.approx(best, abs=1e-9), name
    means = run.results["averages"]["truth_t"]["pairs"]
    assert means["transmission"] == pytest.approx({"psnr": 100, "ssim": 1, "lmse": 0, "ncc": 1, "si": 1}, abs=1e-9)
    assert means["counted"]["transmission"]["lmse"] == 7
    assert means["counted"]["transmission"]["psnr"] == 8
    for row in run.results["images"]:
        scores = {**(row["transmission"] or {}), **(row["reflection"] or {})}
        assert all(value is None or np.isfinite(value) for value in scores.values())


def test_reflections_and_what_they_are_compared_with(evaluate: Evaluate, pairs: Path, tmp_path: Path) -> None:
    for name, size in SIZES.items():
        save(tmp_path / "mine" / "transmission" / f"{name}.png", noise(*size, seed=90))
        save(tmp_path / "mine" / "reflection" / f"{name}.png", noise(*size, seed=91))
    for kind in ("layer", "residual"):
        run = evaluate(
            *("benchmark=folder", f"data.root={pairs}", "predictions=mine", f"protocol.reflection_truth={kind}"),
            folder=kind,
        )
        assert run.status == 0, run.err
        rows = {row["image"]: row for row in run.results["images"] if row["entry"] == "mine"}
        assert (rows["e"]["reflection"] is None) == (kind == "layer")  # of which no reflection was shot
        for name in SIZES:
            if rows[name]["reflection"] is None:
                continue
            if kind == "layer":
                truth = read(pairs / f"reflection_layer/{name}.png")
            else:
                truth = read(pairs / f"blended/{name}.png") - read(pairs / f"transmission_layer/{name}.png")
            wanted = by_hand(read(tmp_path / f"mine/reflection/{name}.png"), truth.clip(0))
            scores = {key: rows[name]["reflection"][key] for key in wanted}
            assert scores == pytest.approx(wanted, abs=2e-6)


def test_regions(evaluate: Evaluate, pairs: Path, tmp_path: Path) -> None:
    """A mask over everything gives the mean of the whole map, one elsewhere another value, none gives none."""
    for name, (height, width) in SIZES.items():
        if name != "e":
            mask = np.zeros((height, width, 3), np.uint8)
            mask[: height if name == "a" else height // 2] = 255
            save(tmp_path / "masks" / f"{name}.png", mask)
    run = evaluate("benchmark=folder", f"data.root={pairs}", "masks=masks", "protocol.psnr=pooled")
    assert run.status == 0, run.err
    scores = run.scores("input")
    assert scores["pairs/a"]["sir"] == pytest.approx(scores["pairs/a"]["si"], abs=1e-9)
    assert abs(scores["pairs/b c"]["sir"] - scores["pairs/b c"]["si"]) > 1e-3
    assert scores["pairs/e"]["ssimr"] is None
    means = run.results["averages"]["input"]["pairs"]
    assert means["counted"]["transmission"]["ssimr"] == 4
    assert means["transmission"]["ssimr"] == pytest.approx(
        np.mean([s["ssimr"] for name, s in scores.items() if name != "pairs/e"])
    )
    assert "SSIMr" in run.out


# -- averages ---------------------------------------------------------------------------------------------------------


def row(dataset: str, image: str, psnr: float, ssim: float | None, size: tuple[int, int] = (10, 10)) -> dict:
    error = 10 ** (-psnr / 10)
    return {
        **{"entry": "x", "set": dataset, "image": image, "height": size[0], "width": size[1]},
        **{"transmission": {"psnr": psnr, "ssim": ssim}, "reflection": None},
        "errors": {"transmission": [error] * 3},
    }


ROWS = [row("p", "1", 20, 0.5), row("p", "2", 30, 0.7, (10, 30)), row("q", "1", 40, 0.9), row("q", "2", 50, None)]


def means(**protocol) -> dict:
    table = averages(ROWS, ["x"], {"p": 2, "q": 3}, Protocol("test", **protocol), ["psnr", "ssim"])
    return {name: mean["transmission"] for name, mean in table["x"].items()}


def test_averages_over_images_and_pixels() -> None:
    assert means()["p"] == pytest.approx({"psnr": 25, "ssim": 0.6})
    assert means()["q"] == pytest.approx({"psnr": 45, "ssim": 0.9})  # the second has none
    pixels = means(average="pixels")
    error = (1e-2 * 100 + 1e-3 * 300) / 400
    assert pixels["p"] == pytest.approx({"psnr": -10 * np.log10(error), "ssim": (0.5 + 3 * 0.7) / 4})
    assert means(average="pixels", psnr="pooled")["p"]["psnr"] == pytest.approx(pixels["p"]["psnr"])


def test_the_average_column() -> None:
    assert means()["average"] == pytest.approx({"psnr": 35, "ssim": 0.7})
    assert means(overall="sets")["average"] == pytest.approx({"psnr": 35, "ssim": 0.75})
    assert means(overall={"p": 3, "q": 1})["average"] == pytest.approx({"psnr": 30, "ssim": 0.675})
    table = averages(ROWS, ["x"], {"p": 2, "q": 3}, Protocol("test"), ["psnr"])
    assert table["x"]["q"]["missing"] == table["x"]["average"]["missing"] == 1


def test_location_awares_average_column_follows_from_its_other_columns() -> None:
    """Its Table 1: five columns weighted by their pictures, 494 in all, for every method in it."""
    average = "Average(Postcard+Object+Wild+Real20+Nature)"
    sets = {"SIR2-Postcard": 199, "SIR2-Objects": 200, "SIR2-Wild": 55, "Real20": 20, "Nature": 20}
    facts = [fact for fact in published_for([*sets, average]) if "Table 1" in fact.source and "Dong" in fact.source]
    checked = 0
    for printed in (fact for fact in facts if fact.dataset == average and fact.metric == "PSNR"):
        columns = {
            fact.dataset: fact.value
            for fact in facts
            if (fact.label, fact.metric) == (printed.label, "PSNR") and fact.dataset in sets
        }
        found = sum(sets[name] * value for name, value in columns.items()) / sum(sets.values())
        if len(columns) == 5 and abs(found - printed.value) < 2e-3:
            checked += 1
        assert abs(found - printed.value) < 0.2, printed
    assert checked >= 5
    rows = [row(name, str(i), value, None) for name, value in columns.items() for i in range(sets[name])]
    table = averages(rows, ["x"], sets, Protocol("location_aware", psnr="pooled"), ["psnr"])
    assert table["x"]["average"]["images"] == 494
    assert table["x"]["average"]["transmission"]["psnr"] == pytest.approx(found)


def test_published_results_are_whole() -> None:
    facts = published_results()
    assert len(facts) > 800
    assert all(fact.source and fact.layer in ("transmission", "reflection") for fact in facts)
    real20 = [fact for fact in published_for(["Real20"]) if fact.label == "YTMT (UCT)" and fact.metric == "PSNR"]
    assert {23.26, 23.09} <= {fact.value for fact in real20}  # Tables 1 and 4 differ


def test_averages_that_are_said_to_count_each_picture_follow_from_their_columns() -> None:
    """Wild has 55 pictures, or 101 where all 540 count; a rule that cannot be computed is not claimed."""
    from reflectzoo.evaluation.published import _BY_PICTURE

    parts = {474: {"SIR2-Postcard": 199, "SIR2-Objects": 200, "SIR2-Wild": 55, "Real20": 20}}
    parts[540] = {**parts[474], "SIR2-Wild": 101, "Nature": 20}
    facts = published_for([dataset for dataset, _ in _BY_PICTURE] + list(parts[540]))
    checked = 0
    for average in facts:
        sizes = parts.get(average.split_size or 0)
        if not average.is_average or sizes is None or average.metric != "PSNR":
            continue
        columns = {
            fact.dataset: fact.value
            for fact in facts
            if (fact.label, fact.metric, fact.source) == (average.label, "PSNR", average.source)
            and fact.split_size == sizes.get(fact.dataset)
        }
        if len(columns) == len(sizes):
            found = sum(sizes[name] * value for name, value in columns.items()) / sum(sizes.values())
            assert found == pytest.approx(average.value, abs=0.03), average
            assert average.rule == f"{average.split_size} pictures, weighted equally"
            checked += 1
    assert checked >= 10
    assert {fact.rule for fact in published_for(["SIR2"])} >= {
        "454 pictures, weighted equally",
        "500 pictures, average not stated",
    }


def test_later_work_is_marked_as_known_at_second_hand() -> None:
    later = [fact for fact in published_results() if fact.method in ("DExNet", "DSIT", "WindowSeat", "S2R", "GenSIRR")]
    assert len({fact.method for fact in later}) == 5
    assert all(fact.source for fact in later)
    mine = [fact for fact in later if fact.dataset == "Nature"]
    assert not any(fact.confirmed for fact in mine if fact.method in ("WindowSeat", "S2R", "GenSIRR"))


def test_the_border_is_cut_off_before_anything_is_scored(evaluate: Evaluate, pairs: Path) -> None:
    protocol = ("protocol=ntire", "protocol.metrics=[psnr,ssim,nsd]")
    run = evaluate("benchmark=folder", f"data.root={pairs}", *protocol)
    assert run.status == 0, run.err
    found = run.scores("input")
    for name in SIZES:
        images = [read(pairs / layer / f"{name}.png")[4:-4, 4:-4] for layer in ("blended", "transmission_layer")]
        error = ((images[0] - images[1]) ** 2).mean()
        assert found[f"pairs/{name}"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=2e-6)
        assert found[f"pairs/{name}"]["nsd"] is None  # too small for two blocks
    assert "4 pixels of border cut off" in " ".join(run.out.split())


# -- protocols --------------------------------------------------------------------------------------------------------


def test_pillows_filter_and_the_other_settings_change_the_numbers(evaluate: Evaluate, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "pairs")
    found = {}
    for number, change in enumerate(
        [
            *("protocol=ytmt", "protocol.resize.filter=nearest", "protocol.resize.multiple=8"),
            *("protocol.ssim=gaussian11", "protocol.psnr=pooled", "+protocol.resize_for.pairs={shorter: 48}"),
        ]
    ):
        base = () if change == "protocol=ytmt" else ("protocol=ytmt",)
        run = evaluate("benchmark=folder", f"data.root={pairs}", *base, change, folder=f"run{number}")
        assert run.status == 0, run.err
        found[change] = tuple(
            run.results["averages"]["input"]["pairs"]["transmission"][key] for key in ("psnr", "ssim")
        )
        # What was done is told, however the terminal breaks the line.
        assert run.results["protocol"]["in_words"] in " ".join(run.out.split())
    assert len(set(found.values())) == len(found)


def test_a_size_of_its_own_for_a_data_set() -> None:
    protocol = Protocol("x", resize={"size": [224, 288], "multiple": 16}, resize_for={"real20": {"shorter": 420}})
    assert protocol.size_for("wild").of(600, 800) == (224, 288)
    assert protocol.size_for("real20").of(600, 800) == (416, 560)
    assert "real20 shorter side 420, multiples of 16" in str(protocol)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"psnr": "mean"}, "protocol.psnr must be per_channel or pooled"),
        ({"ssim": "uniform"}, "protocol.ssim"),
        ({"metrics": ["psnr", "psmr"]}, "protocol.metrics"),
        ({"metrics": "psnr"}, "protocol.metrics must be a list with entries, each a word"),
        ({"crop_border": -1}, "protocol.crop_border"),
        ({"layers": []}, "protocol.layers"),
        ({"overall": {"real20": -1}}, "protocol.overall must be"),
        ({"overall": {"real20": 0}}, "weight 0"),
        ({"overall": "both"}, "protocol.overall"),
        ({"clamp": "yes"}, "protocol.clamp"),
        ({"resize": {"multiples": 8}}, "protocol.resize has no 'multiples'"),
        ({"resize": {"filter": "cubic"}}, "protocol.resize.filter must be one of nearest, box"),
        ({"resize_for": {"real20": {"shorter": "big"}}}, "protocol.resize_for.real20.shorter"),
    ],
)
def test_wrong_settings(setting: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Protocol("x", **setting)
