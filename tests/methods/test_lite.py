"""Lite: starts as the identity, learns, exchanges, and is the same in tiles, in any size, in half precision on disk."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflectzoo.config import build, compose_config
from reflectzoo.errors import UserError
from reflectzoo.methods.lite.net import FOLD, LiteNet
from reflectzoo.methods.lite.net_2 import LiteNet2
from reflectzoo.training.module import ReflectionModule

NARROW = {"widths": (8, 12, 16, 16), "blocks": (1, 1, 1, 1), "stream_widths": (8, 8, 8), "stream_blocks": (1, 1, 1)}


Net = TypeVar("Net", LiteNet, LiteNet2)
FORMS = {
    "lite_1": (LiteNet, {}),
    "lite": (LiteNet2, {}),
    "naf": (LiteNet2, {"block": "naf", "features": "none"}),
    "residual": (LiteNet2, {"head": "residual"}),
    "joint": (LiteNet2, {"joint_blocks": (2, 1, 0), "features": "none"}),
}
each_form = pytest.mark.parametrize("form", FORMS)


def narrow(**settings: object) -> LiteNet:
    torch.manual_seed(0)
    return LiteNet(**{**NARROW, **settings})  # type: ignore[arg-type]


def formed(form: str) -> LiteNet | LiteNet2:
    torch.manual_seed(0)
    kind, settings = FORMS[form]
    return kind(**{**NARROW, **settings})  # type: ignore[operator, no-any-return]


def awake(net: Net) -> Net:
    """With something in every convolution; a new network is silent."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return net.eval()


def module_of(*overrides: str) -> ReflectionModule:
    module: ReflectionModule = build(compose_config(["model=lite", *overrides]).model)
    return module


def test_the_size_of_lite_1() -> None:
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in LiteNet().parameters())
    assert numbers == 6_935_456
    assert 2 * numbers < 25e6, "with 16 bits each the file must stay below 25 MB"


def test_one_number_scales_all_widths() -> None:
    net = LiteNet(width=12)
    assert [stage[0].first.out_channels for stage in net.encoder] == [12, 24, 40, 56]
    assert [stage.blocks[0].conv_l.out_channels for stage in net.decoder] == [10, 16, 20]


def test_the_size_that_ships() -> None:
    with torch.device("meta"):
        net = build(compose_config(["model=lite"]).model.net)
    numbers = sum(parameter.numel() for parameter in net.parameters())
    assert numbers == 12_111_888
    assert 2 * numbers < 25e6, "with 16 bits each the file must stay below 25 MB"


@each_form
def test_a_new_network_changes_nothing(form: str) -> None:
    mixture = torch.rand(2, 3, 64, 96)
    outputs = formed(form)(mixture)
    assert torch.equal(outputs["transmission"], mixture)
    assert outputs["reflection"].shape == mixture.shape
    assert not outputs["reflection"].any()


@each_form
def test_every_weight_that_learns_is_reached(form: str) -> None:
    net = awake(formed(form))
    outputs = net(torch.rand(1, 3, 64, 64))
    (outputs["transmission"].square().mean() + outputs["reflection"].square().mean()).backward()
    learning = {name: each for name, each in net.named_parameters() if each.requires_grad}
    silent = [name for name, each in learning.items() if each.grad is None or not each.grad.any()]
    assert silent == []
    assert all(name in learning or name.startswith("features.") for name, _ in net.named_parameters())


def test_streams_exchange_what_the_rectifier_drops() -> None:
    """With the whole decoder cut but for one exchange, what the other stream's rectifier drops arrives, by hand."""
    block = awake(narrow()).decoder[0].blocks[0]
    l, r = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 6, 6)  # noqa: E741
    from_l, from_r = block.conv_l(l), block.conv_r(r)
    fused = block.head.fusion_l(torch.cat((F.relu(from_l), from_r - F.relu(from_r)), 1))
    torch.testing.assert_close(block(l, r)[0], l + fused)

    positive = awake(narrow(negative=False)).decoder[0].blocks[0]
    fused = positive.head.fusion_l(torch.cat((F.relu(positive.conv_l(l)), F.relu(positive.conv_r(r))), 1))
    torch.testing.assert_close(positive(l, r)[0], l + fused)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (40, 97)])
def test_any_size_through_the_module(size: tuple[int, int]) -> None:
    module = module_of(*(f"model.net.{key}={list(value)}" for key, value in NARROW.items()))
    awake(module.net)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = module(torch.rand(1, 3, *size))
    assert outputs["transmission"].shape == outputs["reflection"].shape == (1, 3, *size)


@pytest.mark.parametrize("form", ["lite_1", "naf", "joint"])
def test_a_shift_by_the_stride_moves_the_result(form: str) -> None:
    """Nothing depends on the place or on the whole picture, so tiles can agree."""
    net = awake(formed(form))
    picture = torch.rand(1, 3, 64, 608)
    with torch.no_grad():
        whole = net(picture)["transmission"]
        part = net(picture[..., 32:576])["transmission"]
    # 200 pixels from every edge nothing of it arrives; twenty from it everything does.
    torch.testing.assert_close(part[..., 240:304], whole[..., 272:336], rtol=1e-4, atol=1e-5)
    assert (part[..., 20:40] - whole[..., 52:72]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (8, 8)}, "model.net.widths must be a list of 4, each a whole number of at least 1"),
        (
            {"stream_blocks": (1, 0, 1)},
            "model.net.stream_blocks must be a list of 3, each a whole number of at least 1",
        ),
        ({"width": 0}, "model.net.width must be null or a whole number"),
        ({"blocks": (1, 1, 1.5, 1)}, "model.net.blocks must be a list of 4"),
    ],
)
def test_settings_that_make_no_network(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        narrow(**settings)


def test_what_a_lite_cannot_be_made_of() -> None:
    for settings, words in (
        ({"head": "scale"}, "model.net.head must be gain or residual, got 'scale'"),
        ({"features": "vgg"}, "model.net.features must be efficientnet_lite0 or none, got 'vgg'"),
        ({"block": "conv"}, "model.net.block must be plain or naf"),
        ({"widths": (8, 8)}, "model.net.widths must be a list of 4, each a whole number of at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            LiteNet2(**settings)  # type: ignore[arg-type]


def test_the_gain_multiplies_each_pixel() -> None:
    """With the last convolution set by hand: T = I + 0.25 - 0.5 I, everywhere and in every colour."""
    net = formed("lite")
    assert net.out_l.bias is not None
    with torch.no_grad():
        net.out_l.bias[: 3 * FOLD**2] = 0.25
        net.out_l.bias[3 * FOLD**2 :] = -0.5
        mixture = torch.rand(1, 3, 32, 64)
        torch.testing.assert_close(net(mixture)["transmission"], 0.5 * mixture + 0.25)


@pytest.mark.parametrize("form", ["lite_1", "lite"])
def test_it_learns_to_take_a_veil_away(form: str) -> None:
    """A bright veil over noise of another kind in each picture: the loss falls to a fraction."""
    net = formed(form)
    optimizer = torch.optim.AdamW([each for each in net.parameters() if each.requires_grad], lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def pair() -> tuple[Tensor, Tensor]:
        transmission = 0.5 * torch.rand(4, 3, 64, 64, generator=generator)
        veil = 0.4 * F.interpolate(torch.rand(4, 3, 2, 2, generator=generator), (64, 64), mode="bilinear")
        return transmission, veil

    losses = []
    for _ in range(60):
        transmission, veil = pair()
        outputs = net(transmission + veil)
        loss = F.l1_loss(outputs["transmission"], transmission) + F.l1_loss(outputs["reflection"], veil)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.45 * losses[0]
