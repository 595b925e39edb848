"""Runs: crash and resume, two processes, predictions made elsewhere, several data sets, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import reflectzoo
from reflectzoo.config import build, choices, compose_config
from reflectzoo.data.modules.pairs import PlainPairs
from reflectzoo.evaluation.benchmark import Benchmark
from reflectzoo.evaluation.candidates import from_checkpoint
from reflectzoo.evaluation.protocol import Protocol
from reflectzoo.evaluation.results import read_results
from reflectzoo.evaluation.runner import run_benchmark as evaluate_in_python
from reflectzoo.evaluation.scorer import Scorer
from reflectzoo.inference.convert import convert
from reflectzoo.weights.records import records
from tests.conftest import command
from tests.data import layouts
from tests.evaluation.conftest import SIZES, Evaluate, Evaluated, make_pairs, noise, save, write_checkpoint
from tests.faults.children import started_by_torchrun

PAIRS = sorted(SIZES)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without how long they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def refused(run: Evaluated, *words: str, status: int = 2) -> None:
    """One sentence with these words, and no traceback."""
    assert run.status == status, run.err
    assert "Traceback" not in run.err
    told = [line for line in run.err.splitlines() if line.startswith("reflectzoo: ")]
    assert len(told) == 1, run.err
    for word in words:
        assert word in told[0], told[0]


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_a_network_is_scored_and_everything_is_recorded(evaluate: Evaluate, pairs: Path, checkpoint: Path) -> None:
    run = evaluate("benchmark=folder", f"data.root={pairs}", f"ckpt={checkpoint}", "save_pictures=true")
    assert run.status == 0, run.err
    results = run.results
    assert results == read_results(run.folder)
    assert results["format"] == "reflectzoo-results/1"
    assert results["complete"] is True
    assert [entry["name"] for entry in results["entries"]] == ["input", "ytmt_ucs"]
    network = results["entries"][1]
    assert network["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert network["provenance"]["epoch"] == 3
    assert network["parameters"] == sum(p.numel() for p in reflectzoo.load_model(checkpoint).net.parameters())
    assert results["protocol"]["round_8bit"] is True
    assert results["configuration"]["benchmark"]["name"] == "folder"
    assert f"ckpt={checkpoint}" in results["command"]
    assert [(row["entry"], row["image"]) for row in results["images"]] == [
        (entry, image) for entry in ("input", "ytmt_ucs") for image in PAIRS
    ]
    for row in results["images"]:
        assert (row["height"], row["width"]) == (row["source_height"], row["source_width"]) == SIZES[row["image"]]
        kinds = {"mixture", "truth_transmission"} if row["entry"] == "input" else {"transmission", "reflection"}
        assert kinds <= set(row["pictures"])
        for path in row["pictures"].values():
            assert Image.open(run.folder / path).size == SIZES[row["image"]][::-1]
    lines = list(csv.DictReader((run.folder / "results.csv").open()))
    assert [float(line["transmission_psnr"]) for line in lines] == [
        r["transmission"]["psnr"] for r in results["images"]
    ]
    assert lines[0]["reflection_psnr"] == ""
    table = {
        (c["entry"], c["layer"], c["metric"]): c["value"] for c in csv.DictReader((run.folder / "averages.csv").open())
    }
    mean = results["averages"]["ytmt_ucs"]["pairs"]["transmission"]["ssim"]
    assert float(table["ytmt_ucs", "transmission", "ssim"]) == mean
    assert f"{mean:.3f}" in run.out
    assert "Protocol plain: pictures as stored" in run.out


def test_the_pictures_it_keeps_score_the_same_when_taken_for_predictions(
    evaluate: Evaluate, pairs: Path, checkpoint: Path
) -> None:
    common = ("benchmark=folder", f"data.root={pairs}", f"ckpt={checkpoint}")
    first = evaluate(*common, "save_pictures=true")
    again = evaluate(*common, "predictions={mine: run/pictures/ytmt_ucs, its: run/pictures/input}", folder="again")
    assert again.status == 2  # "its" are called ..._mixture, which are no predictions
    again = evaluate(*common, "predictions={mine: run/pictures/ytmt_ucs}", folder="again2")
    assert again.status == 0, again.err
    rows = {(row["entry"], row["image"]): row for row in again.results["images"]}
    for row in (row for row in first.results["images"] if row["entry"] == "ytmt_ucs"):
        for layer in ("transmission", "reflection"):
            mine = rows["mine", row["image"]][layer]
            assert (mine is None) == (row[layer] is None)
            if mine is not None:
                assert mine == pytest.approx(row[layer], abs=1e-6)


def test_python_without_a_configuration(pairs: Path, checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    results = evaluate_in_python(
        Benchmark("mine", {"pairs": PlainPairs(pairs, test_share=1.0)}),
        Protocol("mine", metrics=["psnr", "lmse"]),
        [from_checkpoint(checkpoint, name="net")],
        tmp_path / "out",
        say=said.append,
    )
    assert [metric["key"] for metric in results["metrics"]] == ["psnr", "lmse"]
    assert results["averages"]["net"]["pairs"]["images"] == 5
    assert said[0].startswith("Protocol mine: ")
    assert read_results(tmp_path / "out")["averages"] == results["averages"]


def test_two_checkpoints_of_one_model_and_weights_of_the_authors(
    evaluate: Evaluate, pairs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other.ckpt", seed=1)
    net = reflectzoo.load_model(checkpoint).net
    torch.save({"icnn": net.state_dict(), "epoch": 60, "iterations": 9}, tmp_path / "authors.pt")
    narrow = ("model.net.width=8", "model.net.hypercolumn=false", "loss=pixel")
    run = evaluate(
        *("benchmark=folder", f"data.root={pairs}", f"ckpt=[{checkpoint},{other}]"),
        *("model=ytmt_ucs", "weights={authors: authors.pt}", *narrow),
    )
    assert run.status == 0, run.err
    names = [entry["name"] for entry in run.results["entries"]]
    assert names[0] == "input"
    assert names[3] == "authors"
    assert names[1] != names[2]
    assert all(name.startswith("ytmt_ucs-") for name in names[1:3])
    assert run.scores(names[1]) == run.scores("authors") != run.scores(names[2])


def test_a_benchmark_of_several_data_sets_with_published_numbers(evaluate: Evaluate, tmp_path: Path) -> None:
    layouts.zhang(tmp_path / "all" / "zhang")
    shutil.move(tmp_path / "all/zhang/blended", tmp_path / "all/blended")
    shutil.move(tmp_path / "all/zhang/transmission_layer", tmp_path / "all/transmission_layer")
    layouts.sir2(tmp_path / "all" / "SIR2")
    small = ("protocol.resize_for.real20.shorter=40", "+protocol.resize_for.wild={size: [28, 36]}")
    run = evaluate("benchmark=sirs", "data.root=all", *small)
    assert run.status == 0, run.err
    results = run.results
    assert {each["name"]: each["images"] for each in results["sets"]} == {
        **{"real20": 20, "postcard": 8, "objects": 8, "wild": 3},
    }
    assert results["benchmark"]["average"] == "Average(Real20+Objects+Postcard+Wild)"
    means = results["averages"]["input"]
    weighted = sum(means[each["name"]]["transmission"]["psnr"] * each["images"] for each in results["sets"])
    assert means["average"]["transmission"]["psnr"] == pytest.approx(weighted / 39)
    assert {row["height"] for row in results["images"] if row["set"] == "real20"} == {32}
    assert {row["tags"].get("aperture") for row in results["images"] if row["set"] == "objects"} == {"11", "32", None}
    text = " ".join(run.out.split())
    for words in ("Real20 (20)", "SIR² Wild (3)", "average", "YTMT (UCT)", "23.09–23.26 / 0.802–0.806", "NeurIPS 2021"):
        assert words in text, words
    assert "SIR² Wild has 3 pictures here, published numbers use 55" in text
    quiet = evaluate("benchmark=wild", "data.root=all", "published=false", folder="quiet")
    assert "NeurIPS" not in quiet.out


def test_the_sample_needs_no_data(evaluate: Evaluate) -> None:
    run = evaluate("benchmark=sample", "limit=2", "benchmark.parts.sample.eval_crop=48", "save_pictures=true")
    assert run.status == 0, run.err
    assert len(run.results["images"]) == 2
    assert "truth_reflection" in run.results["images"][0]["pictures"]


def test_sequences(evaluate: Evaluate, tmp_path: Path) -> None:
    root = layouts.seq1k(tmp_path / "seq")
    for index in range(8):
        shutil.copy(root / f"seq {index:03d}" / "T.png", save(tmp_path / f"mine/seq {index:03d}.png", noise(36, 44, 1)))
    run = evaluate("benchmark=seq1k", f"data.root={root}", "predictions=mine")
    assert run.status == 0, run.err
    assert run.results["averages"]["mine"]["seq1k"]["transmission"]["psnr"] == 100
    assert run.results["averages"]["input"]["seq1k"]["transmission"]["psnr"] < 50


@pytest.mark.parametrize("layout", [layouts.ceilnet, lambda folder: layouts.layered(folder, ["x", "y"])])
def test_a_folder_of_test_pictures_alone_will_do(evaluate: Evaluate, tmp_path: Path, layout) -> None:
    name = "ceilnet" if layout is layouts.ceilnet else "nature"
    run = evaluate(f"benchmark={name}", f"data.root={layout(tmp_path / 'data')}")
    assert run.status == 0, run.err
    assert run.results["sets"][0]["images"] == (6 if name == "ceilnet" else 2)
    assert [each["name"] for each in run.results["sets"]] == [name]  # not the photographs without truth


@pytest.mark.parametrize("name", choices("benchmark"))
def test_every_benchmark_composes(name: str) -> None:
    config = compose_config([f"benchmark={name}", "data.root=/nowhere"], "evaluate")
    assert config.benchmark.name == name
    assert config.protocol.name in choices("protocol")
    parts = {key: build(part) for key, part in config.benchmark.parts.items()}
    assert all(str(getattr(part, "root", "/nowhere")) == "/nowhere" for part in parts.values())


@pytest.mark.parametrize("name", choices("protocol"))
def test_every_protocol_composes_and_says_whose_it_is(name: str) -> None:
    # With a benchmark that would choose another one.
    protocol: Protocol = build(compose_config(["benchmark=sirs_nature", f"protocol={name}"], "evaluate").protocol)
    assert protocol.name == name
    assert protocol.source
    assert str(protocol).startswith(f"{name}: ")


@pytest.mark.parametrize("model", ["ytmt_uct", "corrn", "dynamics"])
def test_models_compose_beside_a_benchmark(model: str) -> None:
    config = compose_config(["benchmark=folder", "data.root=/nowhere", f"model={model}"], "evaluate")
    assert config.model.name == model
    assert config.benchmark.parts.pairs.root == "/nowhere"
    assert config.trainer.max_epochs == 1


# -- crash and resume -------------------------------------------------------------------------------------------------


def crash_after(monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException]) -> Counter[tuple[str, str]]:
    """Let scoring fail after some rows; returns how often each entry was scored on each picture."""
    scored: Counter[tuple[str, str]] = Counter()
    whole = Scorer._row

    def row(self: Scorer, entry: Any, batch: Any, *arguments: Any) -> Any:
        if sum(scored.values()) >= count:
            raise error("power cut")
        scored[entry.name, batch["name"][0]] += 1
        return whole(self, entry, batch, *arguments)

    monkeypatch.setattr(Scorer, "_row", row)
    return scored


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_a_crash_nothing_is_scored_twice(
    evaluate: Evaluate, pairs: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    common = ("benchmark=folder", f"data.root={pairs}", f"ckpt={checkpoint}")
    wanted = evaluate(*common, folder="whole").results
    with monkeypatch.context() as patch:
        before = crash_after(patch, 5, error)
        if error is OSError:
            with pytest.raises(OSError, match="power cut"):
                evaluate(*common)
        else:
            run = evaluate(*common)
            refused(run, "Interrupted; 5 scores", "/run continues from there", status=130)
    folder = Path.cwd() / "run"
    assert not (folder / "results.json").exists()
    (log,) = folder.glob("images.rank*.jsonl")
    assert len(log.read_text().splitlines()) == 5
    # The last line was cut off in the middle.
    os.truncate(log, log.stat().st_size - 20)
    with monkeypatch.context() as patch:
        after = crash_after(patch, 99, error)
        run = evaluate(*common, "resume=run", folder=None)
    assert run.status == 0, run.err
    assert sum(before.values()) == 5
    assert sum(after.values()) == 6  # of ten, four were whole
    assert sum((before & after).values()) == 1
    results = json.loads((folder / "results.json").read_text())
    assert timeless(results["images"]) == timeless(wanted["images"])
    assert results["averages"] == wanted["averages"]
    # Once more: nothing is left to do, and the result is there again.
    with monkeypatch.context() as patch:
        assert not crash_after(patch, 0, error)
        assert evaluate(*common, "resume=run", folder=None).status == 0


def test_resuming_is_refused_when_something_differs(
    evaluate: Evaluate, pairs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    common = ("benchmark=folder", f"data.root={pairs}")
    assert evaluate(*common, f"ckpt={checkpoint}").status == 0
    other = write_checkpoint(tmp_path / "other.ckpt", seed=1)
    refused(evaluate(*common, f"ckpt={other}", "resume=run", folder=None), "different entries (ytmt_ucs)", "run")
    refused(evaluate(*common, f"ckpt={checkpoint}", "protocol=ytmt", "resume=run", folder=None), "protocol (name, ")
    save(pairs / "transmission_layer/a.png", noise(37, 52, 77))
    refused(evaluate(*common, f"ckpt={checkpoint}", "resume=run", folder=None), "different pictures (pairs)")
    refused(evaluate(*common, "resume=nowhere", folder=None), "resume=nowhere contains no evaluation")


@pytest.mark.parametrize("starter", ["torchrun", pytest.param("Lightning", marks=pytest.mark.slow)])
def test_two_processes_give_the_result_of_one(
    evaluate: Evaluate, pairs: Path, checkpoint: Path, tmp_path: Path, starter: str
) -> None:
    common = ("benchmark=folder", f"data.root={pairs}", f"ckpt={checkpoint}")
    one = evaluate(*common, folder="one")
    assert one.status == 0, one.err
    # Five pictures for two processes: one has more to do than the other.
    options = ("trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=two")
    if starter == "Lightning":
        two = command("reflectzoo.evaluate", *common, *options, cwd=tmp_path)
        assert two.status == 0, two.err
        told = two.out
    else:
        ranks = [each.result() for each in started_by_torchrun("evaluate", [*common, *options], tmp_path)]
        told = "".join(each.told for each in ranks)
        assert [each.status for each in ranks] == [0, 0], told
    first, second = (read_results(tmp_path / name) for name in ("one", "two"))
    assert timeless(second["images"]) == timeless(first["images"])
    assert second["averages"] == first["averages"]
    assert second["environment"]["processes"] == 2
    shares = [(tmp_path / "two" / f"images.rank{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 4]  # of five pictures and two entries
    scored = Counter((json.loads(line)["entry"], json.loads(line)["image"]) for share in shares for line in share)
    assert set(scored.values()) == {1}
    assert told.count("Everything is in") == 1


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ["benchmark=<name>", "real20"]),
        (["benchmark=sris"], ["no benchmark=sris", "did you mean sirs"]),
        (["benchmark=folder", "protocol=ytmd"], ["no protocol=ytmd", "did you mean ytmt"]),
        (["benchmark=folder"], ["data=pairs needs data.root=FOLDER"]),
        (["benchmark=folder", "data.root=/no/such"], ["data.root=/no/such does not exist"]),
        (["benchmark=folder", "data.root=empty"], ["holds nothing"]),
        (["benchmark=folder", "data.root=pairs", "ckpt=/no/such.ckpt"], ["ckpt=/no/such.ckpt does not exist"]),
        (["benchmark=folder", "data.root=pairs", "ckpt=text.ckpt"], ["ckpt=text.ckpt cannot be read"]),
        (
            ["benchmark=folder", "data.root=pairs", "ckpt=authors.pt"],
            ["ckpt=authors.pt was not written", "weights=FILE"],
        ),
        (["benchmark=folder", "data.root=pairs", "ckpt=net.ckpt", "model=ytmt_pas"], ["holds model=ytmt_ucs"]),
        (["benchmark=folder", "data.root=pairs", "weights=authors.pt"], ["weights=FILE needs model=<name>"]),
        (["benchmark=folder", "data.root=pairs", "model=ytmt_ucs"], ["model=ytmt_ucs alone", "weights=FILE"]),
        (
            [
                "benchmark=folder",
                "data.root=pairs",
                "model=ytmt_pas",
                "weights=authors.pt",
                "model.vgg=random",
            ],
            ["'authors.pt' does not fit model=ytmt_pas"],
        ),
        (
            ["benchmark=folder", "data.root=pairs", "model=ytmt_x", "weights=authors.pt"],
            ["no model=ytmt_x", "did you mean"],
        ),
        (["benchmark=folder", "data.root=pairs", "predictions=/no/such"], ["predictions=/no/such does not exist"]),
        (["benchmark=folder", "data.root=pairs", "predictions=empty"], ["predictions=empty holds no picture"]),
        (
            ["benchmark=folder", "data.root=pairs", "predictions=strangers"],
            ["None of the 1 pictures", "call the one for"],
        ),
        (["benchmark=folder", "data.root=pairs", "predictions={input: pairs}"], ["called 'input'"]),
        (["benchmark=folder", "data.root=pairs", "ckpt=[net.ckpt,net.ckpt]"], ["are the same"]),
        (["benchmark=folder", "data.root=pairs", "ckpt=[]"], ["ckpt must be a path"]),
        (["benchmark=folder", "data.root=pairs", "masks=/no/such"], ["masks=/no/such is not a folder"]),
        (["benchmark=folder", "data.root=pairs", "masks=strangers"], ["masks=strangers has no picture"]),
        (["benchmark=folder", "data.root=pairs", "limit=0"], ["limit must be"]),
        (["benchmark=folder", "data.root=pairs", "protocol.psnr=best"], ["must be per_channel or pooled"]),
        (["benchmark=folder", "data.root=pairs", "+protocol.resize_for.wyld={shorter: 3}"], ["'wyld'", "has pairs"]),
        (["benchmark=folder", "data.root=pairs", "protocol.resize.shorter=8"], ["too small to be scored"]),
        (["benchmark=folder", "data.root=pairs", "save_picture=true"], ["'save_picture'"]),
    ],
    ids=lambda value: " ".join(value[2:] or value) if not value or "=" in value[0] else "",
)
def test_wrong_words(
    evaluate: Evaluate, pairs: Path, checkpoint: Path, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    shutil.copy(checkpoint, tmp_path / "net.ckpt")
    torch.save({"icnn": reflectzoo.load_model(checkpoint).net.state_dict()}, tmp_path / "authors.pt")
    save(tmp_path / "strangers/stranger.png", noise(20, 20, 1))
    refused(evaluate(*overrides), *words)
    assert not list((tmp_path / "run").glob("results.*"))


def test_a_result_that_is_none_is_refused(pairs: Path, tmp_path: Path) -> None:
    from reflectzoo.errors import UserError

    with pytest.raises(UserError, match="There is no result"):
        read_results(pairs)
    (tmp_path / "results.json").write_text('{"format": "other/2"}')
    with pytest.raises(UserError, match="not a result in the format reflectzoo-results/1"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path / "results.json")


def test_broken_weights_do_not_become_numbers(evaluate: Evaluate, checkpoint: Path, tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs")
    content = torch.load(checkpoint, weights_only=True)
    for value in content["state_dict"].values():
        value.fill_(float("nan"))
    torch.save(content, tmp_path / "nan.ckpt")
    run = evaluate("benchmark=folder", "data.root=pairs", "ckpt=nan.ckpt")
    refused(run, "non-finite values for 'a' of pairs", status=1)


def test_converted_and_packaged_weights(checkpoint: Path, pairs: Path, evaluate: Evaluate) -> None:
    """Safetensors know their configuration; a model that has weights in the package needs no file."""
    ours = pairs.parent / "ours.safetensors"
    convert(checkpoint, ours)
    benchmark = ["benchmark=folder", f"data.root={pairs}", "report=false"]
    by_checkpoint = evaluate(*benchmark, f"ckpt={checkpoint}", folder="a").scores("ytmt_ucs")
    by_weights = evaluate(*benchmark, "model=ytmt_ucs", f"weights={ours}", folder="b").scores("ytmt_ucs")
    assert by_weights == by_checkpoint

    packaged = evaluate(*benchmark, "model=lite", folder="c")
    assert packaged.scores("lite").keys() == by_weights.keys()
    entry = next(each for each in packaged.results["entries"] if each["name"] == "lite")
    assert entry["sha256"] == next(each.sha256 for each in records() if each.name == "lite")
