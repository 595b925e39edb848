"""A method in a package of somebody else's does everything that one of the zoo does."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reflectzoo
from reflectzoo.core.registry import methods
from reflectzoo.inference.convert import convert
from reflectzoo.inference.load import default_model
from tests.faults.children import Child


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("away")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The checkpoint of a training, by the command line."""
    program(folder, "train", "model=veil", *SMALL)
    return next(folder.glob("outputs/veil/*/checkpoints/last.ckpt"))


def program(folder: Path, name: str, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", [name, *words])
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(f"reflectzoo.{name}").main()
    assert stop.value.code == 0


SMALL = (
    *("trainer=fast", "trainer.accelerator=cpu", "model.net.channels=4", "model.vgg=random"),
    *("data.crop=32", "data.eval_crop=32", "data.batch_size=2", "data.samples_per_epoch=4"),
)


def test_it_trains_with_its_own_loss(run: Path) -> None:
    assert "glasszoo.loss.NotBrighterLoss" in (run.parents[1] / "config.yaml").read_text()
    assert "train/not_brighter" in next(run.parents[1].rglob("metrics.csv")).read_text()


def test_it_evaluates(run: Path, folder: Path) -> None:
    program(folder, "evaluate", f"ckpt={run}", "benchmark=sample", "limit=1", "report=false", "trainer.accelerator=cpu")
    results = json.loads(next(folder.glob("outputs/evaluate/**/results.json")).read_text())
    assert [entry["model"] for entry in results["entries"] if "model" in entry] == ["veil"]


def test_weights_that_it_ships_are_its_default(
    run: Path, folder: Path, plugin_site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reflectzoo.__main__ import main

    shipped = plugin_site / "glasszoo" / "weights"
    shipped.mkdir()
    done = convert(run, shipped / "veil.safetensors")
    record = {
        "name": "veil", "model": "veil", "trained_by": "the tests", "trained_on": "the sample", "licence": "CC0-1.0",
        "file": "veil.safetensors", "sha256": done.sha256, "default": True,
    }  # fmt: skip
    (shipped / "veil.json").write_text(json.dumps(record))
    try:
        assert main(["models", "veil"]) == 0
        told = capsys.readouterr().out
        assert "veil (default)" in told
        assert "CC0-1.0" in told
        photo = folder / "photo.png"
        assert main(["remove", str(photo), "--model", "veil", "-o", str(folder / "clean.png")]) == 0
        assert Image.open(folder / "clean.png").size == (60, 40)
        model = reflectzoo.load_model("veil")
        assert (model.size.multiple, model.tiling.halo) == (2, 8)
        assert default_model() != "veil", "the zoo's own default stays"
    finally:
        (shipped / "veil.json").unlink()
        (shipped / "veil.safetensors").unlink()
        shipped.rmdir()


def test_its_authors_files_are_recognised(run: Path, tmp_path: Path) -> None:
    found = reflectzoo.load_model(run)
    theirs = {"first": "body.0", "second": "body.2", "last": "body.4"}
    state = {}
    for key, value in found.net.state_dict().items():
        layer, leaf = key.split(".")
        state[f"module.{theirs[layer]}.{leaf}"] = value
    torch.save({"epoch": 3, "params_ema": state}, tmp_path / "authors.pth")
    again = reflectzoo.load_model(tmp_path / "authors.pth")
    assert again.name == "veil"
    assert again.stored.settings["channels"] == 4
    image = torch.rand(1, 3, 9, 12)
    assert torch.equal(again(image)["transmission"], found(image)["transmission"])


def test_without_its_package_a_sentence_says_so(run: Path, folder: Path, plugin_site: Path) -> None:
    def uninstall() -> None:
        sys.path.remove(str(plugin_site))
        importlib.invalidate_caches()
        methods.cache_clear()

    done = Child("remove", ["photo.png", "--weights", str(run)], folder, prepare=uninstall).result()
    assert done.status == 2
    assert "it holds model='veil', which no installed method provides: install its package" in done.told
