"""SI, SSIMr and SIr: recorded values, a direct computation, regions, several batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from reflectzoo.metrics.images import SI, SIr, SSIMr

RECORDED = np.load(Path(__file__).with_name("si_recorded.npz"))


@pytest.mark.parametrize("case", ["noisy", "blurred_scaled"])
def test_recorded_values(case: str) -> None:
    """1 - SI loss of CoRRN's program on 8-bit pictures, in colour and in grey."""
    estimate, target = (
        torch.from_numpy(RECORDED[f"{case}.{name}"]).permute(2, 0, 1)[None].float() / 255
        for name in ("estimate", "target")
    )
    for grey, recorded in zip((False, True), RECORDED[f"{case}.si"], strict=True):
        assert SI(grey=grey)(estimate, target).item() == pytest.approx(recorded, abs=1e-5)


def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    target = rng.random((3, 3, 18, 22))
    estimate = target + 0.3 * rng.random(target.shape)
    mask = rng.random((3, 18, 22)) > np.array([0.2, 0.8, 1.0])[:, None, None]  # the last has no region
    return torch.from_numpy(estimate), torch.from_numpy(target), torch.from_numpy(mask)


def score(metric: type[SSIMr | SIr], *tensors: torch.Tensor) -> float:
    collected = metric()
    collected.update(*tensors)
    return collected.compute().item()


def direct_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and SI of one channel, from the definition."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / 4.5)
    window /= window.sum()
    mx, my, xx, yy, xy = (convolve(a, window, mode="constant") for a in (x, y, x * x, y * y, x * y))
    structure = (2 * (xy - mx * my) + 9e-4) / (xx - mx**2 + yy - my**2 + 9e-4)
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * structure, structure


def test_against_a_direct_computation() -> None:
    estimate, target, mask = images()
    each = [
        [direct_maps(*channel) for channel in zip(estimate[i].numpy(), target[i].numpy(), strict=True)]
        for i in range(3)
    ]
    maps = np.array(each).mean(axis=1)  # over channels: (image, metric, H, W)
    assert SI()(estimate, target).item() == pytest.approx(maps[:, 1].mean(), abs=1e-6)
    regional = np.mean([[maps[i, k][mask[i].numpy()].mean() for k in range(2)] for i in range(2)], axis=0)
    assert score(SSIMr, estimate, target, mask) == pytest.approx(regional[0], abs=1e-6)
    assert score(SIr, estimate, target, mask.float()) == pytest.approx(regional[1], abs=1e-6)


@pytest.mark.parametrize("metric", [SSIMr, SIr])
def test_only_the_region_counts(metric) -> None:
    estimate, target, _ = images()
    mask = torch.zeros(3, 18, 22, dtype=torch.bool)
    mask[:, 6:, 6:] = True
    before = score(metric, estimate, target, mask)
    far, near = estimate.clone(), estimate.clone()
    far[..., 0, 0] = 5  # more than a window's half away from the region
    near[..., 6, 6] = 5
    assert score(metric, far, target, mask) == before
    assert score(metric, near, target, mask) < before - 0.01
    whole = torch.ones_like(mask)
    if metric is SIr:
        assert score(metric, estimate, target, whole) == pytest.approx(SI()(estimate, target).item())


def test_batches_add_up_and_reset_forgets() -> None:
    estimate, target, mask = images()
    metric = SIr()
    for index in range(3):
        metric.update(estimate[index : index + 1], target[index : index + 1], mask[index : index + 1])
    assert metric.compute().item() == pytest.approx(score(SIr, estimate, target, mask), abs=1e-6)
    metric.reset()
    metric.update(estimate[2:], target[2:], mask[2:])
    assert metric.compute().isnan(), "no image with a region: there is nothing to report"


def test_a_mask_of_another_size() -> None:
    estimate, target, mask = images()
    with pytest.raises(ValueError, match=r"the mask is \(3, 18, 21\), but the images are \(3, 18, 22\)"):
        score(SIr, estimate, target, mask[..., 1:])
