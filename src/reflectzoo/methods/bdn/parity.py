"""Recordings of BDN, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from reflectzoo.methods.bdn.net import BDNNet
from reflectzoo.parity import (
    NETWORK_LIMIT,
    Case,
    CaseResult,
    Fixture,
    check_parameter_count,
    compare_outputs,
    load_recorded_weights,
    recorded_input,
)


class _Network:
    """All three outputs of Generator_cascade."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.class_name == "Generator_cascade" and fixture.comes_from("bdn-refremv")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        made = fixture.constructor
        first, second, third = made.get("ns", (7, 5, 5))
        net = BDNNet(int(made.get("ngf", 64)), (int(first), int(second), int(third))).eval()
        load_recorded_weights(net, fixture)
        check_parameter_count(net, fixture)

        @torch.no_grad()
        def run(case: Case) -> CaseResult:
            (spec,) = case["inputs"]
            outputs = net(recorded_input(fixture, spec))
            first, last = outputs["aux"]["transmission"]
            # Recorded as the program returns them, in [-1, 1].
            found = {name: 2 * each - 1 for name, each in (("b0", first), ("r1", outputs["reflection"]), ("b1", last))}
            return CaseResult(compare_outputs(fixture, case["outputs"], found, NETWORK_LIMIT))

        return run


RUNNERS = (_Network(),)
