"""ERRNet's network: the authors' recorded outputs, exact shortcuts, any size, weights from elsewhere."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.bench.registry import Options, find_subjects
from reflectzoo.errors import UserError
from reflectzoo.methods.errnet.convert import check_layout, discriminator, recognise, remap
from reflectzoo.methods.errnet.net import ERRNet, start_as_copy
from reflectzoo.nets import hypercolumn, winograd
from reflectzoo.nets.plain import plain_form
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import VGG19, load_vgg19
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"

VARIANTS: dict[str, dict[str, object]] = {
    "full": {},
    "BaseNet": {"attention": False, "pyramid": False},
    "CWC": {"pyramid": False},
    "MSC": {"attention": False},
}


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    return load_vgg19("random")


def small(hypercolumn: bool = False, width: int = 8, blocks: int = 2, **arguments: object) -> ERRNet:
    """Narrow, and filled by the parity rule: the same weights on every machine and with every version of torch."""
    net = ERRNet(hypercolumn=hypercolumn, width=width, blocks=blocks, **arguments)  # type: ignore[arg-type]
    net.load_state_dict(rule_state_dict(net, 1.4))
    with torch.no_grad():
        # With a negative output the last rectifier would cut away everything.
        net.deconv3.conv2d.weight.abs_()
    return net.eval()


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


@pytest.mark.parametrize("name", ["errnet", "errnet_rgb"])
def test_recorded_outputs_of_the_authors_program(name: str) -> None:
    """Over the hypercolumn, and over RGB at an odd size; inner features; the authors' layout."""
    lines = run_folder(RECORDED, [name])
    assert [line.verdict for line in lines] == ["pass"], "\n".join(map(str, lines))
    assert "no counterpart" not in lines[0].remark


@pytest.mark.parametrize(("hypercolumn", "number"), [(True, 18_953_379), (False, 18_576_547)])
def test_published_size(hypercolumn: bool, number: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ERRNet(hypercolumn).parameters()) == number


# ---------------------------------------------------------------------------------------------------------------------
# Shortcuts


@pytest.mark.parametrize("variant", VARIANTS)
def test_shortcuts_are_exact(variant: str) -> None:
    """Values and gradients in float64, odd size, two samples."""
    results = []
    for literal in (True, False):
        net, mixture = small(**VARIANTS[variant]).double(), image(2, 3, 37, 70).double().requires_grad_()
        with plain_form() if literal else nullcontext():
            out = net(mixture)["transmission"]
            out.square().mean().backward()
        results.append((out, {name: each.grad for name, each in net.named_parameters()}, mixture.grad))
    (theirs, their_gradients, their_back), (ours, our_gradients, our_back) = results
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-7, atol=1e-12, msg=name)
    torch.testing.assert_close(our_back, their_back, rtol=1e-7, atol=1e-12)


def test_the_hypercolumn_is_not_built(vgg: VGG19, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without and with a gradient; the gradient reaches the first layer as through the finished hypercolumn."""
    net, mixture = small(hypercolumn=True), image(2, 3, 35, 52)
    attach_vgg(net, vgg)
    with torch.no_grad(), plain_form():
        wanted = net(mixture)["transmission"]
    with plain_form():
        net(mixture)["transmission"].square().mean().backward()
    theirs = {name: each.grad.clone() for name, each in net.named_parameters() if each.grad is not None}
    monkeypatch.setattr(hypercolumn, "dense_hypercolumn", lambda features: pytest.fail("the hypercolumn was built"))
    with torch.no_grad():
        torch.testing.assert_close(net(mixture)["transmission"], wanted, rtol=0, atol=1e-5)
    net.zero_grad()
    net(mixture)["transmission"].square().mean().backward()
    for name, each in net.named_parameters():
        assert each.grad is not None, name
        # In float32 a rectifier here and there falls on its other side.
        assert (each.grad - theirs[name]).abs().max() <= 1e-3 * theirs[name].abs().max(), name


def test_benchmark_compares_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    fast = winograd.winograd
    monkeypatch.setattr(
        winograd, "winograd", lambda x, weight, bias: calls.append(tuple(weight.shape)) or fast(x, weight, bias)
    )
    rows = {row.key: row for row in find_subjects()["errnet"].comparisons(Options(shrink=8))}
    assert (rows["inference_fp32"].goal, rows["inference_memory"].goal) == (1.5, 2.0)
    rows["inference_fp32"].plain()()
    assert not calls
    rows["inference_fp32"].fast()()
    assert set(calls) == {(256, 256, 3, 3)}


# ---------------------------------------------------------------------------------------------------------------------
# What goes in and what comes out


@pytest.mark.parametrize(
    "size", [(67, 93), (1, 1), (5, 40), (31, 31), (32, 64)], ids=lambda size: f"{size[0]}x{size[1]}"
)
def test_any_size(size: tuple[int, int]) -> None:
    for variant in VARIANTS.values():
        net = small(**variant)
        with torch.no_grad():
            outputs = net(image(2, 3, *size))
        assert set(outputs) == {"transmission"}
        assert outputs["transmission"].shape == (2, 3, *size)
        assert outputs["transmission"].min() >= 0


def test_an_odd_side_grows_in_the_program_alone() -> None:
    net, mixture = small(), image(1, 3, 41, 64)
    with torch.no_grad():
        whole = net.restore(mixture)
        assert whole.shape == (1, 3, 42, 64)
        assert torch.equal(net(mixture)["transmission"], whole[..., :41, :])


def test_small_pictures_are_continued_by_their_last_pixels() -> None:
    net, mixture = small(), image(1, 3, 9, 40)
    with torch.no_grad():
        found = net(mixture)["transmission"]
        whole = net(F.pad(mixture, (0, 0, 0, 22), mode="replicate"))["transmission"]
    assert torch.equal(found, whole[..., :9, :])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str) -> None:
    net = small(width=32, **VARIANTS[variant])  # narrower, the attention's few rectifiers may all be shut
    net(image(1, 3, 32, 32))["transmission"].square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_samples_do_not_see_each_other() -> None:
    net, pictures = small(), image(2, 3, 32, 40)
    with torch.no_grad():
        both = net(pictures)["transmission"]
        alone = net(pictures[1:])["transmission"]
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)


def test_the_pyramid_sees_further_than_the_convolutions() -> None:
    near, changed = image(1, 3, 64, 96), image(1, 3, 64, 96)
    changed[..., 95] = 0
    for pyramid, seen in ((True, 64), (False, 95 - 2 * (2 * 2 + 4))):
        net = small(pyramid=pyramid, attention=False)
        with torch.no_grad():
            difference = (net(near)["transmission"] - net(changed)["transmission"])[0].abs().sum(dim=(0, 1))
        assert not difference[: min(seen, 64)].any()
        assert difference[64:].any()
        assert bool(difference[64]) == pyramid


@pytest.mark.parametrize("variant", VARIANTS)
def test_copy_starts_as_the_input(variant: str) -> None:
    torch.manual_seed(0)
    net, mixture = ERRNet(hypercolumn=False, width=16, blocks=2, **VARIANTS[variant]), image(2, 3, 34, 37)  # type: ignore[arg-type]
    start_as_copy(net)
    with torch.no_grad():
        net.deconv3.conv2d.weight[:, 3:] = 0
        torch.testing.assert_close(net(mixture)["transmission"], mixture)
    with pytest.raises(UserError, match="width=12"):
        start_as_copy(ERRNet(hypercolumn=False, width=8, blocks=1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 0}, "width must be a whole number of at least 1"),
        ({"blocks": 2.5}, "blocks must be a whole number"),
        ({"residual_scale": 0.0}, "residual_scale must be a number above 0"),
    ],
)
def test_mistakes(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ERRNet(hypercolumn=False, **arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Weights from elsewhere


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"icnn": state, "opt_g": {"state": {}}, "epoch": 60, "iterations": 463920, "netD": {}},
        lambda state: {"icnn": {f"module.{key}": value for key, value in state.items()}},
        lambda state: state,
        lambda state: {"state_dict": {f"net.{key}": value for key, value in state.items()} | {"loss.x": torch.ones(1)}},
    ],
    ids=["training", "parallel", "bare", "ours"],
)
def test_the_authors_file_loads(wrap: Any) -> None:
    source, target = small(), ERRNet(hypercolumn=False, width=8, blocks=2)
    file = wrap(source.state_dict())
    state = remap(file)
    check_layout(state, target)
    target.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert recognise(file) == (
        "errnet",
        [
            "model.net.hypercolumn=false",
            "model.net.width=8",
            "model.net.blocks=2",
            "model.net.attention=true",
            "model.net.pyramid=true",
        ],
    )


def test_the_discriminator_is_found() -> None:
    weight = torch.ones(2, 3, 3, 3)
    assert list(discriminator({"netD": {"module.body.0.weight": weight}})) == ["body.0.weight"]
    ours = {"state_dict": {"loss.terms.adversarial.discriminator.body.0.weight": weight, "net.x": weight}}
    assert list(discriminator(ours)) == ["body.0.weight"]
    assert discriminator({"icnn": {}}) == {}


def test_other_files_are_told() -> None:
    assert recognise({"icnn": {"inc.conv_l.model.0.weight": torch.ones(1)}}) is None
    assert recognise({"icnn": {"conv1.conv2d.weight": torch.ones(1, 3, 1, 1)}}) is None
    with pytest.raises(UserError, match="is not a network of ERRNet"):
        remap({"weights": nn.Linear(1, 1).state_dict()})
    state = small(pyramid=False, blocks=3).state_dict()
    with pytest.raises(
        UserError, match=r"a\.pt is a different ERRNet .*set model\.net\.blocks=3 model\.net\.pyramid=false"
    ):
        check_layout(state, small(), "a.pt")
    state = small().state_dict()
    del state["deconv2.conv2d.bias"]
    with pytest.raises(UserError, match=r"1 of its \d+ weights do not fit .*'deconv2\.conv2d\.bias'"):
        check_layout(state, small(), "a.pt")
