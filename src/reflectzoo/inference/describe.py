"""The cost of a method: parameters, and floating-point operations per megapixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reflectzoo.inference.load import untrained_model
from reflectzoo.nets.shared_vgg import attach_vgg, needs_vgg
from reflectzoo.nets.vgg import VGG19
from reflectzoo.weights.records import WeightRecord, records


@dataclass(frozen=True)
class MethodInfo:
    """One method.

    Attributes:
        name: name of the method.
        parameters: number of its network's parameters, without a shared VGG; None if not counted.
        gflop_per_megapixel: 10^9 floating-point operations (one multiply-add counts as two) per 10^6 pixels; None if
            not counted.
        weights: registered weights.
    """

    name: str
    parameters: int | None
    gflop_per_megapixel: float | None
    weights: tuple[WeightRecord, ...]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values, as for JSON."""
        return {**asdict(self), "weights": [{**asdict(each), "folder": str(each.folder)} for each in self.weights]}


def describe(name: str, counted: bool = True, side: int = 64) -> MethodInfo:
    """Describe a method.

    Args:
        name: one of :func:`reflectzoo.list_models`.
        counted: build the network to count parameters and operations; otherwise only look up its weights.
        side: side in pixels of the square picture used for counting, a multiple of 32.

    Raises:
        UserError: if there is no such method.
    """
    weights = tuple(record for record in records() if record.model == name)
    if not counted:
        return MethodInfo(name, None, None, weights)
    net = untrained_model(name).enter_last_phase().net
    if needs_vgg(net):
        attach_vgg(net, _vgg())
    parameters = sum(parameter.numel() for parameter in net.parameters())
    # With gradients enabled, networks skip inference-only shortcuts, which depend on the machine.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, side, side))
    return MethodInfo(name, parameters, counter.get_total_flops() / side**2 / 1e3, weights)


@lru_cache(maxsize=1)
def _vgg() -> VGG19:
    return VGG19()
