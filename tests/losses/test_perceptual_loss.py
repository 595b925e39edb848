from __future__ import annotations

import pytest
import torch

from reflectzoo.errors import UserError
from reflectzoo.losses.multiscale import MultiScalePerceptualLoss
from reflectzoo.losses.perceptual import (
    EFFICIENTNET_LAYERS,
    PAPER_LAYERS,
    PROGRAM_LAYERS,
    PerceptualLoss,
    imagenet_normalised,
    perceptual_loss,
)
from reflectzoo.nets.efficientnet import efficientnet_lite0
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg

TWO = {"relu1_1": 2.0, "relu2_1": 0.5}


def test_normalisation_by_hand() -> None:
    grey = torch.full((1, 3, 1, 1), 0.5)
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    assert imagenet_normalised(grey).flatten().tolist() == pytest.approx(expected)


def test_weighted_sum_of_the_layers(small_vgg, layers) -> None:
    prediction, target = layers(2, 2, 3, 7, 6)
    value = perceptual_loss(small_vgg, prediction, target, TWO)
    single = [perceptual_loss(small_vgg, prediction, target, {name: 1.0}) for name in TWO]
    assert value.item() == pytest.approx((2 * single[0] + 0.5 * single[1]).item())
    features = [small_vgg(imagenet_normalised(image), ["relu1_1"])[0] for image in (prediction, target)]
    assert single[0].item() == pytest.approx((features[0] - features[1]).abs().mean().item())


def test_without_normalisation_the_vgg_sees_the_image_itself(small_vgg, layers) -> None:
    prediction, target = layers(2, 1, 3, 5, 5)
    perceptual_loss(small_vgg, prediction, target, TWO, normalise=False)
    assert torch.equal(small_vgg.seen[0], prediction)


def test_no_gradient_reaches_the_target(small_vgg, layers) -> None:
    prediction, target = (image.requires_grad_() for image in layers(2, 1, 3, 5, 5))
    perceptual_loss(small_vgg, prediction, target, TWO).backward()
    assert prediction.grad.abs().max() > 0
    assert target.grad is None


def test_gradcheck(small_vgg, layers) -> None:
    prediction, target = layers(2, 1, 3, 5, 5, dtype=torch.float64)
    small_vgg.double()
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: perceptual_loss(small_vgg, p, target, TWO), (prediction,))


def test_under_bf16_the_features_are_compared_in_float32(small_vgg, layers) -> None:
    prediction, target = (image.bfloat16() for image in layers(2, 1, 3, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        value = perceptual_loss(small_vgg, prediction, target, TWO)
    # The normalisation happens before VGG, in float32; only the convolutions run in bf16.
    assert small_vgg.seen[0].dtype == torch.float32
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(perceptual_loss(small_vgg, prediction, target, TWO).item(), rel=0.02)


def test_program_looks_at_the_transmission_and_the_paper_at_both(small_vgg, layers, batch_of) -> None:
    t, r, true_t, true_r = layers(4, 2, 3, 6, 6)
    outputs, batch = {"transmission": t, "reflection": r}, batch_of(true_t, true_r)
    one, both = PerceptualLoss(layers=TWO), PerceptualLoss(("transmission", "reflection"), TWO)
    for term in (one, both):
        attach_vgg(term, small_vgg)
    of_t, of_r = (perceptual_loss(small_vgg, a, b, TWO).item() for a, b in ((t, true_t), (r, true_r)))
    assert one(outputs, batch).item() == pytest.approx(of_t)
    assert both(outputs, batch).item() == pytest.approx(of_t + of_r)


def test_samples_without_truth_are_left_out(small_vgg, layers, batch_of) -> None:
    t, r, true_t, true_r = layers(4, 2, 3, 6, 6)
    t.requires_grad_()
    term = PerceptualLoss(("transmission", "reflection"), TWO)
    attach_vgg(term, small_vgg)
    outputs = {"transmission": t, "reflection": r}
    masked = term(outputs, batch_of(true_t, true_r, has_transmission=[True, False], has_reflection=[False, True]))
    of_t = perceptual_loss(small_vgg, t[:1], true_t[:1], TWO)
    of_r = perceptual_loss(small_vgg, r[1:], true_r[1:], TWO)
    assert masked.item() == pytest.approx((of_t + of_r).item(), rel=1e-5)
    nothing = [False, False]
    zero = term(outputs, batch_of(true_t, true_r, has_transmission=nothing, has_reflection=nothing))
    assert zero.item() == 0
    assert torch.autograd.grad(zero, t)[0].abs().max() == 0


def test_published_weights() -> None:
    assert PerceptualLoss().layers == PROGRAM_LAYERS
    assert PerceptualLoss(layers="paper").layers == PAPER_LAYERS
    # The paper's five numbers are the program's, rounded.
    rounded = [round(weight, 2) for weight in PROGRAM_LAYERS.values()]
    assert rounded == list(PAPER_LAYERS.values())


def test_the_vgg_is_attached_and_no_part_of_the_checkpoint(small_vgg, layers, batch_of) -> None:
    term = PerceptualLoss(layers=TWO)
    assert needs_vgg(term)
    (image,) = layers(1, 1, 3, 5, 5)
    with pytest.raises(RuntimeError, match="attach_vgg"):
        term({"transmission": image}, batch_of(image, image))
    attach_vgg(term, small_vgg)
    assert not term.state_dict()
    assert not list(term.parameters())


def test_mistakes(small_vgg, layers) -> None:
    with pytest.raises(UserError, match="but must be one of: program, paper"):
        PerceptualLoss(layers="some")
    with pytest.raises(UserError, match="applied_to must be a list, each transmission or reflection"):
        PerceptualLoss(applied_to=["mixture"])
    with pytest.raises(UserError, match="at least one VGG layer"):
        PerceptualLoss(layers={})
    with pytest.raises(ValueError, match=r"\(1, 3, 5, 5\).*\(1, 3, 4, 5\)"):
        perceptual_loss(small_vgg, torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 4, 5), TWO)


def test_efficientnet_needs_no_vgg_and_no_download(layers) -> None:
    term = PerceptualLoss(features="efficientnet_lite0", layers={"stride2": 2.0, "stride8": 0.5})
    assert not needs_vgg(term)
    prediction, target = layers(2, 2, 3, 33, 40)
    prediction.requires_grad_()
    outputs = {"transmission": prediction}
    batch = {"mixture": target, "transmission": target, "has_transmission": torch.tensor([True, True])}
    value = term(outputs, batch)
    value.backward()
    maps = efficientnet_lite0(), prediction.detach(), target
    found, wanted = (maps[0](image) for image in maps[1:])
    expected = 2 * (found[0] - wanted[0]).abs().mean() + 0.5 * (found[2] - wanted[2]).abs().mean()
    torch.testing.assert_close(value.detach(), expected)
    assert prediction.grad is not None
    assert prediction.grad.abs().max() > 0
    assert term.state_dict() == {}, "a checkpoint does not hold the features"


def test_efficientnet_at_several_sizes(layers) -> None:
    term = MultiScalePerceptualLoss(features="efficientnet_lite0", scales={"full": 1.0, "quarter": 0.5})
    prediction, target = layers(2, 1, 3, 16, 16)
    batch = {"mixture": target, "transmission": target, "has_transmission": torch.tensor([True])}
    small = torch.nn.functional.interpolate(target, (4, 4), mode="bilinear", antialias=True)
    perfect = {"transmission": target, "aux": {"quarter": [small]}}
    assert term(perfect, batch).item() == pytest.approx(0, abs=1e-5)
    assert term({**perfect, "transmission": prediction}, batch) > 0.1


def test_layers_that_efficientnet_does_not_have() -> None:
    with pytest.raises(UserError, match="layers of the perceptual loss is 'stride3', but must be one of: stride2"):
        PerceptualLoss(features="efficientnet_lite0", layers={"stride3": 1.0})
    assert set(PerceptualLoss(features="efficientnet_lite0", layers={"conv5_3": 1.0}).layers) == set(
        EFFICIENTNET_LAYERS
    )
    with pytest.raises(UserError, match="features must be vgg19 or efficientnet_lite0"):
        PerceptualLoss(features="resnet")  # type: ignore[arg-type]
