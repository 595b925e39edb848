"""Recordings of data generators, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from reflectzoo.data.synthesis.ceilnet import CEILNetSynthesis
from reflectzoo.parity import Case, CaseResult, Fixture, compare_outputs, recorded_input

_TOLERANCE = 1e-5


class _CEILNet:
    """ReflectionSythesis_1 (sic) of the programs of ERRNet, YTMT and DSRNet."""

    def matches(self, fixture: Fixture) -> bool:
        return fixture.comes_from("", "ReflectionSythesis_1") or fixture.name.startswith("synthesis_ceilnet")

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        synthesis = CEILNetSynthesis()

        def run(case: Case) -> CaseResult:
            images = {spec["name"]: recorded_input(fixture, spec) for spec in case["inputs"]}
            layers = [images[name].permute(2, 0, 1)[None].float() / 255 for name in ("t", "r")]
            # kernel_size is drawn by the program, too, but not used: it always blurs with 11 taps.
            draws = {name: torch.tensor([float(case["parameters"][name])]) for name in ("sigma", "gamma")}
            blend = synthesis(*layers, draws=draws)
            found = {"t": blend.transmission, "r": blend.reflection, "m": blend.mixture}
            by_pixel = {name: layer[0].permute(1, 2, 0) for name, layer in found.items()}
            return CaseResult(compare_outputs(fixture, case["outputs"], by_pixel, _TOLERANCE))

        return run


RUNNERS = (_CEILNet(),)
