"""Averages over views of a photograph: each is turned back; exact where the network does not care how it lies."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.inference.ensemble import MIRRORED, VIEWS, Ensemble, turned, turned_back
from reflectzoo.inference.load import load
from reflectzoo.inference.onnx import OnnxSeparator
from reflectzoo.inference.separator import Quality, Separator


@pytest.mark.parametrize(("quarters", "mirrored"), VIEWS)
def test_each_view_turns_back(quarters: int, mirrored: bool) -> None:
    image = torch.rand(1, 3, 4, 7)
    view = turned(image, quarters, mirrored)
    assert view.shape[-2:] == ((4, 7) if quarters % 2 == 0 else (7, 4))
    assert torch.equal(turned_back(view, quarters, mirrored), image)


def test_the_eight_views_differ() -> None:
    image = torch.rand(1, 3, 5, 5)
    views = [turned(image, *each) for each in VIEWS]
    assert sum(torch.equal(a, b) for a in views for b in views) == 8


def test_the_mean_of_what_each_view_shows() -> None:
    """A network that darkens the topmost row darkens each of the four borders in two of eight views."""

    def topmost(mixture: Tensor) -> dict[str, Any]:
        layer = mixture.clone()
        layer[..., 0, :] = 0
        return {"transmission": layer, "reflection": None}

    found = Ensemble(topmost)(torch.ones(1, 3, 5, 6))
    assert set(found) == {"transmission"}
    expected = torch.ones(5, 6)
    expected[0] -= 0.25
    expected[-1] -= 0.25
    expected[:, 0] -= 0.25
    expected[:, -1] -= 0.25
    torch.testing.assert_close(found["transmission"][0, 0], expected)


def from_the_left(mixture: Tensor) -> dict[str, Tensor]:
    """Darkens every column by its distance from the left edge."""
    return {"transmission": mixture * torch.linspace(1, 0, mixture.shape[-1])}


def test_a_picture_and_its_mirror_image() -> None:
    found = Ensemble(from_the_left, MIRRORED)(torch.ones(1, 3, 4, 9))["transmission"]
    torch.testing.assert_close(found, torch.full_like(found, 0.5))


@pytest.mark.parametrize(("mirrored", "quality", "calls"), [
    (None, "normal", 1), (True, "normal", 2), (True, "fast", 1), (True, "best", 8), (False, "normal", 1),
])  # fmt: skip
def test_normal_quality_includes_the_mirror_image_where_the_model_says_so(
    mirrored: bool | None, quality: Quality, calls: int
) -> None:
    seen: list[Tensor] = []

    def network(mixture: Tensor) -> dict[str, Tensor]:
        seen.append(mixture)
        return from_the_left(mixture)

    layer = Separator(network, "cpu", quality=quality, mirrored=mirrored).layers(torch.ones(3, 8, 8))["transmission"]
    assert len(seen) == calls
    assert torch.allclose(layer, layer.flip(-1)) == (calls > 1)


@pytest.mark.parametrize(("noted", "calls"), [({"mirrored": True}, 2), ({"mirrored": False}, 1), ({}, 1)])
def test_onnx_files_say_whether_the_mirror_image_is_included(noted: dict[str, bool], calls: int) -> None:
    seen: list[Tensor] = []

    class Stored:
        facts: ClassVar[dict[str, Any]] = {"smallest": 1, "statistics": 0, "bytes_per_pixel": 100.0, **noted}

        def __call__(self, mixture: Tensor) -> dict[str, Tensor]:
            seen.append(mixture)
            return from_the_left(mixture)

    OnnxSeparator(Stored()).layers(torch.ones(3, 8, 8))  # type: ignore[arg-type]
    assert len(seen) == calls


def test_lite_does_not_distinguish_left_from_right_in_use_and_evaluation() -> None:
    torch.manual_seed(0)
    network = load("lite", None, ("model.net.width=8",), untrained=True)
    for parameter in network.net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    mixture = torch.rand(1, 3, 96, 128)
    batch: Any = {"mixture": mixture, "name": ["a"]}
    mirror: Any = {"mixture": mixture.flip(-1), "name": ["a"]}
    with torch.no_grad():
        once = network(mixture)["transmission"]
        evaluated = network.predict_batch(batch)["transmission"]
        mirrored = network.predict_batch(mirror)["transmission"]
    assert (once - evaluated).abs().max() > 1e-3
    torch.testing.assert_close(mirrored.flip(-1), evaluated)
    separator = Separator(network, "cpu")
    used = separator.layers(mixture[0])["transmission"]
    torch.testing.assert_close(used, evaluated[0].clamp(0, 1))
    fast = Separator(network, "cpu", quality="fast").layers(mixture[0])["transmission"]
    torch.testing.assert_close(fast, once[0].clamp(0, 1))


def test_tiles_agree_with_the_whole() -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 3, 5, padding=2)

    def network(mixture: Tensor) -> dict[str, Tensor]:
        return {"transmission": conv(mixture)}

    image = torch.rand(3, 192, 256)
    whole = Separator(network, quality="best", tile=0).layers(image)["transmission"]
    tiles = Separator(network, quality="best", tile=160, halo=16).layers(image)["transmission"]
    torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-5)
    assert (whole - Separator(network, tile=0).layers(image)["transmission"]).abs().max() > 0.01


def test_another_quality_is_refused() -> None:
    with pytest.raises(UserError, match="The quality must be one of fast, normal, best, got 'ultra'"):
        Separator(lambda mixture: {"transmission": mixture}, quality="ultra")  # type: ignore[arg-type]
