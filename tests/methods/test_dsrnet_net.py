"""DSRNet's network: the authors' recorded outputs, exact shortcuts, any size, weights from elsewhere."""

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
from reflectzoo.inference.convert import convert
from reflectzoo.inference.load import open_file
from reflectzoo.methods.dsrnet import blocks
from reflectzoo.methods.dsrnet.blocks import MutualBlock, SingleBlock
from reflectzoo.methods.dsrnet.convert import check_layout, recognise, remap
from reflectzoo.methods.dsrnet.net import DSRNet, start_as_copy
from reflectzoo.nets.plain import plain_form
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.nets.vgg import VGG19, load_vgg19
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"
TINY = {"width": 8, "encoder": [1, 1], "middle": 1, "decoder": [1, 1], "residue": [1, 1]}


@pytest.fixture(scope="module")
def vgg() -> VGG19:
    return load_vgg19("random")


@pytest.fixture(scope="module")
def net(vgg: VGG19) -> DSRNet:
    """Tiny, its blocks no longer the identity."""
    return vivid(small(vgg))


def small(vgg: VGG19, **settings: Any) -> DSRNet:
    torch.manual_seed(0)
    net = DSRNet(**{**TINY, **settings})
    attach_vgg(net, vgg)
    return net.eval()


def vivid(net: Any) -> Any:
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name in ("a", "b", "a_l", "a_r", "b_l", "b_r"):
                nn.init.normal_(parameter, std=0.5)
    return net


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def layers(outputs: Any) -> dict[str, Tensor]:
    return {name: outputs[name] for name in ("transmission", "reflection")} | {"residue": outputs["aux"]["residue"]}


def test_recorded_outputs_of_the_authors_program() -> None:
    """A small one, with inner features of both streams and the authors' layout."""
    (line,) = run_folder(RECORDED, ["dsrnet_small"])
    assert line.verdict == "pass", str(line)
    assert "no counterpart" not in line.remark


def test_published_sizes() -> None:
    with torch.device("meta"):
        large = DSRNet()
        published = DSRNet(32, [2, 2, 2], 4, [2, 2, 2], [2, 4], shared_b=False)
    assert sum(parameter.numel() for parameter in large.parameters()) == 124_602_022
    assert (large.stride, published.stride) == (16, 16)


# ---------------------------------------------------------------------------------------------------------------------
# Shortcuts


@pytest.mark.parametrize("band", [1, 2**19], ids=["row by row", "at once"])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("kind", ["mutual", "mutual, shared b", "single"])
def test_blocks_are_exact(kind: str, twins: bool, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bands, and with equal streams computed once; values, and gradients of what is not in bands."""
    monkeypatch.setattr(blocks, "_BAND_CPU", band)
    torch.manual_seed(0)
    block = vivid(SingleBlock(6) if kind == "single" else MutualBlock(6, "shared" in kind)).double()
    if twins and kind == "single":
        pytest.skip("one stream has no twin")
    x = torch.randn(4, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    with plain_form():
        wanted = block(x, twins)
    assert wanted.shape == ((8, 6, 5, 7) if twins else x.shape)
    assert (wanted[: len(x)] - x).abs().max() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(block(x, twins), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(block(x, twins), wanted, rtol=0, atol=1e-12)
    upstream = torch.randn(wanted.shape, dtype=torch.float64)
    leaves = [x, *block.parameters()]
    theirs = torch.autograd.grad(wanted, leaves, upstream)
    for found, expected in zip(torch.autograd.grad(block(x, twins), leaves, upstream), theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_shortcuts_are_exact(vgg: VGG19, net: DSRNet) -> None:
    """The whole network, with and without gradients, of an odd size."""
    mixture = image(1, 3, 21, 33)
    with torch.no_grad():
        with plain_form():
            wanted = layers(net(mixture))
        for name, found in layers(net(mixture)).items():
            assert wanted[name].std() > 0.01
            torch.testing.assert_close(found, wanted[name], rtol=0, atol=2e-5, msg=name)
    gradients = []
    for literal in (True, False):
        net.zero_grad()
        with plain_form() if literal else nullcontext():
            sum(each.square().mean() for each in layers(net(mixture)).values()).backward()
        gradients.append({name: each.grad for name, each in net.named_parameters()})
    for name, expected in gradients[0].items():
        assert expected is not None, name
        assert (gradients[1][name] - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-7, name
    net.zero_grad()


def test_benchmark_compares_what_it_says(vgg: VGG19, monkeypatch: pytest.MonkeyPatch) -> None:
    from reflectzoo.bench import dsrnet

    monkeypatch.setattr(dsrnet, "DSRNet", lambda: DSRNet(**TINY))
    monkeypatch.setattr(dsrnet, "load_vgg19", lambda _: vgg)
    calls: list[int] = []
    banded = blocks._Gated._in_bands
    monkeypatch.setattr(blocks._Gated, "_in_bands", lambda *arguments: calls.append(1) or banded(*arguments))
    rows = {row.key: row for row in find_subjects()["dsrnet"].comparisons(Options(shrink=8))}
    assert set(rows) == {"inference_fp32", "training_fp32", "inference_bf16", "inference_memory"}
    rows["inference_fp32"].plain()()
    assert not calls
    rows["inference_fp32"].fast()()
    assert calls


def test_bands_hold_less() -> None:
    from reflectzoo.inference.tiles import bytes_per_pixel

    net = DSRNet(**TINY | {"width": 16}, hypercolumn=False)
    with torch.no_grad():
        fast = bytes_per_pixel(net, torch.device("cpu"))
        with plain_form():
            plain = bytes_per_pixel(net, torch.device("cpu"))
    assert fast < 0.8 * plain


# ---------------------------------------------------------------------------------------------------------------------
# What goes in and what comes out


@pytest.mark.parametrize("size", [(35, 52), (1, 1), (5, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size(net: DSRNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        found = layers(net(image(2, 3, *size)))
    assert {each.shape for each in found.values()} == {(2, 3, *size)}
    assert found["residue"].abs().max() < 1


def test_other_sizes_are_continued_by_reflection(net: DSRNet) -> None:
    mixture = image(1, 3, 30, 48)
    with torch.no_grad():
        found = net(mixture)["transmission"]
        whole = net(F.pad(mixture, (0, 0, 0, 2), mode="reflect"))["transmission"]
    assert torch.equal(found, whole[..., :30, :])


def test_samples_do_not_see_each_other(net: DSRNet) -> None:
    pictures = image(2, 3, 32, 32)
    with torch.no_grad():
        both, alone = layers(net(pictures)), layers(net(pictures[1:]))
    for name, each in both.items():
        torch.testing.assert_close(each[1:], alone[name], rtol=0, atol=1e-5)


def test_without_vgg() -> None:
    torch.manual_seed(0)
    net, mixture = vivid(DSRNet(**TINY, hypercolumn=False)).double(), image(2, 3, 22, 19).double()
    assert net.stride == 4
    with plain_form():
        wanted = layers(net(mixture))
    with torch.no_grad():
        for name, found in layers(net(mixture)).items():
            torch.testing.assert_close(found, wanted[name], rtol=0, atol=1e-12, msg=name)


def test_bf16() -> None:
    torch.manual_seed(0)
    net, mixture = vivid(DSRNet(**TINY, hypercolumn=False)), image(1, 3, 32, 48)
    with torch.no_grad():
        exact = layers(net(mixture))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layers(net(mixture))
    for name, each in found.items():
        assert (each.float() - exact[name]).abs().mean() < 0.1 * exact[name].std(), name


@pytest.mark.parametrize("hypercolumn", [True, False])
def test_copy_starts_as_the_input(vgg: VGG19, hypercolumn: bool) -> None:
    net, mixture = small(vgg, hypercolumn=hypercolumn), image(1, 3, 32, 48)
    start_as_copy(net)
    with torch.no_grad():
        net.ending.seq[0].weight[:, 3:] = 0
        found = layers(net(mixture))
    torch.testing.assert_close(found["transmission"], mixture)
    torch.testing.assert_close(found["reflection"], mixture)
    assert not found["residue"].any()
    with pytest.raises(UserError, match="width=3"):
        start_as_copy(small(vgg, width=2))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"width": 0}, "width must be a whole number of at least 1"),
        ({"encoder": [1], "decoder": [1, 1]}, "the same number of levels"),
        ({"residue": [1]}, "residue must be a list of 2, each a whole number"),
        ({"encoder": [1, 0]}, "model.net.encoder must be a list with entries, each a whole number of at least 1"),
    ],
)
def test_mistakes(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence), torch.device("meta"):
        DSRNet(**{**TINY, **arguments})


# ---------------------------------------------------------------------------------------------------------------------
# Weights from elsewhere


def authors(net: DSRNet) -> dict[str, Tensor]:
    """The layout of their files: the residue's streams each by itself."""
    found: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        if key.startswith("lrm.") and ".seq." in key:
            found |= {key.replace(".seq.", f".seq_{stream}."): value for stream in "lr"}
        else:
            found[key] = value
    return found


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"weight": state, "epoch": 18, "iterations": 1, "opt_g": {"state": {}}},
        lambda state: {"icnn": {f"module.{key}": value for key, value in state.items()}, "epoch": 1},
        lambda state: {"state_dict": {f"net_g.{key}": value for key, value in state.items()}},
        lambda state: state,
    ],
    ids=["training", "older", "XReflection", "bare"],
)
def test_the_authors_file_loads(net: DSRNet, wrap: Any) -> None:
    file = wrap(authors(net))
    state = remap(file)
    check_layout(state, net)
    assert state.keys() == net.state_dict().keys()
    assert recognise(file) == (
        "dsrnet_s",
        [
            "model.net.width=8",
            "model.net.encoder=[1,1]",
            "model.net.middle=1",
            "model.net.decoder=[1,1]",
            "model.net.residue=[1,1]",
            "model.net.shared_b=true",
            "model.net.hypercolumn=true",
        ],
    )


def test_the_authors_file_is_converted(net: DSRNet, tmp_path: Path) -> None:
    torch.save({"weight": authors(net), "epoch": 14, "iterations": 1}, tmp_path / "dsrnet_s_epoch14.pt")
    done = convert(tmp_path / "dsrnet_s_epoch14.pt", tmp_path / "ours.safetensors")
    assert done.model == "dsrnet_s"
    found = open_file(tmp_path / "ours.safetensors").net.state_dict()
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(each, found[key]) for key, each in net.state_dict().items())


def test_other_files_are_told(net: DSRNet) -> None:
    assert recognise({"icnn": {"conv1.conv2d.weight": torch.ones(1, 3, 1, 1)}}) is None
    with pytest.raises(UserError, match="is not a DSRNet"):
        remap({"weights": nn.Linear(1, 1).state_dict()})
    state = authors(net)
    state["lrm.intro.seq_r.0.bias"] = state["lrm.intro.seq_r.0.bias"] + 1
    with pytest.raises(UserError, match=r"two layers in place of 'lrm\.intro\.seq\.0\.bias'"):
        remap(state)
    with torch.device("meta"):
        other = DSRNet(**{**TINY, "residue": [1, 2], "shared_b": False})
    with pytest.raises(UserError, match=r"a\.pt is a different DSRNet .*set 'model\.net\.residue=\[1,1\]' 'model"):
        check_layout(net.state_dict(), other, "a.pt")
    less = dict(net.state_dict())
    del less["ending.seq.0.bias"]
    with pytest.raises(UserError, match=r"1 of its \d+ weights do not fit .*'ending\.seq\.0\.bias'"):
        check_layout(less, net, "a.pt")
