"""SSIM and SI: recorded values, a direct computation, and what they are blind to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage.filters import sobel

from reflectzoo.errors import UserError
from reflectzoo.losses.ssim import SSIMLoss, ssim_loss
from reflectzoo.methods.corrn.structure import StructureLoss, gradient_truth, structure_loss
from reflectzoo.ops.ssim import ssim_map, structure_map
from reflectzoo.parity.report import run_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded"


def test_recorded_values_of_corrn() -> None:
    """All terms and totals, with the weights of loss=corrn_program."""
    lines = run_folder(RECORDED, ["losses_corrn"])
    assert [line.verdict for line in lines] == ["pass"], "\n".join(map(str, lines))
    assert lines[0].remark == "unused by the program, skipped: distribution_kl_t"


def direct(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps of one channel, from the definition."""
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(a: np.ndarray) -> np.ndarray:
        return convolve(a, window, mode="constant")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    structure = (2 * cov + 9e-4) / (vx + vy + 9e-4)
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * structure, structure


def test_maps_against_a_direct_computation(layers) -> None:
    x, y = layers(2, 2, 3, 20, 17, dtype=torch.float64)
    x = x - 0.5  # a residual may be negative
    found = ssim_map(x, y), structure_map(x, y)
    for b in range(2):
        for c in range(3):
            for ours, theirs in zip(found, direct(x[b, c].numpy(), y[b, c].numpy()), strict=True):
                np.testing.assert_allclose(ours[b, c].numpy(), theirs, rtol=1e-8, atol=1e-10)


def test_equal_images_and_offsets(layers) -> None:
    (image,) = layers(1, 1, 3, 40, 40, dtype=torch.float64)
    assert ssim_loss(image, image).item() == pytest.approx(0, abs=1e-12)
    # SI is blind to an offset, except near the border, where zeros begin; SSIM is not.
    inside = slice(5, -5)
    assert (1 - structure_map(image + 0.3, image)[..., inside, inside]).abs().max() < 1e-9
    assert (1 - ssim_map(image + 0.3, image)[..., inside, inside]).min() > 0.05
    # SI is not blind to contrast: 2 * 0.5 / (1 + 0.25) = 0.8 where the variance is far above C2.
    assert structure_map(0.5 * image, image)[0, 0, 20, 20].item() == pytest.approx(0.8, abs=0.01)


def test_samples_without_truth_are_left_out(layers, batch_of) -> None:
    prediction, truth = layers(2, 2, 3, 16, 16)
    for term in (SSIMLoss(), StructureLoss("transmission")):
        alone = term({"transmission": prediction[:1]}, batch_of(truth[:1], truth[:1]))
        masked = term({"transmission": prediction}, batch_of(truth, truth, has_transmission=[True, False]))
        nothing = term({"transmission": prediction}, batch_of(truth, truth, has_transmission=[False, False]))
        assert masked.item() == pytest.approx(alone.item(), rel=1e-6)
        assert nothing.item() == 0


def test_unknown_reflection_is_the_residual(layers, batch_of) -> None:
    transmission, mixture = layers(2, 1, 3, 16, 16)
    batch = batch_of(transmission, 0 * transmission, mixture=mixture, has_reflection=[False])
    outputs = {"transmission": transmission, "reflection": mixture - transmission}
    assert SSIMLoss("reflection")(outputs, batch).item() == pytest.approx(0, abs=1e-5)
    outputs["reflection"] = mixture
    assert SSIMLoss("reflection")(outputs, batch).item() > 0.01
    assert SSIMLoss("reflection", unknown_reflection="skip")(outputs, batch).item() == 0


def test_gradient_truth_against_skimage(layers) -> None:
    (image,) = layers(1, 1, 3, 12, 9, dtype=torch.float64)
    grey = (image[0] * torch.tensor([0.2989, 0.5870, 0.1140]).double().view(3, 1, 1)).sum(0).numpy()
    # skimage divides by 4.
    expected = 4 * np.hypot(*(sobel(grey, axis=axis, mode="nearest") for axis in (0, 1)))
    np.testing.assert_allclose(gradient_truth(image)[0, 0].numpy(), expected, rtol=1e-7)


def test_gradient_truth_of_a_step() -> None:
    step = torch.zeros(1, 3, 6, 6)
    step[..., 3:] = 1
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]) * (0.2989 + 0.5870 + 0.1140)
    torch.testing.assert_close(gradient_truth(step, scale=0.25), expected.expand(1, 1, 6, 6))


def test_gradient_term(layers, batch_of) -> None:
    (truth,) = layers(1, 1, 3, 24, 24)
    outputs = {"transmission": truth, "aux": {"gradient": gradient_truth(truth, 0.25)}}
    assert StructureLoss(scale=0.25)(outputs, batch_of(truth, truth)).item() == pytest.approx(0, abs=1e-5)
    assert StructureLoss(scale=1.0)(outputs, batch_of(truth, truth)).item() > 0.1
    with pytest.raises(UserError, match=r"does not predict one: remove that term"):
        StructureLoss()({"transmission": truth}, batch_of(truth, truth))


def test_gradcheck(layers) -> None:
    prediction, truth = layers(2, 1, 1, 6, 5, dtype=torch.float64)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ssim_loss(p, truth) + structure_loss(p, truth), (prediction,))


def test_low_precision_is_computed_in_float32(layers) -> None:
    prediction, truth = (image.bfloat16() for image in layers(2, 1, 3, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ssim_loss(prediction, truth)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(ssim_loss(prediction.float(), truth.float()).item(), rel=1e-6)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\).*\(1, 3, 4, 5\)"):
        ssim_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(UserError, match="layer must be transmission or reflection, got 'background'"):
        SSIMLoss("background")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="of must be one of gradient, transmission, reflection, got 'edges'"):
        StructureLoss("edges")  # type: ignore[arg-type]
