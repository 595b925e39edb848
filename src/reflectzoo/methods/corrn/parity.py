"""Recordings of CoRRN's network and losses, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from reflectzoo.methods.corrn.net import CoRRNNet
from reflectzoo.parity import (
    NETWORK_LIMIT,
    Case,
    CaseResult,
    Comparison,
    Fixture,
    check_parameter_count,
    compare_intermediates,
    compare_outputs,
    compare_tensor,
    load_recorded_weights,
    recorded_input,
    watched,
)


class _Network:
    """ReflectionNetwork in both modes; in training also what became of the running statistics."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "ReflectionNetwork" and fixture.comes_from("CoRRN")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        net = CoRRNNet()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)
        state = {key: value.clone() for key, value in net.state_dict().items()}

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            training = case.get("mode") == "train"
            # Normalised by so few values, rounding grows: in training mode the authors' own float32 lies up to 5e-5
            # from their float64, and ours on the other side of it. In float64 only theirs remains.
            dtype = torch.float64 if training else torch.float32
            net.to(dtype).train(training)
            net.load_state_dict(state)
            (spec,) = case["inputs"]
            with watched(net, case) as seen:
                outputs = net(recorded_input(fixture, spec).to(dtype))
            found = {
                "background": outputs["transmission"],
                "reflection": outputs["reflection"],
                "contour": outputs["aux"]["gradient"],
            }
            comparisons = compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT)
            inner, absent = compare_intermediates(fixture, case, seen, NETWORK_LIMIT)
            comparisons += inner + _compare_buffers(fixture, case, net)
            return CaseResult(comparisons, f"{absent} intermediate tensors have no counterpart" if absent else "")

        return run


def _compare_buffers(fixture: Fixture, case: Case, net: nn.Module) -> list[Comparison]:
    """Running statistics and counters after the forward pass, as far as they are recorded."""
    buffers = dict(net.named_buffers())
    comparisons = []
    for spec in case.get("buffers_after") or []:
        key = str(spec["key"])
        recorded = fixture.tensor(spec["npz"])
        comparisons.append(compare_tensor(key, buffers[key], recorded, NETWORK_LIMIT))
    counts: Mapping[str, Any] = case.get("num_batches_tracked_after") or {}
    if counts:
        three, (others,) = set(counts["three"]), counts["all_others"]
        wrong = [
            key
            for key, value in buffers.items()
            if key.endswith("num_batches_tracked") and int(value) != (3 if key in three else others)
        ]
        comparisons.append(Comparison("counters of batches that differ", float(len(wrong)), 0.5))
    return comparisons


RUNNERS = (_Network(),)
