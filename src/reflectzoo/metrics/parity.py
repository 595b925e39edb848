"""Comparison of metrics with recordings, see :mod:`reflectzoo.parity`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from reflectzoo.metrics import functional
from reflectzoo.parity import Case, CaseResult, Comparison, Fixture, ParityError, recorded_input

TOLERANCE = 1e-6
"""Absolute tolerance for recordings in float64; ten times as large for those in float32."""


class _Metrics:
    """``quality_assess`` of YTMT, and the scores of Location-aware SIRR and CoRRN."""

    def matches(self, fixture: Fixture) -> bool:
        return any("quality_assess_float64" in case for case in fixture.cases)

    def open(self, fixture: Fixture) -> Callable[[Case], CaseResult]:
        def run(case: Case) -> CaseResult:
            images = {str(spec["name"]): recorded_input(fixture, spec) for spec in case["inputs"]}
            estimate, target = (images[name].permute(2, 0, 1)[None].double() / 255 for name in ("estimate", "target"))
            return CaseResult(list(_compare(case, estimate, target)))

        return run


def _compare(case: Case, estimate: Tensor, target: Tensor) -> Iterator[Comparison]:
    for key, recorded in case.items():
        if key in ("name", "inputs"):
            continue
        if key.startswith("quality_assess_"):
            single = key.endswith("float32")
            for name, value in recorded.items():
                yield from _each(f"{name} of {key}", _quality(name, estimate, target), value, single)
        elif key in _SCORES:
            # CoRRN's loss, and hence the recording of SI, always computes in float32.
            yield from _each(key, _SCORES[key](estimate, target), recorded, single=key.startswith("si_"))
        else:
            raise ParityError(f"no metric '{key}' is known")


def _each(what: str, ours: Tensor, recorded: float | list[float], single: bool = False) -> Iterator[Comparison]:
    wanted = recorded if isinstance(recorded, list) else [recorded]
    found = ours.flatten().tolist()
    if len(found) != len(wanted):
        raise ParityError(f"{what}: {len(wanted)} values are recorded, ours are {len(found)}")
    tolerance = 10 * TOLERANCE if single else TOLERANCE
    for value, right in zip(found, wanted, strict=True):
        yield Comparison(what, abs(value - right), tolerance)


def _quality(name: str, estimate: Tensor, target: Tensor) -> Tensor:
    match name:
        case "PSNR":
            return functional.channel_psnr(estimate, target)
        case "PSNR_per_channel":
            return functional.decibels(functional.channel_errors(estimate, target))
        case "SSIM":
            return functional.uniform_ssim(estimate, target)
        case "SSIM_per_channel":
            # Treat each channel as a separate image.
            return functional.uniform_ssim(estimate.transpose(0, 1), target.transpose(0, 1))
        case "LMSE":
            return functional.lmse(estimate, target)
        case "NCC":
            return functional.ncc(estimate, target)
    raise ParityError(f"quality_assess returns no '{name}' that is known")


_SCORES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "location_aware_psnr": functional.pooled_psnr,
    "location_aware_ssim": functional.uniform_ssim,
    "corrn_psnr": functional.pooled_psnr,
    "si_rgb": functional.structure_index,
    "si_grey": lambda estimate, target: functional.structure_index(estimate, target, grey=True),
}

RUNNERS = (_Metrics(),)
