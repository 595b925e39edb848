"""--quality best: eight views, each turned back; exact where the network does not care how a picture lies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.inference.ensemble import VIEWS, Ensemble, turned, turned_back
from reflectzoo.inference.separator import Separator


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
    with pytest.raises(UserError, match="The quality must be one of normal, best, got 'ultra'"):
        Separator(lambda mixture: {"transmission": mixture}, quality="ultra")  # type: ignore[arg-type]
