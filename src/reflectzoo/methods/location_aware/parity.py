"""Recordings of Location-aware SIRR, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reflectzoo.methods.location_aware.convert import check_layout, remap
from reflectzoo.methods.location_aware.net import LocationAwareNet, Step
from reflectzoo.nets.recurrent import State
from reflectzoo.parity import (
    NETWORK_LIMIT,
    Case,
    CaseResult,
    Fixture,
    build_state_dict,
    check_parameter_count,
    compare_intermediates,
    compare_outputs,
    recorded_input,
    watched,
)


class _Recurrence:
    """One step from a given state, and the whole recurrence with the state after every iteration."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.comes_from("Location-aware-SIRR", "location_aware_sirr_model.py")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = LocationAwareNet().eval()
        # The recorded state dict has the authors' layout, so this also tests that their file loads.
        hashes = fixture.data.get("weights") or {}
        state = remap(build_state_dict(fixture.data["state_dict"], hashes.get("sha256")))
        check_layout(state, net, fixture.name)
        net.load_state_dict(state)
        check_parameter_count(net, fixture)

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            inputs = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            with watched(net, case) as seen:
                found = _one_step(net, inputs) if "t_prev" in inputs else _recurrence(net, inputs["i"])
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, seen, NETWORK_LIMIT)
            return CaseResult(
                comparisons + inner, f"{absent} intermediate tensors have no counterpart" if absent else ""
            )

        return run


def _one_step(net: LocationAwareNet, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    image = inputs["i"]
    height, width = image.shape[-2:]
    hidden, cell = (
        inputs[f"{name}_tile"].repeat(1, 1, -(-height // 8), -(-width // 8))[..., :height, :width] for name in "hc"
    )
    return _named(net.step(image, inputs["t_prev"], State(hidden, cell)))


def _recurrence(net: LocationAwareNet, image: Tensor) -> dict[str, Tensor]:
    """Compute the internal tensors step by step, and the outputs in one call."""
    found: dict[str, Tensor] = {}
    previous, state = image, None
    for iteration in range(1, net.iterations + 1):
        step = net.step(image, previous, state)
        previous, state = step.transmission, step.state
        found |= {f"iteration {iteration} {name} (before clamping)": each for name, each in _named(step).items()}
    outputs = net(image)
    found |= {f"final_{name[0]}_clamped": outputs[name].clamp(0, 1) for name in ("transmission", "reflection")}  # type: ignore[literal-required]
    return found


def _named(step: Step) -> dict[str, Tensor]:
    """The tensors of a step under the authors' names; their map is ``visibility``, high where T dominates."""
    assert step.state is not None
    assert step.visibility is not None
    return {
        "h": step.state.hidden,
        "c": step.state.cell,
        "rcmap": step.visibility,
        "r": step.reflection,
        "t_quarter": step.quarter,
        "t_half": step.half,
        "t": step.transmission,
    }


RUNNERS = (_Recurrence(),)
