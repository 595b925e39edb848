"""Reading the authors' files, and what is said about files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.methods.ytmt.convert import YTMTShape, check_layout, layout_of, remap
from reflectzoo.methods.ytmt.net import YTMTPlain, YTMTUNet
from reflectzoo.methods.ytmt.released import YTMTReleasedUNet
from reflectzoo.methods.ytmt.two_stage import TwoStage


def unet(pattern: str = "C", **options: Any) -> YTMTUNet:
    return YTMTUNet(pattern, **{"hypercolumn": False, "width": 4, **options})  # type: ignore[arg-type]


def released(**options: Any) -> YTMTReleasedUNet:
    return YTMTReleasedUNet(**{"hypercolumn": False, "width": 4, **options})


def authors_file(first: nn.Module, second: nn.Module | None = None, training: bool = True) -> dict[str, Any]:
    """A checkpoint in the form the released program writes."""
    file: dict[str, Any] = {"icnn": first.state_dict()}
    if second is not None:
        file["icnn2"] = second.state_dict()
    if training:
        file["opt_g"] = torch.optim.Adam(first.parameters()).state_dict()
        file["opt_d"] = torch.optim.Adam(first.parameters()).state_dict()
        file["netD"] = {"body.0.weight": torch.zeros(2, 3, 3, 3)}
    return file | {"epoch": 68, "iterations": 595364}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("training", [True, False], ids=["training", "exported"])
def test_single_stage_file(training: bool) -> None:
    source, target = unet(), unet()
    file = authors_file(source, training=training)

    state = remap(file)
    target.load_state_dict(state)

    assert same(state, file["icnn"])
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "exported"])
def test_two_stage_file(training: bool) -> None:
    first, second, target = released(), released(), TwoStage(released())
    target.load_state_dict(remap(authors_file(first, second, training=training)))

    assert torch.equal(target.icnn.outc_1.conv.weight, first.outc_1.conv.weight)  # type: ignore[union-attr]
    assert torch.equal(target.icnn2.outc_1.conv.weight, second.outc_1.conv.weight)  # type: ignore[union-attr]


def test_single_stage_file_fills_both_stages_as_the_program_does() -> None:
    source, target = unet("A"), TwoStage(unet("A"))

    target.load_state_dict(remap(authors_file(source), stages=2))

    for network in (target.icnn, target.icnn2):
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), network.parameters(), strict=True))


def test_first_stage_of_a_two_stage_file() -> None:
    file = authors_file(unet(), unet())
    assert same(remap(file, stages=1), file["icnn"])


def test_prefix_of_parallel_training_is_dropped() -> None:
    plain = unet().state_dict()
    file = {"icnn": {f"module.{key}": value for key, value in plain.items()}, "epoch": 1}
    assert same(remap(file), plain)
    assert same(remap({f"module.{key}": value for key, value in plain.items()}), plain)


@pytest.mark.parametrize("make", [unet, released, YTMTPlain, lambda: TwoStage(unet())], ids=["u", "old", "p", "two"])
def test_harmless_on_what_is_already_ours(make: Callable[[], nn.Module]) -> None:
    state = make().state_dict()
    once = remap(state)
    assert same(once, state)
    assert same(remap(once), once)


def test_checkpoint_of_our_own_training() -> None:
    net = TwoStage(unet())
    weights = {f"net.{key}": value for key, value in net.state_dict().items()}
    file = {"state_dict": weights | {"discriminator.body.0.weight": torch.zeros(1)}, "epoch": 3, "global_step": 7}

    assert same(remap(file), net.state_dict())
    assert same(remap(file, stages=1), net.icnn.state_dict())


def test_nothing_is_modified() -> None:
    file = authors_file(unet(), unet())
    keys, inner = list(file), list(file["icnn"])
    remap(file, stages=1)
    assert list(file) == keys
    assert list(file["icnn"]) == inner


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({}, "it holds no weights"),
        ({"epoch": 3}, "it holds no weights"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "its first weight is 'features.0.weight'"),
        ({"icnn": {"conv.weight": torch.zeros(1)}}, "its first weight is 'conv.weight'"),
        ({"state_dict": {"net.det_conv0.weight": torch.zeros(1)}}, "its first weight is 'det_conv0.weight'"),
    ],
    ids=["empty", "no network", "vgg", "other icnn", "other lightning"],
)
def test_other_files_are_refused_in_one_sentence(file: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match="not a YTMT network") as caught:
        remap(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stages_are_one_or_two() -> None:
    with pytest.raises(ValueError, match="stages must be 1, 2 or None, got 3"):
        remap(authors_file(unet()), stages=3)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts

LAYOUTS: list[tuple[str, Callable[[], nn.Module], YTMTShape, tuple[str, ...]]] = [
    ("ucs", lambda: YTMTUNet("C"), YTMTShape("unet", True, 1475, 3, 64, 0, 1), ("C", "P")),
    ("ups", lambda: unet("P"), YTMTShape("unet", True, 3, 3, 4, 0, 1), ("C", "P")),
    ("uas", lambda: unet("A", width=6), YTMTShape("unet", False, 3, 3, 6, 0, 1), ("A", "none")),
    (
        "none",
        lambda: unet("none", in_channels=1, out_channels=1),
        YTMTShape("unet", False, 1, 1, 4, 0, 1),
        ("A", "none"),
    ),
    ("uct", lambda: TwoStage(YTMTUNet("C")), YTMTShape("unet", True, 1475, 3, 64, 0, 2), ("C", "P")),
    ("uct_old", lambda: TwoStage(YTMTReleasedUNet()), YTMTShape("released", True, 1475, 3, 64, 0, 2), ("C",)),
    ("pcs", lambda: YTMTPlain("C", width=8), YTMTShape("plain", True, 3, 3, 8, 10, 1), ("C", "P")),
    ("pas", lambda: YTMTPlain("A", layers=2), YTMTShape("plain", False, 3, 3, 64, 2, 1), ("A", "none")),
]


@pytest.mark.parametrize(("make", "layout", "patterns"), [row[1:] for row in LAYOUTS], ids=[row[0] for row in LAYOUTS])
def test_layout(make: Callable[[], nn.Module], layout: YTMTShape, patterns: tuple[str, ...]) -> None:
    with torch.device("meta"):
        net = make()

    found = layout_of(net.state_dict())

    assert found == layout
    assert found.patterns == patterns
    assert found.hypercolumn == (layout.in_channels == 1475)
    check_layout(net.state_dict(), net)


@pytest.mark.parametrize(
    ("weights", "model", "said"),
    [
        (released, unet, ["one-stage U-net in the released layout", "one-stage U-net of pattern C or P"]),
        (lambda: unet("A"), unet, ["of pattern A or none", "of pattern C or P"]),
        (lambda: unet(width=8), unet, ["width 8", "width 4"]),
        (lambda: unet(hypercolumn=True), unet, ["1475 input channels (with hypercolumn)", "3 input channels (no hyp"]),
        (unet, lambda: TwoStage(unet()), ["is a one-stage U-net", "but the model is a two-stage U-net"]),
        (lambda: YTMTPlain(layers=4), YTMTPlain, ["plain network", "4 layers", "10 layers"]),
    ],
    ids=["family", "pattern", "width", "hypercolumn", "stages", "layers"],
)
def test_weights_of_another_network(
    weights: Callable[[], nn.Module], model: Callable[[], nn.Module], said: list[str]
) -> None:
    with torch.device("meta"):
        state, net = weights().state_dict(), model()

    with pytest.raises(UserError) as caught:
        check_layout(state, net, "old.pt")

    message = str(caught.value)
    assert message.startswith("old.pt is a ")
    assert "\n" not in message
    for words in said:
        assert words in message


def test_damaged_weights() -> None:
    net = unet()
    state = net.state_dict()
    state["stray"] = torch.zeros(1)
    del state["up2.model.conv_l.model.2.bias"]
    state["up4.model.conv_r.model.2.weight"] = torch.zeros(1)

    with pytest.raises(UserError) as caught:
        check_layout(state, net)

    message = str(caught.value)
    assert "1 missing (the first is 'up2.model.conv_l.model.2.bias')" in message
    assert "1 unknown (the first is 'stray')" in message
    assert "1 of another shape (the first is 'up4.model.conv_r.model.2.weight')" in message
