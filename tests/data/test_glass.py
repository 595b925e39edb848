"""Windows: what a pane does, by hand, and how often it does it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflectzoo.data.synthesis import GlassSynthesis
from reflectzoo.errors import UserError

PLAIN = {"sharp": 1.0, "sharp_sigma": (0.01, 0.01), "halo": 0, "ghost": 0, "partial": 0, "uneven": 0, "tint": 0}


def plain(**settings: object) -> GlassSynthesis:
    return GlassSynthesis(**{**PLAIN, "curve": (2, 2), **settings})  # type: ignore[arg-type]


def even(value: float, size: int = 24) -> Tensor:
    return torch.full((1, 3, size, size), value)


def test_light_adds_up_in_linear_values() -> None:
    blend = plain(strength=(0.25, 0.25), alpha=(0.5, 0.5))(even(0.6), even(0.8), [1])
    # 0.5 * 0.6^2 + 0.25 * 0.8^2 = 0.34, and back by the root.
    torch.testing.assert_close(blend.mixture, even(0.34**0.5))
    torch.testing.assert_close(blend.reflection, even((0.25 * 0.64) ** 0.5))
    assert torch.equal(blend.transmission, even(0.6)), "the truth is the scene without its glass"


def test_what_is_too_bright_is_clipped_and_nothing_is_subtracted() -> None:
    blend = plain(strength=(1.0, 1.0), alpha=(1, 1))(even(0.9), even(0.9), [1])
    torch.testing.assert_close(blend.mixture, even(1.0))
    torch.testing.assert_close(blend.reflection, even(0.9))


def test_a_pane_that_ends_leaves_the_rest_of_the_picture_alone() -> None:
    synthesis = plain(partial=1.0, strength=(0.5, 0.5), alpha=(0.8, 0.8))
    draws = synthesis.draw([3])
    draws["edge"] = torch.tensor([[0.0, 0.0, 0.004]])  # upright, in the middle, hard
    blend = synthesis(even(0.5), even(0.7), draws=draws)
    torch.testing.assert_close(blend.mixture[..., :10], even(0.5)[..., :10], atol=1e-3, rtol=0)
    assert not blend.reflection[..., :10].gt(0.05).any()
    torch.testing.assert_close(blend.mixture[..., 14:], even((0.8 * 0.25 + 0.5 * 0.49) ** 0.5)[..., 14:])


def test_a_ghost_lies_where_the_draw_says() -> None:
    synthesis = plain(ghost=1.0, strength=(1.0, 1.0), alpha=(1, 1))
    draws = synthesis.draw([3])
    draws["ghost"], draws["ghost_shift"] = torch.tensor([0.5]), torch.tensor([[4.0, 2.0]])
    point = even(0.0)
    point[..., 10, 8] = 0.9
    layer = synthesis(even(0.0), point, draws=draws).reflection.square()
    torch.testing.assert_close(layer[0, 0, 10, 8].item(), 0.81 / 1.5, rtol=1e-3, atol=0)
    torch.testing.assert_close(layer[0, 0, 12, 12].item(), 0.81 * 0.5 / 1.5, rtol=1e-3, atol=0)


def test_rough_glass_spreads_light_and_keeps_it() -> None:
    synthesis = plain(halo=1.0, halo_sigma=(2.0, 2.0), strength=(1.0, 1.0), alpha=(1, 1))
    point = even(0.0, 49)
    point[..., 24, 24] = 1.0
    layer = synthesis(even(0.0, 49), point, [5]).reflection.square()
    assert layer[0, 0, 24, 28] > 1e-4
    torch.testing.assert_close(layer[0, 0].sum().item(), 1.0, rtol=2e-2, atol=0)


def test_uneven_light_varies_smoothly() -> None:
    layer = plain(uneven=1.0, strength=(0.5, 0.5))(even(0.0, 60), even(0.8, 60), [7]).reflection
    assert layer.std() > 0.02
    assert (layer[..., 1:] - layer[..., :-1]).abs().max() < 0.1


def test_shares_say_how_often() -> None:
    draws = GlassSynthesis().draw(list(range(400)))
    for name, share in (("partial", 0.3), ("uneven", 0.6)):
        assert abs(draws[name].mean().item() - share) < 0.08
    assert abs((draws["ghost"] > 0).float().mean().item() - 0.35) < 0.08
    assert draws["strength"].min() >= 0.12
    assert draws["strength"].max() <= 1.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"sharp": 1.5}, "synthesis.sharp must be a number from 0 to 1"), ({"alpha": (0.9, 0.1)}, "synthesis.alpha"),
     ({"strength": (0, 1)}, "synthesis.strength")],
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        GlassSynthesis(**settings)  # type: ignore[arg-type]
