from __future__ import annotations

import math

import pytest
import torch

from reflectzoo.errors import UserError
from reflectzoo.losses.exclusion import ExclusionLoss, exclusion_loss

EDGE = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
FLAT = torch.zeros(1, 1, 2, 2)


def test_program_by_hand() -> None:
    # Columns differ by 1 in both layers, so the ratio is 2 / (1 + 1e-6); rows do not differ.
    columns = (math.tanh(0.5) ** 2 * math.tanh(1 / (1 + 1e-6)) ** 2 + 1e-6) ** 0.25
    rows = 1e-6**0.25
    assert exclusion_loss(EDGE, EDGE, levels=1).item() == pytest.approx((columns + rows) / 6, rel=1e-6)


def test_program_divides_by_three_whatever_the_number_of_scales(layers) -> None:
    t, r = layers(2, 1, 3, 8, 8)
    halves = [torch.nn.functional.avg_pool2d(image, 2) for image in (t, r)]
    sum_of_two = exclusion_loss(t, r, levels=1) + exclusion_loss(*halves, levels=1)
    assert exclusion_loss(t, r, levels=2).item() == pytest.approx(sum_of_two.item(), rel=1e-6)


def test_program_never_falls_below_its_epsilon() -> None:
    large = torch.zeros(1, 1, 16, 16)
    assert exclusion_loss(large, large).item() == pytest.approx(1e-6**0.25, rel=1e-5)


def test_paper_by_hand() -> None:
    assert exclusion_loss(EDGE, EDGE, levels=1, form="paper").item() == pytest.approx(math.tanh(1) ** 4, rel=1e-5)
    # Normalised to each other: a weak edge counts as much as a strong one, up to the square root of their product.
    found = exclusion_loss(EDGE, 0.25 * EDGE, levels=1, form="paper").item()
    assert found == pytest.approx(math.tanh(0.5) ** 4, rel=1e-3)


def test_paper_does_not_depend_on_the_other_images_of_the_batch(layers) -> None:
    t, r = layers(2, 2, 3, 8, 8)
    together = exclusion_loss(t, r, form="paper", levels=2)
    singly = [exclusion_loss(t[i : i + 1], r[i : i + 1], form="paper", levels=2) for i in range(2)]
    assert together.item() == pytest.approx((singly[0] + singly[1]).item() / 2, rel=1e-6)


@pytest.mark.parametrize("form", ["program", "paper"])
def test_edges_in_one_place_cost_more_than_edges_in_two(form) -> None:
    left, right = torch.zeros(2, 1, 1, 8, 8).unbind()
    left[..., 3:] = 1
    right[..., 5:] = 1
    assert exclusion_loss(left, left, 1, form) > 2 * exclusion_loss(left, right, 1, form)


@pytest.mark.parametrize("form", ["program", "paper"])
def test_gradcheck(form, layers) -> None:
    t, r = (image.requires_grad_() for image in layers(2, 2, 2, 5, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: exclusion_loss(a, b, 2, form), (t, r))


@pytest.mark.parametrize("form", ["program", "paper"])
def test_flat_images_have_a_finite_gradient(form) -> None:
    t, r = (FLAT.clone().requires_grad_() for _ in range(2))
    gradients = torch.autograd.grad(exclusion_loss(t, r, 1, form), (t, r))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_term_needs_no_truth(layers, batch_of) -> None:
    t, r = layers(2, 1, 3, 9, 13)
    unknown = batch_of(0 * t, 0 * r, has_transmission=[False], has_reflection=[False])
    value = ExclusionLoss(levels=2)({"transmission": t, "reflection": r}, unknown)
    assert value.item() == exclusion_loss(t, r, levels=2).item()


def test_under_bf16_it_is_as_exact_as_its_inputs(layers) -> None:
    t, r = (image.bfloat16() for image in layers(2, 1, 3, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        value = exclusion_loss(t, r)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exclusion_loss(t.float(), r.float()).item(), rel=1e-6)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 2\).*\(1, 1, 2, 3\)"):
        exclusion_loss(FLAT, torch.zeros(1, 1, 2, 3))
    with pytest.raises(ValueError, match="does not allow 3 exclusion levels"):
        exclusion_loss(torch.zeros(1, 3, 7, 8), torch.zeros(1, 3, 7, 8))
    with pytest.raises(UserError, match="form must be program or paper"):
        ExclusionLoss(form="both")
