"""BDN: the authors' recorded outputs, the shape of the three parts, any size, weights from elsewhere, training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import TINY, Run
from torch import Tensor
from torch.nn import functional as F

from reflectzoo.bench.registry import Options, find_subjects
from reflectzoo.config import build, compose_config
from reflectzoo.data.synthesis import BDNSynthesis
from reflectzoo.errors import UserError
from reflectzoo.methods.bdn.convert import check_layout, recognise, remap
from reflectzoo.methods.bdn.net import BDNNet
from reflectzoo.nets.plain import plain_form
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"
Train = Callable[..., Run]


def small(levels: tuple[int, int, int] = (4, 3, 3), width: int = 4) -> BDNNet:
    """Narrow, and filled by the parity rule: the same weights on every machine and with every version of torch."""
    net = BDNNet(width, levels)
    net.load_state_dict(rule_state_dict(net, 1.6, {f"model{part}.model.model.3.weight": 0.25 for part in (1, 2, 3)}))
    return net.eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def test_recorded_outputs_of_the_authors_program() -> None:
    (line,) = run_folder(RECORDED, ["bdn"])
    assert line.verdict == "pass", str(line)


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in BDNNet().parameters()) == 75_162_633


def test_three_parts_in_both_directions() -> None:
    net, mixture = small(), image(1, 3, 32, 48)
    with torch.no_grad():
        outputs = net(mixture)
        x = 2 * mixture - 1
        first = net.model1(x)
        reflection = net.model2(torch.cat((first, x), 1))
        last = net.model3(torch.cat((reflection, x), 1))
    for found, wanted in zip(
        (*outputs["aux"]["transmission"], outputs["reflection"], outputs["transmission"]),
        (first, last, reflection, last),
        strict=True,
    ):
        torch.testing.assert_close(found, (wanted + 1) / 2)
    assert not torch.allclose(first, last)


def test_shortcuts_are_exact() -> None:
    net, mixture = small().double(), image(2, 3, 34, 52).double()
    with torch.no_grad():
        ours = net(mixture)
        with plain_form():
            theirs = net(mixture)
    for name in ("transmission", "reflection"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40), (36, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        outputs = small()(image(2, 3, *size))
    for each in (outputs["transmission"], outputs["reflection"], *outputs["aux"]["transmission"]):
        assert each.shape == (2, 3, *size)
        assert each.dtype == torch.float32
        assert 0 < each.min() < each.max() < 1


def test_small_and_odd_pictures_are_continued_by_reflection() -> None:
    net = small()
    with torch.no_grad():
        for size, missing in (((17, 30), (0, 0, 0, 1)), ((10, 12), (0, 4, 0, 6))):
            mixture = image(1, 3, *size)
            whole = net(F.pad(mixture, missing, mode="reflect"))["transmission"]
            torch.testing.assert_close(net(mixture)["transmission"], whole[..., : size[0], : size[1]])


def test_every_parameter_learns() -> None:
    net = small().train()
    outputs = net(image(2, 3, 32, 32))
    (outputs["transmission"].mean() + outputs["reflection"].mean()).backward()
    assert not [name for name, each in net.named_parameters() if each.grad is None]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 0}, r"model\.net\.width must be a whole number of at least 1"),
        ({"levels": (7, 5)}, r"model\.net\.levels must be a list of 3, each a whole number of at least 2"),
        ({"levels": (7, 5, 1)}, r"model\.net\.levels must be a list of 3, each a whole number of at least 2"),
    ],
)
def test_mistakes(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BDNNet(**arguments)  # type: ignore[arg-type]


def test_the_authors_file_loads() -> None:
    net = small()
    # As an old PyTorch wrote it, in parallel training.
    old = {f"module.{key}": each for key, each in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    state = remap(old)
    check_layout(state, net)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert remap(state) == state, "harmless on what is ours already"
    assert recognise(old) == ("bdn", ["model.net.width=4", "model.net.levels=[4,3,3]"])
    ours = remap({"state_dict": {f"net.{key}": value for key, value in state.items()} | {"loss.x": torch.zeros(1)}})
    assert ours.keys() == state.keys()
    assert recognise({"inc.weight": torch.zeros(1)}) is None


def test_other_files_are_told() -> None:
    with pytest.raises(UserError, match=r"not a BDN \(its first weight is 'inc\.weight'\)"):
        remap({"inc.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"width 4 with \[4, 3, 3\] levels, but the model has width 4 and \[3, 3, 3\]"):
        check_layout(small().state_dict(), small((3, 3, 3)))
    state = small().state_dict()
    del state["model2.model.model.0.bias"]
    with pytest.raises(UserError, match=r"the first is 'model2\.model\.model\.0\.bias'"):
        check_layout(state, small())


def test_benchmark_compares_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflectzoo.bench.bdn.BDNNet", lambda: small())
    rows = find_subjects()["bdn"].comparisons(Options(shrink=8))
    assert [row.key for row in rows] == ["inference_fp32", "training_fp32", "inference_bf16", "inference_memory"]
    for form in (rows[0].plain, rows[0].fast, rows[1].plain, rows[1].fast):
        form()()


def test_a_weighted_mean_of_two_photographs() -> None:
    transmission, reflection = image(2, 3, 24, 30), image(2, 3, 24, 30, seed=1)
    draws = {"beta": torch.tensor([0.2, 0.4]), "sigma": torch.tensor([0.0, 1.5]), "side": torch.tensor([7.0, 3.0])}
    plain, mixed = (BDNSynthesis(targets=each)(transmission, reflection, draws=draws) for each in ("plain", "mixed"))
    torch.testing.assert_close(plain.mixture[0], 0.8 * transmission[0] + 0.2 * reflection[0])
    taps = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 1.5**2))
    taps = torch.outer(taps, taps) / taps.sum() ** 2
    kernel = taps.expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(reflection[1:], (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
    torch.testing.assert_close(plain.reflection[1:], blurred)
    torch.testing.assert_close(plain.mixture[1:], 0.6 * transmission[1:] + 0.4 * blurred)
    assert torch.equal(plain.transmission, transmission)
    torch.testing.assert_close(mixed.transmission + mixed.reflection, mixed.mixture)
    torch.testing.assert_close(mixed.mixture, plain.mixture)
    for wrong in ({"sides": [4]}, {"targets": "both"}, {"beta": [0.5, 1.2]}):
        with pytest.raises(UserError, match="synthesis"):
            BDNSynthesis(**wrong)  # type: ignore[arg-type]


def test_recipe() -> None:
    config = compose_config(["model=bdn"])
    terms = build(config.loss).terms
    assert {name: term.weight for name, term in terms.items()} == {
        "transmission": 1.0,
        "reflection": 1.0,
        "adversarial": 0.01,
    }
    assert config.synthesis._target_.endswith("BDNSynthesis")


def test_a_run(train: Train) -> None:
    quick = ("model.net.width=4", "model.net.levels=[4,3,3]", "data.samples_per_epoch=4", "trainer.max_epochs=1")
    tiny = [word for word in TINY if not word.startswith("model.vgg")]
    run = train("model=bdn", *tiny, *quick, "test=false", "loss.terms.adversarial.discriminator.width=8")
    assert run.status == 0, run.err
    with next(run.folder.glob("logs/version_*/metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/total")]
    assert len(rows) == 2
    parts = {name: float(rows[0][f"train/{name}"]) for name in ("transmission", "reflection", "adversarial", "total")}
    assert parts["total"] == pytest.approx(
        parts["transmission"] + parts["reflection"] + 0.01 * parts["adversarial"], rel=1e-4
    )
