from __future__ import annotations

import pytest
import torch
from torch import nn

from reflectzoo.errors import UserError
from reflectzoo.losses import PixelLoss, WeightedSum

ZERO, ONE = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)


def l1(**arguments) -> PixelLoss:
    return PixelLoss(mse=0, gradient=0, l1=1, **arguments)


def test_total_is_weighted_and_parts_are_not(batch_of) -> None:
    loss = WeightedSum({"a": l1(weight=0.25), "b": l1(weight=2.0), "off": None})
    prediction = (0.5 * ONE).requires_grad_()
    total, parts = loss({"transmission": prediction}, batch_of(ZERO, ZERO))
    assert total.item() == pytest.approx(0.5 * 2.25)
    assert {name: value.item() for name, value in parts.items()} == {"a": 0.5, "b": 0.5}
    assert not any(value.requires_grad for value in parts.values())
    assert total.requires_grad


def test_weights_and_starts_by_phase(batch_of) -> None:
    loss = WeightedSum({"a": l1(weight=[1.0, 10.0, 0.0]), "late": l1(start_epoch=[2, 0])})
    outputs, batch = {"transmission": ONE}, batch_of(ZERO, ZERO)

    def at(phase: int, epoch: int) -> tuple[float, list[str]]:
        total, parts = loss(outputs, batch, phase=phase, epoch=epoch)
        return total.item(), list(parts)

    assert at(0, 1) == (1.0, ["a"])
    assert at(0, 2) == (2.0, ["a", "late"])
    assert at(1, 0) == (11.0, ["a", "late"])
    assert at(2, 0) == (1.0, ["late"])
    assert at(5, 0) == (1.0, ["late"])


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no term left"):
        WeightedSum({"a": None})
    with pytest.raises(UserError, match=r"loss\.terms\.a must be a loss term, got Linear"):
        WeightedSum({"a": nn.Linear(1, 1)})
