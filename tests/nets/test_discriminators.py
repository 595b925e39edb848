"""Discriminators: the authors' recorded logits, any size, gradients; and the attention blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.nets.attention import ChannelAttention, PixelAttention
from reflectzoo.nets.discriminators import DiscriminatorVGG, PatchDiscriminator
from reflectzoo.parity import rule_state_dict
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"


@pytest.mark.parametrize("name", ["ytmt_disc_vgg", "ytmt_disc_patch"])
def test_recorded_outputs_of_the_authors_program(name: str) -> None:
    lines = run_folder(RECORDED, [name])

    assert [line.verdict for line in lines] == ["pass", "pass"], "\n".join(map(str, lines))


@pytest.mark.parametrize(("net", "count"), [(DiscriminatorVGG, 9_937_089), (PatchDiscriminator, 2_764_737)])
def test_published_size(net: type[nn.Module], count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == count


@pytest.mark.parametrize("width", [2, 6, 8, 64])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (33, 31)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_vgg_judges_any_size_with_one_logit(width: int, size: tuple[int, int]) -> None:
    net = DiscriminatorVGG(width=width)
    logit = net(torch.rand(1, 3, *size))

    assert logit.shape == (1, 1, 1, 1)
    assert torch.isfinite(logit).all()


@pytest.mark.parametrize(("size", "grid"), [((64, 64), (11, 11)), ((1, 2), (3, 4)), ((5, 40), (4, 8))])
def test_patch_judges_with_a_map(size: tuple[int, int], grid: tuple[int, int]) -> None:
    logits = PatchDiscriminator(width=4)(torch.rand(2, 3, *size))

    assert logits.shape == (2, 1, *grid)
    assert torch.isfinite(logits).all()


def test_patch_cannot_judge_a_single_pixel() -> None:
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        PatchDiscriminator(width=4)(torch.rand(1, 3, 1, 1))


@pytest.mark.parametrize("width", [0, 3, -2])
def test_odd_width_is_refused(width: int) -> None:
    with pytest.raises(UserError, match=f"width must be an even number of at least 2, got {width}"):
        DiscriminatorVGG(width=width)


@pytest.mark.parametrize("net", [DiscriminatorVGG(width=8), PatchDiscriminator(width=4)], ids=["vgg", "patch"])
def test_every_parameter_and_the_image_learn(net: nn.Module) -> None:
    net.load_state_dict(rule_state_dict(net, gain=1.6))
    image = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0), requires_grad=True)

    net(image).square().sum().backward()

    # InstanceNorm takes the mean away, so a bias before it has no effect.
    idle = ["model.2.bias", "model.5.bias", "model.8.bias"] if isinstance(net, PatchDiscriminator) else []
    silent = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-4]
    assert silent == idle
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("net", "logit"),
    [(DiscriminatorVGG(width=4), 0.5591375), (PatchDiscriminator(width=4), 0.0069410)],
    ids=["vgg", "patch"],
)
def test_golden_output(net: nn.Module, logit: float) -> None:
    net.load_state_dict(rule_state_dict(net, gain=1.6))
    ramp = torch.linspace(0, 1, 3 * 24 * 20).view(1, 3, 24, 20)
    assert net(ramp).mean().item() == pytest.approx(logit, abs=1e-5)


def test_bf16_autocast() -> None:
    for net in (DiscriminatorVGG(width=4), PatchDiscriminator(width=4)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logit = net(torch.rand(1, 3, 16, 16))
        logit.float().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Attention


def _constant(block: nn.Sequential, first: float, second: float) -> None:
    with torch.no_grad():
        for conv, value in ((block[0], first), (block[2], second)):
            conv.weight.fill_(value)
            conv.bias.zero_()


def test_pixel_attention_by_hand() -> None:
    attention = PixelAttention(8)
    _constant(attention.pa, 1.0, 0.5)
    x = torch.zeros(1, 8, 1, 2)
    x[0, :, 0, 0] = torch.tensor([1.0, 2.0, 0, 0, 0, 0, 0, 1.0])  # sum 4
    x[0, :, 0, 1] = -1.0  # sum -8, so the hidden unit is off and the weight sigmoid(0)

    found = attention(x)

    assert torch.allclose(found[..., 0], x[..., 0] * torch.sigmoid(torch.tensor(2.0)))
    assert torch.allclose(found[..., 1], x[..., 1] * 0.5)


def test_channel_attention_by_hand() -> None:
    attention = ChannelAttention(16)
    _constant(attention.ca, 1.0, 0.25)
    x = torch.zeros(1, 16, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # mean 3, so both hidden units are 3 and the sum is 6 / 4

    assert torch.allclose(attention(x), x * torch.sigmoid(torch.tensor(1.5)))


@pytest.mark.parametrize("attention", [PixelAttention, ChannelAttention])
def test_attention_takes_fewer_channels_than_the_reduction(attention: type[nn.Module]) -> None:
    assert attention(2)(torch.rand(2, 2, 3, 5)).shape == (2, 2, 3, 5)


def test_channel_attention_in_place_only_without_gradients() -> None:
    attention = ChannelAttention(8, inplace=True)
    x = torch.rand(1, 8, 3, 3)
    before = x.clone()

    learning = attention(x)
    assert torch.equal(x, before)
    with torch.no_grad():
        found = attention(x)
    assert found is x
    assert torch.allclose(found, learning)
