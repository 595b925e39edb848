"""YTMT's networks: the authors' recorded outputs, any size, gradients, two stages."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from reflectzoo.errors import UserError
from reflectzoo.methods.ytmt.net import YTMTPlain, YTMTUNet
from reflectzoo.methods.ytmt.released import YTMTReleasedUNet
from reflectzoo.methods.ytmt.two_stage import TwoStage, two_stage_released, two_stage_unet
from reflectzoo.nets.exchange import AdditionHead, ConcatenationHead, SeparateHead
from reflectzoo.nets.hypercolumn import LEVEL_CHANNELS, dense_hypercolumn
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.parity import rule_state_dict, rule_vgg
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"

Make = Callable[[], nn.Module]

TINY: dict[str, Make] = {
    "ucs": lambda: YTMTUNet("C", hypercolumn=False, width=4),
    "uas": lambda: YTMTUNet("A", hypercolumn=False, width=4),
    "ups": lambda: YTMTUNet("P", hypercolumn=False, width=4),
    "none": lambda: YTMTUNet("none", hypercolumn=False, width=4),
    "old": lambda: YTMTReleasedUNet(hypercolumn=False, width=4),
    "pcs": lambda: YTMTPlain("C", width=4, layers=4),
    "pas": lambda: YTMTPlain("A", width=4, layers=4),
    "uct": lambda: TwoStage(YTMTUNet("C", hypercolumn=False, width=4), active_stage=2),
}
HYPER: dict[str, Make] = {
    "ucs": lambda: YTMTUNet("C", width=4),
    "uas": lambda: YTMTUNet("A", width=4),
    "old": lambda: YTMTReleasedUNet(width=4),
}


def ruled(net: nn.Module, gain: float = 2.0) -> nn.Module:
    """Fill by the parity rule: the same weights on every machine and with every version of torch."""
    net.load_state_dict(rule_state_dict(net, gain))
    return net


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def difference(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("ytmt_[!d]*.json")))
def test_recorded_outputs_of_the_authors_program(name: str) -> None:
    lines = run_folder(RECORDED, [name])

    assert lines
    assert [line.verdict for line in lines] == ["pass"] * len(lines), "\n".join(map(str, lines))


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (lambda: YTMTUNet("C"), 19_981_574),
        (lambda: YTMTUNet("P"), 19_981_574),
        (lambda: YTMTUNet("A"), 17_175_942),
        (lambda: YTMTUNet("none"), 17_175_942),
        (lambda: YTMTReleasedUNet(), 38_448_530),
        (lambda: YTMTPlain("C"), 772_496),
        (lambda: YTMTPlain("A"), 623_888),
    ],
    ids=["C", "P", "A", "none", "released", "plain C", "plain A"],
)
def test_published_size(net: Make, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count


# ---------------------------------------------------------------------------------------------------------------------
# Exchange


L, R = torch.tensor([-1.0, 2.0, 5.0]).view(1, 1, 1, 3), torch.tensor([3.0, -4.0, 6.0]).view(1, 1, 1, 3)


def test_addition_head_by_hand() -> None:
    left, right = AdditionHead()(L, R)

    assert left.flatten().tolist() == [0.0, 2.0 - 4.0, 5.0]
    assert right.flatten().tolist() == [3.0 - 1.0, 0.0, 6.0]
    assert torch.equal(left + right, L + R)  # no information is lost, Sec. 3.1


@pytest.mark.parametrize(
    ("negative", "left", "right"),
    [(True, [0.0, 2 - 40, 5.0], [3 - 100, 0.0, 6.0]), (False, [30.0, 2.0, 5 + 60], [3.0, 200.0, 6 + 500])],
    ids=["C", "P"],
)
def test_concatenation_head_by_hand(negative: bool, left: list[float], right: list[float]) -> None:
    head = ConcatenationHead(1, negative=negative)
    with torch.no_grad():
        for conv, received in ((head.fusion_l, 10.0), (head.fusion_r, 100.0)):
            conv.weight.copy_(torch.tensor([1.0, received]).view(1, 2, 1, 1))
            conv.bias.zero_()  # type: ignore[union-attr]

    found = head(L, R)

    assert found[0].flatten().tolist() == left
    assert found[1].flatten().tolist() == right


def test_without_interaction_a_stream_never_hears_of_the_other() -> None:
    assert SeparateHead()(L, R)[0].flatten().tolist() == [0.0, 2.0, 5.0]
    net = ruled(TINY["none"]()).eval()
    x, y, z = (image(1, 3, 20, 20, seed=seed) for seed in range(3))

    with torch.no_grad():
        assert torch.equal(net(x, y)["transmission"], net(x, z)["transmission"])
        assert not torch.equal(net(x, y)["reflection"], net(x, z)["reflection"])


@pytest.mark.parametrize("pattern", ["C", "A", "P"])
def test_with_interaction_both_layers_depend_on_both_inputs(pattern: str) -> None:
    net = ruled(YTMTUNet(pattern, hypercolumn=False, width=4)).eval()  # type: ignore[arg-type]
    x, y, z = (image(1, 3, 20, 20, seed=seed) for seed in range(3))

    with torch.no_grad():
        assert not torch.equal(net(x, y)["transmission"], net(x, z)["transmission"])


# ---------------------------------------------------------------------------------------------------------------------
# Any size


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40), (16, 17)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", TINY)
def test_any_size(name: str, size: tuple[int, int]) -> None:
    net = ruled(TINY[name]()).eval()

    with torch.no_grad():
        outputs = net(image(2, 3, *size))

    for layer in (outputs["transmission"], outputs["reflection"]):
        assert layer.shape == (2, 3, *size)
        assert 0 <= layer.min() <= layer.max() <= 1


@pytest.mark.parametrize("size", [(67, 93), (1, 1), (5, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size_with_hypercolumn(size: tuple[int, int]) -> None:
    net = ruled(HYPER["ucs"]()).eval()
    attach_vgg(net, rule_vgg())

    with torch.no_grad():
        outputs = net(image(1, 3, *size))

    assert outputs["transmission"].shape == outputs["reflection"].shape == (1, 3, *size)
    assert torch.isfinite(outputs["transmission"]).all()


@pytest.mark.parametrize("name", ["ucs", "old"])
def test_small_images_are_continued_by_their_last_row_and_column(name: str) -> None:
    net = ruled(TINY[name]()).eval()
    x = image(1, 3, 5, 40)

    with torch.no_grad():
        found, grown = net(x), net(F.pad(x, (0, 0, 0, 11), mode="replicate"))

    assert torch.equal(found["transmission"], grown["transmission"][..., :5, :])


# ---------------------------------------------------------------------------------------------------------------------
# Hypercolumn


@pytest.mark.parametrize("name", HYPER)
def test_shared_hypercolumn_equals_two_and_a_finished_map(name: str) -> None:
    net = ruled(HYPER[name]()).eval()
    attach_vgg(net, rule_vgg())
    x = image(2, 3, 23, 34)

    with torch.no_grad():
        joint, separate = net(x), net(x, x.clone())
        finished = net(dense_hypercolumn(net.hypercolumn(x)))

    for layer in ("transmission", "reflection"):
        assert difference(joint[layer], separate[layer]) < 1e-5
        assert difference(joint[layer], finished[layer]) < 1e-5


def test_vgg_leaves_no_trace_in_the_checkpoint_and_is_shared_by_copies() -> None:
    net = YTMTUNet("A", width=2)
    before = list(net.state_dict())
    attach_vgg(net, rule_vgg())
    two = TwoStage(net)

    assert list(net.state_dict()) == before
    assert two.icnn2.hypercolumn.vgg is net.hypercolumn.vgg  # type: ignore[union-attr]
    assert len(list(net.parameters())) == len(before)


# ---------------------------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("name", [name for name in TINY if name != "uct"])
def test_every_parameter_learns(name: str) -> None:
    wider: dict[str, Make] = {
        "old": lambda: YTMTReleasedUNet(hypercolumn=False, width=16),
        "pcs": lambda: YTMTPlain("C", width=16, layers=4),
        "pas": lambda: YTMTPlain("A", width=16, layers=4),
    }
    pattern = {"ucs": "C", "uas": "A", "ups": "P", "none": "none"}
    net = wider[name]() if name in wider else YTMTUNet(pattern[name], hypercolumn=False, width=16)  # type: ignore[arg-type]
    ruled(net, gain=1.0)
    with torch.no_grad():  # two hidden units are easily both off: that is no fault of the wiring
        for key, p in net.named_parameters():
            if key.endswith((".pa.0.bias", ".ca.0.bias")):
                p.fill_(1.0)

    outputs = net(image(2, 3, 33, 35), image(2, 3, 33, 35, seed=1))
    (outputs["transmission"].square().sum() + outputs["reflection"].square().sum()).backward()

    silent = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The released file carries two fusions that its program never uses.
    dead = [f"inc_{stream}.fusion.{leaf}" for stream in "12" for leaf in ("weight", "bias")] if name == "old" else []
    assert silent == dead
    assert [key for key, p in net.named_parameters() if not p.requires_grad] == dead


@pytest.mark.parametrize("name", HYPER)
def test_first_convolution_learns_through_the_hypercolumn(name: str) -> None:
    net = ruled(HYPER[name]())
    attach_vgg(net, rule_vgg())

    net(image(1, 3, 24, 24))["transmission"].sum().backward()

    first = net.inc_1.model[0] if name == "old" else net.inc.conv_l.model[0]
    reached = first.weight.grad.abs().sum(dim=(0, 2, 3)) > 0
    for level in reached.split([3, *LEVEL_CHANNELS]):
        assert level.float().mean() > 0.2  # a unit of VGG may well be off all over so small an image


GOLDEN = {
    # name: mean of the transmission, of the reflection, one pixel of each
    "ucs": [0.4149419, 0.4416209, 0.3507166, 0.4146490],
    "uas": [0.4126791, 0.5451615, 0.3640213, 0.5969303],
    "ups": [0.3456553, 0.3951360, 0.3185741, 0.0966471],
    "none": [0.4208824, 0.5243736, 0.4194708, 0.5943995],
    "old": [0.5127745, 0.4114482, 0.4733652, 0.4522996],
    "pcs": [0.5391733, 0.4902507, 0.5785944, 0.5492058],
    "pas": [0.4954928, 0.5147161, 0.4673020, 0.5052494],
    "uct": [0.5259823, 0.4367693, 0.5286904, 0.3933048],
}


@pytest.mark.parametrize("name", TINY)
def test_golden_output(name: str) -> None:
    net = ruled(TINY[name]()).eval()

    with torch.no_grad():
        outputs = net(image(1, 3, 19, 26))

    t, r = outputs["transmission"], outputs["reflection"]
    found = [t.mean().item(), r.mean().item(), t[0, 1, 7, 12].item(), r[0, 2, 18, 25].item()]
    assert found == pytest.approx(GOLDEN[name], abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_bf16_autocast(name: str) -> None:
    net = ruled(TINY[name]())
    x = image(1, 3, 18, 20)
    exact = net(x)["transmission"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = net(x)
    outputs["transmission"].float().sum().backward()

    assert difference(outputs["transmission"].float(), exact) < 0.05
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("name", TINY)
def test_channels_last_gives_the_same(name: str) -> None:
    net = ruled(TINY[name]()).eval()
    x = image(2, 3, 21, 18)

    with torch.no_grad():
        plain = net(x)["transmission"]
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))["transmission"]

    assert difference(plain, last) < 1e-5


def test_inputs_are_not_modified() -> None:
    for name, make in TINY.items():
        x = image(1, 3, 17, 16)
        with torch.no_grad():
            ruled(make())(x)
        assert torch.equal(x, image(1, 3, 17, 16)), name


@pytest.mark.parametrize("name", TINY)
def test_shortcuts_without_gradients_change_nothing(name: str) -> None:
    net = ruled(TINY[name]())
    x = image(2, 3, 37, 30)

    learning = net(x)
    with torch.no_grad():
        judging = net(x)

    for layer in ("transmission", "reflection"):
        assert difference(learning[layer], judging[layer]) < 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# Two stages


def two_stage(active_stage: int = 1) -> TwoStage:
    net = TwoStage(YTMTUNet("C", hypercolumn=False, width=4), active_stage=active_stage)
    ruled(net)
    return net


def test_stage_1_is_the_first_network_alone() -> None:
    net = two_stage()
    x = image(1, 3, 20, 24)

    outputs = net(x)
    (outputs["transmission"].sum() + outputs["reflection"].sum()).backward()

    assert torch.equal(outputs["transmission"], net.icnn(x)["transmission"])
    assert "stages" not in outputs
    assert all(p.grad is not None for p in net.icnn.parameters())
    assert all(p.grad is None for p in net.icnn2.parameters())


def test_stage_2_refines_the_layers_and_does_not_see_the_mixture() -> None:
    net = two_stage(active_stage=2)
    x = image(1, 3, 20, 24)

    outputs = net(x)
    with torch.no_grad():
        first = net.icnn(x)
    second = net.icnn2(first["transmission"], first["reflection"])

    for layer in ("transmission", "reflection"):
        assert torch.equal(outputs["stages"][0][layer], first[layer])
        assert torch.equal(outputs[layer], second[layer])
    (outputs["transmission"].sum() + outputs["reflection"].sum()).backward()
    assert all(p.grad is not None for p in net.icnn2.parameters())
    assert all(p.grad is None and not p.requires_grad for p in net.icnn.parameters())
    assert not outputs["stages"][0]["transmission"].requires_grad


def test_start_of_stage_2_copies_in_place_and_freezes() -> None:
    net = two_stage()
    second = list(net.icnn2.parameters())
    net(image(1, 3, 16, 16))["transmission"].sum().backward()

    net.start_stage2()

    assert net.active_stage == 2
    assert all(new is old for new, old in zip(net.icnn2.parameters(), second, strict=True))
    for ours, theirs in zip(net.icnn.parameters(), second, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert not ours.requires_grad
        assert ours.grad is None
        assert theirs.requires_grad


def test_unfreezing_stage_1_leaves_dead_weights_frozen() -> None:
    net = TwoStage(YTMTReleasedUNet(hypercolumn=False, width=2))
    net.set_active_stage(2)
    net.set_active_stage(1)

    frozen = {name for name, p in net.icnn.named_parameters() if not p.requires_grad}
    assert frozen == {"inc_1.fusion.weight", "inc_1.fusion.bias", "inc_2.fusion.weight", "inc_2.fusion.bias"}


def test_keys_are_those_of_the_authors_files() -> None:
    net = two_stage()
    single = list(net.icnn.state_dict())
    assert list(net.state_dict()) == [f"icnn.{key}" for key in single] + [f"icnn2.{key}" for key in single]


def test_two_stages_survive_copying_and_saving() -> None:
    net = two_stage(active_stage=2)
    x = image(1, 3, 16, 16)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)

    for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        assert other.active_stage == 2
        assert torch.equal(other(x)["transmission"], net(x)["transmission"])
        assert other.icnn is not net.icnn
    assert net.to(torch.float64)(x.double())["transmission"].dtype == torch.float64


def test_two_stages_under_ddp(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        net = two_stage()
        wrapped = DistributedDataParallel(net, find_unused_parameters=True)
        x = image(1, 3, 16, 16)
        for stage in (1, 2):
            net.set_active_stage(stage)
            net.zero_grad(set_to_none=True)
            plain = two_stage(active_stage=stage)
            for outputs in (wrapped(x), plain(x)):
                (outputs["transmission"].sum() + outputs["reflection"].sum()).backward()
            learning = net.icnn if stage == 1 else net.icnn2
            expected = plain.icnn if stage == 1 else plain.icnn2
            for ours, theirs in zip(learning.parameters(), expected.parameters(), strict=True):
                assert ours.grad is not None
                assert theirs.grad is not None
                assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    finally:
        torch.distributed.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: YTMTUNet("B"), "pattern must be one of C, A, P, none, got 'B'"),  # type: ignore[arg-type]
        (lambda: YTMTUNet("C", in_channels=1), "in_channels must be left out, 3 or 1475, got 1"),
        (lambda: YTMTPlain("C", layers=1), "layers must be a whole number of at least 2, got 1"),
    ],
    ids=["pattern", "in_channels", "layers"],
)
def test_impossible_networks_are_refused(make: Make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_there_is_no_third_stage() -> None:
    with pytest.raises(ValueError, match="active stage must be 1 or 2, got 3"):
        two_stage().set_active_stage(3)


def test_over_efficientnet_it_needs_no_vgg() -> None:
    net = YTMTUNet(width=4, features="efficientnet_lite0")
    assert not needs_vgg(net)
    assert net(torch.rand(1, 3, 33, 40))["transmission"].shape == (1, 3, 33, 40)
    assert net.in_channels == 515


@pytest.mark.parametrize(("pair", "one"), [(two_stage_unet, YTMTUNet), (two_stage_released, YTMTReleasedUNet)])
def test_two_stages_take_what_one_takes(pair: Callable[..., TwoStage], one: type[nn.Module]) -> None:
    assert signature(pair).parameters == signature(one).parameters
