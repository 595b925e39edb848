from __future__ import annotations

from typing import Any

import pytest
import torch

from reflectzoo.drawing.motion import colour_wheel, motion_colours, motion_images
from reflectzoo.drawing.rows import separation_row


def colour(right: float, down: float, most: float = 1.0) -> list[float]:
    return motion_colours(torch.tensor([right, down]).view(2, 1, 1), most).flatten().tolist()


def test_direction_is_the_hue_and_length_the_saturation() -> None:
    assert colour(0, 0) == [1, 1, 1]
    assert colour(3, 0, most=3) == pytest.approx([1, 0, 0], abs=1e-6)
    assert colour(-1, 0) == pytest.approx([0, 1, 1], abs=1e-6)
    assert colour(0, 1) == pytest.approx([0.5, 1, 0], abs=1e-6)
    assert colour(0, -1) == pytest.approx([0.5, 0, 1], abs=1e-6)
    assert colour(1, 0, most=2) == pytest.approx([1, 0.5, 0.5], abs=1e-6)
    assert colour(9, 0, most=2) == pytest.approx([1, 0, 0], abs=1e-6), "longer ones are not drawn otherwise"


def test_the_key_agrees_with_the_fields() -> None:
    wheel = colour_wheel(101)
    assert wheel[:, 50, 100].tolist() == pytest.approx(colour(1, 0), abs=1e-5)
    assert wheel[:, 25, 50].tolist() == pytest.approx(colour(0, -0.5), abs=1e-5)
    assert wheel[:, 0, 0].tolist() == [1, 1, 1], "nothing outside the circle"


def sample() -> tuple[Any, Any]:
    yes = torch.ones(1, 3, dtype=torch.bool)
    picture = torch.rand(1, 3, 12, 18)
    batch = {
        "mixture": picture,
        "transmission": picture,
        "reflection": picture,
        "has_transmission": yes[:, 0],
        "has_reflection": yes[:, 0],
        "frames": torch.rand(1, 3, 3, 12, 18),
        "has_frames": yes[:, 0].clone(),
        "has_frame_reflection": yes.clone(),
        "frame_motion": torch.tensor([[[1.0, 0], [0, 0], [-1, 0]], [[0, 4.0], [0, 0], [0, -4]]])[None],
        "name": ["a"],
    }
    motion = {layer: torch.zeros(1, 2, 2, 12, 18) for layer in ("transmission", "reflection")}
    motion["reflection"][:, 0, 1] = 4.0
    return {"transmission": picture, "aux": {"motion": motion}}, batch


def test_motions_beside_the_frames() -> None:
    outputs, batch = sample()
    images, key = motion_images(outputs, batch, 0)
    assert list(images) == ["frame -1", "frame +1", "T moves, -1", "T moves, +1", "R moves, -1", "R moves, +1"]
    assert torch.equal(images["frame +1"], batch["frames"][0, 2])
    assert key == "full colour: transmission 1.0 px, reflection 4.0 px"
    right = images["R moves, -1"]
    assert right[:, 0, 0].tolist() == pytest.approx(right[:, 9, 9].tolist()), "field and truth agree"
    assert images["T moves, -1"][:, 9, 9].tolist() == [1, 1, 1]
    assert images["T moves, -1"][:, 0, 0].tolist() == pytest.approx([1, 0, 0], abs=1e-6), "the truth in the corner"


def test_unknown_motion_has_no_corner() -> None:
    outputs, batch = sample()
    batch["has_frame_reflection"][0, 0] = False
    images, _ = motion_images(outputs, batch, 0)
    assert (images["T moves, -1"] == 1).all()


def test_still_pictures_and_other_methods_have_none() -> None:
    outputs, batch = sample()
    assert "R moves, -1" in separation_row(outputs, batch, 0).images
    batch["has_frames"][0] = False
    assert motion_images(outputs, batch, 0) == ({}, "")
    assert motion_images({"transmission": batch["mixture"]}, batch, 0) == ({}, "")
    del batch["frames"]
    assert list(separation_row(outputs, batch, 0).images)[:2] == ["input", "transmission"]
