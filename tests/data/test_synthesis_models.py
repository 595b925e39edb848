"""Every synthesis model: equal to the recorded pictures, within its range, following from the sample's seed alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reflectzoo.bench import synthesis as bench
from reflectzoo.bench.registry import Options
from reflectzoo.config import config_dir
from reflectzoo.data import gallery
from reflectzoo.data.synthesis import (
    CameraNoise,
    CEILNetSynthesis,
    ClearSynthesis,
    ColdSynthesis,
    CoRRNSynthesis,
    DSRNetSynthesis,
    EffectSynthesis,
    IBCLNSynthesis,
    LocationAwareSynthesis,
    MixedSynthesis,
    Synthesis,
    ZhangSynthesis,
)
from reflectzoo.data.synthesis.optics import vignette
from reflectzoo.errors import UserError
from reflectzoo.parity.report import run_folder
from tests.conftest import SHARED
from tests.data.synthesis_zoo import all_models, digest, plain_models

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"


MODELS = all_models()
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def layers(count: int, size: tuple[int, int] = (33, 28), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with edges, black and white in them."""
    both = torch.rand(2, count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return tuple((both * 1.6 - 0.3).clamp(0, 1))


def linear(image: torch.Tensor) -> torch.Tensor:
    return image.double() ** 2.2


# -- what was recorded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [RECORDED, SHARED / "parity"], ids=["carried", "shared"])
def test_recorded_cases(folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip("../shared/parity is not beside this repository")
    lines = run_folder(folder, ["synthesis_*"])
    assert len({line.name.split("/")[0] for line in lines}) == 5
    assert [line.verdict for line in lines] == ["pass"] * len(lines), "\n".join(map(str, lines))


@pytest.mark.parametrize("name", list(bench.MODELS))
def test_equal_to_the_programs_way(name: str) -> None:
    """Other draws than were recorded, computed by the benchmark's plain forms."""
    model = bench.MODELS[name]()
    transmission, reflection = (layer[:6] for layer in layers(6, (40, 36)))
    blend = model(transmission, reflection, range(6))
    for i in range(6):
        arguments = [layer[i].permute(1, 2, 0).numpy() for layer in (transmission, reflection)]
        expected = bench.PLAIN[name](*arguments, bench.one_draw(blend.draws, i))
        for found, plain in zip(blend[:3], expected, strict=True):
            # Back from linear light, a difference of 1e-8 beside black is one of 2e-4.
            power = linear if "sigma" in blend.draws and hasattr(model, "attenuation") else torch.Tensor.double
            difference = power(found[i]) - power(torch.from_numpy(plain).permute(2, 0, 1))
            assert difference.abs().max() < 2e-6


def test_the_vignette_is_the_recorded_map() -> None:
    row = vignette(1, 3, torch.tensor([0.0]), torch.tensor([280.5 / 549]))[0, 0, 0]
    expected = torch.tensor([0.10526293585990262, 0.10696931758672029, 0.10869709575384451])
    torch.testing.assert_close(row, expected, atol=1e-7, rtol=0)
    corners = vignette(549, 549, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert corners.max() == 1
    assert corners[0, 0, 0, 0] == pytest.approx(0.01108, abs=1e-4)


def test_the_vignette_grows_with_the_picture() -> None:
    wide = vignette(10, 700, torch.tensor([0.999999]), torch.tensor([0.5]))
    assert wide.shape == (1, 1, 10, 700)
    assert wide.isfinite().all()
    assert 0 < wide.min() < wide.max() <= 1


# -- what holds for every model --------------------------------------------------------------------------------------


@each_model
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    bright=st.sampled_from([0.0, 0.3, 1.0, 1e6]),
)
def test_values_stay_in_range(model: Synthesis, seed: int, size: tuple[int, int], bright: float) -> None:
    transmission, reflection = ((layer * bright).clamp(0, 1) for layer in layers(2, size, seed % 1000))
    blend = model(transmission, reflection, [seed, seed // 3])
    for layer in blend[:3]:
        assert layer.dtype == torch.float32
        assert layer.shape == transmission.shape
        assert layer.isfinite().all()
        assert layer.min() >= 0
        assert layer.max() <= 1
    for name, value in blend.draws.items():
        assert value.dtype == torch.float32
        assert value.shape[0] == 2, name


@each_model
def test_a_batch_of_one_equals_the_same_sample_in_a_batch_of_eight(model: Synthesis) -> None:
    transmission, reflection = layers(8)
    seeds = torch.arange(50, 58)
    together = model(transmission, reflection, seeds)
    for i in range(8):
        alone = model(transmission[i : i + 1].clone(), reflection[i : i + 1].clone(), seeds[i : i + 1])
        for name in ("mixture", "transmission", "reflection"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i]), name
        for name, value in alone.draws.items():
            torch.testing.assert_close(value[0], together.draws[name][i], atol=0, rtol=0, equal_nan=True)


@each_model
def test_a_whole_batch_at_once_is_the_same(model: Synthesis) -> None:
    """As on an accelerator; on a CPU, samples are otherwise blended one after the other."""
    transmission, reflection = layers(8)
    draws = model.draw(range(8))
    singly = model(transmission, reflection, draws=draws)
    at_once = model.blend(transmission, reflection, draws)
    for one, other in zip(singly[:3], at_once, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@each_model
def test_nothing_is_written_to_what_came_in(model: Synthesis) -> None:
    transmission, reflection = layers(3)
    kept = transmission.clone(), reflection.clone()
    reflection.requires_grad_()
    draws = model.draw([1, 2, 3])
    kept_draws = {name: value.clone() for name, value in draws.items()}
    blends = [model(transmission, reflection, draws=draws)]
    blends += [model(transmission[i : i + 1], reflection[i : i + 1], [i]) for i in range(3)]
    assert not any(layer.requires_grad for blend in blends for layer in blend[:3])
    assert torch.equal(transmission, kept[0])
    assert torch.equal(reflection.detach(), kept[1])
    for name, value in draws.items():
        torch.testing.assert_close(value, kept_draws[name], atol=0, rtol=0, equal_nan=True)
    before = blends[0].transmission.clone()
    blends[0].mixture.zero_()
    assert torch.equal(blends[0].transmission, before)


def test_the_same_bytes_in_another_process() -> None:
    code = "from tests.data.synthesis_zoo import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == digest()


def test_threads_change_no_byte() -> None:
    # Where a share of the values is no multiple of 8, torch's own log2 and exp2 end with a scalar form that may round
    # otherwise in the last place; so not every size would do.
    threads = torch.get_num_threads()
    transmission, reflection = layers(1, (128, 128))
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append([model(transmission, reflection, [9]).mixture for model in MODELS.values()])
    finally:
        torch.set_num_threads(threads)
    for name, one, other in zip(MODELS, *found, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_model
def test_the_same_on_cuda(model: Synthesis) -> None:
    transmission, reflection = layers(8, (64, 48))
    here = model(transmission, reflection, range(8))
    there = model(transmission.cuda(), reflection.cuda(), range(8))
    for one, other in zip(here[:3], there[:3], strict=True):
        # Compression and black in linear light magnify the last digit, in few places.
        assert ((one - other.cpu()).abs() > 1e-4).float().mean() < 1e-3


# -- sequences -------------------------------------------------------------------------------------------------------


def frames(count: int = 2, length: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    transmission, reflection = layers(count * length)
    return transmission.unflatten(0, (count, length)), reflection.unflatten(0, (count, length))


@each_model
def test_the_centre_frame_is_the_single_picture(model: Synthesis) -> None:
    transmission, reflection = frames()
    whole = model.blend_sequence(transmission, reflection, [3, 4])
    single = model(transmission[:, 1], reflection[:, 1], [3, 4])
    for name in ("mixture", "transmission", "reflection"):
        assert getattr(whole, name).shape == transmission.shape
        torch.testing.assert_close(getattr(whole, name)[:, 1], getattr(single, name), atol=1e-6, rtol=0)
    replayed = model.blend_sequence(transmission, reflection, draws=whole.draws)
    assert torch.equal(whole.mixture, replayed.mixture)


@pytest.mark.parametrize(
    "model",
    [model for name, model in MODELS.items() if name not in ("effects", "mixed")],
    ids=lambda m: type(m).__name__,
)
def test_layers_do_not_flicker(model: Synthesis) -> None:
    """Where only the transmission gets brighter, the reflection stays what it was."""
    transmission, reflection = frames()
    reflection = reflection[:, :1].expand(-1, 3, -1, -1, -1)
    transmission = transmission[:, :1] * torch.tensor([0.2, 1.0, 0.6]).view(1, 3, 1, 1, 1)
    whole = model.blend_sequence(transmission, reflection, [3, 4])
    assert torch.equal(whole.reflection[:, 0], whole.reflection[:, 1])
    assert torch.equal(whole.reflection[:, 2], whole.reflection[:, 1])


def test_the_correction_would_differ_from_frame_to_frame() -> None:
    transmission, reflection = frames()
    transmission = transmission * torch.tensor([0.2, 1.0, 0.6]).view(1, 3, 1, 1, 1)
    for name in ("ceilnet", "zhang"):
        together = MODELS[name].blend_sequence(transmission, reflection, [3, 4])
        alone = MODELS[name](transmission[:, 0], reflection[:, 0], [3, 4])
        assert not torch.allclose(together.reflection[:, 0], alone.reflection, atol=1e-2), name


def test_noise_is_another_in_every_frame() -> None:
    model = EffectSynthesis(ClearSynthesis(), {"noise": CameraNoise(shot=(1e-3, 1e-3))})
    grey = torch.full((1, 3, 3, 16, 16), 0.5)
    mixture = model.blend_sequence(grey, grey, [1]).mixture[0]
    assert not torch.equal(mixture[0], mixture[1])
    assert not torch.equal(mixture[1], mixture[2])


def test_mistakes_with_sequences() -> None:
    transmission, reflection = frames()
    with pytest.raises(ValueError, match="frames must both be"):
        CEILNetSynthesis().blend_sequence(transmission[:, 0], reflection[:, 0], [1, 2])
    with pytest.raises(ValueError, match="2 samples"):
        CEILNetSynthesis().blend_sequence(transmission, reflection, range(6))
    with pytest.raises(ValueError, match="the draws lack gamma"):
        CEILNetSynthesis().blend_sequence(transmission, reflection, draws={"sigma": torch.ones(2)})


# -- the models ------------------------------------------------------------------------------------------------------


def test_corrn_is_a_weighted_sum() -> None:
    transmission, reflection = layers(16)
    blend = CoRRNSynthesis()(transmission, reflection, range(16))
    alpha, beta = (blend.draws[name].view(-1, 1, 1, 1) for name in ("alpha", "beta"))
    assert 0.8 <= alpha.min() < alpha.max() <= 1
    assert 0.1 <= beta.min() < beta.max() <= 0.5
    assert torch.equal(blend.transmission, transmission * alpha)
    assert torch.equal(blend.reflection, reflection * beta)
    assert torch.equal(blend.mixture, (transmission * alpha + reflection * beta).clamp(0, 1))


def test_corrns_program_has_pairs_and_its_own_truth() -> None:
    pairs = ((0.8, 0.7), (0.9, 0.8), (0.7, 0.9))
    model = CoRRNSynthesis(pairs=pairs, sigma=0.4, weighted_transmission=False)
    transmission, reflection = layers(40, (6, 6))
    blend = model(transmission, reflection, range(40))
    drawn = {
        (round(a, 6), round(b, 6)) for a, b in zip(*(blend.draws[n].tolist() for n in ("alpha", "beta")), strict=True)
    }
    assert drawn == set(pairs)
    assert torch.equal(blend.transmission, transmission)
    dot = torch.zeros(1, 3, 5, 5)
    dot[:, :, 2, 2] = 1
    blurred = model(torch.zeros_like(dot), dot, draws={"alpha": torch.ones(1), "beta": torch.ones(1)}).reflection
    near = np.exp(-1 / (2 * 0.4**2))
    assert blurred[0, 0, 2, 1] / blurred[0, 0, 2, 2] == pytest.approx(near, rel=1e-5)
    assert blurred[0, 0, 2, 0] == 0  # 3 taps


@pytest.mark.parametrize("name", ["location_aware", "equation_6", "ibcln", "zhang"])
def test_alpha_composes_the_mixture_in_linear_light(name: str) -> None:
    transmission, reflection = layers(12)
    blend = MODELS[name](transmission, reflection, range(12))
    alpha = blend.draws["alpha"].view(-1, 1, 1, 1)
    assert 0.8 <= alpha.min() < alpha.max() <= 1
    composed = alpha * linear(blend.transmission) + linear(blend.reflection)
    torch.testing.assert_close(linear(blend.mixture), composed.clamp(0, 1), atol=2e-6, rtol=0)
    assert torch.equal(blend.transmission, transmission)


def test_equation_6_leaves_the_reflection_as_it_is() -> None:
    transmission, reflection = layers(2)
    blend = MODELS["equation_6"](transmission, reflection, [1, 2])
    torch.testing.assert_close(blend.reflection, reflection, atol=1e-6, rtol=0)
    assert list(blend.draws) == ["alpha"]


def test_zhang_draws_one_of_eighty_widths() -> None:
    widths = ZhangSynthesis().draw(range(300))["sigma"].double()
    steps = (widths - 1) / 4 * 79
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert widths.min() < 1.2
    assert widths.max() > 4.8
    assert IBCLNSynthesis().draw(range(100))["sigma"].min() >= 2
    between = LocationAwareSynthesis().draw(range(100))["sigma"].double()
    assert ((between - 2) / 3 * 79 % 1 - 0.5).abs().min() < 0.1


def test_dsrnet_screens_most_and_adds_the_others() -> None:
    transmission, reflection = layers(64, (16, 16))
    blend = DSRNetSynthesis(targets="mixed")(transmission, reflection, range(64))
    screen = blend.draws["screen"] == 1
    assert 0.5 < screen.float().mean() < 0.9
    t, r = blend.transmission, blend.reflection
    torch.testing.assert_close(t, transmission * blend.draws["alpha"].view(-1, 1, 1, 1), atol=0, rtol=0)
    torch.testing.assert_close(blend.mixture[screen], (1 - (1 - t) * (1 - r))[screen], atol=1e-6, rtol=0)
    torch.testing.assert_close(blend.mixture[~screen], (t + r).clamp(0, 1)[~screen], atol=1e-6, rtol=0)
    sides = DSRNetSynthesis().draw(range(2000))["side"]
    shares = [(sides == side).float().mean().item() for side in (5, 7, 9, 11)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.04)


def test_cold_grounds_are_grey_or_coloured() -> None:
    colour = ColdSynthesis().draw(range(1000))["colour"]
    assert colour.shape == (1000, 3)
    grey = (colour == colour[:, :1]).all(dim=1)
    assert grey.float().mean() == pytest.approx(0.4, abs=0.05)
    assert colour[grey].min() >= 0
    assert colour[grey].max() <= 30
    assert colour[~grey].mean() == pytest.approx(50, abs=5)
    transmission, reflection = layers(3)
    ground = ColdSynthesis()(transmission, reflection, [1, 2, 3]).transmission
    assert (ground == ground[:, :, :1, :1]).all()


def test_clear_is_the_transmission() -> None:
    transmission, reflection = layers(2)
    blend = ClearSynthesis()(transmission, reflection, [1, 2])
    assert torch.equal(blend.mixture, transmission)
    assert not blend.reflection.any()


# -- mixtures of models ----------------------------------------------------------------------------------------------


def test_a_mixture_blends_each_sample_by_its_model() -> None:
    models = plain_models()
    mixed = MixedSynthesis(models)
    transmission, reflection = layers(40, (12, 14))
    blend = mixed(transmission, reflection, range(40))
    chosen = blend.draws["model"].long().tolist()
    assert len(set(chosen)) > 8
    for i, choice in enumerate(chosen):
        model = list(models.values())[choice]
        names = model.draw([0])
        own = {name: blend.draws[name][i : i + 1] for name in names}
        assert all(value.isfinite().all() for value in own.values())
        others = set(blend.draws) - set(names) - {"model"}
        assert all(blend.draws[name][i].isnan().all() for name in others)
        alone = model(transmission[i : i + 1], reflection[i : i + 1], draws=own)
        for found, expected in zip(blend[:3], alone[:3], strict=True):
            assert torch.equal(found[i], expected[0])


def test_weights_say_how_often() -> None:
    models = {"a": CEILNetSynthesis(), "never": CEILNetSynthesis(), "clear": ClearSynthesis()}
    draws = MixedSynthesis(models, {"a": 3, "never": 0, "clear": 1}).draw(range(2000))
    shares = draws["model"].long().bincount(minlength=3) / 2000
    assert shares.tolist() == pytest.approx([0.75, 0, 0.25], abs=0.03)
    assert MixedSynthesis(models).draw(range(300))["model"].unique().tolist() == [0, 1, 2]


def test_mistakes_in_mixtures() -> None:
    one = {"a": CEILNetSynthesis()}
    with pytest.raises(UserError, match="at least one"):
        MixedSynthesis({})
    with pytest.raises(UserError, match="weight for each of a, got b"):
        MixedSynthesis(one, {"b": 1})
    for weights in ({"a": -1}, {"a": 0}):
        with pytest.raises(UserError, match=r"synthesis\.weights must (not be all 0|be null or names, each with)"):
            MixedSynthesis(one, weights)
    with pytest.raises(UserError, match="is a mixture itself"):
        MixedSynthesis({"b": MixedSynthesis(one)})
    transmission, reflection = layers(1)
    draws = {**MixedSynthesis(one).draw([1]), "model": torch.tensor([1.0])}
    with pytest.raises(ValueError, match="but there are 1"):
        MixedSynthesis(one)(transmission, reflection, draws=draws)


# -- configurations, gallery, benchmark ------------------------------------------------------------------------------


def test_every_configuration_builds_what_its_class_defaults_to(tmp_path: Path) -> None:
    built = gallery.configured_models()
    assert set(built) == {path.stem for path in (Path(config_dir()) / "synthesis").glob("*.yaml")}
    for name in ("ceilnet", "zhang", "ibcln", "location_aware", "corrn", "dsrnet", "cold", "clear"):
        configured, default = (
            {key: value for key, value in vars(model).items() if not key.startswith("_")}
            for model in (built[name], MODELS[name])
        )
        assert configured == default, name
    assert built["corrn_program"].pairs == [(0.8, 0.7), (0.9, 0.8), (0.7, 0.9)]
    assert "clear" in built["mixed"].names


def test_the_gallery_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gallery.png"
    assert gallery.main(["ceilnet", "clear", "--out", str(file)]) == 0
    with Image.open(file) as picture:
        one = picture.size
    assert gallery.main(["ceilnet", "clear", "zhang", "--out", str(file)]) == 0
    with Image.open(file) as picture:
        assert picture.size[0] == one[0]
        assert picture.size[1] > one[1]
    assert gallery.main(["nonsense", "--out", str(file)]) == 2
    assert gallery.main(["clear", "--out", str(tmp_path / "nowhere" / "a.png")]) == 2
    assert gallery.main(["clear", "--out", str(file), "--behind", str(tmp_path / "missing.jpg")]) == 2
    told = capsys.readouterr().err
    assert "There is no synthesis model 'nonsense': choose from bdn, camera, ceilnet" in told
    assert "There is no folder for" in told
    assert "missing.jpg" in told


def test_the_benchmark_has_a_row_for_each_plain_form() -> None:
    rows = bench.comparisons(Options(shrink=8))
    assert {row.key for row in rows} >= set(bench.PLAIN)
    assert rows[0].key == "ceilnet"
    assert rows[0].goal == 10
    for row in rows[:1]:
        row.plain()()
        row.fast()()
