"""Files of other programs, however they are wrapped; and what is said of those that do not fit."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reflectzoo
from reflectzoo.core.registry import method_of
from reflectzoo.errors import UserError
from reflectzoo.inference.load import LoadedModel
from reflectzoo.weights.layouts import candidate_state_dicts, fill

TINY = ("model.net.width=4", "model.net.iterations=1")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(0)
    return reflectzoo.load_model("location_aware", None, "model.net.width=4", untrained=True)


def prefixed(state: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {"".join(prefixes) + key: value for key, value in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "module": lambda state: prefixed(state, "module."),
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "module, compiled": lambda state: prefixed(state, "module.", "_orig_mod."),
    "compiled, module, module": lambda state: prefixed(state, "_orig_mod.", "module.", "module."),
    "params_ema": lambda state: {"params_ema": state, "params": {key: 0 * each for key, each in state.items()}},
    "params": lambda state: {"params": prefixed(state, "module.")},
    "model": lambda state: {"model": OrderedDict(state), "epoch": 3},
    "ema in a checkpoint": lambda state: {"ema": {"model": prefixed(state, "_orig_mod.")}, "optimizer": {"state": {}}},
    "state_dict": lambda state: {"state_dict": prefixed(state, "net."), "pytorch-lightning_version": "2.6"},
    "state_dict, compiled": lambda state: {"state_dict": {f"net._orig_mod.{k}": v for k, v in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(model: LoadedModel, wrapping: str, tmp_path: Path) -> None:
    state = model.net.state_dict()
    torch.save(WRAPPINGS[wrapping](dict(state)), tmp_path / "a.pth")
    for name in (None, "location_aware"):
        weights = () if name is None else (tmp_path / "a.pth",)
        found = reflectzoo.load_model(name or tmp_path / "a.pth", *weights)
        assert found.name == "location_aware"
        for key, value in found.net.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_a_method_without_a_converter_takes_them_too(tmp_path: Path) -> None:
    narrow = ("model.net.width=4", "model.net.blocks=1")
    student = reflectzoo.load_model("dynamics_student", None, *narrow, untrained=True)
    assert not method_of("dynamics_student").remap
    torch.save({"ema": prefixed(student.net.state_dict(), "module.", "_orig_mod.")}, tmp_path / "a.pth")
    found = reflectzoo.load_model("dynamics_student", tmp_path / "a.pth", *narrow)
    image = torch.rand(1, 3, 9, 9)
    assert torch.equal(found(image)["transmission"], student(image)["transmission"])


def test_candidates_end() -> None:
    file: dict[str, Any] = {}
    file["model"] = file
    assert len(list(candidate_state_dicts(file))) == 4


def test_what_does_not_fit_is_counted() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1))
    state = {
        "0.weight": torch.zeros(4, 3, 3, 3),
        "1.weight": torch.zeros(3, 5, 1, 1),
        "a_long_name.bias": torch.zeros(1),
    }
    with pytest.raises(UserError) as told:
        fill(net, state, "x.pth", "toy")
    assert str(told.value) == (
        "x.pth does not fit model=toy: it holds 3 weights where 4 are needed: 2 missing (the first is '0.bias'), "
        "1 left over (the first is 'a_long_name.bias'), 1 of another shape (the first is '1.weight', (3, 5, 1, 1) in "
        "the file, (3, 4, 1, 1) in the model)."
    )
