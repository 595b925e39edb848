"""Terms of Location-aware SIRR, by hand, masked, and against recorded values of the programs it follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from tests.conftest import SHARED
from torch import Tensor

from reflectzoo.core.batch import Batch, Outputs
from reflectzoo.errors import UserError
from reflectzoo.losses.composition import (
    CompositionLoss,
    ConfidenceLoss,
    ConfidenceMaskLoss,
    composition_loss,
    confidence_loss,
    difference_mask,
    linear_light,
    reflection_mask,
)
from reflectzoo.losses.iterations import OverIterations
from reflectzoo.losses.multiscale import MultiScalePerceptualLoss
from reflectzoo.losses.perceptual import perceptual_loss
from reflectzoo.losses.pixel import PixelLoss
from reflectzoo.losses.ssim import SSIMLoss, ssim_loss
from reflectzoo.losses.unaligned import UnalignedLoss
from reflectzoo.nets.discriminators import PatchDiscriminator
from reflectzoo.nets.shared_vgg import attach_vgg
from reflectzoo.parity import rule_state_dict

BatchOf = Callable[..., Batch]
Layers = Callable[..., tuple[Tensor, ...]]


def flat(value: float, channels: int = 3, samples: int = 1) -> Tensor:
    return torch.full((samples, channels, 4, 4), value)


def outputs_of(transmission: list[Tensor], reflection: list[Tensor], confidence: list[Tensor]) -> Outputs:
    aux = {"transmission": transmission, "reflection": reflection, "confidence": confidence}
    return {"transmission": transmission[-1], "reflection": reflection[-1], "aux": aux}


# -- sums over iterations ----------------------------------------------------------------------------------------------


def test_sum_over_iterations_by_hand(batch_of: BatchOf) -> None:
    outputs = outputs_of([flat(0.1), flat(0.3), flat(0.4)], [flat(0.0)] * 3, [flat(0.0, 1)] * 3)
    batch = batch_of(flat(0.5), flat(0.2))
    pixel = PixelLoss("transmission", mse=0.0, gradient=0.0, l1=1.0)
    expected = 0.85**2 * 0.4 + 0.85 * 0.2 + 0.1
    assert OverIterations(pixel)(outputs, batch).item() == pytest.approx(expected, rel=1e-6)
    assert OverIterations(pixel, attenuation=1.0)(outputs, batch).item() == pytest.approx(0.7, rel=1e-6)


def test_every_list_is_taken_apart(batch_of: BatchOf) -> None:
    outputs = outputs_of([flat(0.4)] * 2, [flat(0.1), flat(0.2)], [flat(0.2, 1), flat(0.4, 1)])
    batch = batch_of(flat(0.5), flat(0.2))
    reflection = PixelLoss("reflection", mse=0.0, gradient=0.0, l1=1.0)
    assert OverIterations(reflection, 0.5)(outputs, batch).item() == pytest.approx(0.5 * 0.1)
    # Mixture 0.7; (1 - 0.2) 0.5 + 0.2 = 0.6 and (1 - 0.4) 0.5 + 0.2 = 0.5.
    assert OverIterations(ConfidenceLoss(), 0.5)(outputs, batch).item() == pytest.approx(0.5 * 0.01 + 0.04, rel=1e-5)


def test_a_network_without_iterations_has_one(batch_of: BatchOf, layers: Layers) -> None:
    prediction, truth, reflection = layers(3, 1, 3, 16, 16)
    outputs: Outputs = {"transmission": prediction, "reflection": reflection}
    batch = batch_of(truth, reflection)
    assert torch.equal(OverIterations(SSIMLoss())(outputs, batch), ssim_loss(prediction, truth))


@pytest.mark.parametrize("attenuation", [0.0, 1.5, "much"])
def test_attenuation_out_of_bounds(attenuation: float) -> None:
    with pytest.raises(UserError, match="attenuation"):
        OverIterations(SSIMLoss(), attenuation)


# -- composition -------------------------------------------------------------------------------------------------------


def test_confidence_by_hand() -> None:
    """Equation 7 on stored values: the published polarity, C = 1 where the reflection hides the transmission."""
    value = confidence_loss(flat(0.25, 1), flat(0.4), flat(0.3), flat(0.5))
    assert value.item() == pytest.approx((0.75 * 0.4 + 0.3 - 0.5) ** 2, rel=1e-5)
    hidden, shown = flat(1.0, 1), flat(0.0, 1)
    assert confidence_loss(hidden, flat(0.4), flat(0.3), flat(0.3)).item() == pytest.approx(0, abs=1e-12)
    assert confidence_loss(shown, flat(0.4), flat(0.0), flat(0.4)).item() == pytest.approx(0, abs=1e-12)


def test_relative_confidence_by_hand(batch_of: BatchOf) -> None:
    # An error of 0.2 in C is one of 0.2 T in the mixture; (0.2 * 0.1)^2 / (0.1^2 + 0.01) and so on.
    for brightness, published, relative in ((0.1, 0.0004, 0.02), (0.5, 0.01, 0.01 / 0.26)):
        truth, reflection = flat(brightness), flat(0.3)
        mixture = (1 - 0.5) * truth + reflection
        layers = (flat(0.7, 1), truth, reflection, mixture)
        assert confidence_loss(*layers).item() == pytest.approx(published, rel=1e-4)
        assert confidence_loss(*layers, relative=True).item() == pytest.approx(relative, rel=1e-4)
        outputs = outputs_of([truth], [reflection], [flat(0.7, 1)])
        term = ConfidenceLoss(relative=True)
        assert term(outputs, batch_of(truth, reflection, mixture)).item() == pytest.approx(relative, rel=1e-4)


def test_relative_confidence_leaves_real_pairs_out(layers: Layers) -> None:
    truth, reflection, mixture = layers(3, 2, 3, 8, 8)
    both = confidence_loss(truth.new_full((2, 1, 8, 8), 0.3), truth, reflection, mixture, None, True)
    one = confidence_loss(truth.new_full((1, 1, 8, 8), 0.3), truth[:1], reflection[:1], mixture[:1], None, True)
    masked = confidence_loss(
        truth.new_full((2, 1, 8, 8), 0.3), truth, reflection, mixture, torch.tensor([True, False]), True
    )
    torch.testing.assert_close(masked, one)
    assert both.item() != pytest.approx(one.item())


def test_composition_by_hand_in_linear_light() -> None:
    value = composition_loss(flat(0.5), flat(0.4), flat(0.6), torch.tensor([0.9]))
    assert value.item() == pytest.approx((0.9 * 0.5**2.2 + 0.4**2.2 - 0.6**2.2) ** 2, rel=1e-4)


def test_both_forms_are_zero_for_the_truth_and_only_for_it(batch_of: BatchOf, layers: Layers) -> None:
    transmission, reflection = (0.6 * each for each in layers(2, 2, 3, 8, 8))
    alpha = torch.tensor([0.8, 0.95])
    mixture = (alpha.view(-1, 1, 1, 1) * linear_light(transmission) + linear_light(reflection)) ** (1 / 2.2)
    batch = batch_of(transmission, reflection, mixture)
    batch["draws"] = {"alpha": alpha}
    term = CompositionLoss()
    assert term({"transmission": transmission, "reflection": reflection}, batch).item() == pytest.approx(0, abs=1e-10)
    assert term({"transmission": transmission, "reflection": 0.5 * reflection}, batch).item() > 1e-4
    assert term({"transmission": 0.5 * transmission, "reflection": reflection}, batch).item() > 1e-4


def test_forms_of_the_composition(batch_of: BatchOf) -> None:
    """IBCLN's two: both layers predicted, and the reflection alone; alpha rounded to one decimal."""
    batch = batch_of(flat(0.5), flat(0.4), flat(0.6))
    batch["draws"] = {"alpha": torch.tensor([0.87])}
    outputs: Outputs = {"transmission": flat(0.7), "reflection": flat(0.3)}
    both = CompositionLoss([["transmission", "reflection"]], decimals=1)(outputs, batch)
    assert both.item() == pytest.approx((0.9 * 0.7**2.2 + 0.3**2.2 - 0.6**2.2) ** 2, rel=1e-4)
    one = CompositionLoss([["reflection"]])(outputs, batch)
    assert one.item() == pytest.approx((0.87 * 0.5**2.2 + 0.3**2.2 - 0.6**2.2) ** 2, rel=1e-4)
    sums = CompositionLoss([["transmission", "reflection"], ["reflection"]], decimals=1)(outputs, batch)
    assert sums.item() == pytest.approx(
        both.item() + CompositionLoss([["reflection"]], decimals=1)(outputs, batch).item()
    )
    for wrong, sentence in (
        ([], "forms of the composition loss must name"),
        ([[]], "forms of the composition loss must name"),
        (["reflection"], "forms must be a list of lists, each transmission or reflection"),
        ([["mixture"]], "forms must be a list of lists, each transmission or reflection"),
    ):
        with pytest.raises(UserError, match=sentence):
            CompositionLoss(wrong)  # type: ignore[arg-type]


def test_real_pairs_are_skipped_and_give_no_gradient(batch_of: BatchOf, layers: Layers) -> None:
    transmission, reflection, predicted_t, predicted_r = layers(4, 2, 3, 8, 8)
    predictions = predicted_t.requires_grad_(), predicted_r.requires_grad_()
    outputs = outputs_of([predictions[0]], [predictions[1]], [torch.full((2, 1, 8, 8), 0.3, requires_grad=True)])
    batch = batch_of(transmission, reflection, has_reflection=[True, False])
    batch["draws"] = {"alpha": torch.tensor([0.9, float("nan")])}
    alone = {key: value[:1] if isinstance(value, Tensor) else value for key, value in batch.items()}
    alone["draws"] = {"alpha": torch.tensor([0.9])}
    for term in (CompositionLoss(), ConfidenceLoss()):
        total = term(outputs, batch)
        total.backward()
        single = outputs_of([predicted_t[:1]], [predicted_r[:1]], [outputs["aux"]["confidence"][0][:1]])
        torch.testing.assert_close(total, term(single, alone))  # type: ignore[arg-type]
    for leaf in (*predictions, outputs["aux"]["confidence"][0]):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad[0].abs().sum() > 0
        assert not leaf.grad[1].any()


def test_nothing_known_is_zero_and_finite(batch_of: BatchOf, layers: Layers) -> None:
    transmission, reflection, prediction = layers(3, 1, 3, 8, 8)
    prediction.requires_grad_()
    batch = batch_of(transmission, reflection, has_reflection=[False])
    for draws in ({}, {"alpha": torch.tensor([float("nan")])}):
        batch["draws"] = draws
        value = CompositionLoss()({"transmission": prediction, "reflection": prediction}, batch)
        value.backward()
        assert value.item() == 0
    assert not prediction.grad.any()  # type: ignore[union-attr]


def test_black_and_negative_predictions_have_finite_gradients(batch_of: BatchOf) -> None:
    prediction = torch.tensor([0.0, -0.2, 0.5]).view(1, 3, 1, 1).expand(1, 3, 4, 4).clone().requires_grad_()
    batch = batch_of(flat(0.5), flat(0.2))
    batch["draws"] = {"alpha": torch.tensor([0.9])}
    CompositionLoss()({"transmission": prediction, "reflection": prediction}, batch).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_a_synthesis_without_alpha_is_told(batch_of: BatchOf) -> None:
    batch = batch_of(flat(0.5), flat(0.2))
    batch["draws"] = {"sigma": torch.tensor([2.0])}
    with pytest.raises(UserError, match="alpha"):
        CompositionLoss()({"transmission": flat(0.5), "reflection": flat(0.2)}, batch)


def test_a_network_without_a_map_is_told(batch_of: BatchOf) -> None:
    with pytest.raises(UserError, match="confidence"):
        ConfidenceLoss()({"transmission": flat(0.5)}, batch_of(flat(0.5), flat(0.2)))


def test_gradients_in_float64(layers: Layers) -> None:
    t, r, i = (0.1 + 0.8 * each for each in layers(3, 2, 3, 3, 3, dtype=torch.float64))
    alpha = torch.tensor([0.8, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, b: composition_loss(a, b, i, alpha), (t.requires_grad_(), r.requires_grad_())
    )
    c = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: confidence_loss(each, t.detach(), r.detach(), i), c)


def test_mask_by_hand() -> None:
    transmission = torch.zeros(2, 3, 1, 3)
    # Grey differences 0, 0.5, 1: threshold 0.3, then of a dim picture 0, 0.1, 0.2: nothing reaches 0.3.
    difference = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.1, 0.2]]).view(2, 1, 1, 3).expand(2, 3, 1, 3)
    assert reflection_mask(difference, transmission).flatten(1).tolist() == [[0, 1, 1], [0, 0, 0]]
    assert reflection_mask(difference, transmission, 0.6).flatten(1).tolist() == [[0, 0, 1], [0, 0, 0]]
    green = torch.zeros(1, 3, 1, 2)
    green[0, 1, 0, 1] = 0.5  # 0.587 * 0.5 = 0.29 only
    assert not reflection_mask(green, torch.zeros_like(green)).any()


def test_mask_loss_by_hand(batch_of: BatchOf) -> None:
    mixture = flat(0.1)
    mixture[..., 0] = 0.9
    batch = batch_of(flat(0.1), flat(0.0), mixture, has_reflection=[False])
    outputs = outputs_of([flat(0.1)], [flat(0.0)], [flat(0.8, 1)])
    expected = -(0.25 * log(0.8) + 0.75 * log(0.2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ConfidenceMaskLoss()(outputs, batch).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="threshold"):
        ConfidenceMaskLoss(threshold=2.0)


def test_marked_and_unmarked_pixels_weigh_the_same(batch_of: BatchOf) -> None:
    truth, mixture = (torch.full((1, 3, 20, 40), value) for value in (0.1, 0.1))
    mixture[..., 31:] = 0.9  # and, averaged, from column 30 on
    assert difference_mask(mixture, truth).mean().item() == pytest.approx(0.3, abs=0.03)
    assert not difference_mask(mixture, truth, 0.9).any()
    batch = batch_of(truth, 0 * truth, mixture, has_reflection=[False])
    outputs = outputs_of([truth], [0 * truth], [torch.full((1, 1, 20, 40), 0.8)])
    value = ConfidenceMaskLoss(threshold=0.1, balanced=True)(outputs, batch)
    assert value.item() == pytest.approx(-(0.5 * log(0.8) + 0.5 * log(0.2)), rel=1e-5)


# -- through the VGG ---------------------------------------------------------------------------------------------------


def test_scales_of_the_perceptual_loss(batch_of: BatchOf, layers: Layers, small_vgg: torch.nn.Module) -> None:
    truth, full = layers(2, 1, 3, 16, 16)
    (half,), (quarter,) = layers(1, 1, 3, 8, 8), layers(1, 1, 3, 6, 6)
    outputs: Outputs = {"transmission": full, "aux": {"half": [truth, half], "quarter": quarter}}
    weights = {"relu1_1": 1.0, "relu2_1": 0.5}
    whole = MultiScalePerceptualLoss({"full": 1.0, "half": 0.8, "quarter": 0.6}, weights)
    attach_vgg(whole, small_vgg)  # type: ignore[arg-type]
    expected = 0.0
    for factor, image in ((1.0, full), (0.8, half), (0.6, quarter)):
        wanted = truth
        if image is not full:
            wanted = torch.nn.functional.interpolate(truth, image.shape[-2:], mode="bilinear", antialias=True)
        expected += factor * perceptual_loss(small_vgg, image, wanted, weights).item()  # type: ignore[arg-type]
    assert whole(outputs, batch_of(truth, truth)).item() == pytest.approx(expected, rel=1e-6)
    assert whole(outputs, batch_of(truth, truth, has_transmission=[False])).item() == 0


def test_defaults_are_the_papers() -> None:
    term = MultiScalePerceptualLoss()
    assert term.scales == {"full": 1.0, "half": 0.8, "quarter": 0.6}
    assert term.layers == {f"relu{block}_2": 1.0 for block in (1, 2, 3, 4, 5)}


def test_what_the_perceptual_loss_cannot_do_is_told(batch_of: BatchOf, small_vgg: torch.nn.Module) -> None:
    with pytest.raises(UserError, match="'eighth'"):
        MultiScalePerceptualLoss({"eighth": 1.0})
    with pytest.raises(UserError, match="at least one"):
        MultiScalePerceptualLoss({"full": 0.0})
    term = MultiScalePerceptualLoss({"quarter": 1.0})
    attach_vgg(term, small_vgg)  # type: ignore[arg-type]
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(UserError, match=r"data\.crop to 64 or more"):
        term({"transmission": image, "aux": {"quarter": image[..., :8, :8]}}, batch_of(image, image))
    with pytest.raises(UserError, match="quarter"):
        term({"transmission": image}, batch_of(image, image))


def test_unaligned_pairs_only(batch_of: BatchOf, layers: Layers, small_vgg: torch.nn.Module) -> None:
    prediction, other = layers(2, 2, 3, 8, 8)
    prediction.requires_grad_()
    term = UnalignedLoss({"relu2_1": 1.0})
    attach_vgg(term, small_vgg)  # type: ignore[arg-type]
    batch = batch_of(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), has_transmission=[True, False])
    assert term({"transmission": prediction}, batch).item() == 0
    assert not small_vgg.seen, "nothing looks through the VGG without such pairs"
    batch["unaligned_transmission"], batch["has_unaligned"] = other, torch.tensor([False, True])
    value = term({"transmission": prediction}, batch)
    value.backward()
    alone = perceptual_loss(small_vgg, prediction[1:], other[1:], {"relu2_1": 1.0})  # type: ignore[arg-type]
    torch.testing.assert_close(value, alone)
    assert prediction.grad is not None
    assert not prediction.grad[0].any()
    assert prediction.grad[1].any()


# -- recorded values of the programs that the paper follows ------------------------------------------------------------

recorded = pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="../shared/parity is not beside this repository")


@recorded
def test_ibcln_s_residual_term_and_discriminator(batch_of: BatchOf) -> None:
    """Ten times ours, without attenuation: of true T and predicted R, and of both predicted."""
    content = json.loads((SHARED / "parity/losses_ibcln.json").read_text())
    arrays = np.load(SHARED / "parity/losses_ibcln.npz")
    case = next(case for case in content["cases"] if case["name"] == "synthetic")
    image = {
        name: torch.from_numpy(arrays[f"synthetic.in.{name}"]).double()
        for name in ("i", "t", *(f"pred_{layer}{step}" for layer in "tr" for step in (1, 2, 3)))
    }
    alpha = torch.full((2,), float(case["alpha"]), dtype=torch.float64)
    values = case["values_float64"]
    both = [
        10
        * sum(composition_loss(t, image[f"pred_r{n}"], image["i"], alpha).item() for n, t in enumerate(chosen, start=1))
        for chosen in ([image["t"]] * 3, [image[f"pred_t{n}"] for n in (1, 2, 3)])
    ]
    assert both == pytest.approx([values["idt_R"], values["res"]], rel=1e-6)

    discriminator = PatchDiscriminator(padding=1)
    discriminator.load_state_dict(rule_state_dict(discriminator, 1.4))
    with torch.no_grad():
        fake, real = (discriminator(image[name].float()) for name in ("pred_t3", "t"))
    assert (0.5 * ((real - 1).square().mean() + fake.square().mean())).item() == pytest.approx(values["D"], rel=1e-5)
