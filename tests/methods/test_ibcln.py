"""IBCLN: the authors' recorded outputs and losses, exact shortcuts, any size, weights from elsewhere, training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.conftest import SHARED, TINY, Run
from tests.methods.test_location_aware_net import flattened
from torch import Tensor
from torch.nn import functional as F

import reflectzoo
from reflectzoo.bench.registry import Options, find_subjects
from reflectzoo.config import build, compose_config
from reflectzoo.errors import UserError
from reflectzoo.methods.ibcln.convert import check_layout, gather, recognise, remap
from reflectzoo.methods.ibcln.module import IBCLN
from reflectzoo.methods.ibcln.net import IBCLNNet
from reflectzoo.nets import contextual, recurrent, winograd
from reflectzoo.nets.plain import plain_form
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"
Train = Callable[..., Run]


def small(width: int = 8, **arguments: object) -> IBCLNNet:
    """Narrow, and filled by the parity rule: the same weights on every machine and with every version of torch."""
    net = IBCLNNet(width=width, **arguments)  # type: ignore[arg-type]
    # With a positive gain the transmission's last rectifier would cut away nearly everything.
    net.load_state_dict(rule_state_dict(net, 1.45, {"G_T.output.0.weight": -0.6, "G_R.output.0.weight": 0.6}))
    return net.eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


# -- what the authors' program computes --------------------------------------------------------------------------------


def test_recorded_outputs_of_the_authors_program() -> None:
    """One turn from a given memory, and the cascade with both networks; the authors' layout."""
    lines = run_folder(RECORDED, ["ibcln"])
    assert [line.name for line in lines] == ["ibcln/step76x84", "ibcln/rec64x64"]
    assert [line.verdict for line in lines] == ["pass", "pass"], "\n".join(map(str, lines))
    assert not any("no counterpart" in line.remark for line in lines)


def test_recorded_losses_of_a_real_pair() -> None:
    (line,) = run_folder(RECORDED, ["losses_ibcln"])
    assert line.verdict == "pass", str(line)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="../shared/parity is not beside this repository")
def test_recorded_losses_of_a_synthetic_pair() -> None:
    (line,) = run_folder(SHARED / "parity", ["losses_ibcln/synthetic"])
    assert line.verdict == "pass", str(line)


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in IBCLNNet().parameters()) == 2 * 10_804_169


# -- shortcuts ---------------------------------------------------------------------------------------------------------


def test_shortcuts_are_exact() -> None:
    """Values and gradients in float64, odd size, two samples."""
    results = []
    for literal in (True, False):
        net, mixture = small().double(), image(2, 3, 21, 34).double().requires_grad_()
        with plain_form() if literal else nullcontext():
            outputs = flattened(net(mixture))  # type: ignore[arg-type]
            torch.stack([each.square().mean() for each in outputs.values()]).sum().backward()
        gradients = {name: each.grad for name, each in net.named_parameters() if each.requires_grad}
        results.append((outputs, gradients, mixture.grad))
    (theirs, their_gradients, their_back), (ours, our_gradients, our_back) = results
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, rtol=1e-9, atol=1e-12, msg=name)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-7, atol=1e-12, msg=name)
    torch.testing.assert_close(our_back, their_back, rtol=1e-7, atol=1e-12)


def test_shortcuts_of_inference_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fast convolution in every layer that could have it, however narrow, in float64, in many bands."""
    net, mixture = small().double(), image(2, 3, 52, 70).double()
    monkeypatch.setattr(recurrent, "_BAND", 64)
    monkeypatch.setattr(winograd, "_BAND", 36 * 64)
    taken: list[int] = []

    def always(x: Tensor, weight: Tensor) -> bool:
        taken.append(1)
        return not winograd._direct.get()

    for place in (contextual, recurrent, winograd):
        monkeypatch.setattr(place, "winograd_is_faster", always)
    with torch.inference_mode():
        ours = flattened(net(mixture))  # type: ignore[arg-type]
        assert len(taken) > 50
        with plain_form():
            theirs = flattened(net(mixture))  # type: ignore[arg-type]
    for name, each in theirs.items():
        torch.testing.assert_close(ours[name], each, rtol=1e-9, atol=1e-11, msg=name)


def test_benchmark_compares_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(contextual, "winograd_is_faster", lambda *arguments: bool(asked.append(1)))
    monkeypatch.setattr("reflectzoo.bench.ibcln.IBCLNNet", lambda: IBCLNNet(width=4))
    rows = {row.key: row for row in find_subjects()["ibcln"].comparisons(Options(shrink=16))}
    assert [row.bf16 for row in rows.values()] == ["bf16" in key for key in rows]
    for key in ("inference_fp32", "training_fp32"):
        rows[key].plain()()
        assert not asked, key
    rows["inference_fp32"].fast()()
    assert asked


# -- what goes in and what comes out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40), (16, 24)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size(size: tuple[int, int]) -> None:
    height, width = size
    with torch.no_grad():
        outputs = small(width=4)(image(2, 3, *size))
    shapes = {
        "transmission": (2, 3, height, width),
        "reflection": (2, 3, height, width),
        "quarter": (2, 3, -(-height // 4), -(-width // 4)),
        "half": (2, 3, -(-height // 2), -(-width // 2)),
    }
    assert {name: [tuple(each.shape) for each in images] for name, images in outputs["aux"].items()} == {
        name: [shape] * 3 for name, shape in shapes.items()
    }
    for name in ("transmission", "reflection"):
        assert torch.equal(outputs[name], outputs["aux"][name][-1])  # type: ignore[literal-required]
        assert outputs[name].min() >= 0  # type: ignore[literal-required]


def test_the_networks_take_turns() -> None:
    """The reflection already sees the new transmission; the first one sees 0.1 for it; both remember."""
    net, mixture = small(iterations=2), image(1, 3, 24, 24)
    with torch.no_grad():
        lists = net(mixture)["aux"]
        first = net.G_T(torch.cat((mixture, mixture, torch.full_like(mixture, 0.1)), 1))
        reflected = net.G_R(torch.cat((mixture, first.image, torch.full_like(mixture, 0.1)), 1))
        second = net.G_T(torch.cat((mixture, first.image, reflected.image), 1), first.state)
        forgetful = net.G_T(torch.cat((mixture, first.image, reflected.image), 1))
    torch.testing.assert_close(lists["transmission"][0], first.image)
    torch.testing.assert_close(lists["reflection"][0], reflected.image)
    torch.testing.assert_close(lists["transmission"][1], second.image)
    assert not torch.allclose(forgetful.image, second.image)


def test_other_sizes_are_continued_by_reflection() -> None:
    net, mixture = small(width=4), image(1, 3, 50, 61)
    with torch.no_grad():
        found = net(mixture)["transmission"]
        whole = net(F.pad(mixture, (0, 3, 0, 2), mode="reflect"))["transmission"]
    assert torch.equal(found, whole[..., :50, :61])


def test_memory_and_images_stay_in_full_precision() -> None:
    net, mixture = small(), image(1, 3, 16, 16)
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient), torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = flattened(net(mixture.bfloat16()))  # type: ignore[arg-type]
            state = net.G_T(torch.cat((mixture,) * 3, 1)).state
        assert {each.dtype for each in (*outputs.values(), *state)} == {torch.float32}


def test_every_trained_parameter_learns() -> None:
    net = small().train()
    outputs = net(image(2, 3, 24, 24))
    torch.stack([each.mean() for each in flattened(outputs).values()]).sum().backward()  # type: ignore[arg-type]
    silent = {name for name, each in net.named_parameters() if each.grad is None}
    assert silent == {name for name, each in net.named_parameters() if not each.requires_grad}
    assert {name.split(".")[1] for name in silent} == {"outframe1", "outframe2"}
    assert all(name.startswith("G_R.") for name in silent), "no loss looks at coarse reflections"


def test_dropout_is_for_training() -> None:
    net, mixture = small(), image(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(mixture)["transmission"], net(mixture)["transmission"])
        net.train()
        assert not torch.equal(net(mixture)["transmission"], net(mixture)["transmission"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 1}, r"model\.net\.width must be a whole number of at least 2"),
        ({"iterations": 0}, r"model\.net\.iterations must be a whole number of at least 1"),
        ({"dropout": 1.0}, r"model\.net\.dropout must be a number of at least 0 and below 1"),
    ],
)
def test_mistakes(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        IBCLNNet(**arguments)  # type: ignore[arg-type]


# -- weights from elsewhere --------------------------------------------------------------------------------------------


def in_the_authors_layout(net: IBCLNNet) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"G_T": {}, "G_R": {}}
    for key, value in net.state_dict().items():
        part, _, rest = key.partition(".")
        if rest.startswith("lstm.gates"):
            gates = zip("igof", value.chunk(4), strict=True)
            parts[part] |= {f"conv_{gate}.0.{rest.rpartition('.')[2]}": each for gate, each in gates}
        else:
            parts[part][rest] = value
    return parts


def test_the_authors_two_files_load(tmp_path: Path) -> None:
    net = small(width=4)
    for part, state in in_the_authors_layout(net).items():
        torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / f"80_net_{part}.pth")
    one = tmp_path / "80_net_G_R.pth"
    state = remap(gather(one, torch.load(one, weights_only=True)))
    check_layout(state, net)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert remap(state) == state, "harmless on what is ours already"
    assert recognise(state) == ("ibcln", ["model.net.width=4"])
    ours = remap({"state_dict": {f"net.{key}": value for key, value in state.items()} | {"loss.x": torch.zeros(1)}})
    assert ours.keys() == state.keys()
    assert gather(one, {"epoch": 3}) == {"epoch": 3}, "other files are left alone"


def test_one_of_the_two_files_alone(tmp_path: Path) -> None:
    state = in_the_authors_layout(small(width=4))["G_T"]
    assert recognise(state) is None
    with pytest.raises(UserError, match=r"put the other one, 80_net_G_R\.pth, beside it"):
        gather(tmp_path / "80_net_G_T.pth", state)
    with pytest.raises(UserError, match="its name does not say which"):
        gather(tmp_path / "transmission.pth", state)
    torch.save({"epoch": 1}, tmp_path / "net_G_R.pth")
    with pytest.raises(UserError, match=r"net_G_R\.pth does not contain IBCLN's G_R"):
        gather(tmp_path / "net_G_T.pth", state)


def test_other_files_are_told() -> None:
    with pytest.raises(UserError, match=r"not a IBCLN|not an IBCLN"):
        remap({"inc.weight": torch.zeros(1)})
    broken = in_the_authors_layout(small(width=4))
    del broken["G_R"]["conv_f.0.weight"]
    with pytest.raises(UserError, match=r"but not 'G_R\.conv_f\.0\.weight'"):
        remap(broken)
    with pytest.raises(UserError, match=r"set model\.net\.width=8"):
        check_layout(small().state_dict(), small(width=4))
    state = small(width=4).state_dict()
    del state["G_R.conv1.0.bias"]
    with pytest.raises(UserError, match=r"the first is 'G_R\.conv1\.0\.bias'"):
        check_layout(state, small(width=4))


# -- training ----------------------------------------------------------------------------------------------------------

TERMS = {"pixel": 1.0, "residual": 10.0, "reflection": 10.0, "perceptual": 1.0, "adversarial": 0.01}


def test_recipe() -> None:
    config = compose_config(["model=ibcln", "data=mixture_ibcln"])
    loss = build(config.loss)
    assert {name: term.weight for name, term in loss.terms.items()} == TERMS
    assert loss.terms["perceptual"].layers == {"relu1_1": pytest.approx(1 / 2.6), "relu2_1": pytest.approx(1 / 4.8)}
    assert (config.data.samples_per_epoch, config.data.batch_size, config.data.crop) == (4000, 2, 256)
    assert config.data.ratios.zhang + config.data.ratios.nature == pytest.approx(0.3)
    assert [config.data.parts[part].augment for part in ("voc", "zhang", "nature")] == ["whole", "square", "square"]
    assert (config.trainer.max_epochs, build(config.scheduler) or None) == (80, None)
    assert (config.synthesis.sigma, config.synthesis.alpha) == ([2.0, 5.0], [0.8, 1.0])
    optimizer = build(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (2e-4, (0.5, 0.999))


def test_first_weights() -> None:
    model = reflectzoo.create_model("ibcln", "model.net.width=8", "model.vgg=random")
    weights = torch.cat([m.weight.flatten() for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    with pytest.raises(UserError, match=r"model\.init"):
        reflectzoo.create_model("ibcln", "model.net.width=8", "model.vgg=random", "model.init=zero")


def test_start_as_a_copy() -> None:
    torch.manual_seed(0)
    net = IBCLNNet(width=8, dropout=0)
    IBCLN(net, build(compose_config(["loss=pixel"]).loss), SimpleNamespace, init="copy")
    mixture = F.interpolate(torch.rand(1, 3, 6, 6), (48, 48), mode="bilinear")
    outputs = net(mixture)
    for each in outputs["aux"]["transmission"]:
        torch.testing.assert_close(each, mixture)
    assert outputs["reflection"].mean().item() == pytest.approx(0.1, abs=0.1)
    outputs["transmission"].mean().backward()
    # What the last layer does not look at yet has no gradient yet, but the last layer has one for it.
    assert net.G_T.output[0].weight.grad[:, 3:].abs().max() > 0
    with pytest.raises(UserError, match="set a larger model"):
        IBCLN(IBCLNNet(width=2), build(compose_config(["loss=pixel"]).loss), SimpleNamespace, init="copy")


def test_a_run(train: Train) -> None:
    quick = ("model.net.width=4", "data.samples_per_epoch=4", "trainer.max_epochs=1", "test=false")
    run = train("model=ibcln", *TINY, *quick, "loss.terms.adversarial.discriminator.width=8")
    assert run.status == 0, run.err
    with next(run.folder.glob("logs/version_*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[float]:
        return [float(row[f"train/{name}"]) for row in rows if row.get(f"train/{name}")]

    for term in ("total", *TERMS, "discriminator"):
        assert len(column(term)) == 2, term
    total = sum(weight * column(term)[0] for term, weight in TERMS.items())
    assert total == pytest.approx(column("total")[0], rel=1e-4)
    assert column("residual")[0] > 0, "alpha reached the loss"
