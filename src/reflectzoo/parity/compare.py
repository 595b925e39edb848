"""Differences between recorded values and those computed by this zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reflectzoo.parity.fixture import Fixture, ParityError

NETWORK_LIMIT = 1e-4
"""Tolerance for the outputs of networks, absolute.

Recordings recommend a smaller one, max(1e-5, 20 times their own float32 error), which all outputs met on the machine
where this was written; but other processors sum in a different order."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of a recorded tensor or number with ours.

    Args:
        what: name of the tensor or number.
        difference: largest difference, absolute or relative like the tolerance.
        tolerance: largest difference that passes.
    """

    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; false for NaN."""
        return self.difference <= self.tolerance

    @property
    def severity(self) -> float:
        """Difference in units of the tolerance; NaN counts as infinite."""
        ratio = self.difference / self.tolerance
        return ratio if ratio == ratio else float("inf")


def compare_scalar(what: str, found: float, recorded: float, tolerance: float) -> Comparison:
    """Relative difference of two numbers; absolute if the recorded one is zero."""
    return Comparison(what, abs(found - recorded) / (abs(recorded) or 1.0), tolerance)


def compare_tensor(what: str, found: Tensor, recorded: Tensor, tolerance: float) -> Comparison:
    """Largest absolute difference of two tensors.

    Raises:
        ParityError: if the shapes differ.
    """
    if found.shape != recorded.shape:
        raise ParityError(f"'{what}' is {tuple(found.shape)}, but {tuple(recorded.shape)} is recorded")
    difference = (found.detach().double() - recorded.double()).abs()
    return Comparison(what, float(difference.max()) if difference.numel() else 0.0, tolerance)


def compare_outputs(
    fixture: Fixture, specs: Sequence[Mapping[str, Any]], found: Mapping[str, Tensor], tolerance: float
) -> list[Comparison]:
    """Compare all recorded outputs of one case, and their statistics.

    Args:
        fixture: contains the arrays.
        specs: entries of ``outputs``; with ``spatial_stride`` or ``channel_stride``, only every n-th row and column, or
            channel, was stored, while ``stats`` always describe the whole tensor.
        found: our tensors by the names in ``specs``.
        tolerance: absolute.

    Raises:
        ParityError: if an output is missing from ours, or a shape differs.
    """
    comparisons: list[Comparison] = []
    for spec in specs:
        name = str(spec["name"])
        if name not in found:
            raise ParityError(f"output '{name}' is recorded, but this method returns only {', '.join(found)}")
        comparisons += compare_recorded(fixture, spec, name, found[name], tolerance)
    return comparisons


def compare_recorded(
    fixture: Fixture, spec: Mapping[str, Any], name: str, found: Tensor, tolerance: float
) -> list[Comparison]:
    """Compare an output or intermediate tensor and its statistics; see :func:`compare_outputs`."""
    if "shape" in spec and list(found.shape) != list(spec["shape"]):
        raise ParityError(f"'{name}' is {tuple(found.shape)}, but {tuple(spec['shape'])} is recorded")
    stored = found[:, :: int(spec.get("channel_stride", 1))] if found.ndim == 4 else found
    if (step := int(spec.get("spatial_stride", 1))) > 1:
        stored = stored[..., ::step, ::step]
    comparisons = [compare_tensor(name, stored, fixture.tensor(spec["npz"]), tolerance)]
    return comparisons + compare_stats(name, found, spec.get("stats") or {}, tolerance)


def compare_stats(name: str, found: Tensor, stats: Mapping[str, float], tolerance: float) -> list[Comparison]:
    """Compare the recorded ``min``, ``max``, ``mean`` and population ``std`` of a tensor; other keys are ignored."""
    whole = found.detach().double()
    ours = {"min": whole.min(), "max": whole.max(), "mean": whole.mean(), "std": whole.std(correction=0)}
    return [
        Comparison(f"{key} of {name}", abs(float(ours[key]) - float(value)), tolerance)
        for key, value in stats.items()
        if key in ours
    ]
