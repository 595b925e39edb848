"""PSNR, SSIM, LMSE, NCC: recorded values, independent computations, and the corners where numbers end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from reflectzoo.metrics import functional, images
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"


def pair(height: int = 47, width: int = 61, count: int = 2) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(7)
    truth = rng.random((count, 3, height, width))
    found = np.clip(0.8 * truth + 0.2 * rng.random(truth.shape) + 0.05, 0, 1)
    return torch.from_numpy(found), torch.from_numpy(truth)


def as_arrays(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_recorded_values_of_the_authors_programs() -> None:
    lines = run_folder(RECORDED, ["metrics"])
    assert [line.verdict for line in lines] == ["pass"] * 3, [str(line) for line in lines]


def test_the_recording_is_compared_with_what_a_library_computes_now() -> None:
    """The recorded numbers themselves, not only ours, so that a damaged recording cannot agree with a damaged score."""
    data = json.loads((RECORDED / "metrics.json").read_text())
    arrays = np.load(RECORDED / "metrics.npz")
    for case in data["cases"]:
        found, truth = (arrays[f"{case['name']}.in.{name}"].astype(float) for name in ("estimate", "target"))
        wanted = structural_similarity(found, truth, channel_axis=2, data_range=255)
        assert case["quality_assess_float64"]["SSIM"] == pytest.approx(wanted, abs=1e-9)


def test_ssim_is_scikit_images_in_both_conventions() -> None:
    found, truth = pair()
    for ours, options in (
        (functional.uniform_ssim, {}),
        (functional.gaussian_ssim, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
    ):
        values = ours(found, truth)
        for value, x, y in zip(values.tolist(), found, truth, strict=True):
            wanted = structural_similarity(as_arrays(x), as_arrays(y), channel_axis=2, data_range=1.0, **options)
            assert value == pytest.approx(wanted, abs=1e-9)
    assert abs(functional.uniform_ssim(found, truth) - functional.gaussian_ssim(found, truth)).min() > 1e-4


def test_psnr_by_channel_and_pooled() -> None:
    found, truth = pair()
    by_channel, pooled = functional.channel_psnr(found, truth), functional.pooled_psnr(found, truth)
    for i in range(2):
        each = [peak_signal_noise_ratio(truth[i, c].numpy(), found[i, c].numpy(), data_range=1.0) for c in range(3)]
        assert by_channel[i].item() == pytest.approx(np.mean(each), abs=1e-9)
        whole = peak_signal_noise_ratio(truth[i].numpy(), found[i].numpy(), data_range=1.0)
        assert pooled[i].item() == pytest.approx(whole, abs=1e-9)
    # One broken channel: the two conventions are 43 dB apart.
    red = truth.clone()
    red[:, 0] = (red[:, 0] - 0.5).abs()
    assert (functional.channel_psnr(red, truth) > functional.pooled_psnr(red, truth) + 30).all()


def direct_lmse(found: np.ndarray, truth: np.ndarray) -> float:
    """From the definition, window by window, on images of 0..255."""
    error = total = 0.0
    for channel in range(3):
        for top in range(0, truth.shape[1] - 19, 10):
            for left in range(0, truth.shape[2] - 19, 10):
                part = slice(top, top + 20), slice(left, left + 20)
                x, y = 255 * found[channel][part], 255 * truth[channel][part]
                power = (x * x).sum()
                factor = (x * y).sum() / power if power > 1e-5 else 0.0
                error += ((y - factor * x) ** 2).sum()
                total += (y * y).sum()
    return error / total


@pytest.mark.parametrize("size", [(20, 20), (29, 45), (47, 61), (90, 33)])
def test_lmse_window_by_window(size: tuple[int, int]) -> None:
    found, truth = pair(*size)
    found[:, :, : size[0] // 2, : size[1] // 2] = 0  # windows with nothing in them
    wanted = [direct_lmse(x.numpy(), y.numpy()) for x, y in zip(found, truth, strict=True)]
    assert functional.lmse(found, truth).tolist() == pytest.approx(wanted, abs=1e-12)


def test_ncc_is_the_correlation_coefficient() -> None:
    found, truth = pair()
    wanted = [np.corrcoef(x.flatten().numpy(), y.flatten().numpy())[0, 1] for x, y in zip(found, truth, strict=True)]
    assert functional.ncc(found, truth).tolist() == pytest.approx(wanted, abs=1e-12)


EACH = [
    (images.ChannelPSNR, 100.0),
    (images.PooledPSNR, 100.0),
    (images.UniformSSIM, 1.0),
    (images.GaussianSSIM, 1.0),
    (images.LMSE, 0.0),
    (images.NCC, 1.0),
    (images.SI, 1.0),
]


@pytest.mark.parametrize(("metric", "best"), EACH, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("content", ["noise", "black", "white", "grey"])
def test_the_truth_gets_the_best_score_and_no_nan(metric, best: float, content: str) -> None:
    truth = (
        pair()[1] if content == "noise" else torch.full((2, 3, 40, 40), {"black": 0, "white": 1, "grey": 0.3}[content])
    )
    scores = metric().per_image(truth, truth)
    assert scores.tolist() == pytest.approx([best] * 2, abs=1e-9)


@pytest.mark.parametrize(("metric", "best"), EACH, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize(
    ("found", "truth"), [(0.0, 1.0), (1.0, 0.0), (0.3, 0.0), (0.0, None), (None, 0.0), (0.5, None)]
)
def test_flat_images_are_worse_than_the_truth_and_no_nan(metric, best: float, found, truth) -> None:
    noise = pair(40, 40)[1]
    found, truth = (noise if value is None else torch.full_like(noise, value) for value in (found, truth))
    scores = metric().per_image(found, truth)
    assert scores.isfinite().all()
    # LMSE cannot tell a black truth from anything; SI not a constant from another.
    if (metric not in (images.LMSE, images.SI) or (truth.std() > 0)) and not math.isclose(scores[0].item(), best):
        assert bool(scores[0] < best) == metric.higher_is_better


def test_a_mean_over_images_counts_every_image_alike() -> None:
    found, truth = pair()
    metric = images.LMSE()
    metric.update(found[:1], truth[:1])
    small = found[1:, :, :19], truth[1:, :, :19]
    metric.update(*small)  # smaller than a window: has no score and does not count
    assert functional.lmse(*small).isnan().all()
    assert metric.compute().item() == functional.lmse(found[:1], truth[:1]).item()
    metric.reset()
    assert metric.compute().isnan()


def test_shapes_must_agree() -> None:
    found, truth = pair()
    with pytest.raises(ValueError, match="preds is"):
        functional.channel_psnr(found, truth[:, :, 1:])
    with pytest.raises(ValueError, match="B, C, H, W"):
        functional.lmse(found[0], truth[0])
    with pytest.raises(ValueError, match="mask"):
        functional.regional_si(found, truth, torch.ones(2, 5, 5))
