"""Ghosts, blur by depth, casts, noise and JPEG damage, and the filters that the synthesis models share."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from reflectzoo.data.synthesis import (
    JPEG,
    CameraNoise,
    CEILNetSynthesis,
    ClearSynthesis,
    ColdSynthesis,
    ColourCast,
    CoRRNSynthesis,
    DepthBlur,
    DSRNetSynthesis,
    EffectSynthesis,
    Ghosting,
    ZhangSynthesis,
)
from reflectzoo.data.synthesis.blur import gaussian_taps, pad_along, separable_blur, side_of
from reflectzoo.data.synthesis.effects import normal
from reflectzoo.data.synthesis.jpeg import compress
from reflectzoo.data.synthesis.optics import to_linear, to_stored
from reflectzoo.errors import UserError
from tests.data.test_synthesis_models import layers, linear

# -- effects ---------------------------------------------------------------------------------------------------------


def test_a_ghost_is_a_second_weaker_picture_beside_the_first() -> None:
    dot = torch.zeros(1, 3, 21, 31)
    dot[:, :, 10, 12] = 1
    draws = {"ghost_x": torch.tensor([7.0]), "ghost_y": torch.tensor([-4.0]), "ghost_strength": torch.tensor([0.6])}
    light = linear(Ghosting().on_reflection(dot, draws))
    assert light[0, 0, 10, 12].item() == pytest.approx(1 / 1.6, abs=1e-5)
    assert light[0, 0, 6, 19].item() == pytest.approx(0.6 / 1.6, abs=1e-5)
    assert light.sum().item() == pytest.approx(3, abs=1e-3)
    draws = EffectSynthesis(ClearSynthesis(), {"ghosting": Ghosting((4, 16))}).draw(range(50))
    length = torch.hypot(draws["ghost_x"], draws["ghost_y"])
    assert 4 <= length.min() < length.max() <= 16


def test_depth_blur_grows_across_the_picture() -> None:
    noise = layers(1, (64, 64))[0]
    draws = {"depth_sigma": torch.tensor([6.0]), "depth_x": torch.tensor([1.0]), "depth_y": torch.tensor([0.0])}
    blurred = DepthBlur().on_reflection(noise, draws)
    spread = blurred.std(dim=(0, 1, 2))
    assert spread[:3].mean() > 0.8 * noise.std()
    assert spread[30:34].mean() < 0.4 * noise.std()
    assert spread[-3:].mean() < 0.8 * spread[30:34].mean()


def test_a_cast_dims_channels_in_linear_light() -> None:
    grey = torch.full((1, 3, 4, 4), 0.7)
    light = linear(ColourCast().on_reflection(grey, {"cast": torch.tensor([[1.0, 0.5, 0.8]])})) / linear(grey)
    torch.testing.assert_close(light[0, :, 0, 0], torch.tensor([1.0, 0.5, 0.8]).double(), atol=1e-5, rtol=0)
    casts = EffectSynthesis(ClearSynthesis(), {"cast": ColourCast((0.2, 0.3))}).draw(range(50))["cast"]
    assert (casts.max(dim=1).values == 1).all()
    assert 0.7 <= casts.min() <= casts.min(dim=1).values.max() <= 0.8


def test_camera_noise_has_the_variance_it_says() -> None:
    grey = torch.full((1, 3, 128, 128), 0.6)
    draws = {"noise_shot": torch.tensor([2e-3]), "noise_read": torch.tensor([4e-3]), "noise_seed": torch.tensor([7.0])}
    light = linear(CameraNoise().on_mixture(grey, draws))
    level = 0.6**2.2
    assert light.mean().item() == pytest.approx(level, rel=2e-3)
    assert light.var().item() == pytest.approx(2e-3 * level + 4e-3**2, rel=0.02)


def test_normal_numbers_are_normal_and_follow_from_the_seed() -> None:
    found = normal(torch.tensor([1, 2, 1]), (3, 100, 100))
    assert torch.equal(found[0], found[2])
    first, second = found[0].flatten().double(), found[1].flatten().double()
    for sample in (first, second):
        assert sample.mean().abs() < 0.02
        assert sample.std().item() == pytest.approx(1, abs=0.02)
        assert (sample**4).mean().item() == pytest.approx(3, abs=0.2)
    for one, other in ((first, second), (first[1:], first[:-1]), (first[100:], first[:-100])):
        assert (one * other).mean().abs() < 0.02


def by_pillow(image: torch.Tensor, quality: int, subsample: bool) -> torch.Tensor:
    file = io.BytesIO()
    array = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=2 if subsample else 0)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("quality", [20, 60, 95])
def test_jpeg_damages_as_pillow_does(quality: int, subsample: bool) -> None:
    coarse = layers(1, (9, 7))[0]
    image = torch.nn.functional.interpolate(coarse, (83, 61), mode="bicubic").clamp(0, 1)
    ours = compress(image, torch.tensor([float(quality)]), subsample)[0]
    theirs = by_pillow(image[0], quality, subsample)
    damage = (theirs - image[0]).flatten()
    # libjpeg transforms in integers, so that a coefficient between two steps may fall to the other side.
    assert (ours - theirs).square().mean().sqrt() < 2 / 255
    assert (ours - theirs).abs().max() < 25 / 255
    assert torch.corrcoef(torch.stack(((ours - image[0]).flatten(), damage)))[0, 1] > 0.9
    assert (ours - image[0]).std().item() == pytest.approx(damage.std().item(), rel=0.1)


def test_effects_keep_the_layers_of_the_model_clean() -> None:
    transmission, reflection = layers(2)
    plain = CEILNetSynthesis()(transmission, reflection, [1, 2])
    camera = EffectSynthesis(CEILNetSynthesis(), {"noise": CameraNoise(), "jpeg": JPEG()})
    blend = camera(transmission, reflection, [1, 2])
    assert torch.equal(blend.reflection, plain.reflection)
    assert torch.equal(blend.transmission, plain.transmission)
    assert not torch.equal(blend.mixture, plain.mixture)
    with pytest.raises(UserError, match="'again' draws jpeg_quality"):
        EffectSynthesis(ClearSynthesis(), {"jpeg": JPEG(), "again": JPEG()})


# -- parts -----------------------------------------------------------------------------------------------------------


def test_powers() -> None:
    values = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(to_linear(values).double(), values.double() ** 2.2, atol=2e-7, rtol=0)
    torch.testing.assert_close(to_stored(values).double(), values.double() ** (1 / 2.2), atol=2e-7, rtol=0)
    assert to_linear(values)[[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("replicate", "edge"), ("zero", "constant")])
@pytest.mark.parametrize("size", [(1, 9), (2, 3), (7, 12)])
def test_borders(border: str, mode: str, size: tuple[int, int]) -> None:
    image = layers(1, size)[0]
    for dim in (-2, -1):
        around = [(0, 0)] * 4
        around[dim] = (8, 8)
        expected = np.pad(image.numpy(), around, mode=mode)
        np.testing.assert_array_equal(pad_along(image, 8, dim, border), expected)


def test_each_sample_has_its_own_number_of_taps() -> None:
    image = layers(2)[0]
    sigma = torch.tensor([1.0, 4.2])
    kernel = gaussian_taps(sigma, 21, side_of(sigma))
    assert (kernel > 0).sum(dim=1).tolist() == [5, 19]
    both = separable_blur(image, kernel, "reflect")
    assert torch.equal(both[:1], separable_blur(image[:1], kernel[:1], "reflect"))
    with pytest.raises(ValueError, match="the border must be"):
        separable_blur(image, kernel, "wrap")


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: ZhangSynthesis(sigma=(3, 1)), "sigma"),
        (lambda: ZhangSynthesis(alpha=(0.5, 1.5)), "alpha"),
        (lambda: ZhangSynthesis(sigma_steps=0), "sigma_steps"),
        (lambda: ZhangSynthesis(attenuation=(1,)), "attenuation"),
        (lambda: CoRRNSynthesis(beta=(-1, 1)), "beta"),
        (lambda: CoRRNSynthesis(pairs=[(1, 2)]), "pairs"),
        (lambda: CoRRNSynthesis(sigma=-1), "sigma"),
        (lambda: DSRNetSynthesis(screen=2), "screen"),
        (lambda: DSRNetSynthesis(sides=(4,)), "sides"),
        (lambda: DSRNetSynthesis(side_weights=(1,)), "side_weights"),
        (lambda: DSRNetSynthesis(targets="half"), "targets"),
        (lambda: ColdSynthesis(delta=(2, 1)), "delta"),
        (lambda: Ghosting(strength=(0, 2)), "effects.ghosting.strength"),
        (lambda: JPEG(quality=(0, 50)), "effects.jpeg.quality"),
        (lambda: CameraNoise(shot=(0, 1)), "effects.noise.shot"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], setting: str) -> None:
    with pytest.raises(UserError, match=rf"^synthesis\.{setting} "):
        make()
