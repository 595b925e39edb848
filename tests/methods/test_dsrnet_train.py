"""DSRNet through the command line: the recipe, the data of both settings, a run."""

from __future__ import annotations

import csv
from collections.abc import Callable

import pytest
import torch
from tests.conftest import TINY, Run

from reflectzoo.config import compose_config
from reflectzoo.core.batch import Batch
from reflectzoo.errors import UserError
from reflectzoo.losses.reconstruction import ReconstructionLoss

Train = Callable[..., Run]

SMALL = (
    "model=dsrnet_s",
    *TINY,
    "model.net.encoder=[1]",
    "model.net.middle=1",
    "model.net.decoder=[1]",
    "model.net.residue=[1,1]",
    "model.net.hypercolumn=false",
    "+loss.terms.perceptual.layers={relu1_2: 1.0}",
    "data.samples_per_epoch=4",
    "trainer.max_epochs=1",
)


def test_recipe() -> None:
    config = compose_config(["model=dsrnet_l", "data=mixture_dsrnet_without_nature"])
    assert {name: term.weight for name, term in config.loss.terms.items()} == {
        "transmission_pixel": 1.0,
        "reflection_pixel": 1.0,
        "perceptual": 0.01,
        "exclusion": 1.0,
        "reconstruction": 0.2,
    }
    assert (config.optimizer.lr, config.trainer.max_epochs) == (1e-4, 50)
    assert not config.scheduler
    assert config.data.ratios == {"voc": 0.7, "zhang": 0.3}
    assert config.data.parts.zhang.rotate == 0.5
    assert config.synthesis.screen == 0.7
    second = compose_config(["model=dsrnet_l", "data=mixture_dsrnet", "model.epochs=120"])
    assert second.data.ratios == {"voc": 0.6, "zhang": 0.2, "nature": 0.2}
    assert (second.data.samples_per_epoch, second.trainer.max_epochs) == (4000, 120)


def test_the_residue_is_part_of_the_sum() -> None:
    ones = torch.ones(1, 3, 4, 4)
    outputs = {"transmission": 0.5 * ones, "reflection": 0.25 * ones}
    batch: Batch = {"mixture": ones}  # type: ignore[typeddict-item]
    assert ReconstructionLoss()(outputs, batch).item() == pytest.approx(0.25)
    with_residue = {**outputs, "aux": {"residue": 0.2 * ones}}
    assert ReconstructionLoss(residue=True)(with_residue, batch).item() == pytest.approx(0.05)
    with pytest.raises(UserError, match=r"aux\['residue'\]"):
        ReconstructionLoss(residue=True)(outputs, batch)


def test_a_run(train: Train) -> None:
    run = train(*SMALL, "model.init=copy")
    assert run.status == 0, run.err
    rows = list(csv.DictReader(next(run.folder.glob("logs/version_*/metrics.csv")).open()))
    totals = [row for row in rows if row.get("train/total")]
    weights = {
        "transmission_pixel": 1,
        "reflection_pixel": 1,
        "perceptual": 0.01,
        "exclusion": 1,
        "reconstruction": 0.2,
    }
    assert len(totals) == 2
    for row in totals:
        assert sum(weight * float(row[f"train/{name}"]) for name, weight in weights.items()) == pytest.approx(
            float(row["train/total"]), rel=1e-4
        )
    refused = train(*SMALL, "model.init=zero", folder="refused")
    assert refused.status == 2
    assert "model.init must be default or copy" in refused.sentence
