from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from reflectzoo.errors import UserError
from reflectzoo.losses.adversarial import AdversarialLoss, discriminator_loss, generator_loss
from reflectzoo.nets.discriminators import DiscriminatorVGG

KINDS = ("sgan", "rsgan", "rasgan", "lsgan")


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


class MeanJudge(nn.Module):
    """Its logit is a multiple of the image's mean."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.factor * image.mean(dim=(1, 2, 3), keepdim=True)


def bce(logit: float, truth: int) -> float:
    return math.log1p(math.exp(-logit if truth else logit))


def test_hand_worked_numbers() -> None:
    fake, real = column(0.5, -1.0), column(2.0, 1.0)
    mean_fake, mean_real = -0.25, 1.5
    assert generator_loss("sgan", fake, real).item() == pytest.approx((bce(0.5, 1) + bce(-1, 1)) / 2)
    assert generator_loss("rsgan", fake, real).item() == pytest.approx((bce(-1.5, 1) + bce(-2, 1)) / 2)
    expected = (bce(2 - mean_fake, 0) + bce(1 - mean_fake, 0)) / 4 + (
        bce(0.5 - mean_real, 1) + bce(-1 - mean_real, 1)
    ) / 4
    assert generator_loss("rasgan", fake, real).item() == pytest.approx(expected)
    expected = (bce(0.5, 0) + bce(-1, 0)) / 4 + (bce(2, 1) + bce(1, 1)) / 4
    assert discriminator_loss("sgan", fake, real).item() == pytest.approx(expected)
    assert discriminator_loss("rsgan", fake, real).item() == pytest.approx((bce(1.5, 1) + bce(2, 1)) / 2)
    expected = (bce(2 - mean_fake, 1) + bce(1 - mean_fake, 1)) / 4 + (
        bce(0.5 - mean_real, 0) + bce(-1 - mean_real, 0)
    ) / 4
    assert discriminator_loss("rasgan", fake, real).item() == pytest.approx(expected)


def test_least_squares_by_hand() -> None:
    fake, real = column(0.5, -1.0), column(2.0, 1.0)
    assert generator_loss("lsgan", fake, real).item() == pytest.approx((0.5**2 + 2**2) / 2)
    assert discriminator_loss("lsgan", fake, real).item() == pytest.approx(((1 + 0) / 2 + (0.25 + 1) / 2) / 2)


def test_relativistic_average_at_batch_size_one_is_plainly_relativistic() -> None:
    fake, real = torch.randn(2, 1, 1, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    for function in (generator_loss, discriminator_loss):
        assert function("rasgan", fake, real).item() == pytest.approx(function("rsgan", fake, real).item())


def test_the_average_is_over_the_batch_and_not_over_patches() -> None:
    fake, real = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(1)).unbind()
    by_patch = [
        generator_loss("rasgan", fake[..., i : i + 1, j : j + 1], real[..., i : i + 1, j : j + 1])
        for i in range(2)
        for j in range(2)
    ]
    assert generator_loss("rasgan", fake, real).item() == pytest.approx(torch.stack(by_patch).mean().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [generator_loss, discriminator_loss])
def test_masked_samples_do_not_count(kind, function) -> None:
    generator = torch.Generator().manual_seed(2)
    fake, real = torch.randn(2, 3, 1, 2, 2, generator=generator).unbind()
    valid = torch.tensor([True, False, True])
    kept = function(kind, fake[valid], real[valid])
    fake[1], real[1] = 50, -50
    assert function(kind, fake, real, valid).item() == pytest.approx(kept.item(), rel=1e-6)
    fake.requires_grad_()
    nothing = function(kind, fake, real, torch.zeros(3, dtype=torch.bool))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, fake)[0].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind) -> None:
    generator = torch.Generator().manual_seed(4)
    fake, real = (torch.randn(3, 1, 2, 1, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    valid = torch.tensor([True, True, False])
    assert torch.autograd.gradcheck(lambda a, b: generator_loss(kind, a, b, valid), (fake, real))
    assert torch.autograd.gradcheck(lambda a, b: discriminator_loss(kind, a, b, valid), (fake, real))


@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_in_bf16_stay_finite(kind) -> None:
    fake, real = column(300.0, -300.0).bfloat16().requires_grad_(), column(-250.0, 250.0).bfloat16()
    value = generator_loss(kind, fake, real)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, fake)[0]).all()


def test_generator_part_trains_the_prediction_and_not_the_discriminator(layers, batch_of) -> None:
    prediction, truth = layers(2, 2, 3, 16, 16)
    prediction.requires_grad_()
    term = AdversarialLoss(DiscriminatorVGG(width=4))
    term({"transmission": prediction}, batch_of(truth, truth)).backward()
    assert prediction.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in term.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in term.discriminator.parameters())
    logits = (term.discriminator(image) for image in (prediction, truth))
    expected = generator_loss("rasgan", *logits)
    assert term({"transmission": prediction}, batch_of(truth, truth)).item() == pytest.approx(expected.item())


def test_discriminator_part_trains_the_discriminator_and_not_the_prediction(layers, batch_of) -> None:
    prediction, truth = layers(2, 2, 3, 16, 16)
    prediction.requires_grad_()
    term = AdversarialLoss(DiscriminatorVGG(width=4), kind="rsgan")
    term.discriminator_loss({"transmission": prediction}, batch_of(truth, truth)).backward()
    assert prediction.grad is None
    assert all(torch.isfinite(parameter.grad).all() for parameter in term.discriminator.parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in term.discriminator.parameters())


def test_samples_without_a_true_transmission_are_left_out(layers, batch_of) -> None:
    prediction, truth = layers(2, 3, 3, 4, 4)
    term = AdversarialLoss(MeanJudge(5.0))
    batch = batch_of(truth, truth, has_transmission=[True, False, True])
    keep = [0, 2]
    kept = batch_of(truth[keep], truth[keep])
    for part in (term, term.discriminator_loss):
        found = part({"transmission": prediction}, batch).item()
        assert found == pytest.approx(part({"transmission": prediction[keep]}, kept).item(), rel=1e-6)
    nothing = batch_of(truth, truth, has_transmission=[False] * 3)
    assert term({"transmission": prediction}, nothing).item() == 0
    assert term.discriminator_loss({"transmission": prediction}, nothing).item() == 0


def test_second_phase_takes_the_smaller_discriminator_loss(batch_of) -> None:
    truth = torch.full((1, 3, 4, 4), 0.5)
    term = AdversarialLoss(MeanJudge(), candidates=[["transmission"], ["transmission", "reflection"]])

    def losses(t: float, r: float) -> tuple[float, float, float]:
        outputs = {"transmission": torch.full_like(truth, t), "reflection": torch.full_like(truth, r)}
        batch = batch_of(truth, truth)
        return tuple(term.discriminator_loss(outputs, batch, phase=phase).item() for phase in range(3))

    by_t, by_r = (softplus(torch.tensor(value - 0.5)).item() for value in (0.4, 0.1))
    assert losses(0.4, 0.1) == pytest.approx((by_t, by_r, by_r))
    assert losses(0.1, 0.4) == pytest.approx((by_r, by_r, by_r))


def test_only_the_smaller_candidate_has_a_gradient(batch_of) -> None:
    truth = torch.full((1, 3, 4, 4), 0.5)
    term = AdversarialLoss(MeanJudge(), candidates=[["transmission", "reflection"]])
    outputs = {"transmission": torch.full_like(truth, 0.4), "reflection": torch.full_like(truth, 0.1)}
    (both,) = torch.autograd.grad(term.discriminator_loss(outputs, batch_of(truth, truth)), term.discriminator.factor)
    # d/df softplus(-f (0.5 - 0.1)) at f = 1
    assert both.item() == pytest.approx(-0.4 * torch.sigmoid(torch.tensor(-0.4)).item(), rel=1e-5)


def test_the_discriminator_belongs_to_the_checkpoint() -> None:
    assert list(AdversarialLoss(MeanJudge()).state_dict()) == ["discriminator.factor"]


def test_mistakes(batch_of) -> None:
    with pytest.raises(UserError, match="kind must be one of sgan, rsgan, rasgan"):
        AdversarialLoss(MeanJudge(), kind="wgan")
    with pytest.raises(UserError, match="candidates must be a list of lists, each transmission or reflection"):
        AdversarialLoss(MeanJudge(), candidates=["transmission"])
    with pytest.raises(UserError, match="candidates must be a list of lists, each transmission or reflection"):
        AdversarialLoss(MeanJudge(), candidates=[["mixture"]])
    with pytest.raises(UserError, match="at least one layer"):
        AdversarialLoss(MeanJudge(), candidates=[[]])
    with pytest.raises(ValueError, match=r"\(2, 1, 1, 1\).*\(1, 1, 1, 1\)"):
        generator_loss("sgan", column(1.0, 2.0), column(1.0))
    image = torch.zeros(1, 3, 4, 4)
    for part in (AdversarialLoss(MeanJudge()), AdversarialLoss(MeanJudge()).discriminator_loss):
        with pytest.raises(ValueError, match=r"\(1, 3, 4, 3\).*\(1, 3, 4, 4\)"):
            part({"transmission": image[..., 1:]}, batch_of(image, image))
