"""Teacher and student: layers as published, any size, ablations, what depends on what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.methods.dynamics.motion import LayerMatching
from reflectzoo.methods.dynamics.pair import TeacherAndStudent, teacher_and_student
from reflectzoo.methods.dynamics.parts import PyramidPooling
from reflectzoo.methods.dynamics.student import DynamicsStudent
from reflectzoo.methods.dynamics.teacher import DynamicsTeacher


def layers(net: nn.Module) -> list[tuple[int, int, int, int]]:
    """(in, out, kernel, stride) of every convolution in order."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in net.modules() if isinstance(m, kinds)
    ]


def frames(size: int = 1, count: int = 3, height: int = 20, width: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.rand(size, count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def small(**kwargs: Any) -> DynamicsTeacher:
    torch.manual_seed(0)
    return DynamicsTeacher(width=8, init_gain=1.0, **kwargs).eval()


# -- as published ----------------------------------------------------------------------------------------------------


def test_teacher_is_the_paper_s() -> None:
    net = DynamicsTeacher()
    assert layers(net.encoder) == [(3, 256, 3, 1), (256, 256, 3, 2), (256, 256, 3, 1), (256, 256, 3, 2)]
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in net.modules())
    knowledge = net.knowledge
    assert knowledge is not None
    for decoder in knowledge.decoders.values():
        assert layers(decoder) == [(128, 128, 4, 2), *[(128, 128, 3, 1)] * 3, (128, 3, 3, 1)]
    expected = [(1024, 512, 3, 1), (512, 128, 3, 1), (128, 128, 3, 1), (128, 128, 3, 1), (128, 4, 3, 1)]
    assert layers(knowledge.flow_net) == expected
    assert layers(knowledge.fuse_centre) == [(512, 640, 3, 1), (640, 128, 3, 1), (128, 128, 3, 1)]
    assert layers(knowledge.fuse_all) == [(384, 128, 3, 1), (128, 128, 3, 1)]
    assert layers(net.decoder.up1) == [
        *[(128, 256, 4, 2), (256, 256, 3, 1)],
        *[(256, 64, 1, 1)] * 4,
        (512, 256, 1, 1),
    ]
    assert net.decoder.up1[2].sizes == (4, 8, 16, 32)
    assert layers(net.decoder.up2) == [(256, 256, 4, 2), (256, 256, 3, 1), (256, 256, 3, 1)]
    assert sum(p.numel() for p in net.parameters()) == 16_775_693


def test_student_is_the_paper_s() -> None:
    net = DynamicsStudent()
    assert [out for _, out, _, _ in layers(net.hallucination)] == [256, 256, 256, 256, 128]
    assert [out for _, out, _, _ in layers(net.encoder)] == [256] * 4
    assert layers(net.context[0]) == [(384, 256, 3, 1)]
    assert len(net.context) == 1 + 10
    assert layers(net.context[1]) == [*[(256, 256, 3, 1)] * 2, (256, 32, 1, 1), (32, 256, 1, 1)]
    assert layers(net.decoder)[1:] == layers(DynamicsTeacher().decoder)[1:]
    assert sum(p.numel() for p in net.parameters()) == 20_775_107


def test_literal_motion_fields_have_one_channel_each() -> None:
    net = small(motion=1)
    assert layers(net.knowledge.flow_net)[-1][1] == 2
    nn.init.normal_(net.knowledge.flow_net.fields.weight)
    motion = net(frames())["aux"]["motion"]
    for field in motion.values():
        assert field[:, :, 0].abs().max() > 0
        assert field[:, :, 1].abs().max() == 0, "along the width only"


def test_representations_are_signed_in_both() -> None:
    for net, picture in ((small(), frames()), (DynamicsStudent(8, init_gain=1.0), frames()[:, 1])):
        representation = net(picture)["aux"]["representation"]
        assert representation.min() < 0 < representation.max()


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (21, 34), (67, 93), (3, 2), (1, 1), (40, 5)])
@pytest.mark.parametrize("scale", [4, 2])
def test_any_size(height: int, width: int, scale: int) -> None:
    found = small(scale=scale)(frames(2, 3, height, width))
    assert found["transmission"].shape == (2, 3, height, width)
    assert found["stages"][0]["reflection"].shape == (2, 3, height, width)
    for layer in ("transmission", "reflection"):
        assert found["aux"]["motion"][layer].shape == (2, 2, 2, height, width)
        reduced = found["aux"][f"frame_{layer}s"]
        step = scale // 2
        assert reduced.shape == (2, 3, 3, -(-height // step), -(-width // step))
    student = DynamicsStudent(8, scale=scale)
    assert student(torch.rand(2, 3, height, width))["transmission"].shape == (2, 3, height, width)


def test_padding_does_not_show() -> None:
    """A picture whose sides are no multiples of four is one that was extended by reflection and cut off again."""
    whole = frames(1, 3, 22, 30)
    reflected = nn.functional.pad(whole[0], (0, 2, 0, 2), mode="reflect")[None]
    net = small()
    assert torch.equal(net(whole)["transmission"], net(reflected)["transmission"][..., :22, :30])


def test_pyramid_pooling_is_of_means_in_place() -> None:
    module = PyramidPooling(4, sizes=(4,))
    nn.init.ones_(module.levels[0][0].weight)
    nn.init.zeros_(module.levels[0][0].bias)
    seen: list[torch.Tensor] = []
    module.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.arange(4 * 6.0).view(1, 1, 4, 6).expand(1, 4, 4, 6)
    module(x)
    spread = seen[0][0, 4]
    assert torch.allclose(spread[:, :4], 4 * x[0, 0, :, :4].mean())
    assert torch.allclose(spread[:, 4:], 4 * x[0, 0, :, 4:].mean()), "the square that sticks out: what lies inside"


# -- frames ----------------------------------------------------------------------------------------------------------


def test_a_still_picture_is_a_sequence_that_does_not_move() -> None:
    net, picture = small(), frames()[:, 0]
    assert torch.equal(net(picture)["transmission"], net(torch.stack([picture] * 3, dim=1))["transmission"])


def test_a_list_of_frames() -> None:
    net, sequence = small(), frames()
    assert torch.equal(net(list(sequence.unbind(1)))["transmission"], net(sequence)["transmission"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: frames(count=5), "takes 3 frames .* 5 frames: set data.frames"),
        (
            lambda: [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), torch.rand(1, 3, 8, 8)],
            "same size, .* 8x8, 8x9, 8x8",
        ),
        (lambda: list(frames(count=1).unbind(1)), "1 frames"),
    ],
)
def test_wrong_frames_are_told_in_a_sentence(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        small()(given())


def test_five_frames() -> None:
    found = small(frames=5)(frames(count=5))
    assert found["aux"]["motion"]["reflection"].shape[1] == 4


def test_nothing_moves_at_the_start_and_motion_is_in_pixels() -> None:
    net = small()
    assert all(field.abs().max() == 0 for field in net(frames())["aux"]["motion"].values())
    nn.init.constant_(net.knowledge.flow_net.fields.bias, 0.5)
    aux = net(frames())["aux"]
    assert torch.allclose(aux["flow"]["reflection"], torch.tensor(0.5))
    assert torch.allclose(aux["motion"]["reflection"], torch.tensor(2.0)), "half a feature is two pixels"


def test_neighbours_are_warped_onto_the_centre() -> None:
    """Frames moved by eight pixels, fetched by the true motion, give the representation of frames that stand still."""
    wide = torch.rand(1, 3, 96, 112, generator=torch.Generator().manual_seed(3))
    centre, right, left = wide[..., 8:104], wide[..., :96], wide[..., 16:]
    net = small()
    knowledge = net.knowledge
    features = {
        name: knowledge(net.encoder(picture)[:, None].expand(-1, 3, -1, -1, -1)).features["transmission"][:, 0]
        for name, picture in (("centre", centre), ("right", right), ("left", left))
    }
    seen: list[torch.Tensor] = []
    knowledge.fuse_all.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    class Known(nn.Module):
        """In place of the flow net: each pair's true motion, two features to the right, then to the left."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, pair: torch.Tensor) -> Any:
            self.calls += 1
            field = torch.zeros(1, 2, *pair.shape[-2:])
            field[:, 0] = 2.0 if self.calls == 1 else -2.0
            return pair.new_zeros(1, 4, *pair.shape[-2:]), [field, field]

    knowledge.flow_net = Known()
    net(torch.stack([right, centre, left], dim=1))
    _, first, last = seen[0].split(4, dim=1)
    inner = (..., slice(5, -5), slice(5, -5))  # away from what the borders did to the features
    assert torch.allclose(first[inner], features["centre"][inner], atol=1e-5)
    assert torch.allclose(last[inner], features["centre"][inner], atol=1e-5)
    assert not torch.allclose(features["right"][inner], features["centre"][inner], atol=1e-2)


# -- ablations of table 2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "missing", "channels"),
    [
        ({"mkl": False}, {"features", "flow", "motion", "frame_transmissions", "frame_reflections"}, 4),
        ({"decouple": False}, {"frame_transmissions", "frame_reflections"}, 4),
        ({"flow": False}, {"flow", "motion"}, 4),
        ({"fusion": False}, set(), 12),
    ],
)
def test_teacher_without(switch: dict[str, Any], missing: set[str], channels: int) -> None:
    whole, net = small(), small(**switch)
    found = net(frames())
    assert set(whole(frames())["aux"]) - set(found["aux"]) == missing
    assert found["aux"]["representation"].shape[1] == net.representation_channels == channels
    found["transmission"].sum().backward()
    # What only makes images and motions for the losses gets nothing from the transmission.
    silent = {name for name, p in net.named_parameters() if p.grad is None}
    assert not [name for name in silent if "decoders" not in name]
    assert not torch.equal(found["transmission"], whole(frames())["transmission"])


@pytest.mark.parametrize("switch", [{"hallucination": False}, {"encoder": False}])
def test_student_without(switch: dict[str, Any]) -> None:
    net = DynamicsStudent(8, **switch)
    found = net(frames()[:, 0])
    assert found["aux"]["representation"].shape[1] == 4
    (found["transmission"].sum() + found["aux"]["representation"].sum()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_student_follows_the_teacher() -> None:
    net = teacher_and_student(8, teacher={"fusion": False}, student={"blocks": 2})
    assert net.student.representation_channels == net.teacher.representation_channels == 12
    assert len(net.student.context) == 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DynamicsTeacher(width=7), "even number"),
        (lambda: DynamicsTeacher(8, frames=4), "odd number"),
        (lambda: DynamicsTeacher(8, frames=1), "of at least 3"),
        (lambda: DynamicsTeacher(8, motion=3), "model.net.motion must be 1 or 2"),
        (lambda: DynamicsTeacher(8, scale=8), "model.net.scale must be 4 or 2"),
        (lambda: DynamicsStudent(8, hallucination=False, encoder=False), "has no input"),
        (lambda: TeacherAndStudent(DynamicsTeacher(8), DynamicsStudent(16)), "4 channels at 1/4 .* 8 at 1/4"),
    ],
)
def test_what_makes_no_network_is_told_in_a_sentence(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_residual_starts_from_the_centre_frame() -> None:
    net, sequence = small(residual=True), frames()
    assert torch.equal(net(sequence)["transmission"], sequence[:, 1])
    net.decoder.image.bias.data.fill_(0.25)
    assert torch.allclose(net(sequence)["transmission"], sequence[:, 1] + 0.25)
    student = DynamicsStudent(8, residual=True, init_gain=1.0)
    assert torch.equal(student(sequence[:, 0])["transmission"], sequence[:, 0])


def test_first_values_keep_the_signal() -> None:
    def spread(gain: float | None) -> float:
        torch.manual_seed(0)
        net = DynamicsTeacher(64, init_gain=gain)
        return float(net(frames())["aux"]["representation"].detach().std())

    assert spread(None) < 0.05 < 0.15 < spread(1.0)


def test_golden_output() -> None:
    """Guards refactoring: a seeded network on a fixed sequence; every part of it shows in the output."""
    torch.manual_seed(0)
    net = DynamicsTeacher(16, init_gain=1.0).eval()
    nn.init.normal_(net.knowledge.flow_net.fields.weight, std=0.1)
    sequence = frames(1, 3, 12, 12)
    found = net(sequence)["transmission"][0, :, 5, 6]
    assert found.tolist() == pytest.approx(GOLDEN, abs=1e-4)
    for name in ("encoder.0", "knowledge.flow_net.body.0", "knowledge.fuse_centre.0", "knowledge.fuse_all.0"):
        weight = net.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.mul_(1.5)
            assert (net(sequence)["transmission"][0, :, 5, 6] - found).abs().max() > 1e-3, name
            weight.div_(1.5)


GOLDEN = [0.061565, 0.037733, -0.040101]


def test_the_flow_net_starts_with_the_difference_of_its_frames() -> None:
    """What both frames have in common, such as all of a still picture, is nothing to it."""
    net = DynamicsTeacher(16, init_gain=1.0)
    seen: list[torch.Tensor] = []
    net.knowledge.flow_net.body[0].register_forward_hook(lambda _, __, output: seen.append(output))
    net(frames()[:, 0])
    assert seen[0].abs().max() < 1e-4
    net(frames())
    assert seen[-1].abs().max() > 0.01


# -- matching, which the paper does not have ---------------------------------------------------------------------------


def shifted(right: int, down: int, side: int = 24, margin: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of the same features (1, 4, side, side): in the second everything lies further right and down."""
    whole = torch.rand(1, 4, side + 2 * margin, side + 2 * margin, generator=torch.Generator().manual_seed(5))
    rows, columns = (slice(margin - by, margin - by + side) for by in (down, right))
    return whole[..., margin : margin + side, margin : margin + side], whole[..., rows, columns]


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, -1), (-3, 3)])
@pytest.mark.parametrize("rigid", [True, False])
def test_matching_finds_a_known_shift(right: int, down: int, rigid: bool) -> None:
    torch.manual_seed(0)
    match = LayerMatching(4, 3, rigid, sharpness=1000.0)
    found = match(*shifted(right, down))
    # Away from the borders, where the convolution sees zeros beside the picture.
    inner = found[..., 8:-8, 8:-8]
    assert torch.allclose(inner, torch.tensor([right, down]).view(1, 2, 1, 1).float(), atol=1e-3)
    assert not rigid or found.std(dim=(2, 3)).max() < 1e-6


def test_matching_finds_parts_of_a_pixel() -> None:
    """Of smooth features, by the mean over the displacements."""
    where = torch.arange(40.0)
    waves = torch.stack([torch.sin(where[:, None] / 3 + k) + torch.cos(where[None] / 4 + 2 * k) for k in range(4)])
    other = torch.stack(
        [torch.sin((where[:, None] + 0.6) / 3 + k) + torch.cos((where[None] - 1.3) / 4 + 2 * k) for k in range(4)]
    )
    match = LayerMatching(4, 4, rigid=True, sharpness=30.0)
    right, down = match(waves[None], other[None])[0, :, 20, 20].tolist()
    assert (right, down) == pytest.approx((1.3, -0.6), abs=0.15)


def test_matching_feeds_the_flow_net() -> None:
    """The last layer starts at zero, so the motion is what was matched; the channels added are the displacements'."""
    net = small(matching=2, rigid=True)
    assert layers(net.knowledge.flow_net.body)[0][0] == 2 * 2 * (4 + 4) + 2 * 2
    sequence = frames(height=40, width=48)
    motion = net(sequence)["aux"]["motion"]
    assert all(field.abs().max() > 0 and field.std(dim=(-2, -1)).max() < 1e-5 for field in motion.values())
    outputs = net(sequence)["aux"]["flow"]["reflection"]
    outputs.square().sum().backward()
    sharpness = net.knowledge.matches[1].sharpness
    assert sharpness.grad is not None
    assert sharpness.grad.abs() > 0
    assert small(matching=2, motion=1)(sequence)["aux"]["motion"]["reflection"][:, :, 1].abs().max() == 0
    for height, width in ((1, 1), (5, 9), (21, 34)):  # also smaller than the radius
        found = small(matching=3)(frames(2, 3, height, width))["aux"]["motion"]["reflection"]
        assert found.shape == (2, 2, 2, height, width)
        assert torch.isfinite(found).all()


def test_matching_is_off_as_published() -> None:
    assert set(DynamicsTeacher(8).state_dict()) == set(DynamicsTeacher(8, rigid=True).state_dict())
    with pytest.raises(UserError, match=r"model\.net\.matching must be null or a whole number of at least 1"):
        DynamicsTeacher(8, matching=0)
