"""The statistic loss: MMD written out against MMD from waves, both readings, two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.conftest import in_two_processes
from torch import Tensor

from reflectzoo.errors import UserError
from reflectzoo.methods.corrn.statistic import BANDWIDTHS, StatisticLoss, mmd, pixel_mmd, statistic_loss
from reflectzoo.ops.colour import luminance
from reflectzoo.ops.gradients import sobel


def written_out(x: Tensor, y: Tensor) -> Tensor:
    """Equation 9, term by term."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).square()
        squared = squared.sum(-1) if squared.ndim == 3 else squared
        return sum(torch.exp(-g * squared) for g in BANDWIDTHS) / len(BANDWIDTHS)

    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


def test_mmd_by_hand() -> None:
    # Two samples against one: (2 + 2 k) / 4 + 1 - 2 (k1 + k2) / 2.
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
    k = torch.exp(-0.5 * torch.tensor([4.0, 1.0, 1.0]))
    assert mmd(x, y, (0.5,)).item() == pytest.approx(float(0.5 + 0.5 * k[0] + 1 - k[1] - k[2]), rel=1e-5)


def test_mmd_of_vectors(layers) -> None:
    (x,), (y,) = layers(1, 5, 7, dtype=torch.float64), layers(1, 4, 7, seed=1, dtype=torch.float64)
    assert mmd(x, y).item() == pytest.approx(written_out(x, y).item(), rel=1e-10)
    # A sample without a share does not count.
    shares = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]).double(), torch.full((4,), 0.25).double()
    assert mmd(x, y, weights=shares).item() == pytest.approx(written_out(x[:4], y).item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_waves_give_the_sum_over_all_pairs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 300, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [3.0], [0.1]])
    y = torch.randn(3, 200, generator=generator, dtype=torch.float64) * 1.3 + 0.2
    y[0, 0], x[1, :3] = 90, -120  # the tails are heavy
    found = pixel_mmd(x.to(dtype), y.to(dtype))
    for value, a, b in zip(found, x, y, strict=True):
        assert value.item() == pytest.approx(written_out(a, b).item(), abs=1e-6 if dtype == torch.float32 else 1e-13)


def test_far_samples_stay_far() -> None:
    """Beyond 128 they count as lying there; what is near zero is no nearer for that."""
    y = torch.linspace(-1, 1, 50, dtype=torch.float64)[None]
    x = y.clone()
    x[0, 0] = 1e9
    expected = x.clone()
    expected[0, 0] = 200
    assert pixel_mmd(x, y).item() == pytest.approx(written_out(expected[0], y[0]).item(), abs=1e-12)


def test_gradients_of_the_waves(layers) -> None:
    x, y = (4 * each - 2 for each in layers(2, 2, 9, dtype=torch.float64))
    x.requires_grad_()
    (found,) = torch.autograd.grad(pixel_mmd(x, y).sum(), x)
    (expected,) = torch.autograd.grad(sum(written_out(a, b) for a, b in zip(x, y, strict=True)), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_memory_grows_with_the_pixels_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk at a time on the way there and back: no tensor holds all waves of all pixels."""
    import reflectzoo.methods.corrn.statistic as module

    largest = 0
    plain = module._wave_sums

    def watched(samples: Tensor, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal largest
        largest = max(largest, 2 * samples.numel() * (len(coarse) + len(fine)))
        return plain(samples, coarse, fine)

    monkeypatch.setattr(module, "_wave_sums", watched)
    saved: list[int] = []
    x = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        value = pixel_mmd(x, 1.1 * x.detach()).sum()
    value.backward()
    assert largest <= 1 << 20
    assert sum(saved) < 20 * x.numel()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_papers_form_against_the_equations(layers) -> None:
    """Equations 9 to 11 on tiny images, with the stated unit."""
    prediction, truth = layers(2, 2, 3, 6, 7, dtype=torch.float64)
    total = torch.zeros(()).double()
    for p, t in zip(prediction, truth, strict=True):
        grey_p, grey_t = ((0.2989 * c[0] + 0.587 * c[1] + 0.114 * c[2]) for c in (p, t))
        for dim in (0, 1):
            soft_p, soft_t = (torch.softmax(g.diff(dim=dim).flatten(), 0) for g in (grey_p, grey_t))
            unit = (soft_t - soft_t.mean()).abs().median()
            total += written_out(soft_p / unit, soft_t / unit)
    assert statistic_loss(prediction, truth).item() == pytest.approx(float(total / 2), rel=1e-9)


def test_bare_softmax_values_say_next_to_nothing(layers) -> None:
    """Why the paper's form has a unit: its samples are near 1 / pixels."""
    prediction, truth = layers(2, 1, 3, 32, 32, dtype=torch.float64)
    assert 0 < statistic_loss(0.5 * prediction, truth, unit="none").item() < 1e-12
    assert statistic_loss(0.5 * prediction, truth).item() > 1e-3


def test_a_wider_distribution_costs_more(layers) -> None:
    (truth,) = layers(1, 1, 3, 32, 32)
    values = [statistic_loss(factor * truth, truth).item() for factor in (1.0, 1.1, 1.3, 2.0)]
    assert values[0] == pytest.approx(0, abs=1e-7)
    assert values == sorted(values)
    # Brightness and place do not matter, only how gradients are distributed.
    assert statistic_loss(truth + 0.3, truth).item() == pytest.approx(0, abs=1e-6)


def test_flat_images_and_wild_predictions_are_finite(layers) -> None:
    (noise,) = layers(1, 1, 3, 16, 16)
    flat = torch.full_like(noise, 0.5)
    for prediction, truth in ((noise, flat), (flat, flat), (1e4 * noise, noise)):
        prediction = prediction.clone().requires_grad_()
        value = statistic_loss(prediction, truth)
        (gradient,) = torch.autograd.grad(value, prediction)
        assert 0 <= value.item() < 4
        assert gradient.isfinite().all()


@pytest.mark.parametrize("form", ["paper", "program"])
def test_samples_without_truth_are_left_out(form, layers, batch_of) -> None:
    prediction, truth = layers(2, 2, 3, 8, 8, dtype=torch.float64)
    term = StatisticLoss(form=form)
    alone = term({"transmission": prediction[:1]}, batch_of(truth[:1], truth[:1]))
    masked = term({"transmission": prediction}, batch_of(truth, truth, has_transmission=[True, False]))
    nothing = term({"transmission": prediction}, batch_of(truth, truth, has_transmission=[False, False]))
    assert alone.item() > 0
    assert masked.item() == pytest.approx(alone.item(), rel=1e-9)
    assert nothing.item() == 0


@pytest.mark.parametrize("form", ["paper", "program"])
def test_gradcheck(form, layers) -> None:
    prediction, truth = (8 * each for each in layers(2, 2, 3, 3, 4, dtype=torch.float64))
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: 100 * statistic_loss(p, truth, form=form), (prediction,))


def test_sobel_borders() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    along_x, along_y = sobel(ramp, "replicate")
    assert along_x[0, 0, 1].tolist() == [4, 8, 8, 4]
    assert along_y.abs().max() == 0
    assert sobel(ramp, "zeros")[0][0, 0, 0].tolist() == [3, 6, 6, -6]
    assert luminance(torch.ones(1, 3, 1, 1)).item() == pytest.approx(0.9999)


def test_mistakes() -> None:
    image = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\).*\(1, 3, 4, 3\)"):
        statistic_loss(image, image[..., :3])
    with pytest.raises(ValueError, match=r"RGB images.*\(1, 1, 4, 4\)"):
        statistic_loss(image[:, :1], image[:, :1])
    with pytest.raises(ValueError, match="samples must be"):
        pixel_mmd(torch.zeros(2, 0), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="samples must be"):
        mmd(torch.zeros(2, 3), torch.zeros(2, 4))
    for arguments in ({"layer": "x"}, {"form": "x"}, {"unit": "x"}, {"unknown_reflection": "x"}):
        with pytest.raises(UserError, match=r"must be .*, got 'x'"):
            StatisticLoss(**arguments)


# -- two processes -----------------------------------------------------------------------------------------------------


def _gradient(form: str, samples: slice) -> tuple[Tensor, Tensor]:
    """Value and gradient of a factor that the whole prediction shares."""
    generator = torch.Generator().manual_seed(0)
    contrast = torch.tensor([1.0, 4.0, 0.1, 2.0]).double().view(-1, 1, 1, 1)
    prediction, truth = (contrast * torch.rand(4, 3, 6, 6, generator=generator).double() for _ in range(2))
    valid = torch.tensor([True, True, False, True])
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = statistic_loss(factor * prediction[samples], truth[samples], valid[samples], form=form)
    return value.detach(), torch.autograd.grad(value, factor)[0]


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        averaged = {}
        for form in ("paper", "program"):
            pair = _gradient(form, slice(2 * rank, 2 * rank + 2))
            for tensor in pair:
                dist.all_reduce(tensor)
                tensor /= 2
            averaged[form] = pair
        if rank == 0:
            torch.save(averaged, f"{folder}/averaged.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_two_processes(_process, str(tmp_path))
    averaged = torch.load(tmp_path / "averaged.pt", weights_only=True)
    for form, found in averaged.items():
        for ours, theirs in zip(found, _gradient(form, slice(0, 4)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)
            assert theirs.abs() > 1e-9
