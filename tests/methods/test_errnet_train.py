"""ERRNet through the command line: the recipe, both phases, real and unaligned pairs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY, TINY_GAN, Run
from torch import Tensor

from reflectzoo.config import build, compose_config
from reflectzoo.methods.errnet.net import ERRNet

Train = Callable[..., Run]

SMALL = ("model=errnet", *TINY, "model.net.hypercolumn=false", "model.net.blocks=1", *TINY_GAN)
SHALLOW = ("+loss.terms.perceptual.layers={relu1_2: 1.0}", "+loss.terms.unaligned.layers={conv1_2: 1.0}")
"""Only the first block of the VGG, which is slow on a CPU."""


def column(run: Run, name: str) -> list[float]:
    file = next(run.folder.glob("logs/version_*/metrics.csv"))
    return [float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)]


def saved(run: Run) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return content


def rates(*overrides: str) -> list[float]:
    config = compose_config(list(overrides))
    optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule, found = build(config.scheduler)(optimizer), []
    for _ in range(config.trainer.max_epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_recipe() -> None:
    config = compose_config(["model=errnet", "data=mixture_errnet"])
    assert rates("model=errnet") == pytest.approx(
        [1e-4] * 30 + [5e-5] * 10 + [1e-5] * 5 + [5e-5] * 5 + [1e-5] * 10, rel=1e-9
    )
    assert {name: (term.weight, term.get("start_epoch", 0)) for name, term in config.loss.terms.items()} == {
        "pixel": (1.0, 0),
        "perceptual": (0.1, 0),
        "adversarial": (0.01, 20),
        "unaligned": (0.1, 0),
    }
    assert (config.loss.terms.pixel.mse, config.loss.terms.pixel.gradient) == (0.2, 0.4)
    assert config.data.ratios == {"voc": 0.7, "zhang": 0.3}
    assert config.data.later == {45: {"voc": 0.5, "zhang": 0.5}}


def test_recipe_of_the_second_phase() -> None:
    words = ("experiment=errnet_unaligned", "model.stage1_ckpt=x")
    config = compose_config(list(words))
    assert rates(*words) == pytest.approx([1e-4] * 5 + [5e-5] * 5 + [1e-5] * 10, rel=1e-9)
    assert config.data.ratios == {"voc": 0.25, "zhang": 0.25, "unaligned": 0.5}
    assert config.loss.terms.adversarial.start_epoch == 0
    assert config.loss.terms.adversarial.unaligned
    assert config.loss.terms.unaligned.form == "features"


def test_a_run_over_the_hypercolumn(train: Train) -> None:
    small = [word for word in SMALL if "hypercolumn" not in word]
    run = train(*small, "trainer.max_epochs=1", "data.samples_per_epoch=4", "test=false")
    assert run.status == 0, run.err
    for term in ("pixel", "perceptual", "adversarial", "discriminator"):
        assert len(column(run, f"train/{term}")) == 2, term
    assert not any(column(run, "train/unaligned")), "there are no unaligned pairs"
    parts = {"pixel": 1.0, "perceptual": 0.1, "adversarial": 0.01}
    assert sum(weight * column(run, f"train/{name}")[0] for name, weight in parts.items()) == pytest.approx(
        column(run, "train/total")[0], rel=1e-4
    )


def test_unaligned_pairs_after_a_first_phase(train: Train, tmp_path: Path) -> None:
    """The second phase starts from the first one's network and discriminator, and sees all three kinds of pairs."""
    rng = np.random.default_rng(0)
    for part in ("real", "unaligned"):
        for folder in ("blended", "transmission_layer"):
            path = tmp_path / "pairs" / part / "train" / folder
            path.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(path / f"{index}.png")
    quick = [word for word in SMALL if not word.startswith(("data.eval_crop", "trainer.max_epochs"))]
    first = train(*SMALL, *SHALLOW, "model.init=copy", "model.net.width=12", "trainer.max_epochs=1", folder="first")
    assert first.status == 0, first.err
    second = train(
        "experiment=errnet_unaligned",
        *quick[1:],
        *SHALLOW,
        "model.net.width=12",
        f"model.stage1_ckpt={first.folder}/checkpoints/last.ckpt",
        "data=mixture",
        *("~data.parts.voc", "~data.parts.zhang", "+data@data.parts.photos=sample", "data.parts.photos.crop=32"),
        *("data.parts.photos.eval_crop=32", "+data@data.parts.pairs=nature", "data.parts.pairs.crop=32"),
        f"data.parts.pairs.root={tmp_path}/pairs/real",
        *("+data@data.parts.unaligned=unaligned", f"data.parts.unaligned.root={tmp_path}/pairs/unaligned"),
        *("data.parts.unaligned.crop=32", "data.validate=[photos]", "data.test=[photos]", "~data.ratios"),
        "+data.ratios={photos: 0.3, pairs: 0.2, unaligned: 0.5}",
        *("trainer.max_epochs=1", "optimizer.lr=0.0", "test=false"),
        folder="second",
    )
    assert second.status == 0, second.err
    assert any(column(second, "train/unaligned"))
    assert any(column(second, "train/pixel"))
    before, after = saved(first), saved(second)
    # With a learning rate of 0 what it started from is what it ends with.
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_authors_file_starts_a_second_phase(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = ERRNet(hypercolumn=False, width=8, blocks=1)
    torch.save({"icnn": source.state_dict(), "epoch": 60, "netD": {"other": torch.zeros(1)}}, tmp_path / "authors.pt")
    words = (*SMALL, "~loss.terms.perceptual", "model.stage1_ckpt=authors.pt", "test=false", "optimizer.lr=0.0")
    run = train(*words, "trainer.max_epochs=1")
    assert run.status == 0, run.err
    assert torch.equal(saved(run)["net.deconv3.conv2d.weight"], source.deconv3.conv2d.weight)
    other = train(*words, "model.net.blocks=2", folder="other")
    assert other.status == 2
    assert "set model.net.blocks=1" in other.sentence
