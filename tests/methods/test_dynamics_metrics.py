from __future__ import annotations

from typing import Any

import pytest
import torch

from reflectzoo.methods.dynamics.metrics import SequenceMetrics, endpoint_error


def batch(size: int = 1) -> dict[str, Any]:
    yes = torch.ones(size, 3, dtype=torch.bool)
    layers = torch.rand(2, size, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return {
        "transmission": layers[0, :, 1],
        "reflection": layers[1, :, 1],
        "has_transmission": yes[:, 0],
        "has_reflection": yes[:, 0],
        "frames": (layers[0] + 0.1).clamp(0, 1),
        "frame_transmissions": layers[0],
        "frame_reflections": layers[1],
        "has_frame_transmission": yes,
        "has_frame_reflection": yes.clone(),
        "has_frames": yes[:, 0],
        "frame_motion": torch.tensor([[[0.0, 0], [0, 0], [0, 0]], [[3, 4], [0, 0], [-3, 0]]])[None].repeat(
            size, 1, 1, 1
        ),
    }


def test_endpoint_error_leaves_out_what_leaves_the_picture() -> None:
    motion = torch.zeros(1, 2, 4, 4)
    motion[0, 0] = torch.tensor([1.0, 1.0, 1.0, 99.0])  # the last column truly leaves to the right
    assert endpoint_error(motion, torch.tensor([[1.0, 0.0]])).item() == 0
    assert endpoint_error(motion + 3, torch.tensor([[1.0, 2.0]])).item() == pytest.approx((9 + 1) ** 0.5)


def test_motion_errors_of_both_layers() -> None:
    metrics = SequenceMetrics()
    motion = {layer: torch.zeros(1, 2, 2, 8, 8) for layer in ("transmission", "reflection")}
    metrics.update({"transmission": torch.zeros(1, 3, 8, 8), "aux": {"motion": motion}}, batch())
    found = metrics.compute()
    assert found["motion_error_transmission"] == 0
    assert found["still_error_reflection"] == found["motion_error_reflection"] == pytest.approx((5 + 3) / 2)
    assert "decoupled_transmission_psnr" not in found
    metrics.reset()
    assert metrics.compute() == {}


def test_decoupled_layers_beside_the_mixture() -> None:
    truth = batch()
    metrics = SequenceMetrics()
    aux = {"frame_transmissions": truth["frame_transmissions"] + 0.01, "frame_reflections": truth["frame_reflections"]}
    metrics.update({"transmission": torch.zeros(1, 3, 8, 8), "aux": aux}, truth)
    found = metrics.compute()
    assert found["decoupled_transmission_psnr"] == pytest.approx(40, abs=0.2)
    assert found["mixture_transmission_psnr"] < 21.5
    assert found["decoupled_reflection_psnr"] > 100


def test_shot_sequences_have_no_known_motion() -> None:
    truth = batch()
    truth["has_frame_reflection"].fill_(False)
    truth["has_reflection"].fill_(False)
    metrics = SequenceMetrics()
    motion = {layer: torch.zeros(1, 2, 2, 8, 8) for layer in ("transmission", "reflection")}
    aux = {"motion": motion, "frame_transmissions": truth["frame_transmissions"] + 0.1}
    metrics.update({"transmission": torch.zeros(1, 3, 8, 8), "aux": aux}, truth)
    assert sorted(metrics.compute()) == ["decoupled_transmission_psnr", "mixture_transmission_psnr"]
