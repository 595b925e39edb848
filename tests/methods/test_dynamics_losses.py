"""Losses on sequences and representations: hand-worked numbers, masks, whom they teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.decoupling import DecouplingLoss, averaged_down, frame_truth
from reflectzoo.methods.dynamics.transfer import RepresentationAdversarialLoss, TransferLoss, least_squares
from reflectzoo.methods.dynamics.view_synthesis import ViewSynthesisLoss, view_synthesis_loss


def sequence_batch(size: int = 2, frames: int = 3, side: int = 8, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    layers = torch.rand(2, size, frames, 3, side, side, generator=generator)
    mixtures, yes = layers.sum(dim=0).clamp(0, 1), torch.ones(size, frames, dtype=torch.bool)
    centre = frames // 2
    return {
        "mixture": mixtures[:, centre],
        "transmission": layers[0, :, centre],
        "reflection": layers[1, :, centre],
        "has_transmission": yes[:, 0].clone(),
        "has_reflection": yes[:, 0].clone(),
        "frames": mixtures,
        "frame_transmissions": layers[0],
        "frame_reflections": layers[1],
        "has_frame_transmission": yes.clone(),
        "has_frame_reflection": yes.clone(),
        "has_frames": yes[:, 0].clone(),
        "name": [""] * size,
        "dataset": [""] * size,
    }


def outputs_of(aux: dict[str, Any]) -> Any:
    return {"transmission": torch.zeros(1, 3, 8, 8), "aux": aux}


# -- feature decoupling ----------------------------------------------------------------------------------------------


def decoded(batch: dict[str, Any], add: float = 0.0) -> dict[str, Tensor]:
    return {
        "frame_transmissions": averaged_down(batch["frame_transmissions"], 4, 4) + add,
        "frame_reflections": averaged_down(batch["frame_reflections"], 4, 4),
    }


def test_decoupling_adds_up_frames_and_layers() -> None:
    batch = sequence_batch()
    assert DecouplingLoss()(outputs_of(decoded(batch)), batch).item() == 0
    # 0.25 brighter in every frame: L1 of 0.25 each, no gradient changes.
    assert DecouplingLoss()(outputs_of(decoded(batch, 0.25)), batch).item() == pytest.approx(3 * 0.25, rel=1e-5)


def test_decoupling_compares_gradients() -> None:
    batch = sequence_batch(size=1)
    aux = decoded(batch)
    bump = torch.zeros_like(aux["frame_reflections"])
    bump[0, 2, 0, 1, 1] = 1.0
    aux["frame_reflections"] = aux["frame_reflections"] + bump
    # One of 48 values is off by 1; two of 36 differences along each axis.
    assert DecouplingLoss()(outputs_of(aux), batch).item() == pytest.approx(1 / 48 + 2 * (2 / 36), rel=1e-5)


def test_decoupling_uses_what_is_known_of_a_shot_sequence() -> None:
    batch = sequence_batch(size=1)
    batch["has_frame_transmission"] = torch.tensor([[False, True, False]])
    batch["has_frame_reflection"].fill_(False)
    batch["has_reflection"].fill_(False)
    aux = {key: value + 0.25 for key, value in decoded(batch).items()}
    assert DecouplingLoss()(outputs_of(aux), batch).item() == pytest.approx(0.25, rel=1e-5)


def test_decoupling_of_a_still_picture_sees_its_centre() -> None:
    batch = sequence_batch(size=1)
    aux = {key: value + 0.25 for key, value in decoded(batch).items()}
    for key in [key for key in batch if "frame" in key]:
        del batch[key]
    assert DecouplingLoss()(outputs_of(aux), batch).item() == pytest.approx(2 * 0.25, rel=1e-5)


def test_truth_of_frames_does_not_change_the_batch() -> None:
    batch = sequence_batch()
    batch["has_frame_transmission"].fill_(False)
    truth, known = frame_truth(batch, "transmission", 3)
    assert known.tolist() == [[False, True, False]] * 2
    assert not batch["has_frame_transmission"].any()
    assert torch.equal(truth[:, 1], batch["transmission"])


def test_reduced_images_of_odd_size() -> None:
    image = torch.arange(15.0).view(1, 1, 3, 5)
    small = averaged_down(image, 2, 3)
    assert small[0, 0, 0, 0] == pytest.approx((0 + 1 + 5 + 6) / 4)
    assert small[0, 0, 1, 2] == 14  # the corner stands alone


# -- view synthesis --------------------------------------------------------------------------------------------------


def shifted(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A view, the same two pixels further right, and the motion between them."""
    wide = torch.rand(1, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
    centre, neighbour = wide[..., 2:10], wide[..., :8]
    motion = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8).clone()
    return centre, neighbour, motion


@pytest.mark.parametrize("relative", [False, True])
def test_the_true_motion_costs_nothing(relative: bool) -> None:
    centre, neighbour, motion = shifted()
    assert view_synthesis_loss(centre, neighbour, motion, relative=relative).item() < 1e-10
    assert view_synthesis_loss(centre, neighbour, 0 * motion, relative=relative).item() > 0.05


def test_view_synthesis_is_a_mean_of_squares() -> None:
    centre, neighbour = torch.zeros(1, 2, 4, 4), torch.full((1, 2, 4, 4), 3.0)
    still = torch.zeros(1, 2, 4, 4)
    assert view_synthesis_loss(centre, neighbour, still).item() == 9
    away = still.clone()
    away[:, 0, :, 2:] = 100  # what leaves the picture is compared with nothing
    assert view_synthesis_loss(centre, neighbour, away).item() == 4.5


def test_relative_view_synthesis_does_not_fall_when_features_shrink() -> None:
    centre, neighbour, motion = shifted()
    whole = view_synthesis_loss(centre, neighbour, 0 * motion, relative=True)
    small = view_synthesis_loss(centre / 10, neighbour / 10, 0 * motion, relative=True)
    assert small.item() == pytest.approx(whole.item(), rel=0.15)


def moving(of: str, **kwargs: Any) -> tuple[ViewSynthesisLoss, dict[str, Any], dict[str, Any]]:
    batch = sequence_batch(size=2)
    flow = {layer: torch.zeros(2, 2, 2, 4, 4) for layer in ("transmission", "reflection")}
    motion = {layer: torch.zeros(2, 2, 2, 8, 8) for layer in ("transmission", "reflection")}
    features = {layer: torch.randn(2, 3, 5, 4, 4, requires_grad=True) for layer in flow}
    return ViewSynthesisLoss(of=of, **kwargs), outputs_of({"flow": flow, "motion": motion, "features": features}), batch


def test_view_synthesis_adds_up_layers_and_neighbours() -> None:
    term, outputs, batch = moving("features")
    aux = outputs["aux"]
    expected = sum(
        (aux["features"][layer][:, 1] - aux["features"][layer][:, other]).square().mean()
        for layer in aux["flow"]
        for other in (0, 2)
    )
    assert term(outputs, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_neighbour_has_its_own_motion() -> None:
    """The last line of Eq. (3) repeats t-1; t+1 is meant."""
    term, outputs, batch = moving("features")
    for layer in ("transmission", "reflection"):
        views = outputs["aux"]["features"][layer].detach().clone()
        views[:, 2] = torch.roll(views[:, 1], 1, dims=-1)
        views[:, 0] = views[:, 1]
        outputs["aux"]["features"][layer] = views
        outputs["aux"]["flow"][layer][:, 1, 0] = 1.0
    assert term(outputs, batch).item() < 1e-10
    for flow in outputs["aux"]["flow"].values():
        flow.copy_(flow.flip(1))
    assert term(outputs, batch).item() > 0.1


@pytest.mark.parametrize(("detach", "reached"), [(False, True), (True, False)])
def test_features_may_be_kept_out(detach: bool, reached: bool) -> None:
    term, outputs, batch = moving("features", detach=detach)
    for flow in outputs["aux"]["flow"].values():
        flow.requires_grad_()
    term(outputs, batch).backward()
    assert all(flow.grad.abs().sum() > 0 for flow in outputs["aux"]["flow"].values())
    assert all((views.grad is not None) == reached for views in outputs["aux"]["features"].values())


@pytest.mark.parametrize("of", ["features", "layers"])
def test_still_pictures_are_left_out(of: str) -> None:
    term, outputs, batch = moving(of, scales=(1,))
    whole = term(outputs, batch).item()
    batch["has_frames"][1] = False
    batch["has_frame_transmission"][1] = batch["has_frame_reflection"][1] = False
    kept = term(outputs, batch).item()
    assert kept != whole
    for key in ("frame_transmissions", "frame_reflections"):
        batch[key][1] = 7
    for views in outputs["aux"]["features"].values():
        views.data[1] = 7
    assert term(outputs, batch).item() == pytest.approx(kept)
    for key in [key for key in batch if "frame" in key]:
        del batch[key]
    assert term(outputs, batch).item() == 0


def test_of_layers_at_several_scales() -> None:
    term, outputs, batch = moving("layers", scales=(1, 2))
    one = ViewSynthesisLoss(of="layers", scales=(1,))(outputs, batch)
    two = ViewSynthesisLoss(of="layers", scales=(2,))(outputs, batch)
    assert term(outputs, batch).item() == pytest.approx((one + two).item() / 2)
    layers = batch["frame_transmissions"], batch["frame_reflections"]
    expected = sum((layer[:, 1] - layer[:, other]).square().mean() for layer in layers for other in (0, 2))
    assert one.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"of": "pixels"}, {"scales": ()}, {"scales": (0,)}])
def test_wrong_settings_of_view_synthesis(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ViewSynthesisLoss(**wrong)


# -- from teacher to student -----------------------------------------------------------------------------------------


def taught(valid: tuple[bool, bool] = (True, True)) -> Any:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    teacher = torch.full((2, 3, 4, 4), 2.0, requires_grad=True)
    return outputs_of({"representation": student, "taught": teacher, "has_taught": torch.tensor(valid)})


def test_transfer_is_a_mean_absolute_difference_that_teaches_the_student_alone() -> None:
    outputs = taught()
    value = TransferLoss()(outputs, {})
    assert value.item() == 2
    value.backward()
    assert outputs["aux"]["representation"].grad.abs().sum() > 0
    assert outputs["aux"]["taught"].grad is None


def test_those_without_a_teacher_are_left_out() -> None:
    outputs = taught((False, True))
    outputs["aux"]["taught"].data[0] = 100
    assert TransferLoss()(outputs, {}).item() == 2
    assert TransferLoss()(taught((False, False)), {}).item() == 0


class Mean(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x.mean(dim=(1, 2, 3), keepdim=True)


def test_least_squares_by_hand() -> None:
    outputs = taught()
    term = RepresentationAdversarialLoss(Mean())
    assert term(outputs, {}).item() == 1  # D(student) = 0, wanted 1
    assert term.discriminator_loss(outputs, {}).item() == 0  # D(teacher) = 1, D(student) = 0
    outputs["aux"]["taught"].data.fill_(4.0)
    outputs["aux"]["representation"].data.fill_(1.0)
    assert term(outputs, {}).item() == pytest.approx(0.25)
    assert term.discriminator_loss(outputs, {}).item() == pytest.approx(0.25 + 1.0)
    valid = torch.tensor([True, False])
    assert least_squares(torch.tensor([0.0, 9.0]).view(2, 1, 1, 1), 1.0, valid).item() == 1


def test_who_learns_from_which_part() -> None:
    outputs = taught()
    term = RepresentationAdversarialLoss(Mean())
    term(outputs, {}).backward()
    assert term.discriminator.factor.grad is None
    assert outputs["aux"]["representation"].grad.abs().sum() > 0
    outputs = taught()
    outputs["aux"]["representation"].data.fill_(1.0)
    term.discriminator_loss(outputs, {}).backward()
    assert term.discriminator.factor.grad.abs() > 0
    assert outputs["aux"]["representation"].grad is None


def test_discriminator_is_made_for_the_representation() -> None:
    term = RepresentationAdversarialLoss(Mean)
    with pytest.raises(UserError, match="this network has none"):
        term.discriminator.parameters()
    term.make_discriminator(7)
    first = term.discriminator
    assert first.channels == 7
    term.make_discriminator(9)
    assert term.discriminator is first, "a checkpoint's weights are not thrown away"


@pytest.mark.parametrize("term", [DecouplingLoss(), ViewSynthesisLoss(), TransferLoss()])
def test_other_networks_are_told_in_a_sentence(term: nn.Module) -> None:
    with pytest.raises(UserError, match=r"~loss\.terms"):
        term({"transmission": torch.zeros(1, 3, 8, 8)}, sequence_batch(1))
