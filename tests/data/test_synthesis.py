"""Mixtures: equal to the recorded ones, whatever shares the batch."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from reflectzoo.data.synthesis import CEILNetSynthesis, Synthesis
from reflectzoo.data.synthesis.blur import gaussian_taps, separable_blur
from reflectzoo.errors import UserError

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"
SHARED = Path(__file__).parents[2].parent / "shared" / "parity"


def recorded_cases() -> list[tuple[Path, dict]]:
    files = {path.name: path for folder in (RECORDED, SHARED) for path in folder.glob("synthesis_ceilnet*.json")}
    return [
        (path.with_suffix(".npz"), case) for path in files.values() for case in json.loads(path.read_text())["cases"]
    ]


def layers(count: int, size: tuple[int, int] = (40, 36), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.rand(2, count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return both[0], both[1]


@pytest.mark.parametrize(
    ("arrays", "case"), recorded_cases(), ids=lambda value: value["name"] if isinstance(value, dict) else ""
)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_recorded_cases(arrays: Path, case: dict, precision: str) -> None:
    data = np.load(arrays)

    def image(name: str) -> torch.Tensor:
        return torch.from_numpy(data[f"{case['name']}.{name}"]).permute(2, 0, 1)[None].float()

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        draws = {name: torch.tensor([case["parameters"][name]]) for name in ("sigma", "gamma")}
        blend = CEILNetSynthesis()(image("in.t") / 255, image("in.r") / 255, draws=draws)
    finally:
        torch.set_float32_matmul_precision(before)
    strides = {spec["name"]: spec.get("spatial_stride", 1) for spec in case["outputs"]}
    for name, found in (("m", blend.mixture), ("t", blend.transmission), ("r", blend.reflection)):
        step = strides[name]
        torch.testing.assert_close(found[..., ::step, ::step], image(f"out.{name}"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(24, 31), (5, 4), (1, 1), (11, 100)])
def test_the_blur_is_the_full_convolution_with_zeros_around(size: tuple[int, int]) -> None:
    image, _ = layers(3, size)
    kernel = gaussian_taps(torch.tensor([2.0, 3.3, 5.0]), 11)
    blurred = separable_blur(image, kernel)
    for sample in range(3):
        full = np.outer(kernel[sample], kernel[sample])
        for channel in range(3):
            expected = convolve2d(np.pad(image[sample, channel], 5), full, mode="valid")
            np.testing.assert_allclose(blurred[sample, channel], expected, atol=1e-6)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    synthesis = CEILNetSynthesis()
    transmission, reflection = layers(8)
    seeds = torch.arange(100, 108)
    together = synthesis(transmission, reflection, seeds)
    for i in (0, 3, 7):
        alone = synthesis(transmission[i : i + 1], reflection[i : i + 1], seeds[i : i + 1])
        assert torch.equal(alone.mixture[0], together.mixture[i])
        assert torch.equal(alone.reflection[0], together.reflection[i])
        assert alone.draws["sigma"][0] == together.draws["sigma"][i]


def test_threads_change_no_byte() -> None:
    transmission, reflection = layers(2, (160, 160))
    seeds = [1, 2]
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(CEILNetSynthesis()(transmission, reflection, seeds).mixture)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_draws_can_be_replayed_and_follow_from_the_seed_alone() -> None:
    synthesis = CEILNetSynthesis(sigma=(2, 5), gamma=(1.0, 1.5))
    transmission, reflection = layers(4)
    first = synthesis(transmission, reflection, [7, 8, 9, 7])
    again = synthesis(transmission, reflection, draws=first.draws)
    assert torch.equal(first.mixture, again.mixture)
    assert first.draws["sigma"][0] == first.draws["sigma"][3]
    assert len(set(first.draws["sigma"].tolist())) == 3
    assert set(first.draws["gamma"].tolist()).isdisjoint(first.draws["sigma"].tolist())
    assert synthesis.draw([])["sigma"].shape == (0,)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    low=st.floats(0.5, 4),
    extra=st.floats(0, 3),
    bright=st.floats(0, 1),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_values_stay_in_range_and_add_up(
    seed: int, low: float, extra: float, bright: float, size: tuple[int, int]
) -> None:
    synthesis = CEILNetSynthesis(sigma=(low, low + extra))
    transmission, reflection = (layer * bright for layer in layers(2, size, seed % 1000))
    blend = synthesis(transmission, reflection, torch.tensor([seed, seed // 2]))
    assert ((blend.draws["sigma"] >= low - 1e-5) & (blend.draws["sigma"] <= low + extra + 1e-5)).all()
    for layer in (blend.mixture, blend.reflection):
        assert layer.dtype == torch.float32
        assert layer.isfinite().all()
        assert layer.min() >= 0
        assert layer.max() <= 1
    assert torch.equal(blend.transmission, transmission)
    torch.testing.assert_close(blend.mixture, (blend.transmission + blend.reflection).clamp(0, 1), atol=0, rtol=0)


def test_nothing_is_written_to_what_came_in_and_no_gradient_flows() -> None:
    transmission, reflection = layers(2)
    kept = transmission.clone(), reflection.clone()
    reflection.requires_grad_()
    for seeds in ([1, 2], [1]):
        blend = CEILNetSynthesis()(transmission[: len(seeds)], reflection[: len(seeds)], seeds)
        assert not blend.mixture.requires_grad
    assert torch.equal(transmission, kept[0])
    assert torch.equal(reflection.detach(), kept[1])


def test_half_precision_around_it_does_not_reach_it() -> None:
    transmission, reflection = layers(1)
    plain = CEILNetSynthesis()(transmission, reflection, [3])
    with torch.autocast("cpu", torch.bfloat16):
        inside = CEILNetSynthesis()(transmission, reflection, [3])
    assert torch.equal(plain.mixture, inside.mixture)


def test_mistakes() -> None:
    transmission, reflection = layers(2)
    with pytest.raises(ValueError, match="must both be"):
        CEILNetSynthesis()(transmission, reflection[:1], [1, 2])
    with pytest.raises(ValueError, match="needs seeds"):
        CEILNetSynthesis()(transmission, reflection)
    with pytest.raises(ValueError, match="2 samples"):
        CEILNetSynthesis()(transmission, reflection, [1])
    for wrong in ({"sigma": (5, 2)}, {"sigma": (0, 1)}, {"gamma": 1.3}, {"taps": 10}, {"border": "wrap"}):
        with pytest.raises(UserError, match=rf"^synthesis.{next(iter(wrong))} must "):
            CEILNetSynthesis(**wrong)
    with pytest.raises(NotImplementedError):
        Synthesis()(transmission, reflection, [1, 2])


def test_many_times_faster_than_the_programs_full_convolution() -> None:
    """The bench measures the ratio (over 10); here only that nobody loses it altogether."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transmission, reflection = layers(4, (224, 224))
    draws = CEILNetSynthesis().draw([1, 2, 3, 4])
    kernel = np.outer(*[gaussian_taps(torch.tensor([3.0]), 11)[0].numpy()] * 2)

    def seconds(work) -> float:
        best = 1e9
        for _ in range(4):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        return best

    try:
        ours = seconds(lambda: CEILNetSynthesis()(transmission, reflection, draws=draws)) / 4
        theirs = seconds(lambda: [convolve2d(reflection[0, c], kernel, mode="same") for c in range(3)])
    finally:
        torch.set_num_threads(threads)
    assert theirs > 4 * ours, f"{theirs / ours:.1f}"
