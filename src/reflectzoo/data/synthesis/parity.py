"""Comparison with recordings of the authors' data generators, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reflectzoo.data.synthesis.base import Synthesis
from reflectzoo.data.synthesis.ceilnet import CEILNetSynthesis
from reflectzoo.data.synthesis.cold import ColdSynthesis
from reflectzoo.data.synthesis.dsrnet import DSRNetSynthesis
from reflectzoo.data.synthesis.ibcln import IBCLNSynthesis
from reflectzoo.data.synthesis.zhang import ZhangSynthesis
from reflectzoo.parity import Case, CaseResult, Fixture, compare_outputs, recorded_input

_TOLERANCE = 1e-5

Images = dict[str, Tensor]


class _Generator:
    """A generator of the authors, and the conversion of its recorded draws to ours.

    Args:
        words: text in the list of recorded files that identifies the generator.
        name: prefix of the recording's name that identifies it otherwise.
        model: returns our model for a case.
        draws: converts the recorded parameters and (height, width) to our draws.
    """

    def __init__(
        self,
        words: str,
        name: str,
        model: Callable[[Case], Synthesis],
        draws: Callable[[Mapping[str, Any], tuple[int, int]], dict[str, Any]],
    ) -> None:
        self.words = words
        self.name = name
        self.model = model
        self.draws = draws

    def matches(self, fixture: Fixture) -> bool:
        return fixture.comes_from("", self.words) or fixture.name.startswith(self.name)

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        def run(case: Case) -> CaseResult:
            given = {spec["name"]: recorded_input(fixture, spec) for spec in case["inputs"]}
            by_pixel = given["r"].ndim == 3
            images: Images = {name: _to_batch(image) for name, image in given.items()}
            reflection = images["r"]
            size = (reflection.shape[-2], reflection.shape[-1])
            draws = {
                # The program makes one draw for a whole batch.
                name: torch.tensor([value], dtype=torch.float32).repeat_interleave(len(reflection), dim=0)
                for name, value in self.draws(case["parameters"], size).items()
            }
            blend = self.model(case)(images.get("t", torch.zeros_like(reflection)), reflection, draws=draws)
            found = {"t": blend.transmission, "r": blend.reflection, "m": blend.mixture}
            if by_pixel:
                found = {name: layer[0].permute(1, 2, 0) for name, layer in found.items()}
            return CaseResult(compare_outputs(fixture, case["outputs"], found, _TOLERANCE))

        return run


def _to_batch(image: Tensor) -> Tensor:
    """Convert 8-bit (H, W, 3) or float (B, 3, H, W) to float (B, 3, H, W)."""
    return image.permute(2, 0, 1)[None].float() / 255 if image.ndim == 3 else image.float()


def _ceilnet(drawn: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    # The program also draws kernel_size, but does not use it: it always blurs with 11 taps.
    return {"sigma": drawn["sigma"], "gamma": drawn["gamma"]}


def _zhang(drawn: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    # The program records the first row and column of the vignette's window; our draws are relative positions.
    height, width = size
    return {
        "sigma": drawn["sigma"],
        "attenuation": drawn["att"],
        "alpha": drawn["alpha2"] if "alpha2" in drawn else drawn["alpha"],
        "x": (drawn["neww"] + 0.5) / (560 - width - 10),
        "y": (drawn["newh"] + 0.5) / (560 - height - 10),
    }


def _ibcln(drawn: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    return _zhang(drawn, size) if "att" in drawn else {"sigma": drawn["sigma"], "gamma": 1.3}


def _dsrnet(drawn: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "side": drawn["kernel_side"],
        "sigma": drawn["sigma"],
        "alpha": drawn["a"],
        "beta": drawn["b"],
        "screen": float(drawn["branch"] == "screen"),
    }


def _cold(drawn: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    colour = drawn["colour"]
    return {"colour": (colour * 3)[:3], "sigma": drawn["sigma"], "delta": drawn["delta"]}


def _ibcln_model(case: Case) -> Synthesis:
    fan = "att" not in case["parameters"]  # IBCLN's second generator, which its training does not use
    return CEILNetSynthesis(taps=None, border="reflect") if fan else IBCLNSynthesis()


RUNNERS = (
    _Generator("ReflectionSythesis_1", "synthesis_ceilnet", lambda case: CEILNetSynthesis(), _ceilnet),
    _Generator("ReflectionSythesis_2", "synthesis_zhang", lambda case: ZhangSynthesis(), _zhang),
    _Generator("SynData", "synthesis_ibcln", _ibcln_model, _ibcln),
    _Generator("ReflectionSynthesis)", "synthesis_dsrnet", lambda case: DSRNetSynthesis(), _dsrnet),
    _Generator(
        "ReflectionSythesis_0", "synthesis_cold", lambda case: ColdSynthesis(gamma=case["parameters"]["gamma"]), _cold
    ),
)
