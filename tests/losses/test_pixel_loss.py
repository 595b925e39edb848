from __future__ import annotations

import pytest
import torch

from reflectzoo.errors import UserError
from reflectzoo.losses.pixel import PixelLoss, gradient_loss, l1_loss, mse_loss
from reflectzoo.losses.reconstruction import ReconstructionLoss, reconstruction_loss
from reflectzoo.ops.gradients import forward_differences

CORNER = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
ZERO = torch.zeros(1, 1, 2, 2)


def test_hand_worked_numbers() -> None:
    assert mse_loss(2 * CORNER, ZERO).item() == 1.0
    assert l1_loss(2 * CORNER, ZERO).item() == 0.5
    # Rows: |-2|, 0 -> 1; columns likewise.
    assert gradient_loss(2 * CORNER, ZERO).item() == 2.0


def test_default_weights_are_those_of_the_program(batch_of) -> None:
    value = PixelLoss()({"transmission": CORNER}, batch_of(ZERO, ZERO))
    assert value.item() == pytest.approx(0.3 * 0.25 + 0.6 * 1.0)


def test_reflection_term_of_the_paper_has_no_gradient_part(batch_of) -> None:
    term = PixelLoss("reflection", mse=0.9, gradient=0.0)
    value = term({"transmission": ZERO, "reflection": CORNER}, batch_of(ZERO, ZERO))
    assert value.item() == pytest.approx(0.9 * 0.25)


def test_plain_l1(batch_of) -> None:
    value = PixelLoss(mse=0, gradient=0, l1=2)({"transmission": CORNER}, batch_of(ZERO, ZERO))
    assert value.item() == 0.5


def test_a_constant_offset_has_no_gradient_loss(layers) -> None:
    (image,) = layers(1, 2, 3, 5, 4)
    assert gradient_loss(image + 0.5, image).item() == pytest.approx(0, abs=1e-6)


def test_samples_without_truth_are_left_out(layers, batch_of) -> None:
    prediction, truth = layers(2, 3, 3, 6, 5)
    alone = PixelLoss()({"transmission": prediction[:1]}, batch_of(truth[:1], truth[:1]))
    masked = PixelLoss()({"transmission": prediction}, batch_of(truth, truth, has_transmission=[True, False, False]))
    assert masked.item() == pytest.approx(alone.item(), rel=1e-6)


def test_zero_when_no_truth_is_known(layers, batch_of) -> None:
    prediction, truth = layers(2, 2, 3, 4, 4)
    prediction.requires_grad_()
    nothing = [False, False]
    outputs = {"transmission": prediction, "reflection": prediction}
    for layer in ("transmission", "reflection"):
        value = PixelLoss(layer)(outputs, batch_of(truth, truth, has_transmission=nothing, has_reflection=nothing))
        (gradient,) = torch.autograd.grad(value, prediction)
        assert value.item() == 0
        assert gradient.abs().max().item() == 0


def test_unknown_reflection_is_the_signed_residual_or_skipped(batch_of) -> None:
    transmission = torch.full((2, 3, 4, 4), 0.5)
    batch = batch_of(transmission, 0 * transmission, mixture=transmission - 0.25, has_reflection=[False, False])
    outputs = {"transmission": transmission, "reflection": torch.full_like(transmission, -0.25)}
    assert PixelLoss("reflection")(outputs, batch).item() == 0
    outputs["reflection"] = torch.full_like(transmission, 0.75)
    assert PixelLoss("reflection")(outputs, batch).item() == pytest.approx(0.3 * 1.0)
    assert PixelLoss("reflection", unknown_reflection="skip")(outputs, batch).item() == 0
    # Nothing is known at all: no residual either.
    batch["has_transmission"][1] = False
    outputs["reflection"][1] = 99
    assert PixelLoss("reflection")(outputs, batch).item() == pytest.approx(0.3 * 1.0)


def test_a_known_reflection_is_used_as_it_is(batch_of) -> None:
    truth = torch.full((1, 3, 4, 4), 0.5)
    # A clipped mixture: its residual is not the reflection.
    batch = batch_of(truth, truth, mixture=truth)
    assert PixelLoss("reflection")({"transmission": truth, "reflection": truth}, batch).item() == 0


def test_a_reflection_known_without_its_transmission_counts(batch_of) -> None:
    truth = torch.full((1, 3, 4, 4), 0.5)
    batch = batch_of(0 * truth, truth, mixture=truth, has_transmission=[False])
    value = PixelLoss("reflection")({"transmission": truth, "reflection": truth + 1}, batch)
    assert value.item() == pytest.approx(0.3)


def test_gradcheck(layers) -> None:
    prediction, truth = layers(2, 2, 2, 3, 4, dtype=torch.float64)
    valid = torch.tensor([True, False])
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: 0.3 * mse_loss(p, truth, valid) + gradient_loss(p, truth, valid) + l1_loss(p, truth), (prediction,)
    )


def test_low_precision_is_summed_up_in_float32(layers) -> None:
    prediction, truth = (image.bfloat16() for image in layers(2, 1, 3, 32, 32))
    value = mse_loss(prediction, truth)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(mse_loss(prediction.float(), truth.float()).item(), rel=1e-6)


@pytest.mark.parametrize("function", [mse_loss, l1_loss, gradient_loss])
def test_different_shapes_are_both_named(function) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\).*\(1, 3, 4, 5\)"):
        function(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))


def test_an_image_without_neighbours_has_no_gradient() -> None:
    with pytest.raises(ValueError, match=r"2x2.*\(1, 3, 1, 4\)"):
        forward_differences(torch.zeros(1, 3, 1, 4))


@pytest.mark.parametrize(
    ("arguments", "word"), [({"layer": "background"}, "background"), ({"unknown_reflection": "guess"}, "guess")]
)
def test_unknown_words_are_the_users_mistake(arguments, word) -> None:
    with pytest.raises(UserError, match=f"must be .* or .*, got '{word}'"):
        PixelLoss(**arguments)


def test_a_network_without_reflection_is_told_in_a_sentence(batch_of) -> None:
    with pytest.raises(UserError, match=r"term on the reflection, but this network returns only transmission"):
        PixelLoss("reflection")({"transmission": ZERO}, batch_of(ZERO, ZERO))


def test_reconstruction(batch_of) -> None:
    ones = torch.ones(2, 3, 4, 4)
    outputs = {"transmission": 0.5 * ones, "reflection": 0.25 * ones}
    unknown = [False, False]
    # It needs no truth.
    batch = batch_of(0 * ones, 0 * ones, mixture=ones, has_transmission=unknown, has_reflection=unknown)
    assert ReconstructionLoss()(outputs, batch).item() == 0.25
    assert reconstruction_loss(0.75 * ones, 0.25 * ones, ones).item() == 0
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(2, 3, 4, 3\)"):
        reconstruction_loss(ones, ones, ones[..., 1:])
