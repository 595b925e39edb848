"""Features wherever they lie, and what unaligned pairs are compared in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reflectzoo.core.batch import Batch
from reflectzoo.errors import UserError
from reflectzoo.losses.adversarial import AdversarialLoss
from reflectzoo.losses.contextual import contextual_loss
from reflectzoo.losses.unaligned import UnalignedLoss
from reflectzoo.nets.shared_vgg import attach_vgg

BatchOf = Callable[..., Batch]
Layers = Callable[..., tuple[Tensor, ...]]


def test_hand_worked_number() -> None:
    """Two places, two channels; less the target's mean, (0.5, 0), its features have the directions (+-1, 0)."""
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    prediction = torch.tensor([[0.9, 0.5], [0.3, 0.7]]).view(1, 2, 1, 2)  # less the mean: (0.4, 0.3) and (0, 0.7)
    first, second = (0.1, 0.9), (0.5, 0.5)  # halved cosine distances of each place to both of the target
    best = [0.0, 0.0]
    for distances in (first, second):
        relative = [each / (min(distances) + 1e-5) for each in distances]
        weights = [math.exp(1 - each) for each in relative]
        best = [max(a, w / sum(weights)) for a, w in zip(best, weights, strict=True)]
    assert contextual_loss(prediction, target).item() == pytest.approx(-math.log(sum(best) / 2), rel=1e-4)


def test_places_do_not_matter(layers: Layers) -> None:
    (image,) = layers(1, 1, 8, 4, 5)
    shuffled = image.flatten(2)[..., torch.randperm(20, generator=torch.Generator().manual_seed(0))].view_as(image)
    (other,) = layers(1, 1, 8, 4, 5, seed=1)
    torch.testing.assert_close(contextual_loss(shuffled, other), contextual_loss(image, other))
    assert contextual_loss(shuffled, image) < 0.01 < contextual_loss(other, image)


def test_samples_count_by_themselves(layers: Layers) -> None:
    prediction, target = layers(2, 3, 4, 3, 3)
    alone = [contextual_loss(prediction[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(contextual_loss(prediction, target), torch.stack(alone).mean())
    valid = torch.tensor([True, False, True])
    torch.testing.assert_close(contextual_loss(prediction, target, valid), (alone[0] + alone[2]) / 2)
    assert contextual_loss(prediction, target, ~valid & valid).item() == 0
    with pytest.raises(ValueError, match="target is"):
        contextual_loss(prediction, target[:1])


def test_gradient(layers: Layers) -> None:
    prediction, target = layers(2, 2, 3, 2, 3, dtype=torch.float64)
    valid = torch.tensor([True, False])
    assert torch.autograd.gradcheck(lambda x: contextual_loss(x, target, valid), prediction.requires_grad_())


# -- in the loss for unaligned pairs --------------------------------------------------------------------------------


def with_unaligned(batch_of: BatchOf, prediction: Tensor, other: Tensor) -> Batch:
    """The first sample aligned, the second not."""
    empty = torch.zeros_like(prediction)
    batch = batch_of(empty, empty, has_transmission=[True, False])
    batch["unaligned_transmission"], batch["has_unaligned"] = other, torch.tensor([False, True])
    return batch


def test_forms_add_up(batch_of: BatchOf, layers: Layers, small_vgg: nn.Module) -> None:
    prediction, other = layers(2, 2, 3, 8, 8)
    batch = with_unaligned(batch_of, prediction, other)

    def value(**settings: object) -> Tensor:
        term = UnalignedLoss(**settings)  # type: ignore[arg-type]
        attach_vgg(term, small_vgg)  # type: ignore[arg-type]
        found: Tensor = term({"transmission": prediction}, batch)
        return found

    features = value(layers={"relu2_1": 2.0})
    contextual = value(form="contextual", contextual={"relu1_1": 1.0, "relu2_1": 0.5})
    both = value(form="both", layers={"relu2_1": 2.0}, contextual={"relu1_1": 1.0, "relu2_1": 0.5})
    torch.testing.assert_close(both, features + contextual)
    torch.testing.assert_close(value(form="pixel"), (prediction[1] - other[1]).square().mean())


def test_forms_of_the_program() -> None:
    assert UnalignedLoss().layers == {"conv5_2": 1.0}
    assert list(UnalignedLoss(form="contextual").contextual) == ["relu2_2", "relu3_2", "conv4_2"]
    assert list(UnalignedLoss(form="both").contextual) == ["relu2_2", "relu3_2", "relu4_2"]
    with pytest.raises(UserError, match="form must be one of features, contextual, both, pixel, got 'vgg'"):
        UnalignedLoss(form="vgg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one VGG layer"):
        UnalignedLoss(layers={})


def test_a_discriminator_may_see_unaligned_transmissions(batch_of: BatchOf, layers: Layers) -> None:
    prediction, other = layers(2, 2, 3, 8, 8)
    prediction.requires_grad_()
    batch = with_unaligned(batch_of, prediction.detach(), other)
    shown: list[Tensor] = []

    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, image: Tensor) -> Tensor:
            shown.append(image.detach())
            return self.factor * image.mean(dim=(1, 2, 3), keepdim=True)

    for unaligned in (False, True):
        term = AdversarialLoss(Judge(), unaligned=unaligned)
        shown.clear()
        (gradient,) = torch.autograd.grad(term({"transmission": prediction}, batch), prediction)
        assert gradient[0].any()
        assert bool(gradient[1].any()) == unaligned
        truth = shown[1]
        assert torch.equal(truth[1], other[1] if unaligned else torch.zeros_like(other[1]))
        assert not truth[0].any()
        assert term.discriminator_loss({"transmission": prediction}, batch).item() > 0
